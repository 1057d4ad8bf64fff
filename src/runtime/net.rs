//! Socket input and output that is the same on every runtime.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll};

use super::{ReusePort, connect, dial};
use crate::error::Error;
use crate::open::{Options, ToAddr};
use crate::sys::{self, AsFd};

/// Socket input and output of a runtime, for libraries that work in all of them.
///
/// These are functions and not methods, because the runtimes' sockets have methods of the same
/// names. All of them borrow the socket, so that one task can read while another writes: two
/// borrows, or two clones of an `Arc`, are the two halves of a connection. Of a stream, one task at a
/// time reads, and one writes: with tokio, of two that wait to read only the last is woken. Any number
/// of tasks accept from one listener, and use one UDP socket.
///
/// Dropping a future before it is ready loses no data; [`write_all`](Self::write_all) and
/// [`read_exact`](Self::read_exact) may have done a part.
///
/// With [`Std`](crate::Std) the functions block, which generic code can ask
/// ([`NONBLOCKING`](ReusePort::NONBLOCKING)). Tasks and time are in [`Runtime`](crate::Runtime); for
/// code that expects the traits of futures-io or hyper there is [`Io`](crate::Io).
///
/// ```
/// use reuseport::Net;
///
/// /// Answers one connection with itself, on any runtime.
/// async fn echo<R: Net>(stream: R::TcpStream) -> std::io::Result<()> {
///     let mut buf = [0; 1024];
///     while let n @ 1.. = R::read(&stream, &mut buf).await? {
///         R::write_all(&stream, &buf[..n]).await?;
///     }
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no socket input and output for libraries that are generic over the runtime",
    note = "`reuseport::Std`, `Tokio`, `AsyncStd` and `Smol` have, each behind the feature of its name"
)]
pub trait Net:
    ReusePort<
        TcpListener: AsFd + Debug + Send + Sync + Unpin + 'static,
        TcpStream: AsFd + Debug + Send + Sync + Unpin + 'static,
        UdpSocket: AsFd + Debug + Send + Sync + Unpin + 'static,
    >
{
    /// Waits for a connection, and returns it with the peer's address.
    ///
    /// # Errors
    ///
    /// As accept(2). The listener goes on after any of them: when the process has no descriptors
    /// left, wait a little and accept again.
    fn accept(
        listener: &Self::TcpListener,
    ) -> impl Future<Output = io::Result<(Self::TcpStream, SocketAddr)>> + Send;

    /// Reads into `buf` what has come, and returns how many bytes; 0 is the end of the stream.
    ///
    /// Where nothing has come the task of `cx` is woken when something has. This is for those who write
    /// adapters; other code calls [`read`](Self::read).
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// async fn read_some<R: Net>(stream: &R::TcpStream, buf: &mut [u8]) -> std::io::Result<usize> {
    ///     std::future::poll_fn(|cx| R::poll_read(stream, cx, buf)).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As recv(2).
    fn poll_read(
        stream: &Self::TcpStream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>>;

    /// Writes a part of `buf`, and returns how many bytes; 0 only where `buf` is empty.
    ///
    /// Where there is no room the task of `cx` is woken when there is. This is for those who write
    /// adapters; other code calls [`write`](Self::write) or [`write_all`](Self::write_all).
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// async fn write_one<R: Net>(stream: &R::TcpStream, byte: u8) -> std::io::Result<usize> {
    ///     std::future::poll_fn(|cx| R::poll_write(stream, cx, &[byte])).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As send(2).
    fn poll_write(
        stream: &Self::TcpStream,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>>;

    /// Waits for a datagram, and returns its length in bytes and the sender's address.
    ///
    /// What does not fit into `buf` is lost: on Unix without an error, on Windows with one.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// /// Answers each datagram with itself.
    /// async fn reflect<R: Net>(socket: R::UdpSocket) -> std::io::Result<()> {
    ///     let mut buf = [0; 1500];
    ///     loop {
    ///         let (len, peer) = R::recv_from(&socket, &mut buf).await?;
    ///         R::send_to(&socket, &buf[..len], peer).await?;
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As recvfrom(2).
    fn recv_from(
        socket: &Self::UdpSocket,
        buf: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;

    /// Sends a datagram, and returns how many bytes it had.
    ///
    /// # Errors
    ///
    /// As sendto(2).
    fn send_to(
        socket: &Self::UdpSocket,
        buf: &[u8],
        to: SocketAddr,
    ) -> impl Future<Output = io::Result<usize>> + Send;

    /// Waits until a connect that has been started ends, and makes a stream of the runtime of it.
    ///
    /// [`connect`](Self::connect) and [`dial`](Self::dial) call it. The stream is in the mode of
    /// [`NONBLOCKING`](ReusePort::NONBLOCKING).
    ///
    /// # Errors
    ///
    /// As connect(2), and what the runtime returns.
    fn connected(
        stream: std::net::TcpStream,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send;

    /// Looks up the addresses of `"name:port"` with the runtime's own resolver.
    ///
    /// ```
    /// use reuseport::{Net, Options};
    ///
    /// /// Listens at every address of a name.
    /// async fn listen<R: Net>(name: &str) -> std::io::Result<Vec<R::TcpListener>> {
    ///     let addrs = R::lookup(name).await?;
    ///     let listeners = addrs.into_iter().map(|addr| Ok(R::listen(addr)?));
    ///     listeners.collect()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As getaddrinfo(3).
    #[doc(alias = "getaddrinfo")]
    fn lookup(host: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Waits for data, and returns how many bytes were read into `buf`; 0 is the end of the stream.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// async fn is_over<R: Net>(stream: &R::TcpStream) -> std::io::Result<bool> {
    ///     Ok(R::read(stream, &mut [0; 512]).await? == 0)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As recv(2).
    fn read(
        stream: &Self::TcpStream,
        buf: &mut [u8],
    ) -> impl Future<Output = io::Result<usize>> + Send {
        poll_fn(move |cx| Self::poll_read(stream, cx, buf))
    }

    /// Waits until `buf` is full.
    ///
    /// A future that is dropped before it is ready may have read a part.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// async fn number<R: Net>(stream: &R::TcpStream) -> std::io::Result<u32> {
    ///     let mut bytes = [0; 4];
    ///     R::read_exact(stream, &mut bytes).await?;
    ///     Ok(u32::from_be_bytes(bytes))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the stream ends before; as recv(2) besides.
    fn read_exact(
        stream: &Self::TcpStream,
        buf: &mut [u8],
    ) -> impl Future<Output = io::Result<()>> + Send {
        async move {
            let mut read = 0;
            while read < buf.len() {
                match Self::read(stream, &mut buf[read..]).await? {
                    0 => return Err(ends_early(read, buf.len())),
                    n => read += n,
                }
            }
            Ok(())
        }
    }

    /// Writes a part of `buf`, and returns how many bytes; 0 only where `buf` is empty.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// async fn rest<'a, R: Net>(stream: &R::TcpStream, buf: &'a [u8]) -> std::io::Result<&'a [u8]> {
    ///     Ok(&buf[R::write(stream, buf).await?..])
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As send(2).
    fn write(
        stream: &Self::TcpStream,
        buf: &[u8],
    ) -> impl Future<Output = io::Result<usize>> + Send {
        poll_fn(move |cx| Self::poll_write(stream, cx, buf))
    }

    /// Writes all of `buf`.
    ///
    /// A future that is dropped before it is ready may have written a part.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// async fn greet<R: Net>(stream: &R::TcpStream) -> std::io::Result<()> {
    ///     R::write_all(stream, b"hello\n").await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As send(2).
    fn write_all(
        stream: &Self::TcpStream,
        buf: &[u8],
    ) -> impl Future<Output = io::Result<()>> + Send {
        async move {
            let mut left = buf;
            while !left.is_empty() {
                match Self::write(stream, left).await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    n => left = &left[n..],
                }
            }
            Ok(())
        }
    }

    /// Ends one direction of a connection, or both: after `Write` the peer reads the end of the stream,
    /// and can still answer.
    ///
    /// It never waits. Data that was written is still sent.
    ///
    /// ```
    /// use std::net::Shutdown;
    /// use reuseport::Net;
    ///
    /// async fn ask<R: Net>(stream: R::TcpStream, question: &[u8]) -> std::io::Result<u8> {
    ///     R::write_all(&stream, question).await?;
    ///     R::shutdown(&stream, Shutdown::Write)?;
    ///     let mut answer = [0];
    ///     R::read_exact(&stream, &mut answer).await?;
    ///     Ok(answer[0])
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the peer has reset the connection; as
    /// shutdown(2) besides.
    fn shutdown(stream: &Self::TcpStream, how: Shutdown) -> io::Result<()> {
        sys::shutdown(stream, how)
    }

    /// The address of the other end.
    ///
    /// That of this end is [`local_addr`](crate::local_addr).
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// fn port<R: Net>(stream: &R::TcpStream) -> std::io::Result<u16> {
    ///     Ok(R::peer_addr(stream)?.port())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As getpeername(2).
    fn peer_addr(stream: &Self::TcpStream) -> io::Result<SocketAddr> {
        sys::peer_addr(stream)
    }

    /// Whether small writes are sent at once (TCP_NODELAY), and not held back until what was sent
    /// before is acknowledged.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// fn hasten<R: Net>(stream: &R::TcpStream) -> std::io::Result<()> {
    ///     R::set_nodelay(stream, true)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    fn set_nodelay(stream: &Self::TcpStream, nodelay: bool) -> io::Result<()> {
        sys::set_nodelay(stream, nodelay)
    }

    /// Connects to `remote` from a port of its own, as clients do.
    ///
    /// Dropping the future ends the attempt.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// /// The first address of a name.
    /// async fn reach<R: Net>(name: &str) -> std::io::Result<R::TcpStream> {
    ///     match R::lookup(name).await?.first() {
    ///         Some(addr) => Ok(R::connect(*addr).await?),
    ///         None => Err(std::io::ErrorKind::NotFound.into()),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As connect(2), and what the runtime returns. [`InvalidInput`](io::ErrorKind::InvalidInput) if
    /// `remote` is an address of many or has port 0.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    fn connect(remote: SocketAddr) -> impl Future<Output = Result<Self::TcpStream, Error>> + Send {
        connect::connect::<Self>(remote)
    }

    /// Connects to `remote` from a port that listeners share.
    ///
    /// This is [`Options::dial`] with the defaults. Dropping the future ends the attempt.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// async fn punch<R: Net>(peer: std::net::SocketAddr) -> std::io::Result<R::TcpStream> {
    ///     Ok(R::dial(":7777", peer).await?)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::dial`].
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    #[doc(alias("Dial", "connect"))]
    fn dial(
        local: impl ToAddr,
        remote: SocketAddr,
    ) -> impl Future<Output = Result<Self::TcpStream, Error>> + Send {
        let local = local.target();
        async move { dial::dial::<Self>(&Options::new(), local, remote).await }
    }
}

fn ends_early(read: usize, wanted: usize) -> io::Error {
    let why = format!("the stream ended after {read} of {wanted} bytes");
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}
