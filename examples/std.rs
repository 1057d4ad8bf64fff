//! A server on std's threads, to run in several terminals at once: `cargo run --example std`
//!
//! Every process serves a part of the connections, and says which one it is: `curl localhost:8881`.
//! Another address: `cargo run --example std -- 127.0.0.1:8080`

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{env, process, thread};

use reuseport::{ReusePort, Std};

fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1);
    let listener = Std::listen(addr.as_deref().unwrap_or("localhost:8881"))?;
    let addr = listener.local_addr()?;
    println!("process {} listens on {addr}", process::id());
    println!("try: curl {addr}");
    println!("try: start this program again in another terminal");

    loop {
        let started = listener.accept().and_then(|(stream, _)| {
            thread::Builder::new().spawn(|| {
                if let Err(error) = answer(stream) {
                    eprintln!("cannot answer: {error}");
                }
            })
        });
        // No error ends a listener; where descriptors ran out, some are free a little later.
        if let Err(error) = started {
            eprintln!("cannot take a connection: {error}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    // Closing a connection of which something is unread would take the answer back.
    for line in BufReader::new((&stream).take(8 << 10)).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let body = format!("process {}\n", process::id());
    let head = format!("Content-Length: {}\r\nConnection: close", body.len());
    stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").as_bytes())
}
