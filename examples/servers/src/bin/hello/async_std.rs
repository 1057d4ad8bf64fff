use std::io;

use async_std::net::TcpStream;
use async_std::prelude::*;
use async_std::task;
use reuseport::{AsyncStd, ReusePort};

#[async_std::main]
pub(crate) async fn main() -> io::Result<()> {
    let listener = AsyncStd::listen(servers::addr())?;
    loop {
        let (stream, _) = listener.accept().await?;
        task::spawn(serve(stream));
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let (mut buf, mut received) = ([0; 1024], Vec::new());
    loop {
        let n = stream.read(&mut buf).await?;
        if n == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buf[..n]);
        while let Some(answer) = servers::http::answer(&mut received, false) {
            stream.write_all(&answer).await?;
        }
    }
}
