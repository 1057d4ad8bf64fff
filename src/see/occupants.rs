use std::io;

use crate::error::Error;
use crate::sys::{self, Occupant};

/// The sockets on a port: every TCP listener and UDP socket, with its owner and its queue.
///
/// It shows a group that is skewed, a worker that is stuck, and a process that should not be on the
/// port.
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
/// The sockets are sorted by protocol, address and inode. They are those of this thread's network
/// namespace, and are read one after the other while other processes open and close theirs. TCP
/// sockets that do not listen are left out.
///
/// It takes no privilege. Without one only this user's processes are seen: a socket of another user
/// has its `uid` and no `processes`. To find the processes, the descriptors of every process are
/// read, for Linux has no other way: it took 8 ms on a small machine, and half a second where the processes
/// had 210,000 descriptors.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for port 0.
/// [`Unsupported`](io::ErrorKind::Unsupported) on other systems than Linux. What the system returns
/// if neither its tables nor sock_diag may be read, as on newer Androids.
///
/// # Source
///
/// sock_diag(7), or where that is not allowed `/proc/net/{tcp,tcp6,udp,udp6}`: these have no `limit`,
/// for TCP no `drops`, and in gVisor no `waiting`. `/proc/PID/fd` and `/proc/PID/comm`
/// (proc_pid_fd(5), proc_pid_comm(5)).
#[doc(alias = "sock_diag")]
#[doc(alias = "ss")]
#[doc(alias = "lsof")]
pub fn occupants(port: u16) -> io::Result<Vec<Occupant>> {
    let what = || format!("cannot see the sockets on port {port}");
    if port == 0 {
        let why = "it stands for a free port";
        return Err(Error::invalid(what(), why).into());
    }
    let mut occupants = sys::occupants(port).map_err(|error| Error::system(what(), error))?;
    occupants.sort_by_key(|socket| (socket.protocol, socket.addr, socket.inode));
    Ok(occupants)
}
