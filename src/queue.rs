use std::io;

use crate::adopt;
use crate::sys::{self, AsFd, Kind};

/// The accept queue of a TCP listener: connections that nobody has accepted yet.
///
/// A queue that stays long belongs to a worker that is slow or stuck; the kernel goes on giving it
/// its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// How many connections wait.
    pub len: u32,
    /// How many may wait: the backlog, after the kernel has cut it to its own limit.
    ///
    /// Linux lets one more in: a queue with a limit of 7 can have 8.
    pub limit: u32,
    /// How many segments the kernel refused since the listener was opened.
    ///
    /// A client that finds the queue full tries again, and each try is counted. The counter wraps.
    pub drops: u32,
}

/// The receive queue of a UDP socket: datagrams that nobody has read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketQueue {
    /// The memory that the datagrams take, in bytes: their contents, and what the kernel needs to
    /// keep them, which is several hundred bytes each.
    ///
    /// Linux gives memory back in portions, so until all is read a part of it may be counted that
    /// is free already.
    pub bytes: u32,
    /// The memory that they may take, in bytes: `SO_RCVBUF`.
    pub limit: u32,
    /// How many datagrams the kernel dropped since the socket was opened, most of them for want of
    /// memory. The counter wraps.
    pub drops: u32,
}

/// The accept queue of a listener of any runtime.
///
/// It costs two system calls, needs no privilege, and disturbs nobody.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{ReusePort, Std};
///
/// let listener = Std::listen("localhost:0")?;
/// # #[cfg(target_os = "linux")] {
/// let queue = reuseport::queue(&listener)?;
/// println!("{} of {} wait, {} refused", queue.len, queue.limit, queue.drops);
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for what is no TCP listener, in a sentence that
/// says what it is. [`Unsupported`](io::ErrorKind::Unsupported) on Linux before 4.12, gVisor and
/// all other systems, which do not tell.
///
/// # Source
///
/// `tcpi_unacked` and `tcpi_sacked` of `TCP_INFO` (kernel: `tcp_get_info`), as `ss -lt` shows them,
/// and `SK_MEMINFO_DROPS` of `SO_MEMINFO`.
#[doc(alias = "TCP_INFO")]
#[doc(alias = "backlog")]
pub fn queue(listener: &impl AsFd) -> io::Result<Queue> {
    // Asked first and looked at only when it is refused, because a server may ask often.
    sys::queue(sys::borrow(listener)).map_err(|error| {
        let what = || format!("cannot see the accept queue of {}", adopt::number(listener));
        adopt::inspect(listener, Kind::Tcp, what)
            .err()
            .unwrap_or_else(|| crate::Error::system(what(), error))
            .into()
    })
}

/// The receive queue of a UDP socket of any runtime.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{ReusePort, Std};
///
/// let socket = Std::listen_packet("localhost:0")?;
/// # #[cfg(target_os = "linux")] {
/// let queue = reuseport::packet_queue(&socket)?;
/// println!("{} of {} bytes wait, {} datagrams lost", queue.bytes, queue.limit, queue.drops);
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for what is no UDP socket, in a sentence that says
/// what it is. [`Unsupported`](io::ErrorKind::Unsupported) on Linux before 4.12, gVisor and all
/// other systems, which do not tell.
///
/// # Source
///
/// `SK_MEMINFO_RMEM_ALLOC`, `SK_MEMINFO_RCVBUF` and `SK_MEMINFO_DROPS` of `SO_MEMINFO` (kernel:
/// `sk_get_meminfo`).
#[doc(alias = "SO_MEMINFO")]
pub fn packet_queue(socket: &impl AsFd) -> io::Result<PacketQueue> {
    let what = || format!("cannot see the receive queue of {}", adopt::number(socket));
    adopt::inspect(socket, Kind::Udp, what)?;
    Ok(sys::packet_queue(sys::borrow(socket))
        .map_err(|error| crate::Error::system(what(), error))?)
}
