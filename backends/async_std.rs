use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::async_std::io::{Read, Write};
use ::async_std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use ::async_std::task;
use async_io::Async;

use crate::{Net, ReusePort, Runtime};

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

    fn poll_read(
        mut stream: &TcpStream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut stream).poll_read(cx, buf)
    }

    fn poll_write(
        mut stream: &TcpStream,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut stream).poll_write(cx, buf)
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

impl Runtime for AsyncStd {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        task::spawn(task);
        Ok(())
    }

    async fn sleep(duration: Duration) {
        task::sleep(duration).await;
    }
}
