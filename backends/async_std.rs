use std::io;
use std::net::SocketAddr;

use ::async_std::io::{ReadExt, WriteExt};
use ::async_std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use async_io::Async;

use crate::{Net, ReusePort};

/// [async-std](::async_std), which is no longer developed (RUSTSEC-2025-0052); its
/// authors name smol.
///
/// It is here for those who have it.
///
/// ```
/// use reuseport::{AsyncStd, ReusePort};
///
/// let listener: async_std::net::TcpListener = AsyncStd::listen("localhost:0")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// async-std panics where the kernel refuses to watch a socket, which it does when its memory or
/// descriptors run out.
#[derive(Clone, Copy, Debug)]
pub struct AsyncStd;

impl ReusePort for AsyncStd {
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;

    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        Ok(listener.into())
    }

    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        Ok(stream.into())
    }

    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        Ok(socket.into())
    }
}

impl Net for AsyncStd {
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
        // async-std's own stream cannot wait for the end of a connect.
        let stream = Async::new_nonblocking(stream)?;
        stream.writable().await?;
        match stream.get_ref().take_error()? {
            None => Self::tcp_stream(stream.into_inner()?),
            Some(error) => Err(error),
        }
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        host.to_socket_addrs().await.map(Iterator::collect)
    }
}
