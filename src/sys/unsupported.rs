//! Systems that cannot share a port: Windows, illumos, Solaris, WASI, and all that nobody has
//! looked at.
//!
//! Windows has only SO_REUSEADDR, by which another program takes the port over; it is never set.
//! illumos has no such option. Solaris 11.4 has one, whose value no header here names.

use std::io;
use std::net::SocketAddr;

pub(crate) use super::nobody_knows as blame;
pub(crate) use super::undeparted::{
    Requests, Weak, barrier, can_hide, counts, has_stranger, hide, is_hidden, is_readable, leave,
    migrates,
};
pub(crate) use super::unseen::{occupants, packet_queue, queue};
pub(crate) use super::unsteered::{cpus, dispatch, dispatch_reason, pin, pins_groups};
use super::{BorrowedFd, Kind, Socket, cannot_share, unsupported};
use crate::Support;

pub(crate) const DUAL_STACK: bool = true;

pub(crate) const GROUP_LIMIT: usize = 0;

pub(crate) fn support() -> Support {
    Support {
        shares: false,
        spreads: false,
        steers: false,
        dual_stack: false,
        group_limit: GROUP_LIMIT,
    }
}

pub(crate) fn restartable(_: &Socket, _: Kind) -> io::Result<()> {
    Ok(())
}

pub(crate) fn share(_: &Socket) -> io::Result<()> {
    Err(cannot_share())
}

pub(crate) fn is_shared(_: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn claim(socket: &Socket, _: Kind, addr: &SocketAddr) -> io::Result<SocketAddr> {
    share(socket).map(|()| *addr)
}

pub(crate) fn release(_: &Socket) -> io::Result<()> {
    Ok(())
}

pub(crate) fn bind_device(_: &Socket, _: &SocketAddr, _: &str) -> io::Result<()> {
    Err(unsupported(
        "this system cannot restrict a socket to a device",
    ))
}

pub(crate) fn identity(_: BorrowedFd<'_>) -> Option<u64> {
    None
}
