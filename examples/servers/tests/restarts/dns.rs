//! Queries of DNS, over UDP and TCP.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_server::proto::op::{Message, Query};
use hickory_server::proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::sleep;

use crate::form::Kind;
use crate::loss::Failure;

/// A connection of TCP.
pub(crate) type Kept = Option<TcpStream>;

pub(crate) async fn ask(kind: Kind, addr: SocketAddr, kept: &mut Kept) -> Result<String, Failure> {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii("who.")?, RecordType::TXT));
    let question = query.to_vec()?;
    let answer = match kind {
        Kind::Datagram => ask_udp(addr, &question).await?,
        _ => ask_tcp(kind, addr, kept, &question).await?,
    };

    let answer = Message::from_vec(&answer)?;
    if answer.id != query.id {
        return Err("an answer to another question".into());
    }
    let record = answer.answers.first().ok_or("an answer without a record")?;
    match &record.data {
        RData::TXT(text) => Ok(text.to_string()),
        other => Err(format!("answered {other}").into()),
    }
}

async fn ask_udp(addr: SocketAddr, question: &[u8]) -> Result<Vec<u8>, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(addr).await?;
    socket.send(question).await?;
    let mut answer = vec![0; 512];
    let len = socket.recv(&mut answer).await?;
    answer.truncate(len);
    Ok(answer)
}

async fn ask_tcp(
    kind: Kind,
    addr: SocketAddr,
    kept: &mut Kept,
    question: &[u8],
) -> Result<Vec<u8>, Failure> {
    // A connection that the server has closed meanwhile is no loss.
    let is_open = |stream: &TcpStream| {
        stream
            .try_read(&mut [0])
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let mut stream = match kept.take().filter(is_open) {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    if kind == Kind::Slow {
        sleep(Kind::SLOW).await;
    }
    let length = (question.len() as u16).to_be_bytes();
    stream.write_all(&[&length, question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    if kind.is_kept() {
        *kept = Some(stream);
    }
    Ok(answer)
}
