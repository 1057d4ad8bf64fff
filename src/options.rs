use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use crate::addr::sealed::ToAddr as _;
use crate::opening::{Opening, Purpose};
use crate::sys::{self, AsFd, BorrowedFd, Kind, Socket};
use crate::{
    Error, Family, Generation, Group, Net, ReusePort, Spread, Steering, ToAddr, dial, group,
    succession, trace,
};

/// How to open sockets that share a port.
///
/// The defaults are those of [`ReusePort::listen`]; one value opens any number of sockets, of any
/// runtime.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{Family, Options, Std};
///
/// let options = Options::new().family(Family::V6).backlog(1024);
/// let listener = options.listen::<Std>("localhost:0")?;
/// assert!(listener.local_addr()?.is_ipv6());
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "options open nothing by themselves"]
pub struct Options {
    pub(crate) backlog: Option<u32>,
    pub(crate) family: Family,
    pub(crate) device: Option<String>,
    pub(crate) join: bool,
    pub(crate) spread: Spread,
    pub(crate) steering: Steering,
    pub(crate) before_bind: Option<Hook>,
}

pub(crate) type Hook = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>;

impl Options {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            backlog: None,
            family: Family::Any,
            device: None,
            join: false,
            spread: Spread::Best,
            steering: Steering::Hash,
            before_bind: None,
        }
    }

    /// With what another member is opened beside one that was opened elsewhere.
    pub(crate) fn like(member: &impl AsFd) -> Self {
        match sys::only_v6(member) {
            Ok(true) => Self::new().family(Family::V6),
            Ok(false) | Err(_) => Self::new(),
        }
    }

    /// The most connections that wait to be accepted.
    ///
    /// The default is the longest queue that the kernel grants, which is 4,096 on Linux
    /// (`net.core.somaxconn`) and 128 on the BSDs (`kern.ipc.somaxconn`). std and tokio ask for
    /// 128, where a burst of connections waits a second for its SYN to be sent again. 0 is a queue
    /// of one on Linux (listen(2), kernel: sk_acceptq_is_full) and the system's default elsewhere.
    #[doc(alias = "listen")]
    pub fn backlog(mut self, n: u32) -> Self {
        self.backlog = Some(n);
        self
    }

    /// Which IP versions the socket takes.
    #[doc(alias("IPV6_V6ONLY", "tcp4", "tcp6", "udp4", "udp6"))]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Takes only what arrives on one network interface.
    ///
    /// On Linux (`SO_BINDTODEVICE`, socket(7)) no privilege is needed since 5.7, and sockets with
    /// and without a device are two groups, of which the newer one gets everything. On Apple's
    /// systems this is `IP_BOUND_IF`. Elsewhere opening fails with [`io::ErrorKind::Unsupported`].
    #[doc(alias("SO_BINDTODEVICE", "IP_BOUND_IF"))]
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// May a [group](Self::group) join sockets of this user that share the port already? Without
    /// it, no.
    ///
    /// Then the members' [indices](crate::Member::index) are their places in the group that was
    /// opened, and not the kernel's. [`listen`](Self::listen) and
    /// [`listen_packet`](Self::listen_packet) join in any case.
    pub fn join(mut self, join: bool) -> Self {
        self.join = join;
        self
    }

    /// Whether the members of a [group](Self::group) have a queue each, or one together. The
    /// default is what the system does best.
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// How the kernel chooses a [group](Self::group)'s member. The default is its own hash.
    ///
    /// Only a group can be steered: the listeners of many processes would each replace the
    /// others' program.
    #[doc(alias(
        "SO_ATTACH_REUSEPORT_CBPF",
        "SO_ATTACH_REUSEPORT_EBPF",
        "SO_INCOMING_CPU"
    ))]
    pub fn steering(mut self, steering: Steering) -> Self {
        self.steering = steering;
        self
    }

    /// Calls `f` with each new socket, after the crate has set its own options and before bind.
    ///
    /// For what the crate has no word for: `IP_TRANSPARENT`, `SO_RCVBUF`, `IP_LOCAL_PORT_RANGE` and
    /// the like. An error of `f` ends the opening. The socket's descriptor is `f`'s only while it
    /// runs.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "std"))] {
    /// use reuseport::{Options, Std};
    ///
    /// let options = Options::new().before_bind(|fd| socket2::SockRef::from(&fd).set_recv_buffer_size(1 << 20));
    /// let socket = options.listen_packet::<Std>("localhost:0")?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn before_bind(
        mut self,
        f: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.before_bind = Some(Arc::new(f));
        self
    }

    /// Opens a TCP listener that shares its port with every other one that asked in this way.
    ///
    /// It joins the sockets of this user that share the port already, in this process or another.
    /// It never waits, so it is a plain function for every runtime.
    ///
    /// # Errors
    ///
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) where the port is another user's or its holder does
    /// not share; [`holder`](Error::holder) says which on Linux.
    /// [`Unsupported`](io::ErrorKind::Unsupported) where the system cannot share.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for an address that is none. Whatever the
    /// system and the runtime answer besides.
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    #[doc(alias("SO_REUSEPORT", "SO_REUSEPORT_LB", "Listen", "bind"))]
    pub fn listen<R: ReusePort>(&self, addr: impl ToAddr) -> Result<R::TcpListener, Error> {
        let socket = self.open(Kind::Tcp, addr, R::NONBLOCKING)?;
        R::tcp_listener(socket.into_listener()).map_err(Error::not_taken)
    }

    /// Opens a UDP socket that shares its port with every other one that asked in this way.
    ///
    /// As [`listen`](Self::listen). A UDP socket never gets `SO_REUSEADDR`, with which any user of
    /// the machine could take the port over. Port 0 is nobody else's port, which bind(2) alone does
    /// not promise to UDP sockets that share.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    ///
    /// # Panics
    ///
    /// Where the runtime does: see its marker type.
    #[doc(alias("SO_REUSEPORT", "SO_REUSEPORT_LB", "ListenPacket", "bind"))]
    pub fn listen_packet<R: ReusePort>(&self, addr: impl ToAddr) -> Result<R::UdpSocket, Error> {
        let socket = self.open(Kind::Udp, addr, R::NONBLOCKING)?;
        R::udp_socket(socket.into_udp()).map_err(Error::not_taken)
    }

    /// One socket that shares its port.
    fn open(&self, kind: Kind, addr: impl ToAddr, nonblocking: bool) -> Result<Socket, Error> {
        let open = || {
            let opening = Opening::new(self, kind, addr)?;
            opening.check_unsteered()?;
            opening.open(Purpose::Share, nonblocking)
        };
        let socket = open().inspect_err(trace::refused)?;
        trace::opened(kind, &socket.lend());
        Ok(socket)
    }

    /// Opens `n` TCP listeners on one port, all or none.
    ///
    /// Each has its own queue where the kernel spreads the load over them, and all have one where
    /// it does not: see [`Spread`].
    ///
    /// The group is new: where anybody holds the port already, this user included, opening it
    /// fails. On Linux that is proven by the kernel at the first member's bind, and member *i* is
    /// the kernel's index *i* as long as no other process of this user joins. On FreeBSD, DragonFly
    /// and gVisor it is checked just before. [`join`](Self::join) lifts it.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Options, Std};
    ///
    /// let group = Options::new().group("localhost:0", 4)?;
    /// let addr = group.local_addr();
    /// let workers: Vec<_> = group
    ///     .into_iter()
    ///     .map(|member| std::thread::spawn(move || member.attach::<Std>().map(drop)))
    ///     .collect();
    /// # for worker in workers { worker.join().unwrap()?; }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen), and [`AddrInUse`](io::ErrorKind::AddrInUse) with
    /// [`Holder::Group`](crate::Holder::Group) where this user has a group on the port.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for 0 members, for more than
    /// [`group_limit`](crate::Support::group_limit), and as [`Group::steer`].
    pub fn group(&self, addr: impl ToAddr, n: usize) -> Result<Group<TcpListener>, Error> {
        group::open(self, addr, n).inspect_err(trace::refused)
    }

    /// Opens `n` UDP sockets on one port, all or none.
    ///
    /// As [`group`](Self::group). Never connect(2) a member: the kernel takes it out of the group.
    ///
    /// # Errors
    ///
    /// As [`group`](Self::group).
    pub fn packet_group(&self, addr: impl ToAddr, n: usize) -> Result<Group<UdpSocket>, Error> {
        group::open(self, addr, n).inspect_err(trace::refused)
    }

    /// Opens `n` TCP listeners as the next process of a server, which relieves the one that runs.
    ///
    /// Where none runs, this is the first, and the group is new as with [`group`](Self::group).
    /// Where one runs, the group stands beside its, and gets nothing before
    /// [`Generation::take_over`]. Of two processes that come at once one is relieved by the other.
    ///
    /// On Linux only, for groups that have a [queue each](Spread::Kernel). It waits for the process
    /// before to answer, which is a matter of milliseconds, unless that is being relieved itself: so
    /// it is for the beginning of a program, before it serves.
    ///
    /// # Errors
    ///
    /// As [`group`](Self::group). [`InvalidInput`](io::ErrorKind::InvalidInput) for port 0 and where
    /// somebody else of this user shares the port too. [`TimedOut`](io::ErrorKind::TimedOut) where
    /// the process before does not answer within 75 seconds,
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) where it is another user's, and
    /// [`InvalidData`](io::ErrorKind::InvalidData) where it speaks another version.
    /// [`Unsupported`](io::ErrorKind::Unsupported) where the system cannot be told whom to choose.
    pub fn generation(
        &self,
        addr: impl ToAddr,
        n: usize,
    ) -> Result<(Group<TcpListener>, Generation), Error> {
        succession::open(self, addr, n).inspect_err(trace::refused)
    }

    /// Opens `n` UDP sockets as the next process of a server, which relieves the one that runs.
    ///
    /// As [`generation`](Self::generation). Under
    /// [connection ids](crate::Steering::ConnectionIds) the process before keeps the flows that it
    /// has: so the members' [numbers](crate::Member::index) are others than those of its members.
    ///
    /// # Errors
    ///
    /// As [`generation`](Self::generation).
    pub fn packet_generation(
        &self,
        addr: impl ToAddr,
        n: usize,
    ) -> Result<(Group<UdpSocket>, Generation), Error> {
        succession::open(self, addr, n).inspect_err(trace::refused)
    }

    /// Connects to `remote` from a port that listeners share.
    ///
    /// TCP hole punching needs that: the peer must see the port on which this side listens. As
    /// [`Net::dial`], with options; [`backlog`](Self::backlog) and [`join`](Self::join) mean
    /// nothing here.
    ///
    /// # Errors
    ///
    /// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) where this port has a connection with
    /// that peer already, or no interface has the local address.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where `local` and `remote` are the same: TCP
    /// would connect the socket with itself. As [`listen`](Self::listen) and connect(2) besides.
    pub async fn dial<R: Net>(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<R::TcpStream, Error> {
        dial::dial::<R>(self, local.target(), remote).await
    }

    /// Connects to `remote` from a port that listeners share, and blocks until it is done.
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
    pub fn dial_blocking(
        &self,
        local: impl ToAddr,
        remote: SocketAddr,
    ) -> Result<std::net::TcpStream, Error> {
        dial::dial_blocking(self, local, remote)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("backlog", &self.backlog)
            .field("family", &self.family)
            .field("device", &self.device)
            .field("join", &self.join)
            .field("spread", &self.spread)
            .field("steering", &self.steering)
            .field("before_bind", &self.before_bind.as_ref().map(|_| ..))
            .finish()
    }
}
