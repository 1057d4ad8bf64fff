//! What a system answers that cannot do a thing.
//!
//! All of it stands for Windows, illumos, Solaris, WASI, and whatever has not been looked at: they
//! cannot share a port. Windows has only SO_REUSEADDR, by which another program takes the port over;
//! it is never set. illumos has no such option. Solaris 11.4 has one, whose value no header here
//! names. The BSDs and Apple's systems share, and cannot do the rest.

#![allow(dead_code, reason = "systems that share a port need a part of it")]

#[cfg(any(not(unix), target_os = "solaris"))]
pub(crate) mod meet;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{
    Asked, Blame, BorrowedFd, Dispatch, Kind, Occupant, OwnedFd, PacketQueue, Queue, Receiver,
    Socket, Support, cannot_share, unsupported,
};

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

pub(crate) fn claim(_: &Socket, _: Kind, _: &SocketAddr) -> io::Result<SocketAddr> {
    Err(cannot_share())
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

pub(crate) fn cpus() -> Vec<usize> {
    Vec::new()
}

/// What a system answers that cannot be told whom to choose.
pub(crate) fn cannot_steer() -> io::Error {
    unsupported("this system chooses by itself")
}

pub(crate) fn dispatch(_: BorrowedFd<'_>, dispatch: &Dispatch<'_>) -> io::Result<()> {
    match dispatch {
        Dispatch::Hash => Ok(()),
        Dispatch::Program(_) | Dispatch::Ebpf(_) => Err(cannot_steer()),
    }
}

pub(crate) fn try_dispatch(_: Kind, _: &SocketAddr, _: &Dispatch<'_>) -> io::Result<()> {
    Err(cannot_steer())
}

pub(crate) fn dispatch_reason(_: &io::Error) -> Option<&'static str> {
    None
}

#[derive(Clone, Debug)]
pub(crate) struct Weak(());

impl Weak {
    pub(crate) fn new(_: BorrowedFd<'_>) -> io::Result<Self> {
        Err(untold())
    }

    pub(crate) fn inode(&self) -> u64 {
        0
    }

    pub(crate) fn is_open(&self) -> bool {
        true
    }

    pub(crate) fn upgrade(&mut self) -> io::Result<Option<OwnedFd>> {
        Err(untold())
    }

    pub(crate) fn is_owners(&self, _: &[BorrowedFd<'_>]) -> bool {
        true
    }

    pub(crate) fn is_held(&mut self, _: &Descriptors, _: &[BorrowedFd<'_>]) -> bool {
        true
    }
}

#[derive(Debug)]
pub(crate) struct Descriptors(());

impl Descriptors {
    pub(crate) fn look() -> io::Result<Self> {
        Err(untold())
    }
}

#[derive(Debug)]
pub(crate) struct Look(());

impl Look {
    pub(crate) fn take(_: &SocketAddr, _: &HashSet<u64>) -> io::Result<Self> {
        Err(untold())
    }

    pub(crate) fn left(&self, _: u64, _: &mut Option<HashSet<u64>>) -> Option<u32> {
        None
    }

    pub(crate) fn is_sure(&self, _: u64) -> bool {
        true
    }
}

pub(crate) fn hide(_: BorrowedFd<'_>) -> io::Result<()> {
    Err(cannot_steer())
}

pub(crate) fn only_from(_: BorrowedFd<'_>, _: &SocketAddr) -> io::Result<()> {
    Err(cannot_steer())
}

pub(crate) fn finds_by_peer(_: std::net::IpAddr) -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn can_hide(_: BorrowedFd<'_>) -> bool {
    false
}

pub(crate) fn is_hidden(_: BorrowedFd<'_>) -> bool {
    false
}

pub(crate) fn interface(_: BorrowedFd<'_>) -> Option<u32> {
    None
}

/// A socket is in its group until it is closed.
pub(crate) fn remove(_: Kind, _: BorrowedFd<'_>) -> bool {
    false
}

pub(crate) fn set_alone(_: BorrowedFd<'_>, _: bool) -> io::Result<()> {
    Err(cannot_steer())
}

pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let ready = super::wait::poll(&[fd], Some(Instant::now()));
    ready.map(|ready| ready.contains(&true))
}

pub(crate) fn barrier(_: Duration) -> bool {
    true
}

pub(crate) fn migrates() -> bool {
    false
}

pub(crate) fn steers() -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn receivers(_: Kind, _: &SocketAddr) -> io::Result<Vec<Receiver>> {
    Err(untold())
}

pub(crate) fn blame(_: Kind, _: &SocketAddr, _: Asked, _: &io::Error) -> Option<Blame> {
    None
}

pub(crate) fn share_late(_: BorrowedFd<'_>, _: &SocketAddr) -> io::Result<()> {
    Err(unsupported(
        "a socket cannot come to share its port on this system",
    ))
}

pub(crate) fn holds_all(_: Kind, _: &SocketAddr, _: bool) -> bool {
    false
}

pub(crate) fn explain(_: &io::Error, _: &SocketAddr, _: Option<&str>) -> Option<String> {
    None
}

pub(crate) fn explain_socket(_: &io::Error, _: &SocketAddr) -> Option<String> {
    None
}

/// A process has one network here.
pub(crate) fn namespace(_: BorrowedFd<'_>) -> Option<u64> {
    None
}

#[derive(Clone, Debug)]
pub(crate) struct Likeness(());

impl Likeness {
    pub(crate) fn of(_: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(()))
    }

    pub(crate) fn protocol(&self) -> Option<i32> {
        None
    }

    pub(crate) fn give(&self, _: BorrowedFd<'_>) -> Result<(), (String, io::Error)> {
        Ok(())
    }
}

/// Nothing that could tell is known here.
pub(crate) fn owner(_: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(super::user())
}

pub(crate) fn is_nobody(_: u32) -> bool {
    false
}

pub(crate) fn process_name(_: u32) -> Option<String> {
    None
}

pub(crate) fn queue(_: BorrowedFd<'_>) -> io::Result<Queue> {
    Err(untold())
}

pub(crate) fn packet_queue(_: BorrowedFd<'_>) -> io::Result<PacketQueue> {
    Err(untold())
}

pub(crate) fn occupants(_: u16) -> io::Result<Vec<Occupant>> {
    Err(untold())
}

#[derive(Debug)]
pub(crate) enum Queues {}

impl Queues {
    pub(crate) fn open(_: Kind, _: SocketAddr) -> io::Result<Self> {
        Err(untold())
    }

    pub(crate) fn read(&mut self, _: &[Weak], _: impl FnMut(u64, u32)) -> io::Result<bool> {
        match *self {}
    }
}

fn untold() -> io::Error {
    unsupported("this system does not tell")
}

/// No descriptor goes to another process over a stream.
pub(crate) mod pass {
    use std::io;
    use std::time::Instant;

    use crate::sys::{BorrowedFd, OwnedFd, unsupported};

    pub(crate) const TELLS_SENDERS: bool = false;

    pub(crate) const MAX_BYTES: usize = 64 << 10;

    pub(crate) const MAX_FDS: usize = 1 << 16;

    #[derive(Debug)]
    pub(crate) struct Frame {
        pub(crate) bytes: Vec<u8>,
        pub(crate) fds: Vec<OwnedFd>,
        pub(crate) pid: Option<u32>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Peer {
        pub(crate) uid: u32,
        pub(crate) pid: Option<u32>,
    }

    pub(crate) fn send(
        _: BorrowedFd<'_>,
        _: &[u8],
        _: &[BorrowedFd<'_>],
        _: Option<Instant>,
    ) -> io::Result<()> {
        Err(nothing_passes())
    }

    pub(crate) fn receive(_: BorrowedFd<'_>, _: Option<Instant>) -> io::Result<Frame> {
        Err(nothing_passes())
    }

    pub(crate) fn tell_senders(_: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn reason(_: &io::Error) -> Option<&'static str> {
        None
    }

    pub(crate) fn peer(_: BorrowedFd<'_>) -> io::Result<Peer> {
        Err(nothing_passes())
    }

    fn nothing_passes() -> io::Error {
        unsupported("this system cannot hand sockets to another process")
    }
}

/// Nothing waits for descriptors.
pub(crate) mod wait {
    use std::io;
    use std::time::Instant;

    use crate::sys::{AsFd, BorrowedFd, unsupported};

    pub(crate) fn poll(_: &[BorrowedFd<'_>], _: Option<Instant>) -> io::Result<Vec<bool>> {
        Err(no_poll())
    }

    #[derive(Debug)]
    pub(crate) enum Bell {}

    impl Bell {
        pub(crate) fn new() -> io::Result<Self> {
            Err(no_poll())
        }

        pub(crate) fn ring(&self) -> io::Result<()> {
            match *self {}
        }

        pub(crate) fn clear(&self) -> io::Result<()> {
            match *self {}
        }
    }

    impl AsFd for Bell {
        #[cfg(windows)]
        fn as_socket(&self) -> BorrowedFd<'_> {
            match *self {}
        }

        #[cfg(not(windows))]
        fn as_fd(&self) -> BorrowedFd<'_> {
            match *self {}
        }
    }

    fn no_poll() -> io::Error {
        unsupported("this system cannot wait for several sockets")
    }
}
