use std::io;
use std::path::PathBuf;

use super::addr::Family;
use super::hook::Hook;
use super::likeness::Likeness;
use crate::steering::{Spread, Steering};
use crate::sys::BorrowedFd;

/// How to open sockets that share a port.
///
/// The defaults are those of [`ReusePort::listen`](crate::ReusePort::listen). One value opens any
/// number of sockets of any runtime. An option that means nothing to a call is an
/// [`InvalidInput`](io::ErrorKind::InvalidInput) error there:
///
/// | option | [`listen`](Self::listen) | [`listen_packet`](Self::listen_packet) | [`dial`](Self::dial) | [`group`](Self::group) | [`packet_group`](Self::packet_group) | [`generation`](Self::generation) | [`packet_generation`](Self::packet_generation) |
/// |---|---|---|---|---|---|---|---|
/// | [`family`](Self::family), [`device`](Self::device), [`before_bind`](Self::before_bind) | yes | yes | yes | yes | yes | yes | yes |
/// | [`backlog`](Self::backlog) | yes | | | yes | | yes | |
/// | [`join`](Self::join) | yes | yes | | yes | yes | | |
/// | [`spread`](Self::spread), [`steering`](Self::steering) | | | | yes | yes | yes | yes |
/// | [`rendezvous`](Self::rendezvous) | | | | | | yes | yes |
///
/// [`listen_both`](Self::listen_both) has those of `listen`, and [`group_both`](Self::group_both) those of
/// `group`. A [client's socket](crate::Roster::dial_packet) has those of its group.
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
#[derive(Clone, Debug, Default)]
#[must_use = "options open nothing by themselves"]
pub struct Options {
    pub(crate) backlog: Option<u32>,
    pub(crate) family: Family,
    pub(crate) device: Option<String>,
    pub(crate) join: bool,
    pub(crate) spread: Spread,
    pub(crate) steering: Steering,
    /// The folder in which the processes of a server meet.
    pub(crate) rendezvous: Option<PathBuf>,
    pub(crate) before_bind: Option<Hook>,
    /// Of a group that was opened elsewhere.
    pub(crate) like: Option<Likeness>,
    /// The network namespace of the group, where the system tells them apart.
    pub(crate) namespace: Option<u64>,
    /// Whether a new group may stand beside sockets of other addresses on its port, which share it.
    pub(crate) overlaps: bool,
}

impl Options {
    /// The defaults.
    ///
    /// ```
    /// use reuseport::Options;
    ///
    /// const OPTIONS: Options = Options::new();
    /// ```
    pub const fn new() -> Self {
        Self {
            backlog: None,
            family: Family::Any,
            device: None,
            join: false,
            spread: Spread::Best,
            steering: Steering::Hash,
            rendezvous: None,
            before_bind: None,
            like: None,
            namespace: None,
            overlaps: false,
        }
    }

    /// Limits how many connections may wait to be accepted.
    ///
    /// The default is the longest queue that the kernel grants: 4,096 on Linux
    /// (`net.core.somaxconn`) and 128 on the BSDs (`kern.ipc.somaxconn`). The kernel cuts a larger
    /// number to its own limit. 0 is a queue of one connection on Linux (listen(2)), and the system's
    /// default elsewhere.
    ///
    /// std and tokio ask for 128. When more connections than that arrive at once, the rest wait a
    /// second until their clients try again.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Options, Std};
    ///
    /// let listener = Options::new().backlog(7).listen::<Std>("localhost:0")?;
    /// assert_eq!(reuseport::queue(&listener)?.limit, 7);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    // kernel: sk_acceptq_is_full lets one more in than the limit.
    #[doc(alias = "listen")]
    pub fn backlog(mut self, n: u32) -> Self {
        self.backlog = Some(n);
        self
    }

    /// Chooses which IP versions the socket takes.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Family, Options, Std};
    ///
    /// let listener = Options::new().family(Family::V4).listen::<Std>(":0")?;
    /// assert!(listener.local_addr()?.is_ipv4());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("IPV6_V6ONLY", "tcp4", "tcp6", "udp4", "udp6"))]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Takes only what arrives on one network interface.
    ///
    /// On Linux this is `SO_BINDTODEVICE` (socket(7)), which takes a privilege before Linux 5.7.
    /// There, sockets with a device and sockets without one are two groups, and those with the
    /// device get everything that arrives on it. On Apple's systems it is `IP_BOUND_IF`. On other
    /// systems opening fails with [`io::ErrorKind::Unsupported`].
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::{Options, Std};
    ///
    /// let listener = Options::new().device("lo").listen::<Std>(":0")?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("SO_BINDTODEVICE", "SO_BINDTOIFINDEX", "IP_BOUND_IF"))]
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// Allows a [group](Self::group) to join sockets of this user that share the port already.
    ///
    /// Without it, opening a group fails if any socket has the port. With it, the
    /// [numbers](crate::Member::number) of the members are not their places in the kernel's group, so a group that joins
    /// others cannot be steered by them. [`listen`](Self::listen) and
    /// [`listen_packet`](Self::listen_packet) join in any case.
    ///
    /// A member that joins a group that another process [steers](Self::steering) may get nothing.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let addr = group.local_addr();
    /// assert!(Options::new().group(addr, 2).is_err());
    /// let more = Options::new().join(true).group(addr, 2)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn join(mut self, join: bool) -> Self {
        self.join = join;
        self
    }

    /// Chooses whether the members of a [group](Self::group) have a queue each, or one together.
    ///
    /// The default is [`Spread::Best`]. In a [generation](Self::generation) that is what the process has that
    /// serves; in the first one `Kernel` where the system can be told whom to choose, and `Queue` elsewhere.
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use reuseport::{Options, Spread};
    ///
    /// let group = Options::new().spread(Spread::Queue).group("localhost:0", 4)?;
    /// assert_eq!(group.spread(), Spread::Queue);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// Chooses how the kernel picks the member of a [group](Self::group).
    ///
    /// The default is [`Steering::Hash`]. Only a group can be steered: one program decides for all
    /// sockets of a port, and listeners of many processes would each replace it. What is sent to a
    /// multicast or broadcast address goes to every member, so a group on such an address cannot be
    /// steered.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Steering};
    ///
    /// let weights = Steering::Weights(vec![1, 3]);
    /// let group = Options::new().steering(weights).group("localhost:0", 2)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias(
        "SO_ATTACH_REUSEPORT_CBPF",
        "SO_ATTACH_REUSEPORT_EBPF",
        "SO_INCOMING_CPU"
    ))]
    pub fn steering(mut self, steering: Steering) -> Self {
        self.steering = steering;
        self
    }

    /// Names the folder in which the processes of a server find each other.
    ///
    /// On Linux they find each other without a folder: at an abstract UNIX address, which is a matter of their
    /// network namespace. A folder is for processes that cannot meet there: in a Landlock sandbox, or, with
    /// [`Spread::Queue`] only, in containers that share a volume and not the network. Elsewhere the default is `reuseport` in
    /// `$XDG_RUNTIME_DIR`, or `reuseport-` and the user's number among the temporary files.
    ///
    /// Only this user may be able to write there. A folder that is not there is made, with mode 0700; the one
    /// above it must be there. All processes of a server must name the same. Each address has a socket in it,
    /// and a file whose lock tells that a process listens. Both are left behind by the last process, and the
    /// next one uses them again. Where another program removes them, a successor does not find the process that
    /// serves, and fails with [`AddrInUse`](io::ErrorKind::AddrInUse).
    ///
    /// Opening fails with [`PermissionDenied`](io::ErrorKind::PermissionDenied) where the folder is another
    /// user's or others may write there, and with [`InvalidInput`](io::ErrorKind::InvalidInput) where its path
    /// is longer than 86 bytes, which is all that a UNIX address has room for.
    ///
    /// ```no_run
    /// # #[cfg(unix)] {
    /// use reuseport::Options;
    ///
    /// let options = Options::new().rendezvous("/run/example");
    /// let (group, generation) = options.generation("localhost:8881", 2)?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("XDG_RUNTIME_DIR", "sun_path"))]
    pub fn rendezvous(mut self, folder: impl Into<PathBuf>) -> Self {
        self.rendezvous = Some(folder.into());
        self
    }

    /// Calls `f` with each new socket, after the crate has set its own options and before bind.
    ///
    /// For any socket option that this crate does not name: `IP_TRANSPARENT`, `SO_RCVBUF`,
    /// `IP_LOCAL_PORT_RANGE` and so on. The descriptor is `f`'s only while `f` runs. If `f` returns
    /// an error, opening fails with it. No lock of the crate is held meanwhile.
    ///
    /// `f` must not undo what sharing needs: opening fails with
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `f` clears `SO_REUSEPORT`, changes
    /// `IPV6_V6ONLY` or binds the socket, or if it sets `SO_REUSEADDR` on a UDP socket whose port
    /// must be new.
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
        self.before_bind = Some(Hook::new(f));
        self
    }
}
