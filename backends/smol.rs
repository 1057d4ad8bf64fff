use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::smol::net::{TcpListener, TcpStream, UdpSocket, resolve};
use ::smol::{Async, Timer};

use crate::{Net, ReusePort, Runtime};

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

    fn poll_read(
        stream: &TcpStream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let stream = of(stream);
        attempt(|| stream.get_ref().read(buf), || stream.poll_readable(cx))
    }

    fn poll_write(stream: &TcpStream, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let stream = of(stream);
        attempt(|| stream.get_ref().write(buf), || stream.poll_writable(cx))
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

/// What smol's stream is around.
fn of(stream: &TcpStream) -> Arc<Async<std::net::TcpStream>> {
    stream.clone().into()
}

/// Calls, and waits where it would block.
fn attempt(
    mut call: impl FnMut() -> io::Result<usize>,
    mut poll: impl FnMut() -> Poll<io::Result<()>>,
) -> Poll<io::Result<usize>> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
        // The event that woke this task for an earlier call is still there, and may be older than this
        // attempt.
        ready!(poll())?;
        // So the system is asked anew, and tells at once of what has come since.
        ready!(poll())?;
    }
}

impl Runtime for Smol {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        ::smol::spawn(task).detach();
        Ok(())
    }

    async fn sleep(duration: Duration) {
        Timer::after(duration).await;
    }
}
