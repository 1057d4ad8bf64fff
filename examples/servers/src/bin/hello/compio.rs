use std::io;

use compio::buf::BufResult;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use reuseport::{ReusePort, Std};

#[compio::main]
pub(crate) async fn main() -> io::Result<()> {
    let listener = Std::listen(servers::addr())?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        compio::runtime::spawn(serve(stream)).detach();
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        let BufResult(n, buf) = stream.read(Vec::with_capacity(1024)).await;
        if n? == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buf);
        while let Some(answer) = servers::http::answer(&mut received, false) {
            stream.write_all(answer).await.0?;
        }
    }
}
