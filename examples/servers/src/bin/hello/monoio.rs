use std::io;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use reuseport::{ReusePort, Std};

#[monoio::main]
pub(crate) async fn main() -> io::Result<()> {
    let listener = Std::listen(servers::addr())?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        monoio::spawn(serve(stream));
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        let (n, buf) = stream.read(Vec::with_capacity(1024)).await;
        if n? == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buf);
        while let Some(answer) = servers::http::answer(&mut received, false) {
            stream.write_all(answer).await.0?;
        }
    }
}
