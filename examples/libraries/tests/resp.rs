//! The Redis server, on every runtime: its protocol, Redis's own clients, and restarts.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use libraries::resp::{self, Store};
use util::{Clients, Main, PATIENCE, Server, localhost, run};

on_every_runtime!(the_protocol the_real_clients restarts_lose_nothing);

fn start<R: Main>(addr: SocketAddr, store: &Arc<Store>) -> Server {
    let store = Arc::clone(store);
    Server::start::<R, _>(addr, |listener, generation| async move {
        resp::serve::<R>(generation.incoming::<R>(listener), store).await
    })
}

fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// All that comes after these bytes, until the server hangs up.
fn answers(addr: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = connect(addr).unwrap();
    for part in parts {
        stream.write_all(part).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    answers
}

fn the_protocol<R: Main>() {
    let server = start::<R>(localhost(), &Arc::default());
    let addr = server.addr;
    assert_eq!(answers(addr, &[b"PING\r\n"]), "+PONG\r\n");
    // Many at once, and one in many parts.
    assert_eq!(
        answers(
            addr,
            &[b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\na\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"]
        ),
        "+OK\r\n$3\r\na\r\n\r\n"
    );
    assert_eq!(
        answers(addr, &[b"*2\r\n$4\r\nEC", b"HO\r\n$5\r", b"\nhello\r\n"]),
        "$5\r\nhello\r\n"
    );
    assert_eq!(
        answers(addr, &[b"GET none\nINCR n\nINCR n\nDEL n k\nDBSIZE\n"]),
        "$-1\r\n:1\r\n:2\r\n:2\r\n:0\r\n"
    );
    assert_eq!(
        answers(addr, &[b"SET x y\r\nINCR x\r\n"]),
        "+OK\r\n-ERR value is not an integer or out of range\r\n"
    );
    assert_eq!(
        answers(addr, &[b"BLPOP a\r\nGET\r\n"]),
        "-ERR unknown command 'BLPOP'\r\n-ERR wrong number of arguments for 'GET'\r\n"
    );
    assert_eq!(
        answers(addr, &[b"*1\r\n:3\r\n"]),
        "-ERR Protocol error: expected '$'\r\n"
    );
    assert_eq!(
        answers(addr, &[b"*9999\r\n"]),
        "-ERR Protocol error: invalid multibulk length\r\n"
    );
    assert_eq!(answers(addr, &[b"QUIT\r\nPING\r\n"]), "+OK\r\n");
    server.stop();
}

fn the_real_clients<R: Main>() {
    let server = start::<R>(localhost(), &Arc::default());
    let (host, port) = (server.addr.ip().to_string(), server.addr.port().to_string());
    if let Some(output) = run("redis-cli", &["-h", &host, "-p", &port, "incr", "counter"]) {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    }
    let benchmark = [
        "-h",
        &host,
        "-p",
        &port,
        "-t",
        "ping,set,get,incr",
        "-n",
        "2000",
        "-c",
        "10",
        "-P",
        "4",
        "--csv",
    ];
    if let Some(output) = run("redis-benchmark", &benchmark) {
        let lines = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{lines}");
        for test in ["PING_INLINE", "PING", "SET", "GET", "INCR"] {
            assert!(lines.contains(test), "{test} is missing: {lines}");
        }
    }
    server.stop();
}

fn restarts_lose_nothing<R: Main>() {
    let store = Arc::default();
    let mut server = start::<R>(localhost(), &store);
    let addr = server.addr;
    server.generation.take_over_blocking(PATIENCE).unwrap();
    let clients = Clients::start(4, move || {
        let mut stream = BufReader::new(connect(addr)?);
        for _ in 0..3 {
            stream
                .get_mut()
                .write_all(b"*2\r\n$4\r\nINCR\r\n$3\r\nall\r\n")?;
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let n = line
                .strip_prefix(':')
                .and_then(|n| n.trim_end().parse::<u64>().ok());
            n.ok_or_else(|| io::Error::other(format!("no number: {line:?}")))?;
        }
        Ok(())
    });
    for _ in 0..2 {
        clients.go_on(100);
        let next = start::<R>(addr, &store);
        next.replaces(server);
        server = next;
    }
    clients.go_on(100);
    let asked = clients.end();
    let all = answers(addr, &[b"GET all\r\n"]);
    assert!(
        all.ends_with(&format!("\r\n{}\r\n", asked * 3)),
        "{all} of {asked}"
    );
    server.stop();
}
