//! Asks a server a thousand times a second: `cargo run --example load`
//!
//! Each time on a new connection, for a minute. It prints every second who answered how many, and
//! how many were lost so far; at the end, what it counted. Another address or name, rate and time:
//! `cargo run --example load -- localhost:8080 100 10`

use std::{collections::BTreeMap, env, io, net::SocketAddr, process, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::{task::JoinSet, time};

/// Longer than a lost packet of a handshake is waited for, twice.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let arg = |i, default: &str| env::args().nth(i).unwrap_or_else(|| default.to_owned());
    let (addr, rate, time) = (arg(1, "localhost:8881"), arg(2, "1000"), arg(3, "60"));
    let (Ok(rate @ 1..), Ok(seconds)) = (rate.parse(), time.parse()) else {
        eprintln!("usage: load [address] [connections a second] [seconds]");
        process::exit(1);
    };
    // A name is looked up once. Of several addresses the first that lets in is asked.
    let addr = match reachable(&addr).await {
        Ok(addr) => addr,
        Err(error) => {
            eprintln!("cannot ask {addr}: {error}");
            process::exit(1);
        }
    };
    println!("asks {addr} {rate} times a second, for {seconds} s");
    let (mut open, mut answers, mut lost) = (JoinSet::new(), 0, 0);
    let mut next = time::interval(Duration::from_secs(1) / rate);
    for second in 0u32..=seconds {
        for _ in 0..rate * u32::from(second < seconds) {
            next.tick().await;
            let answer = time::timeout(PATIENCE, ask(addr));
            open.spawn(async { answer.await? });
        }
        let mut answered = BTreeMap::<_, u32>::new();
        // In the end all that are still open.
        while let Some(ended) = match second < seconds {
            true => open.try_join_next(),
            false => open.join_next().await,
        } {
            match ended.expect("no task panics") {
                Ok(who) => {
                    *answered.entry(who).or_default() += 1;
                    answers += 1;
                }
                Err(error) => {
                    eprintln!("lost: {error}");
                    lost += 1;
                }
            }
        }
        let counts = answered.iter().map(|(who, n)| format!(", {n} by {who}"));
        println!("{lost} lost{}", counts.collect::<String>());
    }
    let all = answers + lost;
    println!("{all} connections with one request each: {answers} answered with 200, {lost} lost");
    println!("lost: refused, reset, closed before the answer was whole, or none in {PATIENCE:?}");
}

/// The address of a name that has several, as `localhost` may: one that lets in, or else the first.
async fn reachable(addr: &str) -> io::Result<SocketAddr> {
    let all: Vec<_> = lookup_host(addr).await?.collect();
    for &addr in &all[..] {
        if all.len() == 1 || TcpStream::connect(addr).await.is_ok() {
            return Ok(addr);
        }
    }
    all.first()
        .copied()
        .ok_or_else(|| io::Error::other("it has no address"))
}

/// Who answers one request.
async fn ask(addr: SocketAddr) -> io::Result<String> {
    let (mut stream, mut answer) = (TcpStream::connect(addr).await?, String::new());
    let question = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(question).await?;
    stream.read_to_string(&mut answer).await?;
    match answer.strip_prefix("HTTP/1.1 200 OK\r\n") {
        Some(rest) => Ok(rest.lines().last().unwrap_or_default().to_owned()),
        None => Err(io::Error::other(format!("no answer: {answer:?}"))),
    }
}
