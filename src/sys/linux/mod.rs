//! Linux and Android: the kernel keeps a group per address and user, and spreads by a hash of the
//! addresses.

mod depart;
mod diag;
mod guard;
mod holder;
pub(crate) mod meet;
mod occupants;
mod probe;
mod queue;
mod steer;
mod table;
mod weak;

use std::io;
use std::net::SocketAddr;

pub(crate) use depart::{
    Requests, barrier, can_hide, counts, has_stranger, hide, is_hidden, is_readable, leave,
    migrates,
};
pub(crate) use holder::blame;
pub(crate) use occupants::occupants;
use probe::Proof;
pub(crate) use queue::{packet_queue, queue};
pub(crate) use steer::{cpus, dispatch_reason, pin, pins_groups};
pub(crate) use weak::Weak;

use super::unix::{find_free, flag, inode};
use super::{BorrowedFd, Dispatch, Kind, Socket, unsupported};
use crate::Support;

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

/// Where the kernel knows no programs, or takes and ignores them, there is only the hash.
pub(crate) fn dispatch(fd: BorrowedFd<'_>, dispatch: &Dispatch<'_>) -> io::Result<()> {
    match (probe::facts()?.proof, dispatch) {
        (Proof::Guard, dispatch) => steer::dispatch(fd, dispatch),
        (Proof::Late | Proof::None, Dispatch::Hash) => Ok(()),
        (Proof::Late | Proof::None, _) => {
            Err(unsupported("this kernel takes no programs for groups"))
        }
    }
}

/// The inode: one for each socket, whatever descriptors it has (proc_pid_fd(5)).
pub(crate) fn identity(fd: BorrowedFd<'_>) -> Option<u64> {
    inode(fd).ok()
}
