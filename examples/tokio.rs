//! A server on tokio, to run in several terminals at once: `cargo run --example tokio`
//!
//! Every process serves a part of the connections, and says which one it is: `curl localhost:8881`.
//! Another address: `cargo run --example tokio -- 127.0.0.1:8080`

use std::time::Duration;
use std::{env, error::Error, io, process};

use reuseport::{ReusePort, Tokio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1);
    let listener = Tokio::listen(addr.as_deref().unwrap_or("localhost:8881"))?;
    let addr = listener.local_addr()?;
    println!("process {} listens on {addr}", process::id());
    println!("try: curl {addr}");
    println!("try: start this program again in another terminal");

    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(async {
                if let Err(error) = answer(stream).await {
                    eprintln!("cannot answer: {error}");
                }
            })),
            // No error ends a listener; where descriptors ran out, some are free a little later.
            Err(error) => {
                eprintln!("cannot take a connection: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    // Closing a connection of which something is unread would take the answer back.
    let mut lines = BufReader::new((&mut stream).take(8 << 10)).lines();
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}

    let body = format!("process {}\n", process::id());
    let head = format!("Content-Length: {}\r\nConnection: close", body.len());
    let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await
}
