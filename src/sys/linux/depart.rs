//! How a socket leaves its group without a loss.
//!
//! A listener takes its accept queue and its half-open requests along when it closes (kernel:
//! inet_csk_listen_stop). So a program steers around it, and it is closed when the kernel has
//! counted the last request out.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::weak::Weak;
use super::{diag, table};
use crate::sys::Kind;
use crate::sys::unix::{check, is_listening, set_option, words};

cfg_if::cfg_if! {
    if #[cfg(target_os = "android")] {
        /// <asm-generic/socket.h>, which all of Android's processors have.
        const SO_BINDTOIFINDEX: libc::c_int = 62;
    } else {
        use libc::SO_BINDTOIFINDEX;
    }
}

/// The kernel asks nobody whether there is such an interface (kernel: sock_bindtoindex).
const NOWHERE: u32 = i32::MAX as u32;

/// Binds a socket to an interface that no machine has, so that no lookup finds it any more.
///
/// A listener that closes is out of its group some nanoseconds before it is out of the kernel's
/// chain of listeners, where a SYN that meets it first would still take it, whatever the program
/// says (kernel: inet_lhash2_lookup, inet_unhash). One that is bound elsewhere is passed over
/// (kernel: compute_score). It stays in its group; what is half-open is not disturbed.
///
/// A UDP socket is out of its group by this (kernel: udp_lib_rehash), and keeps its queue.
///
/// It takes no privilege, unless the socket is restricted to a device already.
pub(crate) fn hide(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &NOWHERE)
}

/// Not without a privilege where the socket is restricted to a device, and not before Linux 5.0.
pub(crate) fn can_hide(fd: BorrowedFd<'_>) -> bool {
    match words::<1>(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX) {
        Ok(Some([interface])) => interface == 0 || crate::sys::user() == 0,
        Ok(None) | Err(_) => false,
    }
}

pub(crate) fn is_hidden(fd: BorrowedFd<'_>) -> bool {
    let interface = words::<1>(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX);
    matches!(interface, Ok(Some([NOWHERE])))
}

/// Takes a socket out of its group at once; what is queued in a listener is lost, and whoever waits
/// in accept(2) gets an error. False where it leaves only when it is closed.
///
/// A child that was forked and has not yet called exec keeps a socket alive that was closed here.
/// shutdown(2) acts on the socket (kernel: inet_shutdown, tcp_disconnect).
pub(crate) fn leave(kind: Kind, fd: BorrowedFd<'_>) -> bool {
    match kind {
        Kind::Tcp => {
            // SAFETY: shutdown takes two ints and touches no memory. Refused only where it has left.
            unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD) };
            true
        }
        // Refused where it is restricted to a device, and before 5.0.
        Kind::Udp => hide(fd).is_ok(),
    }
}

/// Is something in a socket's queue?
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `entry` is one valid pollfd, and the count says one.
    check(unsafe { libc::poll(&mut entry, 1, 0) }).map(|ready| ready > 0)
}

/// Waits until every processor has done with the packets that it was at: none of them sees an older
/// program, or a socket that is hidden.
pub(crate) fn barrier() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: membarrier takes three ints and touches no memory.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // A filter of system calls forbids it, or the machine has processors without a tick: no
        // packet takes so long.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Does this kernel hand what is queued in a listener that closes to the others of its group?
pub(crate) fn migrates() -> bool {
    std::fs::read("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.starts_with(b"1"))
}

/// Does a socket of this user share the address that is none of these?
pub(crate) fn has_stranger(kind: Kind, addr: &SocketAddr, inodes: &[u64]) -> bool {
    let me = crate::sys::user();
    diag::rows(kind, addr.port()).is_ok_and(|rows| {
        let mut group = rows
            .iter()
            .filter(|row| row.local == *addr && row.uid == me);
        group.any(|row| row.receives(kind) && !inodes.contains(&row.inode))
    })
}

/// Can the requests of a listener, or of any, be counted here?
pub(crate) fn counts(weak: Option<&Weak>, addr: &SocketAddr) -> bool {
    let Some(weak) = weak else {
        return table::references(addr, |_| false).is_ok() || diag::half_open(addr.port()).is_ok();
    };
    let mine = |inode| inode == weak.inode();
    matches!(table::references(addr, mine), Ok(Some(_))) || is_seen(mine, addr.port())
}

/// Does the kernel's dump have that listener? Not where it is of another network namespace.
fn is_seen(mine: impl Fn(u64) -> bool, port: u16) -> bool {
    diag::rows(Kind::Tcp, port).is_ok_and(|rows| rows.iter().any(|row| mine(row.inode)))
}

/// The requests that a listener still has: those that nobody has accepted, and those whose handshake
/// is under way.
#[derive(Debug)]
pub(crate) struct Requests {
    addr: SocketAddr,
    inode: u64,
    /// Where the table is not readable: the half-open requests of the whole port at the time from
    /// which no new one can be this listener's.
    first: Option<HashSet<u64>>,
}

impl Requests {
    pub(crate) fn of(weak: &Weak, addr: SocketAddr) -> Self {
        Self {
            addr,
            inode: weak.inode(),
            first: None,
        }
    }

    /// How many there are; from the time on when it is first called, none may be added.
    pub(crate) fn left(&mut self, fd: BorrowedFd<'_>) -> io::Result<u32> {
        let mine = |inode| inode == self.inode;
        if let Ok(Some(references)) = table::references(&self.addr, mine) {
            // kernel: one reference is the listener's own, and reqsk_alloc takes one for each.
            return Ok(references.saturating_sub(1));
        }
        // It has been shut down, by which all is gone.
        if !is_listening(fd)? {
            return Ok(0);
        }
        if !is_seen(mine, self.addr.port()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let now = diag::half_open(self.addr.port())?;
        // Afterwards, so that whoever is accepted into it meanwhile is counted twice and not never.
        let queued = super::queue(fd)?.len;
        let first = self.first.get_or_insert_with(|| now.clone());
        first.retain(|cookie| now.contains(cookie));
        Ok(queued.saturating_add(u32::try_from(first.len()).unwrap_or(u32::MAX)))
    }
}
