//! Requests of HTTP/1.1.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::form::Kind;
use crate::loss::Failure;
use crate::quic;

/// The connection, unless the server has said that it closes it.
pub(crate) type Kept<S> = Option<BufReader<S>>;

pub(crate) async fn ask(
    kind: Kind,
    addr: SocketAddr,
    kept: &mut Kept<TcpStream>,
) -> Result<String, Failure> {
    let stream = match kept.take() {
        Some(stream) => stream,
        None => BufReader::new(connect(addr).await?),
    };
    ask_on(stream, kind, kept).await
}

/// Over TLS.
pub(crate) async fn ask_securely(
    kind: Kind,
    addr: SocketAddr,
    kept: &mut Kept<TlsStream<TcpStream>>,
) -> Result<String, Failure> {
    let stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let tls = TlsConnector::from(Arc::new(quic::tls()?));
            let stream = connect(addr).await?;
            let name = ServerName::try_from("localhost")?;
            BufReader::new(tls.connect(name, stream).await?)
        }
    };
    ask_on(stream, kind, kept).await
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask_on<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    kind: Kind,
    kept: &mut Kept<S>,
) -> Result<String, Failure> {
    if kind == Kind::Slow {
        sleep(Kind::SLOW).await;
    }
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.get_mut().write_all(request).await?;
    stream.get_mut().flush().await?;

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
