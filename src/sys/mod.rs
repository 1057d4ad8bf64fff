//! Everything that differs between systems, and everything unsafe.
//!
//! # What a platform file must define
//!
//! In this order, and nothing else is visible outside:
//!
//! - `DUAL_STACK: bool`: whether a socket on `[::]` that takes IPv4 too can share its port and be
//!   balanced.
//! - `GROUP_LIMIT: usize`: the most members that one group can have.
//! - `support() -> Support`: what sharing means here.
//! - `restartable(&Socket, Kind)`: lets TCP bind beside what an earlier listener left behind.
//! - `share(&Socket)`: before bind, asks to share the port.
//! - `is_shared(BorrowedFd) -> io::Result<bool>`: whether that was asked of this socket.
//! - `claim(&Socket, Kind, &SocketAddr) -> io::Result<SocketAddr>`: before bind instead of `share`,
//!   asks for a port that is not shared yet; returns the address to bind.
//! - `release(&Socket)`: after bind and listen of a claimed socket, lets the next members in.
//! - `bind_device(&Socket, &SocketAddr, &str)`: restricts a socket to one network interface.
//! - `identity(BorrowedFd) -> Option<u64>`: tells two sockets from two descriptors of one socket.
//!
//! Where the kernel can be told how to spread, and tells what it does, these too; the others take
//! them from `none`:
//!
//! - `steers() -> io::Result<bool>`: whether programs choose among members.
//! - `cpus() -> Vec<usize>`: the processors that this thread may use.
//! - `dispatch(BorrowedFd, &Dispatch)`: changes how the group of a member is dispatched.
//! - `cannot_steer() -> io::Error`: what a kernel answers that cannot be told how.
//! - `dispatch_reason(&io::Error) -> Option<&str>`: what a refusal of that means.
//! - `Weak`: a socket that another part of the program owns, without a descriptor of it.
//! - `Descriptors`: what all descriptors of this process stand for.
//! - `hide(BorrowedFd)`: keeps what arrives from finding a socket, and takes UDP out of its group.
//! - `can_hide(BorrowedFd) -> bool` and `is_hidden(BorrowedFd) -> bool`: whether that will do, and
//!   has been done.
//! - `remove(Kind, BorrowedFd) -> bool`: takes a socket out of its group at once.
//! - `set_alone(BorrowedFd, bool)`: lets a listener be found without its group.
//! - `only_from(BorrowedFd, &SocketAddr)`: lets a UDP socket get what one peer sends, and nothing else.
//! - `finds_by_peer(IpAddr) -> io::Result<bool>`: whether a connected UDP socket is looked for before a group.
//! - `is_readable(BorrowedFd) -> io::Result<bool>`: whether something is in its queue.
//! - `barrier(Duration) -> bool`: waits until all packets that are being delivered have been.
//! - `migrates() -> bool`: whether the kernel hands a closing listener's queue to its group.
//! - `Look`: what the listeners on an address still have to accept.
//! - `receivers(Kind, &SocketAddr) -> io::Result<Vec<Receiver>>`: the sockets that share an address.
//! - `blame(Kind, &SocketAddr, Asked, &io::Error) -> Option<Blame>`: what an error of bind or listen
//!   comes from.
//! - `holds_all(Kind, &SocketAddr, bool) -> bool`: whether all that is in the way of a new group is this process's
//!   own, on other addresses.
//! - `share_late(BorrowedFd, &SocketAddr) -> io::Result<()>`: lets others share the port of a listener that was opened
//!   alone.
//! - `explain(&io::Error, &SocketAddr, Option<&str>) -> Option<String>` and
//!   `explain_socket(&io::Error, &SocketAddr) -> Option<String>`: the same of other errors.
//! - `fork::prepare()` and `fork::work() -> Work`: no thread forks while this is there. `fork::age() -> u32`: another
//!   one in a child.
//! - `interface(BorrowedFd) -> Option<u32>`: the number of the device that a socket is restricted to.
//! - `Likeness`: what a socket was opened with, for another like it.
//! - `namespace(BorrowedFd) -> Option<u64>`: the number of the network namespace of a socket.
//! - `owner(BorrowedFd) -> io::Result<u32>`: the user that opened a socket.
//! - `is_nobody(u32) -> bool`: whether a user's number may stand for any user.
//! - `process_name(u32) -> Option<String>`: the name of a process, for sentences.
//! - `queue(BorrowedFd) -> io::Result<Queue>`: the accept queue of what may be no listener.
//! - `packet_queue(BorrowedFd) -> io::Result<PacketQueue>`: the receive queue of a UDP socket.
//! - `Board`, with the feature `ebpf`: a program that chooses by the loads as they are, and its memory.
//! - `Page`: the memory of one load, which another process can have too.
//! - `Queues`: what waits in the queues of the sockets on an address, read again and again.
//! - `occupants(u16) -> io::Result<Vec<Occupant>>`: the sockets on a port, in any order.
//!
//! `reap` waits for the end of children, where there are generations, and `program` finds the program again.
//!
//! Four modules more have the same functions everywhere, and one implementation for every Unix:
//! `meet` is where two processes find each other, `pass` hands descriptors to another process, `wait` waits for
//! descriptors, and `bounded` has the calls that block, with a deadline.

#![allow(unsafe_code)]

#[cfg(all(test, unix))]
mod child;
mod facts;
mod fd;
pub(crate) mod fork;
mod program;
pub(crate) mod reap;
pub(crate) mod slot;
mod socket;

use std::io;

pub(crate) use fd::{AsFd, BorrowedFd, OwnedFd, borrow, impl_as_fd, number};
pub(crate) use program::program;
pub(crate) use socket::{
    Description, Family, Socket, describe, is_broadcast, is_connected_to_itself, local_addr,
    only_v6, peer_addr, reset_at_close, reuses_address, set_nodelay, set_nonblocking, shutdown,
};

#[cfg(feature = "std")]
use socket::finish_connect;

pub use facts::{Holder, Instruction, Occupant, PacketQueue, Process, Protocol, Queue, Support};

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod unix;
        use unix::{is_in_progress, wait_writable};
        pub(crate) use unix::{is_blocking, is_listening, is_no_ipv6, is_no_socket, is_unsupported, reason, reserve, resource_reason, set_close_on_exec, user, zone};
    } else {
        mod elsewhere;
        use elsewhere::{is_in_progress, wait_writable};
        pub(crate) use elsewhere::{is_blocking, is_listening, is_no_ipv6, is_no_socket, is_unsupported, reason, reserve, resource_reason, set_close_on_exec, user, zone};
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        mod linux;
        use linux as sharing;
        use linux as control;
    } else if #[cfg(any(
        target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly",
        target_os = "netbsd", target_os = "openbsd",
    ))] {
        mod bsd;
        mod none;
        use bsd as sharing;
        use none as control;
    } else {
        mod none;
        use none as sharing;
        use none as control;
    }
}

cfg_if::cfg_if! {
    if #[cfg(all(feature = "ebpf", target_os = "linux"))] {
        pub(crate) use linux::Board;
    } else {
        mod boardless;
        pub(crate) use boardless::Board;
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        pub(crate) use linux::Page;
    } else {
        mod pageless;
        pub(crate) use pageless::Page;
    }
}

pub(crate) use control::{
    Descriptors, Likeness, Look, Queues, Weak, barrier, blame, can_hide, cannot_steer, cpus,
    dispatch, dispatch_reason, explain, explain_socket, finds_by_peer, hide, holds_all, interface,
    is_hidden, is_nobody, is_readable, migrates, namespace, occupants, only_from, owner,
    packet_queue, process_name, queue, receivers, remove, set_alone, share_late, steers,
    try_dispatch,
};
#[cfg(fuzzing)]
pub(crate) use linux::fuzz;
pub(crate) use sharing::{
    DUAL_STACK, GROUP_LIMIT, bind_device, claim, identity, is_shared, release, restartable, share,
    support,
};

cfg_if::cfg_if! {
    if #[cfg(any(
        target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd",
        target_os = "dragonfly", target_os = "netbsd", target_os = "openbsd", target_os = "illumos",
        target_os = "solaris",
    ))] {
        #[cfg(feature = "std")]
        pub(crate) mod bounded;
        pub(crate) mod pass;
        pub(crate) mod wait;
    } else {
        #[cfg(feature = "std")]
        #[path = "unbounded.rs"]
        pub(crate) mod bounded;
        pub(crate) use none::{pass, wait};
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(
        target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd",
        target_os = "dragonfly", target_os = "netbsd", target_os = "openbsd", target_os = "illumos",
    ))] {
        pub(crate) mod meet;
    } else {
        // Solaris has no flock(2).
        pub(crate) use none::meet;
    }
}

/// Whether a read or a write that did a part of what was asked for has emptied, or filled, the kernel's
/// buffer, and an event will tell of the next change: with epoll and kqueue.
#[cfg(feature = "tokio")]
pub(crate) const PART_IS_ALL: bool = cfg!(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
));

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
#[allow(dead_code, reason = "read where the kernel tells of other sockets")]
pub(crate) struct Asked {
    /// IPV6_V6ONLY of the refused socket.
    pub(crate) only_v6: bool,
    pub(crate) want: Want,
}

/// What a refused socket was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// One of those who share.
    Share,
    /// The first member of a group that must be new.
    Group,
    /// The first member of a group that generations pass on.
    Generation,
}

/// How the members of a group are chosen.
#[derive(Debug)]
#[allow(dead_code, reason = "only Linux can be told")]
pub(crate) enum Dispatch<'a> {
    Hash,
    Program(Vec<Instruction>),
    Ebpf(BorrowedFd<'a>),
}

/// A socket that receives on an address, as the kernel's tables show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "only Linux has such tables")]
pub(crate) struct Receiver {
    pub(crate) inode: u64,
    pub(crate) uid: u32,
    /// IPV6_V6ONLY; None for IPv4, and where that is not told.
    pub(crate) only_v6: Option<bool>,
    /// The interface that it is restricted to; 0 where it is not, and where that is not told.
    pub(crate) interface: u32,
}

impl Receiver {
    /// Whether the kernel has it in one group with another on the same address.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.uid == other.uid && self.only_v6 == other.only_v6 && self.interface == other.interface
    }

    /// Whether nothing that arrives finds it: see `hide`.
    pub(crate) fn is_hidden(&self) -> bool {
        self.interface == i32::MAX as u32
    }
}

/// The reason of a refusal, as a clause of the error's sentence.
#[derive(Debug)]
pub(crate) struct Blame {
    pub(crate) holder: Holder,
    /// The number and the name of a process that has a descriptor of it, where it may be seen.
    pub(crate) process: Option<(u32, String)>,
    pub(crate) why: String,
}

/// Says why nothing here can share a port.
#[allow(dead_code, reason = "every system but a few can share")]
fn unsupported(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// What a system answers that has no such option.
pub(crate) fn cannot_share() -> io::Error {
    unsupported("this system cannot share a port")
}
