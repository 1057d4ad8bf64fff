//! The one file that names socket2: a socket before it becomes std's, and what a descriptor is.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Type};

use super::{AsFd, BorrowedFd, Kind, borrow};

#[cfg(unix)]
use super::OwnedFd;

/// A socket that is being set up. Close-on-exec from birth.
#[derive(Debug)]
pub(crate) struct Socket(socket2::Socket);

impl Socket {
    /// socket(2), in the given mode.
    #[allow(dead_code, reason = "for systems that ask with sockets of their own")]
    pub(crate) fn new(kind: Kind, addr: &SocketAddr, nonblocking: bool) -> io::Result<Self> {
        Self::of(kind, addr, nonblocking, None)
    }

    /// The same of another protocol than the plain one; one system call where the kernel takes
    /// SOCK_NONBLOCK and SOCK_CLOEXEC.
    pub(crate) fn of(
        kind: Kind,
        addr: &SocketAddr,
        nonblocking: bool,
        protocol: Option<i32>,
    ) -> io::Result<Self> {
        let domain = Domain::for_address(*addr);
        let (r#type, plain) = match kind {
            Kind::Tcp => (Type::STREAM, Protocol::TCP),
            Kind::Udp => (Type::DGRAM, Protocol::UDP),
        };
        let protocol = protocol.map_or(plain, Protocol::from);
        if !nonblocking {
            return socket2::Socket::new(domain, r#type, Some(protocol)).map(Self);
        }
        cfg_if::cfg_if! {
            if #[cfg(any(
                target_os = "android", target_os = "dragonfly", target_os = "freebsd", target_os = "fuchsia",
                target_os = "illumos", target_os = "linux", target_os = "netbsd", target_os = "openbsd",
            ))] {
                socket2::Socket::new(domain, r#type.nonblocking(), Some(protocol)).map(Self)
            } else {
                let socket = socket2::Socket::new(domain, r#type, Some(protocol))?;
                socket.set_nonblocking(true)?;
                Ok(Self(socket))
            }
        }
    }

    pub(crate) fn set_only_v6(&self, only: bool) -> io::Result<()> {
        self.0.set_only_v6(only)
    }

    #[allow(dead_code, reason = "for systems without a better proof")]
    pub(crate) fn only_v6(&self) -> io::Result<bool> {
        self.0.only_v6()
    }

    #[allow(dead_code, reason = "the BSDs have no use for it")]
    pub(crate) fn set_reuse_address(&self) -> io::Result<()> {
        self.0.set_reuse_address(true)
    }

    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "openbsd",
    ))]
    pub(crate) fn set_reuse_port(&self) -> io::Result<()> {
        self.0.set_reuse_port(true)
    }

    #[cfg(target_os = "freebsd")]
    pub(crate) fn set_reuse_port_lb(&self) -> io::Result<()> {
        self.0.set_reuse_port_lb(true)
    }

    /// Lets a socket bind to an address that no interface has; nothing can ever arrive there.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn set_freebind(&self, addr: &SocketAddr) -> io::Result<()> {
        match addr {
            SocketAddr::V4(_) => self.0.set_freebind_v4(true),
            SocketAddr::V6(_) => self.0.set_freebind_v6(true),
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn bind_device(&self, name: &str) -> io::Result<()> {
        self.0.bind_device(Some(name.as_bytes()))
    }

    #[cfg(target_vendor = "apple")]
    pub(crate) fn bind_device_index(
        &self,
        addr: &SocketAddr,
        index: std::num::NonZeroU32,
    ) -> io::Result<()> {
        match addr {
            SocketAddr::V4(_) => self.0.bind_device_by_index_v4(Some(index)),
            SocketAddr::V6(_) => self.0.bind_device_by_index_v6(Some(index)),
        }
    }

    pub(crate) fn bind(&self, addr: &SocketAddr) -> io::Result<()> {
        self.0.bind(&SockAddr::from(*addr))
    }

    pub(crate) fn listen(&self, backlog: u32) -> io::Result<()> {
        // Never negative: -1 is the longest queue on Linux and a queue of 200 on Windows.
        self.0.listen(i32::try_from(backlog).unwrap_or(i32::MAX))
    }

    /// connect(2). A socket that does not block may still be connecting when this returns.
    pub(crate) fn connect(&self, addr: &SocketAddr) -> io::Result<()> {
        match self.0.connect(&SockAddr::from(*addr)) {
            Err(error) if in_progress(&error) => Ok(()),
            // connect(2): an interrupted connect goes on by itself, and a second call would be
            // refused.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => wait_connected(&self.0),
            done => done,
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        local_addr(&self.0)
    }

    pub(crate) fn into_listener(self) -> TcpListener {
        self.0.into()
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.0.into()
    }

    pub(crate) fn into_udp(self) -> UdpSocket {
        self.0.into()
    }

    /// For the hook of the caller, and for what socket2 has no word for.
    pub(crate) fn lend(&self) -> BorrowedFd<'_> {
        borrow(&self.0)
    }
}

/// Sets the blocking mode of a socket that came from elsewhere.
pub(crate) fn set_nonblocking(fd: &impl AsFd, nonblocking: bool) -> io::Result<()> {
    SockRef::from(fd).set_nonblocking(nonblocking)
}

/// IPV6_V6ONLY; an error for IPv4 (ipv6(7)).
pub(crate) fn only_v6(fd: &impl AsFd) -> io::Result<bool> {
    SockRef::from(fd).only_v6()
}

/// SO_REUSEADDR.
pub(crate) fn reuses_address(fd: BorrowedFd<'_>) -> io::Result<bool> {
    SockRef::from(&fd).reuse_address()
}

/// Whether an IPv4 address is the broadcast address of a network here.
///
/// A connect of a UDP socket sends nothing, and is refused where SO_BROADCAST is not set (connect(2);
/// kernel: __ip4_datagram_connect).
pub(crate) fn is_broadcast(ip: std::net::Ipv4Addr) -> bool {
    let connect = || {
        let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Any port: nothing is sent to it.
        socket.connect(&SocketAddr::from((ip, 9)).into())
    };
    connect().is_err_and(|error: io::Error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The address that a socket of any runtime is bound to.
pub(crate) fn local_addr(fd: &impl AsFd) -> io::Result<SocketAddr> {
    let addr = SockRef::from(fd).local_addr()?;
    addr.as_socket()
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The address of the other end of a stream of any runtime.
pub(crate) fn peer_addr(fd: &impl AsFd) -> io::Result<SocketAddr> {
    let addr = SockRef::from(fd).peer_addr()?;
    addr.as_socket()
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// TCP_NODELAY.
pub(crate) fn set_nodelay(fd: &impl AsFd, nodelay: bool) -> io::Result<()> {
    SockRef::from(fd).set_tcp_nodelay(nodelay)
}

pub(crate) fn shutdown(fd: &impl AsFd, how: Shutdown) -> io::Result<()> {
    SockRef::from(fd).shutdown(how)
}

/// Makes the close of a stream a reset, which leaves no TIME_WAIT behind to hold the port.
pub(crate) fn reset_at_close(fd: &impl AsFd) -> io::Result<()> {
    SockRef::from(fd).set_linger(Some(Duration::ZERO))
}

/// Is this a stream whose two ends are one socket? TCP makes one where a port dials itself (RFC
/// 9293, 3.5).
pub(crate) fn is_connected_to_itself(fd: &impl AsFd) -> io::Result<bool> {
    let socket = SockRef::from(fd);
    Ok(socket.local_addr()?.as_socket() == socket.peer_addr()?.as_socket())
}

/// Waits, blocking, until a connect that is under way ends, and returns its outcome.
#[cfg(feature = "std")]
pub(super) fn finish_connect(stream: &TcpStream) -> io::Result<()> {
    match stream.peer_addr() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            wait_connected(&SockRef::from(stream))
        }
        Err(error) => Err(error),
    }
}

fn wait_connected(socket: &socket2::Socket) -> io::Result<()> {
    super::wait_writable(borrow(socket))?;
    socket.take_error()?.map_or(Ok(()), Err)
}

fn in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || super::is_in_progress(error)
}

/// The bounds of a socket's waits to read and to write; None for a wait without an end.
#[cfg(unix)]
pub(super) fn timeouts(fd: &impl AsFd) -> io::Result<[Option<Duration>; 2]> {
    let socket = SockRef::from(fd);
    Ok([socket.read_timeout()?, socket.write_timeout()?])
}

/// Bounds a socket's waits to write, and that of connect(2) too.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_write_timeout(fd: &impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| timeout.max(Duration::from_micros(1)));
    SockRef::from(fd).set_write_timeout(timeout)
}

/// A UNIX stream socket that does not block.
#[cfg(unix)]
pub(super) fn unix_stream() -> io::Result<OwnedFd> {
    cfg_if::cfg_if! {
        if #[cfg(any(target_os = "linux", target_os = "android"))] {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        } else {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
        }
    }
    Ok(socket.into())
}

/// Binds to a path, or to an address that begins with a zero byte for an abstract one (unix(7)).
#[cfg(unix)]
pub(super) fn bind_unix(fd: &impl AsFd, addr: &std::path::Path) -> io::Result<()> {
    SockRef::from(fd).bind(&SockAddr::unix(addr)?)
}

#[cfg(unix)]
pub(super) fn connect_unix(fd: &impl AsFd, addr: &std::path::Path) -> io::Result<()> {
    // Unlike TCP's, an interrupted connect has not begun (kernel: unix_stream_connect).
    SockRef::from(fd).connect(&SockAddr::unix(addr)?)
}

#[cfg(unix)]
pub(super) fn listen_unix(fd: &impl AsFd, backlog: i32) -> io::Result<()> {
    SockRef::from(fd).listen(backlog)
}

/// The next connection of a listener of any family, which does not block.
#[cfg(unix)]
pub(super) fn accept(listener: &impl AsFd) -> io::Result<OwnedFd> {
    cfg_if::cfg_if! {
        if #[cfg(any(target_os = "linux", target_os = "android"))] {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let (socket, _) = uninterrupted(|| SockRef::from(listener).accept4(flags))?;
        } else {
            let (socket, _) = uninterrupted(|| SockRef::from(listener).accept())?;
            socket.set_nonblocking(true)?;
        }
    }
    Ok(socket.into())
}

/// Ends both directions of a socket, also where other processes have it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn shut_down(fd: &impl AsFd) -> io::Result<()> {
    shutdown(fd, Shutdown::Both)
}

/// Calls until no signal interrupts.
#[cfg(unix)]
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The family of a socket's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    Unix,
    Other,
}

/// What a descriptor from elsewhere turns out to be.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) family: Family,
    /// None: neither a stream nor datagrams, or not TCP, MPTCP or UDP.
    pub(crate) kind: Option<Kind>,
    pub(crate) listening: bool,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

/// Asks the kernel what `fd` is; fails with ENOTSOCK where it is no socket.
pub(crate) fn describe(fd: BorrowedFd<'_>) -> io::Result<Description> {
    let socket = SockRef::from(&fd);
    let r#type = socket.r#type()?;
    let local = socket.local_addr()?;
    let family = match local {
        _ if local.is_ipv4() => Family::V4,
        _ if local.is_ipv6() => Family::V6,
        _ if is_unix(&local) => Family::Unix,
        _ => Family::Other,
    };
    let kind = match r#type {
        Type::STREAM => Some(Kind::Tcp),
        Type::DGRAM => Some(Kind::Udp),
        _ => None,
    };
    let listening = kind == Some(Kind::Tcp) && super::is_listening(fd)?;
    let peer = socket.peer_addr().ok().and_then(|addr| addr.as_socket());
    let kind = kind.filter(|&kind| family == Family::Unix || is_protocol(&socket, kind));
    Ok(Description {
        family,
        kind,
        listening,
        peer,
        local: local.as_socket(),
    })
}

cfg_if::cfg_if! {
    if #[cfg(target_os = "wasi")] {
        fn is_unix(_: &SockAddr) -> bool {
            false
        }
    } else {
        fn is_unix(addr: &SockAddr) -> bool {
            addr.is_unix()
        }
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))] {
        /// SO_PROTOCOL tells TCP from SCTP, and UDP from ICMP's datagrams.
        fn is_protocol(socket: &SockRef<'_>, kind: Kind) -> bool {
            const MPTCP: i32 = 262;
            let Ok(Some(protocol)) = socket.protocol() else { return true };
            match kind {
                Kind::Tcp => protocol == Protocol::TCP || i32::from(protocol) == MPTCP,
                Kind::Udp => protocol == Protocol::UDP,
            }
        }
    } else {
        /// No SO_PROTOCOL here: a stream is taken for TCP, and datagrams for UDP.
        fn is_protocol(_: &SockRef<'_>, _: Kind) -> bool {
            true
        }
    }
}
