//! Requests of HTTP/1.1.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::form::Kind;
use crate::loss::Failure;

/// The connection, unless the server has said that it closes it.
pub(crate) type Kept = Option<BufReader<TcpStream>>;

pub(crate) async fn ask(kind: Kind, addr: SocketAddr, kept: &mut Kept) -> Result<String, Failure> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    if kind == Kind::Slow {
        sleep(Kind::SLOW).await;
    }
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.get_mut().write_all(request).await?;

    let (mut length, mut closes) = (None, false);
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if !line.starts_with("HTTP/1.1 200") {
        return Err(format!("answered {line:?}").into());
    }
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        line.make_ascii_lowercase();
        match line.split_once(':') {
            Some(("content-length", value)) => length = Some(value.trim().parse()?),
            Some(("connection", value)) => closes = value.trim() == "close",
            _ => (),
        }
    }
    let mut body = vec![0; length.ok_or("an answer without a length")?];
    stream.read_exact(&mut body).await?;
    if closes && stream.read(&mut [0]).await? != 0 {
        return Err("more than was said".into());
    }
    if kind.is_kept() && !closes {
        *kept = Some(stream);
    }
    Ok(String::from_utf8(body)?)
}
