//! Everything that differs between systems, and everything unsafe.
//!
//! # What a platform file must define
//!
//! In this order, and nothing else is visible outside:
//!
//! - `DUAL_STACK: bool`: may a socket on `[::]` that takes IPv4 too share its port and be balanced?
//! - `GROUP_LIMIT: usize`: the most members that one group can have.
//! - `support() -> Support`: what sharing means here.
//! - `restartable(&Socket, Kind)`: lets TCP bind beside what an earlier listener left behind.
//! - `share(&Socket)`: before bind, asks to share the port.
//! - `is_shared(BorrowedFd) -> io::Result<bool>`: did somebody ask that of this socket?
//! - `claim(&Socket, Kind, &SocketAddr) -> io::Result<SocketAddr>`: before bind instead of `share`,
//!   asks for a port that nobody shares yet; returns the address to bind.
//! - `release(&Socket)`: after bind and listen of a claimed socket, lets the next members in.
//! - `bind_device(&Socket, &SocketAddr, &str)`: restricts a socket to one network interface.
//! - `identity(BorrowedFd) -> Option<u64>`: tells two sockets from two descriptors of one socket.
//! - `cpus() -> Vec<usize>`: the processors that this thread may use.
//! - `pins_groups() -> bool`: does a group honour `pin`?
//! - `pin(BorrowedFd, Option<usize>)`: gives a member what one processor handles.
//! - `dispatch(BorrowedFd, &Dispatch)`: changes how the group of a member is dispatched.
//! - `dispatch_reason(&io::Error) -> Option<&str>`: what a refusal of that means.
//! - `Weak`: a socket that somebody else owns, without a descriptor of it.
//! - `hide(BorrowedFd)`: keeps what arrives from finding a socket, and takes UDP out of its group.
//! - `can_hide(BorrowedFd) -> bool` and `is_hidden(BorrowedFd) -> bool`: will that do, has it?
//! - `leave(Kind, BorrowedFd)`: takes a socket out of its group at once.
//! - `is_readable(BorrowedFd) -> io::Result<bool>`: is something in its queue?
//! - `barrier()`: waits until all packets that are being delivered have been.
//! - `migrates() -> bool`: does the kernel hand a closing listener's queue to its group?
//! - `counts(Option<&Weak>, &SocketAddr) -> bool` and `Requests`: what a listener has still to accept.
//! - `has_stranger(Kind, &SocketAddr, &[u64]) -> bool`: does somebody else share an address?
//! - `blame(Kind, &SocketAddr, Asked, &io::Error) -> Option<Blame>`: whose fault an error of bind
//!   or listen is.
//! - `queue(BorrowedFd) -> io::Result<Queue>`: the accept queue of what may be no listener.
//! - `packet_queue(BorrowedFd) -> io::Result<PacketQueue>`: the receive queue of a UDP socket.
//! - `occupants(u16) -> io::Result<Vec<Occupant>>`: who is on a port, in any order.
//!
//! Two modules more have the same functions everywhere: `pass` hands descriptors to another
//! process, and `meet` is where two processes find each other.

#![allow(unsafe_code)]

#[cfg(all(test, unix))]
mod child;
mod fd;
mod socket;
mod undeparted;
mod unseen;
mod unsteered;

use std::io;
use std::net::SocketAddr;

pub(crate) use fd::{AsFd, BorrowedFd, OwnedFd, borrow, number};
pub(crate) use socket::{
    Description, Family, Socket, describe, is_connected_to_itself, local_addr, only_v6,
    reset_at_close, set_nonblocking,
};

#[cfg(feature = "std")]
pub(crate) use socket::finish_connect;

use crate::{Holder, Instruction};

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod unix;
        use unix::{is_in_progress, wait_writable};
        pub(crate) use unix::{is_blocking, is_listening, is_no_ipv6, is_no_socket, is_unsupported, reason, reserve, set_close_on_exec, user, zone};
    } else {
        mod elsewhere;
        use elsewhere::{is_in_progress, wait_writable};
        pub(crate) use elsewhere::{is_blocking, is_listening, is_no_ipv6, is_no_socket, is_unsupported, reason, reserve, set_close_on_exec, user, zone};
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        #[path = "linux/mod.rs"]
        mod platform;
    } else if #[cfg(target_vendor = "apple")] {
        mod bsd;
        #[path = "apple.rs"]
        mod platform;
    } else if #[cfg(target_os = "freebsd")] {
        mod bsd;
        #[path = "freebsd.rs"]
        mod platform;
    } else if #[cfg(target_os = "dragonfly")] {
        mod bsd;
        #[path = "dragonfly.rs"]
        mod platform;
    } else if #[cfg(target_os = "netbsd")] {
        mod bsd;
        #[path = "netbsd.rs"]
        mod platform;
    } else if #[cfg(target_os = "openbsd")] {
        mod bsd;
        #[path = "openbsd.rs"]
        mod platform;
    } else {
        #[path = "unsupported.rs"]
        mod platform;
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(
        target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd",
        target_os = "dragonfly", target_os = "netbsd", target_os = "openbsd", target_os = "illumos",
        target_os = "solaris",
    ))] {
        pub(crate) mod pass;
    } else {
        #[path = "unpassed.rs"]
        pub(crate) mod pass;
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        pub(crate) use platform::meet;
    } else {
        #[path = "unmet.rs"]
        pub(crate) mod meet;
    }
}

pub(crate) use platform::{
    DUAL_STACK, GROUP_LIMIT, Requests, Weak, barrier, bind_device, blame, can_hide, claim, counts,
    cpus, dispatch, dispatch_reason, has_stranger, hide, identity, is_hidden, is_readable,
    is_shared, leave, migrates, occupants, packet_queue, pin, pins_groups, queue, release,
    restartable, share, support,
};

/// The two protocols whose ports can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// What the kernel refused with "address in use".
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "read where somebody can be blamed")]
pub(crate) struct Asked {
    /// IPV6_V6ONLY of the refused socket.
    pub(crate) only_v6: bool,
    /// Was it the first member of a group that must be new?
    pub(crate) new: bool,
}

/// How the members of a group are chosen.
#[derive(Debug)]
#[allow(dead_code, reason = "only Linux can be told")]
pub(crate) enum Dispatch<'a> {
    Hash,
    Program(Vec<Instruction>),
    Ebpf(BorrowedFd<'a>),
}

/// The reason of a refusal, as a clause of the error's sentence.
#[derive(Debug)]
pub(crate) struct Blame {
    pub(crate) holder: Holder,
    pub(crate) why: String,
}

/// Says why nothing here can share a port.
#[allow(dead_code, reason = "every system but a few can share")]
fn unsupported(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// What a system answers that cannot be told whom to choose.
pub(crate) fn cannot_steer() -> io::Error {
    unsupported("this system chooses by itself")
}

/// What a system answers that has no such option.
pub(crate) fn cannot_share() -> io::Error {
    unsupported("this system cannot share a port")
}

/// Where nobody can be asked who holds an address.
#[allow(
    dead_code,
    reason = "only Linux has a table of sockets that everybody may read"
)]
pub(crate) fn nobody_knows(_: Kind, _: &SocketAddr, _: Asked, _: &io::Error) -> Option<Blame> {
    None
}
