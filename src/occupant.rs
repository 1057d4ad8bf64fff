use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::{Error, sys};

/// A TCP listener or UDP socket on a port, as the machine's own tables show it.
///
/// See [`occupants`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupant {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that the socket is bound to.
    pub addr: SocketAddr,
    /// The only peer of a connected UDP socket; None for all others.
    pub peer: Option<SocketAddr>,
    /// The number of the socket, which no other has as long as it lives.
    pub inode: u64,
    /// The user who opened it. Only sockets of one user share a port.
    pub uid: u32,
    /// What waits in its queue: connections to accept, or bytes of datagrams as in
    /// [`PacketQueue::bytes`](crate::PacketQueue::bytes); None where the kernel does not say.
    pub waiting: Option<u32>,
    /// How much may wait, in the unit of `waiting`; None where the kernel does not say.
    pub limit: Option<u32>,
    /// How many segments or datagrams it lost since it was opened; None where the kernel does not
    /// say. The counter wraps.
    pub drops: Option<u32>,
    /// Does this process have a descriptor of it?
    pub ours: bool,
    /// The processes that have a descriptor of it, this one included, by their numbers; empty where
    /// none of them may be looked at.
    pub processes: Vec<Process>,
}

/// A process that has a descriptor of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// The number of the process.
    pub id: u32,
    /// Its name, of at most 15 bytes. A process may choose it, and put a terminal's control
    /// characters into it.
    pub name: String,
    /// The inodes of the TCP connections on this port that it has, in ascending order: accepted by
    /// whichever of its listeners, or dialed.
    ///
    /// How many there are shows a skew that the kernel's even spreading leaves behind, as where
    /// some connections live long.
    pub connections: Vec<u64>,
}

/// The protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, and the TCP that an MPTCP listener stands on.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Who is on a port: every TCP listener and UDP socket, with its owner and its queue.
///
/// A group that is skewed, a worker that is stuck and a stranger on one's port are all seen here.
///
/// ```
/// # #[cfg(all(target_os = "linux", feature = "std"))] {
/// use reuseport::{Options, occupants};
///
/// let group = Options::new().group("localhost:0", 4)?;
/// let sockets = occupants(group.local_addr().port())?;
/// assert_eq!(sockets.iter().filter(|socket| socket.ours).count(), 4);
/// for socket in sockets {
///     for process in &socket.processes {
///         println!("{} {}: {:?} wait", process.id, process.name, socket.waiting);
///     }
/// }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Sockets come in the order of protocol, address and inode. What is seen is this thread's network
/// namespace, one socket after the other, while others open and close them. A socket that is bound
/// and does not listen is in no table; nor is one that a connection was made from.
///
/// No privilege is needed, and without one only this user's processes are seen: a socket of another
/// user is there with its `uid`, and without `processes`. To find them, the descriptors of every
/// process are read, which takes milliseconds and more on a large machine.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for port 0.
/// [`Unsupported`](io::ErrorKind::Unsupported) where the system is not Linux. Whatever the system
/// says where neither its tables nor sock_diag may be read, as on newer Androids.
///
/// # Source
///
/// sock_diag(7), and where that is not allowed `/proc/net/{tcp,tcp6,udp,udp6}`, in which TCP has no
/// `limit` and no `drops`, and UDP no `limit`; gVisor's have no `waiting` either. `/proc/PID/fd`
/// and `/proc/PID/comm` (proc_pid_fd(5), proc_pid_comm(5)).
#[doc(alias = "sock_diag")]
#[doc(alias = "ss")]
#[doc(alias = "lsof")]
pub fn occupants(port: u16) -> io::Result<Vec<Occupant>> {
    let what = || format!("cannot see who is on port {port}");
    if port == 0 {
        let why = "it stands for a free port, and nobody is on it";
        return Err(Error::invalid(what(), why).into());
    }
    let mut occupants = sys::occupants(port).map_err(|error| Error::system(what(), error))?;
    occupants.sort_by_key(|socket| (socket.protocol, socket.addr, socket.inode));
    Ok(occupants)
}
