//! Plain data that the API hands out and the systems fill in.

use std::fmt;
use std::net::SocketAddr;

/// Who holds an address that could not be shared.
///
/// ```no_run
/// # #[cfg(feature = "std")] {
/// use reuseport::{Holder, ReusePort, Std};
///
/// match Std::listen(":80").map_err(|error| error.holder()) {
///     Err(Some(Holder::User(uid))) => println!("ask user {uid}"),
///     Err(Some(Holder::NotSharing)) => println!("a server without SO_REUSEPORT is still running"),
///     _ => {}
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Holder {
    /// A socket that did not ask to share its port, or a connection that still uses it.
    NotSharing,
    /// A group of this user's own: asked for as new, or full.
    Group,
    /// Another user, by uid. A port is shared within one user only, root included.
    User(u32),
}

/// An instruction of classic BPF: Linux's `sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are named as in linux/filter.h")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl fmt::Debug for Instruction {
    /// As the C headers write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, jt, jf, k } = self;
        write!(f, "{{ {code:#04x}, {jt}, {jf}, {k:#x} }}")
    }
}

/// The accept queue of a TCP listener: connections that no worker has accepted yet.
///
/// A queue that stays long belongs to a worker that is slow or stuck; the kernel goes on giving it
/// its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// How many connections wait.
    pub waiting: u32,
    /// How many may wait: the backlog, after the kernel has cut it to its own limit.
    ///
    /// Linux lets one more in: a queue with a limit of 7 can have 8.
    pub limit: u32,
    /// How many segments the kernel refused since the listener was opened.
    ///
    /// A client that finds the queue full tries again, and each try is counted. The counter wraps.
    pub drops: u32,
}

/// The receive queue of a UDP socket: datagrams that no worker has read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketQueue {
    /// The memory that the datagrams take, in bytes: their contents, and what the kernel needs to
    /// keep them, which is several hundred bytes each.
    ///
    /// Linux gives memory back in portions, so until all is read a part of it may be counted that
    /// is free already.
    pub waiting: u32,
    /// The memory that they may take, in bytes: `SO_RCVBUF`.
    pub limit: u32,
    /// How many datagrams the kernel dropped since the socket was opened, most of them for want of
    /// memory. The counter wraps.
    pub drops: u32,
}

/// A TCP listener or UDP socket on a port, as the machine's own tables show it.
///
/// See [`occupants`](crate::occupants).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupant {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that the socket is bound to.
    pub addr: SocketAddr,
    /// The only peer of a connected UDP socket; None for all others.
    pub peer: Option<SocketAddr>,
    /// The number of the socket, which no other has as long as it lives.
    pub inode: u64,
    /// The user who opened it. Only sockets of one user share a port.
    pub uid: u32,
    /// What waits in its queue: connections to accept, or bytes of datagrams as in
    /// [`PacketQueue::waiting`](crate::PacketQueue::waiting); None where the kernel does not say.
    pub waiting: Option<u32>,
    /// How much may wait, in the unit of `waiting`; None where the kernel does not say.
    pub limit: Option<u32>,
    /// How many segments or datagrams it lost since it was opened; None where the kernel does not
    /// say. The counter wraps.
    pub drops: Option<u32>,
    /// Does this process have a descriptor of it?
    pub ours: bool,
    /// The processes that have a descriptor of it, this one included, by their numbers; empty where
    /// none of them may be looked at.
    pub processes: Vec<Process>,
}

/// A process that has a descriptor of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// The number of the process.
    pub id: u32,
    /// Its name, of at most 15 bytes. A process may choose it, and put a terminal's control
    /// characters into it.
    pub name: String,
    /// The inodes of the TCP connections on this port that it has, in ascending order: accepted by
    /// whichever of its listeners, or dialed.
    ///
    /// How many there are shows a skew that the kernel's even spreading leaves behind, as where
    /// some connections live long.
    pub connections: Vec<u64>,
}

/// The protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, and the TCP that an MPTCP listener stands on.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What sharing a port means on the running system.
///
/// ```
/// let support = reuseport::support();
/// if !support.spreads {
///     println!("one of the listeners gets every connection here");
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Support {
    /// Can several sockets be bound to one port?
    pub shares: bool,
    /// Does the kernel spread connections and datagrams over the sockets of a port?
    ///
    /// Where it does not, one socket gets everything: on Apple's systems the newest at one address
    /// and the oldest at a wildcard, on NetBSD and OpenBSD the newest.
    pub spreads: bool,
    /// Does the kernel let a program choose the socket (`SO_ATTACH_REUSEPORT_CBPF`)?
    pub steers: bool,
    /// Can one shared socket take IPv6 and IPv4?
    pub dual_stack: bool,
    /// The most members that a group with a queue each can have; `usize::MAX` where only
    /// descriptors run out, as they do for a group with one queue everywhere.
    pub group_limit: usize,
}
