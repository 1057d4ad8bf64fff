//! Linux and Android: the kernel keeps a group per address and user, and spreads by a hash of the
//! addresses.

#[cfg(all(
    test,
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod answer;
mod barrier;
#[cfg(all(feature = "ebpf", target_os = "linux"))]
mod board;
#[cfg(all(feature = "ebpf", target_os = "linux"))]
mod choice;
mod clients;
mod descriptors;
mod diag;
mod drain;
mod explain;
mod filter;
mod guard;
mod holder;
mod late;
mod likeness;
mod look;
pub(crate) mod meet;
mod namespace;
mod occupants;
mod page;
mod probe;
mod process;
mod queue;
mod queues;
mod receivers;
mod steer;
mod table;
#[cfg(all(test, target_os = "linux"))]
mod testing;
mod user;
mod weak;

use std::io;
use std::net::SocketAddr;

pub(crate) use barrier::barrier;
#[cfg(all(feature = "ebpf", target_os = "linux"))]
pub(crate) use board::Board;
pub(crate) use clients::{finds_by_peer, only_from};
pub(crate) use drain::{
    can_hide, hide, interface, is_hidden, is_readable, migrates, remove, set_alone,
};
pub(crate) use explain::{explain, explain_socket};
pub(crate) use holder::{blame, holds_all};
pub(crate) use late::share_late;
pub(crate) use likeness::Likeness;
pub(crate) use look::Look;
pub(crate) use namespace::namespace;
pub(crate) use occupants::occupants;
pub(crate) use page::Page;
use probe::Proof;
pub(crate) use queue::{packet_queue, queue};
pub(crate) use queues::Queues;
pub(crate) use receivers::receivers;
pub(crate) use steer::{cpus, dispatch_reason};
pub(crate) use user::{is_nobody, owner, process_name};
pub(crate) use weak::{Descriptors, Weak};

use super::unix::{find_free, flag, inode};
use super::{BorrowedFd, Dispatch, Kind, Socket, unsupported};
use crate::sys::Support;

/// One socket on `[::]` takes both families and is balanced like any other.
pub(crate) const DUAL_STACK: bool = true;

/// kernel: reuseport_grow doubles while the size fits 16 bits; measured on 6.18.
pub(crate) const GROUP_LIMIT: usize = 32_768;

pub(crate) fn support() -> Support {
    let facts = probe::facts();
    let shares = facts.as_ref().map_or(true, |facts| facts.shares);
    Support {
        shares,
        spreads: shares,
        steers: matches!(
            facts,
            Ok(probe::Facts {
                proof: Proof::Guard,
                ..
            })
        ),
        dual_stack: shares && DUAL_STACK,
        group_limit: if shares { GROUP_LIMIT } else { 0 },
    }
}

/// Whether programs choose among members; an error where it could not be found out.
pub(crate) fn steers() -> io::Result<bool> {
    probe::facts().map(|facts| facts.proof == Proof::Guard)
}

/// SO_REUSEADDR on both sides lets a listener follow one that had only that, as std's and tokio's
/// have.
///
/// Never on UDP: there any user could then bind the same port and take every datagram.
pub(crate) fn restartable(socket: &Socket, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::Tcp => socket.set_reuse_address(),
        Kind::Udp => Ok(()),
    }
}

pub(crate) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port()
}

pub(crate) fn is_shared(fd: BorrowedFd<'_>) -> io::Result<bool> {
    flag(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT)
}

pub(crate) fn claim(socket: &Socket, kind: Kind, addr: &SocketAddr) -> io::Result<SocketAddr> {
    let facts = probe::facts()?;
    if !facts.shares {
        return Err(unsupported("this kernel cannot share a port"));
    }
    match facts.proof {
        Proof::Guard => {
            share(socket)?;
            guard::attach(socket.lend())?;
            Ok(*addr)
        }
        Proof::Late => Ok(*addr),
        Proof::None => {
            let addr = find_free(socket, kind, addr)?;
            share(socket)?;
            Ok(addr)
        }
    }
}

pub(crate) fn release(socket: &Socket) -> io::Result<()> {
    match probe::facts()?.proof {
        Proof::Guard => guard::detach(socket.lend()),
        Proof::Late => share(socket),
        Proof::None => Ok(()),
    }
}

pub(crate) fn bind_device(socket: &Socket, _: &SocketAddr, name: &str) -> io::Result<()> {
    // setsockopt(2) would cut a longer name and might so find another interface.
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    socket.bind_device(name)
}

/// Whether the kernel takes it: on a socket that nothing reaches.
pub(crate) fn try_dispatch(
    kind: Kind,
    addr: &SocketAddr,
    dispatched: &Dispatch<'_>,
) -> io::Result<()> {
    let socket = Socket::new(kind, addr, false)?;
    socket.set_reuse_port()?;
    dispatch(socket.lend(), dispatched)
}

/// Where the kernel knows no programs, or takes and ignores them, there is only the hash.
pub(crate) fn dispatch(fd: BorrowedFd<'_>, dispatch: &Dispatch<'_>) -> io::Result<()> {
    match (probe::facts()?.proof, dispatch) {
        (Proof::Guard, dispatch) => steer::dispatch(fd, dispatch),
        (Proof::Late | Proof::None, Dispatch::Hash) => Ok(()),
        (Proof::Late | Proof::None, _) => Err(cannot_steer()),
    }
}

/// What a kernel answers that cannot be told whom to choose.
pub(crate) fn cannot_steer() -> io::Error {
    unsupported("this kernel takes no programs for groups")
}

/// The inode: one for each socket, whatever descriptors it has (proc_pid_fd(5)).
pub(crate) fn identity(fd: BorrowedFd<'_>) -> Option<u64> {
    inode(fd).ok()
}

/// For the targets in `fuzz/`.
#[cfg(fuzzing)]
pub(crate) mod fuzz {
    pub(crate) fn row(line: &str) {
        super::table::fuzz(line);
        super::explain::fuzz(line);
    }

    pub(crate) fn netlink(bytes: &[u8]) {
        super::diag::fuzz(bytes);
    }
}
