use std::io;
use std::net::SocketAddr;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::{TcpListener, TcpStream, UdpSocket, lookup_host};
use ::tokio::runtime::Handle;

use crate::{Net, ReusePort};

/// [tokio](::tokio).
///
/// A socket belongs to the runtime of the thread that opens or [attaches](crate::Member::attach)
/// it; without one that is an error.
///
/// ```
/// use reuseport::{ReusePort, Tokio};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener: tokio::net::TcpListener = Tokio::listen("localhost:0")?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// tokio panics in a runtime that was built without `enable_io`, and nothing can ask it beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Tokio;

/// `from_std` would panic.
fn check_runtime() -> io::Result<()> {
    Handle::try_current().map(drop).map_err(io::Error::other)
}

impl ReusePort for Tokio {
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;

    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        check_runtime()?;
        TcpListener::from_std(listener)
    }

    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        check_runtime()?;
        TcpStream::from_std(stream)
    }

    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        check_runtime()?;
        UdpSocket::from_std(socket)
    }
}

impl Net for Tokio {
    async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept().await
    }

    async fn read(stream: &mut TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        stream.read(buf).await
    }

    async fn write_all(stream: &mut TcpStream, buf: &[u8]) -> io::Result<()> {
        stream.write_all(buf).await
    }

    async fn recv_from(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        socket.recv_from(buf).await
    }

    async fn send_to(socket: &UdpSocket, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        socket.send_to(buf, to).await
    }

    async fn connected(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        let stream = Self::tcp_stream(stream)?;
        stream.writable().await?;
        stream.take_error()?.map_or(Ok(stream), Err)
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        lookup_host(host).await.map(Iterator::collect)
    }
}
