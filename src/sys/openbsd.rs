//! OpenBSD: sockets share a port, and the newest gets everything.

use std::io;
use std::net::SocketAddr;

pub(crate) use super::bsd::{
    claim_late as claim, identity, is_shared, restartable, share, share as release,
};
pub(crate) use super::nobody_knows as blame;
pub(crate) use super::undeparted::{
    Requests, Weak, barrier, can_hide, counts, has_stranger, hide, is_hidden, is_readable, leave,
    migrates,
};
pub(crate) use super::unseen::{occupants, packet_queue, queue};
pub(crate) use super::unsteered::{cpus, dispatch, dispatch_reason, pin, pins_groups};
use super::{Socket, unsupported};
use crate::Support;

/// A socket on `[::]` never takes IPv4 here.
pub(crate) const DUAL_STACK: bool = false;

/// There is no group in the kernel that could be full.
pub(crate) const GROUP_LIMIT: usize = usize::MAX;

pub(crate) fn support() -> Support {
    Support {
        shares: true,
        spreads: false,
        steers: false,
        dual_stack: DUAL_STACK,
        group_limit: GROUP_LIMIT,
    }
}

pub(crate) fn bind_device(_: &Socket, _: &SocketAddr, _: &str) -> io::Result<()> {
    Err(unsupported("OpenBSD cannot restrict a socket to a device"))
}
