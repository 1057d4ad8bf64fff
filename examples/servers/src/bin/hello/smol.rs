use std::io;

use reuseport::{ReusePort, Smol};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;

pub(crate) fn main() -> io::Result<()> {
    smol::block_on(async {
        let listener = Smol::listen(servers::addr())?;
        loop {
            let (stream, _) = listener.accept().await?;
            smol::spawn(serve(stream)).detach();
        }
    })
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
