use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::async_io::{Async, Timer};
use reuseport::{Net, ReusePort, Runtime};

/// The reactor under smol and async-std, with nothing above it.
#[derive(Clone, Copy, Debug)]
pub struct AsyncIo;

impl ReusePort for AsyncIo {
    type TcpListener = Async<TcpListener>;
    type TcpStream = Async<TcpStream>;
    type UdpSocket = Async<UdpSocket>;

    fn tcp_listener(listener: TcpListener) -> io::Result<Async<TcpListener>> {
        Async::new_nonblocking(listener)
    }

    fn tcp_stream(stream: TcpStream) -> io::Result<Async<TcpStream>> {
        Async::new_nonblocking(stream)
    }

    fn udp_socket(socket: UdpSocket) -> io::Result<Async<UdpSocket>> {
        Async::new_nonblocking(socket)
    }
}

impl Net for AsyncIo {
    async fn accept(listener: &Async<TcpListener>) -> io::Result<(Async<TcpStream>, SocketAddr)> {
        listener.accept().await
    }

    fn poll_read(
        stream: &Async<TcpStream>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match stream.get_ref().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
            // The first may be the event of an earlier call; then the second asks the system anew.
            ready!(stream.poll_readable(cx))?;
            ready!(stream.poll_readable(cx))?;
        }
    }

    fn poll_write(
        stream: &Async<TcpStream>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match stream.get_ref().write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
            // The first may be the event of an earlier call; then the second asks the system anew.
            ready!(stream.poll_writable(cx))?;
            ready!(stream.poll_writable(cx))?;
        }
    }

    async fn recv_from(
        socket: &Async<UdpSocket>,
        buf: &mut [u8],
    ) -> io::Result<(usize, SocketAddr)> {
        socket.recv_from(buf).await
    }

    async fn send_to(socket: &Async<UdpSocket>, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        socket.send_to(buf, to).await
    }

    async fn connected(stream: TcpStream) -> io::Result<Async<TcpStream>> {
        let stream = Async::new_nonblocking(stream)?;
        stream.writable().await?;
        stream.get_ref().take_error()?.map_or(Ok(stream), Err)
    }

    async fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
        let host = host.to_owned();
        blocking::unblock(move || host.to_socket_addrs().map(Iterator::collect)).await
    }
}

/// Each task has a thread, and all share the reactor.
impl Runtime for AsyncIo {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new();
        thread.spawn(|| ::async_io::block_on(task)).map(drop)
    }

    async fn sleep(duration: Duration) {
        Timer::after(duration).await;
    }
}
