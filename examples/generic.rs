//! One server for every runtime, which an argument chooses: `cargo run --example generic -- smol`
//!
//! Or std, tokio, async-std; all four share the port. Another address is the second argument.

use std::error::Error;
use std::{env, io, process, time::Duration};

use reuseport::{AsyncStd, Runtime, Smol, Std, Tokio, local_addr};

/// Knows nothing of the runtime but `R`.
async fn serve<R: Runtime>(addr: &str) -> Result<(), Box<dyn Error>> {
    let listener = R::listen(addr)?;
    let addr = local_addr(&listener)?;
    println!("process {} listens on {addr}", process::id());
    println!("try: curl {addr}");
    println!("try: start this program again in another terminal");
    loop {
        match R::accept(&listener).await {
            Ok((stream, _)) => R::spawn(async move {
                // A client that says nothing does not keep its connection.
                let answer = R::within(Duration::from_secs(10), answer::<R>(&stream));
                answer.await.ok();
            })?,
            Err(error) => {
                eprintln!("cannot take a connection: {error}");
                R::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn answer<R: Runtime>(stream: &R::TcpStream) -> io::Result<()> {
    let (mut head, mut len) = ([0; 8 << 10], 0);
    while !head[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match R::read(stream, &mut head[len..]).await? {
            0 => return Ok(()),
            n => len += n,
        }
    }
    let body = format!("process {}\n", process::id());
    let head = format!("Content-Length: {}\r\nConnection: close", body.len());
    let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
    R::write_all(stream, answer.as_bytes()).await
}

fn main() -> Result<(), Box<dyn Error>> {
    let [runtime, addr] = [(1, "tokio"), (2, "localhost:8881")]
        .map(|(i, default)| env::args().nth(i).unwrap_or_else(|| default.to_owned()));
    match &*runtime {
        // Its futures block, so that any executor runs them.
        "std" => smol::block_on(serve::<Std>(&addr)),
        "tokio" => tokio::runtime::Runtime::new()?.block_on(serve::<Tokio>(&addr)),
        "async-std" => async_std::task::block_on(serve::<AsyncStd>(&addr)),
        "smol" => smol::block_on(serve::<Smol>(&addr)),
        _ => {
            eprintln!("{runtime:?} is no runtime here: std, tokio, async-std and smol are");
            process::exit(1);
        }
    }
}
