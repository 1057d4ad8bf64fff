//! A DNS forwarder: it asks another server, over UDP with retries, and over TCP where an answer is too long.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Sender, bounded};
use reuseport::{Generation, Incoming, Runtime};

/// How long the other server has for one attempt, and how many there are.
const ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 3;

/// How long a client may say nothing on its connection (RFC 7766, 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// How often a socket on which nothing comes is asked whether it is to be closed.
const TICK: Duration = Duration::from_millis(50);

/// More than this many questions at once are not read, and wait in the socket.
const MOST: usize = 1000;

/// Answers datagrams until the next process takes over.
pub async fn serve_packets<R: Runtime>(
    socket: R::UdpSocket,
    generation: &Generation,
    upstream: SocketAddr,
) -> io::Result<()> {
    generation.take_over(ATTEMPT * 10).await?;
    let socket = Arc::new(socket);
    let (places, taken) = bounded::<()>(MOST);
    let mut buf = vec![0; 4096];
    loop {
        let is_last = generation.is_relieved();
        match R::within(TICK, R::recv_from(&socket, &mut buf)).await {
            Ok((len, from)) => {
                let (question, socket) = (buf[..len].to_vec(), Arc::clone(&socket));
                let _ = places.send(()).await;
                let taken = taken.clone();
                R::spawn(async move {
                    if let Ok(answer) = ask::<R>(&question, upstream).await {
                        let _ = R::send_to(&socket, &answer, from).await;
                    }
                    let _ = taken.try_recv();
                })?;
            }
            // Nothing can have come since.
            Err(error) if error.kind() == io::ErrorKind::TimedOut && is_last => break,
            Err(_) => {}
        }
    }
    // The answers that are due still leave by this socket.
    while !places.is_empty() {
        R::sleep(TICK).await;
    }
    Ok(())
}

/// Answers connections until the next process takes over, and then those that are open.
pub async fn serve<R: Runtime>(mut incoming: Incoming<R>, upstream: SocketAddr) -> io::Result<()> {
    let (alive, ended) = bounded::<()>(1);
    while let Some(accepted) = incoming.accept().await {
        match accepted {
            Ok((stream, _)) => R::spawn(connection::<R>(stream, upstream, alive.clone()))?,
            Err(_) => R::sleep(Duration::from_millis(10)).await,
        }
    }
    drop(alive);
    let _ = ended.recv().await;
    Ok(())
}

async fn connection<R: Runtime>(stream: R::TcpStream, upstream: SocketAddr, _alive: Sender<()>) {
    while let Ok(question) = R::within(IDLE, message::<R>(&stream)).await {
        let Ok(answer) = ask_long::<R>(&question, upstream).await else {
            return;
        };
        if R::within(IDLE, send::<R>(&stream, &answer)).await.is_err() {
            return;
        }
    }
}

/// Asks over UDP, and again where nothing comes; and over TCP, where the answer says that it is cut.
async fn ask<R: Runtime>(question: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    for _ in 0..ATTEMPTS {
        // A port of its own for each attempt, so that nobody can guess where the answer is to go.
        let any = SocketAddr::new(unspecified(upstream), 0);
        let socket = R::adopt_packet(UdpSocket::bind(any)?)?;
        R::send_to(&socket, question, upstream).await?;
        match R::within(ATTEMPT, answer_to::<R>(question, &socket, upstream)).await {
            Ok(answer) if is_cut(&answer) => return ask_long::<R>(question, upstream).await,
            Ok(answer) => return Ok(answer),
            Err(_) => {}
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

async fn answer_to<R: Runtime>(
    question: &[u8],
    socket: &R::UdpSocket,
    upstream: SocketAddr,
) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; 4096];
    loop {
        let (len, from) = R::recv_from(socket, &mut buf).await?;
        // The first two bytes are the question's number (RFC 1035, 4.1.1).
        if from == upstream && buf[..len].get(..2) == question.get(..2) {
            return Ok(buf[..len].to_vec());
        }
    }
}

async fn ask_long<R: Runtime>(question: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let asked = async {
        let stream = R::connect(upstream).await?;
        send::<R>(&stream, question).await?;
        message::<R>(&stream).await
    };
    R::within(ATTEMPT * 2, asked).await
}

fn unspecified(like: SocketAddr) -> std::net::IpAddr {
    match like {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The bit TC of the header.
fn is_cut(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 0b10 != 0)
}

/// A message on a connection begins with its length (RFC 1035, 4.2.2).
async fn message<R: Runtime>(stream: &R::TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    R::read_exact(stream, &mut len).await?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    R::read_exact(stream, &mut message).await?;
    Ok(message)
}

async fn send<R: Runtime>(stream: &R::TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    R::write_all(stream, &framed).await
}
