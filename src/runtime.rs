use std::future::Future;
use std::io;
use std::net::SocketAddr;

use crate::sys::{AsFd, OwnedFd};
use crate::{Error, Options, ToAddr, adopt, dial};

/// A runtime whose sockets can share a port.
///
/// Its functions give the runtime's own sockets, so that they go straight into axum, hyper, tonic
/// or quinn. Each runtime has a marker type behind the feature of its name; another crate can add
/// its own with three functions:
///
/// ```
/// # #[cfg(feature = "smol")] {
/// use reuseport::ReusePort;
/// use smol::Async;
///
/// /// The sockets of async-io, without a runtime around them.
/// struct AsyncIo;
///
/// impl ReusePort for AsyncIo {
///     type TcpListener = Async<std::net::TcpListener>;
///     type TcpStream = Async<std::net::TcpStream>;
///     type UdpSocket = Async<std::net::UdpSocket>;
///     fn tcp_listener(listener: std::net::TcpListener) -> std::io::Result<Self::TcpListener> {
///         Async::new_nonblocking(listener)
///     }
///     fn tcp_stream(stream: std::net::TcpStream) -> std::io::Result<Self::TcpStream> {
///         Async::new_nonblocking(stream)
///     }
///     fn udp_socket(socket: std::net::UdpSocket) -> std::io::Result<Self::UdpSocket> {
///         Async::new_nonblocking(socket)
///     }
/// }
///
/// let listener = AsyncIo::listen("localhost:0")?;
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no runtime whose sockets can share a port",
    note = "`reuseport::Std`, `Tokio`, `AsyncStd` and `Smol` are, each behind the feature of its name"
)]
pub trait ReusePort: Sized + 'static {
    /// The runtime's TCP listener.
    type TcpListener;
    /// The runtime's TCP connection.
    type TcpStream;
    /// The runtime's UDP socket.
    type UdpSocket;

    /// Are sockets handed to the functions below in nonblocking mode?
    const NONBLOCKING: bool = true;

    /// Makes a listener of the runtime, in the mode of [`NONBLOCKING`](Self::NONBLOCKING) already.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<Self::TcpListener>;

    /// Makes a connection of the runtime, in the mode of [`NONBLOCKING`](Self::NONBLOCKING)
    /// already.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<Self::TcpStream>;

    /// Makes a UDP socket of the runtime, in the mode of [`NONBLOCKING`](Self::NONBLOCKING)
    /// already.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<Self::UdpSocket>;

    /// Opens a TCP listener that shares its port: [`Options::listen`] with the defaults.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let first: std::net::TcpListener = Std::listen("localhost:0")?;
    /// let second = Std::listen(first.local_addr()?)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::listen`].
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    #[doc(alias("Listen", "bind", "SO_REUSEPORT"))]
    fn listen(addr: impl ToAddr) -> Result<Self::TcpListener, Error> {
        Options::new().listen::<Self>(addr)
    }

    /// Opens a UDP socket that shares its port: [`Options::listen_packet`] with the defaults.
    ///
    /// # Errors
    ///
    /// As [`Options::listen_packet`].
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    #[doc(alias("ListenPacket", "bind", "SO_REUSEPORT"))]
    fn listen_packet(addr: impl ToAddr) -> Result<Self::UdpSocket, Error> {
        Options::new().listen_packet::<Self>(addr)
    }

    /// Takes a TCP listener that was opened elsewhere: by systemd, or by the process before this
    /// one.
    ///
    /// It need not share its port, and MPTCP counts as TCP. It is put into the runtime's mode,
    /// which acts on everybody who has the same socket: with `Std` another process's `accept`
    /// begins to block. Children no longer inherit it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where it is no TCP socket that listens, and
    /// the error says what it is; Windows and WASI cannot tell whether it listens. It is closed
    /// then.
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    fn adopt(fd: impl Into<OwnedFd>) -> Result<Self::TcpListener, Error> {
        adopt::listener::<Self>(fd.into())
    }

    /// Takes a UDP socket that was opened elsewhere.
    ///
    /// As [`adopt`](Self::adopt).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where it is no bound UDP socket, or is
    /// connected to one peer. It is closed then.
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    fn adopt_packet(fd: impl Into<OwnedFd>) -> Result<Self::UdpSocket, Error> {
        adopt::packet::<Self>(fd.into())
    }
}

/// Socket input and output of a runtime, for libraries that work in all of them.
///
/// Functions and not methods, because the runtimes' sockets have methods of these names. Dropping a
/// future before it is ready loses nothing but [`write_all`](Self::write_all), which may have
/// written a part.
///
/// ```
/// use reuseport::Net;
///
/// /// An echo server for any runtime.
/// async fn echo<R: Net>(listener: R::TcpListener) -> std::io::Result<()> {
///     loop {
///         let (mut stream, _) = R::accept(&listener).await?;
///         let mut buf = [0; 1024];
///         while let n @ 1.. = R::read(&mut stream, &mut buf).await? {
///             R::write_all(&mut stream, &buf[..n]).await?;
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no socket input and output for libraries that are generic over the runtime",
    note = "`reuseport::Std`, `Tokio`, `AsyncStd` and `Smol` have, each behind the feature of its name"
)]
pub trait Net:
    ReusePort<
        TcpListener: AsFd + Send + Sync,
        TcpStream: AsFd + Send + Sync,
        UdpSocket: AsFd + Send + Sync,
    >
{
    /// Waits for a connection.
    ///
    /// # Errors
    ///
    /// As accept(2). None of them is the listener's end: where descriptors ran out, wait a little
    /// and go on.
    fn accept(
        listener: &Self::TcpListener,
    ) -> impl Future<Output = io::Result<(Self::TcpStream, SocketAddr)>> + Send;

    /// Waits for bytes, and returns how many were read into `buf`; 0 is the end of the stream.
    ///
    /// # Errors
    ///
    /// As recv(2).
    fn read(
        stream: &mut Self::TcpStream,
        buf: &mut [u8],
    ) -> impl Future<Output = io::Result<usize>> + Send;

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// As send(2).
    fn write_all(
        stream: &mut Self::TcpStream,
        buf: &[u8],
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits for a datagram, and returns its length in `buf` and who sent it.
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

    /// Waits until a connect that has been started ends, and makes its stream one of the runtime.
    ///
    /// [`dial`](Self::dial) needs it. The stream is in the mode of
    /// [`NONBLOCKING`](ReusePort::NONBLOCKING).
    ///
    /// # Errors
    ///
    /// As connect(2), and what the runtime answers.
    fn connected(
        stream: std::net::TcpStream,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send;

    /// Looks up the addresses of `"name:port"` with the runtime's own resolver.
    ///
    /// # Errors
    ///
    /// As getaddrinfo(3).
    fn lookup(host: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Connects to `remote` from a port that listeners share: [`Options::dial`] with the defaults.
    ///
    /// ```
    /// use reuseport::Net;
    ///
    /// /// Reaches a peer from the port on which this side listens.
    /// async fn punch<R: Net>(peer: std::net::SocketAddr) -> std::io::Result<(R::TcpListener, R::TcpStream)> {
    ///     let listener = R::listen(":7777")?;
    ///     let stream = R::dial(":7777", peer).await?;
    ///     Ok((listener, stream))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::dial`].
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    #[doc(alias("Dial", "connect"))]
    fn dial(
        local: impl ToAddr,
        remote: SocketAddr,
    ) -> impl Future<Output = Result<Self::TcpStream, Error>> + Send {
        let local = local.target();
        async move { dial::dial::<Self>(&Options::new(), local, remote).await }
    }
}
