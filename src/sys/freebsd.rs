//! FreeBSD 12 and later: SO_REUSEPORT_LB spreads over at most 256 members by a hash of the
//! addresses.

use std::io;
use std::net::SocketAddr;

pub(crate) use super::bsd::{identity, is_shared, restartable};
pub(crate) use super::nobody_knows as blame;
pub(crate) use super::undeparted::{
    Requests, Weak, barrier, can_hide, counts, has_stranger, hide, is_hidden, is_readable, leave,
    migrates,
};
use super::unix::find_free;
pub(crate) use super::unseen::{occupants, packet_queue, queue};
pub(crate) use super::unsteered::{cpus, dispatch, dispatch_reason, pin, pins_groups};
use super::{Kind, Socket, unsupported};
use crate::Support;

/// A dual-stack socket is shared and silently left out of the balancing (in_pcbinslbgrouphash).
pub(crate) const DUAL_STACK: bool = false;

/// INPCBLBGROUP_SIZMAX; a member past it is bound, silently, and gets nothing.
pub(crate) const GROUP_LIMIT: usize = 256;

pub(crate) fn support() -> Support {
    Support {
        shares: true,
        spreads: true,
        steers: false,
        dual_stack: DUAL_STACK,
        group_limit: GROUP_LIMIT,
    }
}

/// Both options: with SO_REUSEPORT_LB alone, in_pcbbind lets another user join at a wildcard
/// address.
pub(crate) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port()?;
    socket.set_reuse_port_lb()
}

/// A balanced group is entered at bind, so another socket asks, and is closed again.
pub(crate) fn claim(socket: &Socket, kind: Kind, addr: &SocketAddr) -> io::Result<SocketAddr> {
    let addr = find_free(socket, kind, addr)?;
    share(socket)?;
    Ok(addr)
}

/// Everything was asked for before bind.
pub(crate) fn release(_: &Socket) -> io::Result<()> {
    Ok(())
}

pub(crate) fn bind_device(_: &Socket, _: &SocketAddr, _: &str) -> io::Result<()> {
    Err(unsupported("FreeBSD cannot restrict a socket to a device"))
}
