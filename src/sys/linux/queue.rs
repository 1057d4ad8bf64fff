//! The queues of sockets, which everybody who has a descriptor may ask for.

use std::io;
use std::net::Ipv4Addr;

use super::table::LISTEN;
use crate::sys::unix::words;
use crate::sys::{BorrowedFd, Kind, Socket, unsupported};
use crate::sys::{PacketQueue, Queue};

cfg_if::cfg_if! {
    if #[cfg(target_os = "android")] {
        /// <asm-generic/socket.h>, which all of Android's processors have.
        const SO_MEMINFO: libc::c_int = 55;
    } else {
        use libc::SO_MEMINFO;
    }
}

pub(crate) fn queue(fd: BorrowedFd<'_>) -> io::Result<Queue> {
    let [waiting, limit] = accept_queue(fd)?;
    let Memory { drops, .. } = memory(fd)?;
    Ok(Queue {
        waiting,
        limit,
        drops,
    })
}

/// How many connections wait in a listener.
pub(super) fn waiting(fd: BorrowedFd<'_>) -> io::Result<u32> {
    accept_queue(fd).map(|[waiting, _]| waiting)
}

fn accept_queue(fd: BorrowedFd<'_>) -> io::Result<[u32; 2]> {
    // The start of struct tcp_info: tcpi_state is its first byte, tcpi_unacked and tcpi_sacked are
    // the last two of these words.
    let info = words::<8>(fd, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let [state, .., waiting, limit] = info.ok_or_else(untold)?;
    match state.to_ne_bytes()[0] {
        LISTEN => Ok([waiting, limit]),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

pub(crate) fn packet_queue(fd: BorrowedFd<'_>) -> io::Result<PacketQueue> {
    let Memory {
        received,
        limit,
        drops,
    } = memory(fd)?;
    Ok(PacketQueue {
        waiting: received,
        limit,
        drops,
    })
}

/// Does this kernel tell of queues at all?
pub(super) fn is_told() -> io::Result<bool> {
    let anywhere = (Ipv4Addr::UNSPECIFIED, 0).into();
    let socket = Socket::new(Kind::Udp, &anywhere, false)?;
    Ok(memory(socket.lend()).is_ok())
}

struct Memory {
    received: u32,
    limit: u32,
    drops: u32,
}

/// kernel: sk_get_meminfo. gVisor has no such option, and in its TCP_INFO listeners have no queue.
fn memory(fd: BorrowedFd<'_>) -> io::Result<Memory> {
    match words::<9>(fd, libc::SOL_SOCKET, SO_MEMINFO) {
        Ok(Some([received, limit, .., drops])) => Ok(Memory {
            received,
            limit,
            drops,
        }),
        Ok(None) => Err(untold()),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Err(untold()),
        Err(error) => Err(error),
    }
}

fn untold() -> io::Error {
    unsupported("this kernel does not tell")
}
