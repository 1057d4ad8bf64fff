use std::io;
use std::net::SocketAddr;

use ::smol::Async;
use ::smol::io::{AsyncReadExt, AsyncWriteExt};
use ::smol::net::{TcpListener, TcpStream, UdpSocket, resolve};

use crate::{Net, ReusePort};

/// [smol](::smol), and every other executor: its sockets work on any thread.
///
/// ```
/// use reuseport::{ReusePort, Smol};
///
/// let listener: smol::net::TcpListener = Smol::listen("localhost:0")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// The first socket of a process starts smol's reactor, which panics where the kernel has no
/// descriptors left for it.
#[derive(Clone, Copy, Debug)]
pub struct Smol;

impl ReusePort for Smol {
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;

    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        Async::new_nonblocking(listener).map(Into::into)
    }

    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        Async::new_nonblocking(stream).map(Into::into)
    }

    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        Async::new_nonblocking(socket).map(Into::into)
    }
}

impl Net for Smol {
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
        let stream = Async::new_nonblocking(stream)?;
        stream.writable().await?;
        stream
            .get_ref()
            .take_error()?
            .map_or(Ok(stream.into()), Err)
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        resolve(host).await
    }
}
