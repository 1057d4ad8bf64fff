use std::fmt::Debug;
use std::net::{TcpListener, UdpSocket};

use crate::ReusePort;
use crate::sys::{AsFd, OwnedFd};

/// The sockets that form groups: std's [`TcpListener`] and [`UdpSocket`]. Nothing else implements
/// it.
pub trait Socket:
    AsFd + Into<OwnedFd> + From<OwnedFd> + Debug + Send + Sized + sealed::Socket
{
    /// The same socket in a runtime.
    type In<R: ReusePort>;

    #[doc(hidden)]
    fn enter<R: ReusePort>(self) -> std::io::Result<Self::In<R>>;
}

mod sealed {
    #![allow(private_interfaces, reason = "nobody outside can name the trait")]

    use crate::sys;

    pub trait Socket {
        const KIND: sys::Kind;
        fn from_socket(socket: sys::Socket) -> Self;
    }

    impl Socket for super::TcpListener {
        const KIND: sys::Kind = sys::Kind::Tcp;

        fn from_socket(socket: sys::Socket) -> Self {
            socket.into_listener()
        }
    }

    impl Socket for super::UdpSocket {
        const KIND: sys::Kind = sys::Kind::Udp;

        fn from_socket(socket: sys::Socket) -> Self {
            socket.into_udp()
        }
    }
}

impl Socket for TcpListener {
    type In<R: ReusePort> = R::TcpListener;

    fn enter<R: ReusePort>(self) -> std::io::Result<R::TcpListener> {
        R::tcp_listener(self)
    }
}

impl Socket for UdpSocket {
    type In<R: ReusePort> = R::UdpSocket;

    fn enter<R: ReusePort>(self) -> std::io::Result<R::UdpSocket> {
        R::udp_socket(self)
    }
}
