use std::io;

use crate::error::Error;
use crate::open::adopt;
use crate::sys::{self, AsFd, Kind, PacketQueue, Queue};

/// The accept queue of a listener of any runtime.
///
/// It takes two system calls and no privilege, and changes nothing, so it may be called often.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{ReusePort, Std};
///
/// let listener = Std::listen("localhost:0")?;
/// # #[cfg(target_os = "linux")] {
/// let queue = reuseport::queue(&listener)?;
/// println!("{} of {} wait, {} refused", queue.waiting, queue.limit, queue.drops);
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is no TCP listener; the error says what it
/// is. [`Unsupported`](io::ErrorKind::Unsupported) on Linux before 4.12, in gVisor and on all other
/// systems, which do not tell.
///
/// # Source
///
/// `tcpi_unacked` and `tcpi_sacked` of `TCP_INFO`, as `ss -lt` shows them, and `SO_MEMINFO`.
// kernel: tcp_get_info, sk_get_meminfo (SK_MEMINFO_DROPS).
#[doc(alias = "TCP_INFO")]
#[doc(alias = "backlog")]
pub fn queue(listener: &impl AsFd) -> io::Result<Queue> {
    // Only what is refused is looked at, because a server may ask often.
    sys::queue(sys::borrow(listener)).map_err(|error| {
        let what = || format!("cannot see the accept queue of {}", adopt::number(listener));
        adopt::inspect(listener, Kind::Tcp, what)
            .err()
            .unwrap_or_else(|| Error::system(what(), error))
            .into()
    })
}

/// The receive queue of a UDP socket of any runtime.
///
/// It may be called often: it takes a few system calls and no privilege, and changes nothing.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{ReusePort, Std};
///
/// let socket = Std::listen_packet("localhost:0")?;
/// # #[cfg(target_os = "linux")] {
/// let queue = reuseport::packet_queue(&socket)?;
/// println!("{} of {} bytes wait, {} datagrams lost", queue.waiting, queue.limit, queue.drops);
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is no UDP socket; the error says what it is.
/// [`Unsupported`](io::ErrorKind::Unsupported) on Linux before 4.12, in gVisor and on all other
/// systems, which do not tell.
///
/// # Source
///
/// `SO_MEMINFO`, as `ss -um` shows it.
// kernel: sk_get_meminfo (SK_MEMINFO_RMEM_ALLOC, SK_MEMINFO_RCVBUF, SK_MEMINFO_DROPS).
#[doc(alias = "SO_MEMINFO")]
pub fn packet_queue(socket: &impl AsFd) -> io::Result<PacketQueue> {
    let what = || format!("cannot see the receive queue of {}", adopt::number(socket));
    adopt::inspect(socket, Kind::Udp, what)?;
    Ok(sys::packet_queue(sys::borrow(socket)).map_err(|error| Error::system(what(), error))?)
}
