//! One server for every runtime, which an argument chooses: `cargo run --example generic -- smol`
//!
//! Or std, tokio, async-std; all four share the port. Another address is the second argument.

use std::{env, io, pin::Pin, process, thread::spawn, time::Duration};

use async_std::task;
use reuseport::{AsyncStd, Net, Smol, Std, Tokio, local_addr};
use smol::block_on;

type Job = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Knows nothing of the runtime but `R`, and how a job is started there.
async fn serve<R: Net>(addr: &str, start: impl Fn(Job)) -> io::Result<()> {
    let listener = R::listen(addr)?;
    let addr = local_addr(&listener)?;
    println!("process {} listens on {addr}", process::id());
    loop {
        match R::accept(&listener).await {
            Ok((stream, _)) => start(Box::pin(answer::<R>(stream))),
            Err(error) => {
                eprintln!("cannot take a connection: {error}");
                // `R` has no clock, and nothing else runs on this thread.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

async fn answer<R: Net>(mut stream: R::TcpStream) -> io::Result<()> {
    let (mut head, mut len) = ([0; 8 << 10], 0);
    while !head[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match R::read(&mut stream, &mut head[len..]).await? {
            0 => return Ok(()),
            n => len += n,
        }
    }
    let body = format!("process {}\n", process::id());
    let head = format!("Content-Length: {}\r\nConnection: close", body.len());
    let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
    R::write_all(&mut stream, answer.as_bytes()).await
}

fn main() {
    let [runtime, addr] = [(1, "tokio"), (2, "localhost:8881")]
        .map(|(i, default)| env::args().nth(i).unwrap_or_else(|| default.to_owned()));
    let result = match &*runtime {
        "std" => block_on(serve::<Std>(&addr, |job| drop(spawn(|| block_on(job))))),
        "tokio" => tokio::runtime::Runtime::new()
            .and_then(|tokio| tokio.block_on(serve::<Tokio>(&addr, |job| drop(tokio::spawn(job))))),
        "async-std" => task::block_on(serve::<AsyncStd>(&addr, |job| drop(task::spawn(job)))),
        "smol" => block_on(serve::<Smol>(&addr, |job| smol::spawn(job).detach())),
        _ => Err(io::Error::other(format!("{runtime:?} is no runtime here"))),
    };
    if let Err(error) = result {
        eprintln!("{error}");
        process::exit(1);
    }
}
