use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::runtime::ReusePort;
use crate::sys::{self, AsFd, OwnedFd};

/// The sockets that form groups: std's [`TcpListener`] and [`UdpSocket`]. Nothing else implements
/// it.
pub trait Socket:
    AsFd + Into<OwnedFd> + From<OwnedFd> + Debug + Send + Sized + sealed::Socket
{
    /// The same socket in a runtime.
    type In<R: ReusePort>;

    #[doc(hidden)]
    fn enter<R: ReusePort>(self) -> io::Result<Self::In<R>>;
}

mod sealed {
    #![allow(private_interfaces, reason = "the trait cannot be named outside")]

    use crate::sys;

    pub trait Socket {
        const KIND: sys::Kind;
        fn from_socket(socket: sys::Socket) -> Self;
        /// Another descriptor of the same socket.
        fn duplicate(&self) -> std::io::Result<Self>
        where
            Self: Sized;
    }

    impl Socket for super::TcpListener {
        const KIND: sys::Kind = sys::Kind::Tcp;

        fn from_socket(socket: sys::Socket) -> Self {
            socket.into_listener()
        }

        fn duplicate(&self) -> std::io::Result<Self> {
            self.try_clone()
        }
    }

    impl Socket for super::UdpSocket {
        const KIND: sys::Kind = sys::Kind::Udp;

        fn from_socket(socket: sys::Socket) -> Self {
            socket.into_udp()
        }

        fn duplicate(&self) -> std::io::Result<Self> {
            self.try_clone()
        }
    }
}

impl Socket for TcpListener {
    type In<R: ReusePort> = R::TcpListener;

    fn enter<R: ReusePort>(self) -> io::Result<R::TcpListener> {
        R::tcp_listener(self)
    }
}

impl Socket for UdpSocket {
    type In<R: ReusePort> = R::UdpSocket;

    fn enter<R: ReusePort>(self) -> io::Result<R::UdpSocket> {
        R::udp_socket(self)
    }
}

/// The address that a listener, connection or UDP socket of any runtime is bound to.
///
/// For code that is generic over the runtime: every runtime's sockets have such a method, and no
/// trait has it.
///
/// ```
/// use reuseport::{Net, local_addr};
///
/// /// Listens on a free port, and says which.
/// fn listen_anywhere<R: Net>() -> std::io::Result<(R::TcpListener, u16)> {
///     let listener = R::listen("localhost:0")?;
///     let port = local_addr(&listener)?.port();
///     Ok((listener, port))
/// }
/// ```
///
/// # Errors
///
/// As getsockname(2), and [`InvalidInput`](io::ErrorKind::InvalidInput) for a socket that has no IP
/// address.
#[doc(alias = "getsockname")]
pub fn local_addr(socket: &impl AsFd) -> io::Result<SocketAddr> {
    sys::local_addr(socket)
}
