//! What a runtime is: its sockets, their input and output, its tasks and its clock.

mod connect;
#[cfg(feature = "std")]
pub(crate) mod deadline;
mod dial;
mod net;
mod stream;
mod tasks;
mod terminals;

use std::fmt::Debug;
use std::io;

use crate::error::Error;
use crate::open::{Options, ToAddr, adopt};
use crate::sys::{Kind, OwnedFd};
use crate::trace;
pub use net::Net;
pub use stream::Io;
pub use tasks::Runtime;

/// A runtime whose sockets can share a port.
///
/// Its functions return the runtime's own sockets, ready for axum, hyper, tonic or quinn. Each
/// runtime has a marker type behind the feature of its name. Another crate can add a runtime with
/// three functions:
///
/// ```
/// # #[cfg(feature = "smol")] {
/// use reuseport::ReusePort;
/// use smol::Async;
///
/// /// The sockets of async-io, without a runtime around them.
/// #[derive(Clone, Copy, Debug)]
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
pub trait ReusePort: Copy + Debug + Send + Sync + Unpin + 'static {
    /// The runtime's TCP listener.
    type TcpListener;
    /// The runtime's TCP connection.
    type TcpStream;
    /// The runtime's UDP socket.
    type UdpSocket;

    /// Whether the functions below get their sockets in nonblocking mode.
    const NONBLOCKING: bool = true;

    /// Makes a listener of the runtime.
    ///
    /// The listener is in the mode of [`NONBLOCKING`](Self::NONBLOCKING) already.
    ///
    /// # Errors
    ///
    /// What the runtime returns.
    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<Self::TcpListener>;

    /// Makes a connection of the runtime.
    ///
    /// The stream is in the mode of [`NONBLOCKING`](Self::NONBLOCKING) already.
    ///
    /// # Errors
    ///
    /// What the runtime returns.
    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<Self::TcpStream>;

    /// Makes a UDP socket of the runtime.
    ///
    /// The socket is in the mode of [`NONBLOCKING`](Self::NONBLOCKING) already.
    ///
    /// # Errors
    ///
    /// What the runtime returns.
    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<Self::UdpSocket>;

    /// Opens a TCP listener that shares its port.
    ///
    /// This is [`Options::listen`] with the defaults.
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
    /// Where the runtime panics: see its marker type.
    #[doc(alias("Listen", "bind", "SO_REUSEPORT"))]
    fn listen(addr: impl ToAddr) -> Result<Self::TcpListener, Error> {
        Options::new().listen::<Self>(addr)
    }

    /// Opens a UDP socket that shares its port.
    ///
    /// This is [`Options::listen_packet`] with the defaults.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let first: std::net::UdpSocket = Std::listen_packet("localhost:0")?;
    /// let second = Std::listen_packet(first.local_addr()?)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::listen_packet`].
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    #[doc(alias("ListenPacket", "bind", "SO_REUSEPORT"))]
    fn listen_packet(addr: impl ToAddr) -> Result<Self::UdpSocket, Error> {
        Options::new().listen_packet::<Self>(addr)
    }

    /// Takes a TCP listener that was opened elsewhere, by systemd or by another process.
    ///
    /// The listener need not share its port, and MPTCP counts as TCP. It is put into the runtime's
    /// blocking mode, which every process that has the same socket shares: with `Std`, `accept` in
    /// the other process begins to block. Child processes no longer inherit it.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// // As a crate that reads systemd's LISTEN_FDS returns it.
    /// let inherited = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = Std::adopt(inherited)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the descriptor is no listening TCP socket;
    /// the error says what it is. Windows and WASI do not tell whether a socket listens. On an error
    /// the descriptor is closed.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    #[doc(alias("LISTEN_FDS", "from_raw_fd"))]
    fn adopt(fd: impl Into<OwnedFd>) -> Result<Self::TcpListener, Error> {
        let fd = adopt::whole(fd.into(), Kind::Tcp, Self::NONBLOCKING)?;
        taken(Self::tcp_listener(fd.into()))
    }

    /// Takes a UDP socket that was opened elsewhere.
    ///
    /// As [`adopt`](Self::adopt).
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{ReusePort, Std};
    ///
    /// let inherited = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// let socket = Std::adopt_packet(inherited)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the descriptor is no UDP socket, is not
    /// bound, or is connected to one peer. On an error the descriptor is closed.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    fn adopt_packet(fd: impl Into<OwnedFd>) -> Result<Self::UdpSocket, Error> {
        let fd = adopt::whole(fd.into(), Kind::Udp, Self::NONBLOCKING)?;
        taken(Self::udp_socket(fd.into()))
    }
}

/// What the runtime returned for a socket.
pub(crate) fn taken<T>(result: io::Result<T>) -> Result<T, Error> {
    result.map_err(Error::not_taken).inspect_err(trace::refused)
}
