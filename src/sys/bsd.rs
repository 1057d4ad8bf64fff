//! The BSDs and Apple's systems: SO_REUSEPORT, and no table of sockets that every user may read.

use std::io;
use std::net::SocketAddr;

use super::unix::{find_free, flag};
use super::{BorrowedFd, Kind, Socket};
use crate::sys::Support;

/// In what these systems differ.
struct System {
    /// Whether the kernel spreads over the members of a group.
    spreads: bool,
    dual_stack: bool,
    group_limit: usize,
}

/// There is no group in the kernel that could be full.
#[allow(dead_code, reason = "for systems without balanced groups")]
const NO_LIMIT: usize = usize::MAX;

cfg_if::cfg_if! {
    if #[cfg(target_os = "freebsd")] {
        /// FreeBSD 12 and later: SO_REUSEPORT_LB spreads by a hash of the addresses.
        const SYSTEM: System = System {
            spreads: true,
            // A dual-stack socket is shared and silently left out of the balancing
            // (in_pcbinslbgrouphash).
            dual_stack: false,
            // INPCBLBGROUP_SIZMAX; a member past it is bound, silently, and gets nothing.
            group_limit: 256,
        };
    } else if #[cfg(target_os = "dragonfly")] {
        /// DragonFly 3.6 and later: SO_REUSEPORT spreads by a hash of the packet, with the defaults
        /// of the sysctls net.inet.{tcp,udp}.reuseport_ext.
        const SYSTEM: System = System {
            spreads: true,
            // A dual-stack socket is shared and silently left out of the balancing
            // (in_pcbinslocalgrphash).
            dual_stack: false,
            // INPCB_LOCALGROUP_SIZMAX; a member past it is bound and gets nothing.
            group_limit: 256,
        };
    } else if #[cfg(target_os = "openbsd")] {
        /// OpenBSD: the newest gets everything, and a socket on `[::]` never takes IPv4.
        const SYSTEM: System = System { spreads: false, dual_stack: false, group_limit: NO_LIMIT };
    } else if #[cfg(target_os = "netbsd")] {
        /// NetBSD: the newest gets everything.
        const SYSTEM: System = System { spreads: false, dual_stack: true, group_limit: NO_LIMIT };
    } else {
        /// Apple's systems: at one address the newest gets everything, at a wildcard the oldest (xnu:
        /// in_pcblookup_hash_locked, in_pcbinshash).
        const SYSTEM: System = System { spreads: false, dual_stack: true, group_limit: NO_LIMIT };
    }
}

pub(crate) const DUAL_STACK: bool = SYSTEM.dual_stack;

pub(crate) const GROUP_LIMIT: usize = SYSTEM.group_limit;

pub(crate) fn support() -> Support {
    Support {
        shares: true,
        spreads: SYSTEM.spreads,
        steers: false,
        dual_stack: DUAL_STACK,
        group_limit: GROUP_LIMIT,
    }
}

/// SO_REUSEPORT implies what SO_REUSEADDR would allow.
pub(crate) fn restartable(_: &Socket, _: Kind) -> io::Result<()> {
    Ok(())
}

/// FreeBSD takes both options: with SO_REUSEPORT_LB alone, in_pcbbind lets another user join at a
/// wildcard address.
pub(crate) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port()?;
    #[cfg(target_os = "freebsd")]
    socket.set_reuse_port_lb()?;
    Ok(())
}

pub(crate) fn is_shared(fd: BorrowedFd<'_>) -> io::Result<bool> {
    flag(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT)
}

/// A balanced group is entered at bind, so another socket asks for the address, and is closed again.
///
/// Elsewhere a socket that is bound without the option excludes all others (in_pcbbind), and may ask
/// for it afterwards.
pub(crate) fn claim(socket: &Socket, kind: Kind, addr: &SocketAddr) -> io::Result<SocketAddr> {
    if !SYSTEM.spreads {
        return Ok(*addr);
    }
    let addr = find_free(socket, kind, addr)?;
    share(socket)?;
    Ok(addr)
}

pub(crate) fn release(socket: &Socket) -> io::Result<()> {
    if SYSTEM.spreads {
        return Ok(());
    }
    share(socket)
}

cfg_if::cfg_if! {
    if #[cfg(target_vendor = "apple")] {
        /// IP_BOUND_IF and IPV6_BOUND_IF, which take an index.
        pub(crate) fn bind_device(socket: &Socket, addr: &SocketAddr, name: &str) -> io::Result<()> {
            match std::num::NonZeroU32::new(super::zone(name)?) {
                Some(index) => socket.bind_device_index(addr, index),
                None => Err(io::Error::from(io::ErrorKind::NotFound)),
            }
        }
    } else {
        pub(crate) use super::none::bind_device;
    }
}

pub(crate) fn identity(_: BorrowedFd<'_>) -> Option<u64> {
    None
}
