use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::net::{TcpListener, TcpStream, UdpSocket, lookup_host};
use ::tokio::runtime::Handle;

use crate::{Net, ReusePort, Runtime, sys};

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

    fn poll_read(
        stream: &TcpStream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let len = buf.len();
            let read = transfer(stream, Interest::READABLE, len, || stream.try_read(buf));
            if let Some(read) = read {
                return Poll::Ready(read);
            }
        }
    }

    fn poll_write(stream: &TcpStream, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let len = buf.len();
            let written = transfer(stream, Interest::WRITABLE, len, || stream.try_write(buf));
            if let Some(written) = written {
                return Poll::Ready(written);
            }
        }
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

/// Reads or writes; none where it would block.
///
/// After a part of what was asked for the kernel's buffer is empty, or full: tokio's own streams know, and
/// do not try again before the next event. `try_io` learns it by "would block".
fn transfer(
    stream: &TcpStream,
    interest: Interest,
    len: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    let mut result = None;
    let tried = stream.try_io(interest, || match call() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error),
        done => {
            let is_part = matches!(done, Ok(n) if 0 < n && n < len);
            result = Some(done);
            match is_part && sys::PART_IS_ALL {
                true => Err(ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        }
    });
    match tried {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Some(Err(error)),
        _ => result,
    }
}

impl Runtime for Tokio {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        runtime.spawn(task);
        Ok(())
    }

    async fn sleep(duration: Duration) {
        ::tokio::time::sleep(duration).await;
    }
}
