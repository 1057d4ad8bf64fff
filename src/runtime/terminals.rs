//! The methods of `Options` that open single sockets.

use std::net::SocketAddr;

use super::{Net, ReusePort, dial, taken};
use crate::error::Error;
use crate::open::addr::sealed::ToAddr as _;
use crate::open::{Call, Opening, Options, Purpose, ToAddr, both};
use crate::sys::{Kind, Socket};
use crate::trace;

impl Options {
    /// Opens a TCP listener that shares its port.
    ///
    /// It joins the sockets of the same user that share the port already, in this process or in
    /// another; if there are none, it is the first. The call never waits, so it is a plain function
    /// for every runtime. Dropping the listener closes it, and loses the connections in its accept
    /// queue; a [`Group`](crate::Group) can close listeners without a loss.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Options, Std};
    ///
    /// let options = Options::new().backlog(1024);
    /// let first = options.listen::<Std>("localhost:0")?;
    /// let second = options.listen::<Std>(first.local_addr()?)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// | kind | if |
    /// |---|---|
    /// | [`AddrInUse`](std::io::ErrorKind::AddrInUse) | another user has the port, or its socket does not share it; on Linux [`Error::holder`] says which |
    /// | [`InvalidInput`](std::io::ErrorKind::InvalidInput) | the address is none, or is a multicast or broadcast address; [`spread`](Self::spread) or [`steering`](Self::steering) is set, which are for groups; the [`before_bind`](Self::before_bind) hook undoes what sharing needs |
    /// | [`AddrNotAvailable`](std::io::ErrorKind::AddrNotAvailable) | no interface has the address |
    /// | [`PermissionDenied`](std::io::ErrorKind::PermissionDenied) | the port takes a privilege, or a sandbox forbids it |
    /// | [`Unsupported`](std::io::ErrorKind::Unsupported) | the system cannot share a port |
    ///
    /// Other errors of the system and the runtime keep their kind.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    #[doc(alias("SO_REUSEPORT", "SO_REUSEPORT_LB", "Listen", "bind"))]
    pub fn listen<R: ReusePort>(&self, addr: impl ToAddr) -> Result<R::TcpListener, Error> {
        let socket = self.open(Kind::Tcp, addr, R::NONBLOCKING)?;
        taken(R::tcp_listener(socket.into_listener()))
    }

    /// Opens a UDP socket that shares its port.
    ///
    /// As [`listen`](Self::listen). Port 0 is a port that no other socket has, which bind(2) alone
    /// does not promise to UDP sockets that share. The crate never sets `SO_REUSEADDR` on a UDP
    /// socket: with it any user of the machine could bind the same port. Every socket that shares a
    /// multicast or broadcast address gets each datagram that is sent to it.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Options, Std};
    ///
    /// let first = Options::new().listen_packet::<Std>("localhost:0")?;
    /// let second = Options::new().listen_packet::<Std>(first.local_addr()?)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen), and [`InvalidInput`](std::io::ErrorKind::InvalidInput) if
    /// [`backlog`](Self::backlog) is set.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    #[doc(alias("SO_REUSEPORT", "SO_REUSEPORT_LB", "ListenPacket", "bind"))]
    pub fn listen_packet<R: ReusePort>(&self, addr: impl ToAddr) -> Result<R::UdpSocket, Error> {
        let socket = self.open(Kind::Udp, addr, R::NONBLOCKING)?;
        taken(R::udp_socket(socket.into_udp()))
    }

    /// Opens a TCP listener and a UDP socket on one port number, as servers of HTTP/3 and DNS need.
    ///
    /// For port 0 it is a number that no other socket has, of either protocol. Otherwise it is
    /// [`listen`](Self::listen) and [`listen_packet`](Self::listen_packet) on that port: both or none.
    /// [`backlog`](Self::backlog) is for TCP alone. For a group of each there is
    /// [`group_both`](Self::group_both).
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Options, Std};
    ///
    /// let (listener, socket) = Options::new().listen_both::<Std>("localhost:0")?;
    /// assert_eq!(listener.local_addr()?, socket.local_addr()?);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen). [`AddrInUse`](std::io::ErrorKind::AddrInUse) for port 0 where UDP
    /// sockets have all ports that were tried, which are 64 at most.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    pub fn listen_both<R: ReusePort>(
        &self,
        addr: impl ToAddr,
    ) -> Result<(R::TcpListener, R::UdpSocket), Error> {
        let [tcp, udp] = self.for_both();
        let listen = |target| {
            let opening = Opening::new(&tcp, Call::Listen(Kind::Tcp), target)?;
            let socket = opening.open(Purpose::Share, R::NONBLOCKING)?;
            let addr = opening.settled(&socket)?.addr();
            Ok((socket, addr))
        };
        let listen_packet = |target, is_new| {
            let opening = Opening::new(&udp, Call::Listen(Kind::Udp), target)?;
            let purpose = if is_new {
                Purpose::Found
            } else {
                Purpose::Share
            };
            opening.open(purpose, R::NONBLOCKING)
        };
        let open = || both(self, addr.target()?, listen, listen_packet, |kept| kept);
        let (listener, socket) = open().inspect_err(trace::refused)?;
        trace::opened(Kind::Tcp, &listener.lend());
        trace::opened(Kind::Udp, &socket.lend());
        let listener = taken(R::tcp_listener(listener.into_listener()))?;
        Ok((listener, taken(R::udp_socket(socket.into_udp()))?))
    }

    /// One socket that shares its port.
    fn open(&self, kind: Kind, addr: impl ToAddr, nonblocking: bool) -> Result<Socket, Error> {
        let open = || {
            let opening = Opening::new(self, Call::Listen(kind), addr)?;
            opening.open(Purpose::Share, nonblocking)
        };
        let socket = open().inspect_err(trace::refused)?;
        trace::opened(kind, &socket.lend());
        Ok(socket)
    }

    /// Connects to `remote` from a port that listeners share.
    ///
    /// TCP hole punching needs that: the peer must see the port on which this side listens. Dropping
    /// the future ends the attempt.
    ///
    /// ```
    /// # #[cfg(feature = "tokio")] {
    /// use std::net::SocketAddr;
    /// use reuseport::{Options, Tokio};
    ///
    /// async fn punch(port: u16, peer: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    ///     let local = SocketAddr::from(([0, 0, 0, 0], port));
    ///     Ok(Options::new().device("eth0").dial::<Tokio>(local, peer).await?)
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`AddrNotAvailable`](std::io::ErrorKind::AddrNotAvailable) if this port has a connection with
    /// that peer already, or no interface has the local address.
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) if `local` and `remote` are the same,
    /// where TCP would connect the socket with itself, and for options that a connection does not
    /// have: [`backlog`](Self::backlog), [`join`](Self::join), [`spread`](Self::spread) and
    /// [`steering`](Self::steering). As [`listen`](Self::listen) and connect(2) besides.
    ///
    /// # Panics
    ///
    /// Where the runtime panics: see its marker type.
    #[doc(alias("Dial", "connect"))]
    pub async fn dial<R: Net>(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<R::TcpStream, Error> {
        dial::dial::<R>(self, local.target(), remote).await
    }

    /// Connects to `remote` from a port that listeners share, and blocks until it is done.
    ///
    /// As [`dial`](Self::dial), without a runtime.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Options, ReusePort, Std};
    ///
    /// let peer = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = Std::listen("127.0.0.1:0")?;
    /// let stream = Options::new().dial_blocking(listener.local_addr()?, peer.local_addr()?)?;
    /// assert_eq!(stream.local_addr()?, listener.local_addr()?);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`dial`](Self::dial).
    #[doc(alias("Dial", "connect"))]
    pub fn dial_blocking(
        &self,
        local: impl ToAddr,
        remote: SocketAddr,
    ) -> Result<std::net::TcpStream, Error> {
        dial::dial_blocking(self, local, remote)
    }
}
