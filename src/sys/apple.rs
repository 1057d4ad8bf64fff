//! Apple's systems: sockets share a port, and one of them gets everything.
//!
//! At one address the newest wins, at a wildcard the oldest (xnu: in_pcblookup_hash_locked,
//! in_pcbinshash).

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;

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
use super::{Socket, zone};
use crate::Support;

pub(crate) const DUAL_STACK: bool = true;

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

/// IP_BOUND_IF and IPV6_BOUND_IF, which take an index.
pub(crate) fn bind_device(socket: &Socket, addr: &SocketAddr, name: &str) -> io::Result<()> {
    match NonZeroU32::new(zone(name)?) {
        Some(index) => socket.bind_device_index(addr, index),
        None => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}
