//! A socket of a group, which others own: what is known of it, and how a descriptor of it is had.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::cell::Cell;
use super::lent::{self, LentFd};
use crate::sys::{self, AsFd, BorrowedFd, Descriptors, Kind, OwnedFd, Weak};

/// A socket of the kernel's group.
#[derive(Debug)]
pub(crate) struct Sock {
    /// None where the system does not tell one socket from another.
    pub(super) inode: Option<u64>,
    /// Whether nothing that arrives finds it any more.
    pub(super) hidden: bool,
    /// Whether it is to leave its group whatever its owner has still to say.
    pub(super) given_up: bool,
    /// Whether the system has refused to take it out of its group before its owner closes it.
    pub(super) sticks: bool,
    held: Held,
    /// What its worker tells of itself; none before it was asked for.
    pub(super) load: Option<Arc<Cell>>,
    /// A descriptor of this crate's own, while the member is being drained.
    pub(super) kept: Option<Arc<OwnedFd>>,
}

#[derive(Debug)]
enum Held {
    /// Its owner is a worker of this process.
    Own(Weak),
    /// Another process lent a descriptor.
    Lent(LentFd),
    /// It is a stranger's, or the system has no way to look at it.
    Unseen,
}

impl Sock {
    pub(super) fn own(fd: BorrowedFd<'_>) -> Self {
        let weak = Weak::new(fd).ok();
        Self {
            inode: weak.as_ref().map(Weak::inode),
            hidden: false,
            given_up: false,
            sticks: false,
            held: weak.map_or(Held::Unseen, Held::Own),
            load: None,
            kept: None,
        }
    }

    pub(super) fn lent(fd: OwnedFd) -> Self {
        let hidden = sys::is_hidden(sys::borrow(&fd));
        let fd = LentFd::new(fd);
        Self {
            inode: fd.inode(),
            hidden,
            given_up: false,
            sticks: false,
            held: Held::Lent(fd),
            load: None,
            kept: None,
        }
    }

    pub(super) fn stranger(inode: u64) -> Self {
        Self {
            inode: Some(inode),
            hidden: false,
            given_up: false,
            sticks: false,
            held: Held::Unseen,
            load: None,
            kept: None,
        }
    }

    /// A descriptor of it; none where it is closed in this process.
    pub(super) fn open(&mut self) -> io::Result<Option<Arc<OwnedFd>>> {
        if let Some(kept) = &self.kept {
            return Ok(Some(Arc::clone(kept)));
        }
        match &mut self.held {
            Held::Own(weak) => weak.upgrade().map(|fd| fd.map(Arc::new)),
            Held::Lent(fd) => Ok(Some(fd.get())),
            Held::Unseen => Ok(None),
        }
    }

    /// Whether its owner in this process has closed it; `all` is looked up once it is needed.
    pub(super) fn is_closed(&mut self, all: &mut Option<Descriptors>) -> bool {
        let Held::Own(weak) = &mut self.held else {
            return false;
        };
        let lent = lent::of(weak.inode());
        let kept = self.kept.iter().chain(&lent);
        let kept: Vec<_> = kept.map(|kept| sys::borrow(&**kept)).collect();
        if weak.is_owners(&kept) {
            return false;
        }
        if all.is_none() {
            *all = Descriptors::look().ok();
        }
        // Without room for a descriptor it cannot be told, and is not assumed.
        all.as_ref().is_some_and(|all| !weak.is_held(all, &kept))
    }

    /// By what it can be looked at as long as its owner in this process has it.
    pub(super) fn weak(&self) -> Option<&Weak> {
        match &self.held {
            Held::Own(weak) => Some(weak),
            Held::Lent(_) | Held::Unseen => None,
        }
    }

    /// Whether its owner is a worker of this process.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.held, Held::Own(_))
    }

    pub(super) fn is_unseen(&self) -> bool {
        matches!(self.held, Held::Unseen)
    }
}

/// Whether a socket that is open stands in its group.
pub(super) fn is_in_group(kind: Kind, fd: BorrowedFd<'_>) -> bool {
    match kind {
        Kind::Tcp => sys::is_listening(fd).unwrap_or(true),
        Kind::Udp => !sys::is_hidden(fd),
    }
}

/// Refuses a socket that cannot be of this group.
pub(crate) fn check_addr(socket: &impl AsFd, addr: SocketAddr) -> io::Result<()> {
    match sys::local_addr(socket)? {
        own if own == addr => Ok(()),
        own => {
            let why = format!("a socket is on {own}, and the group on {addr}");
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }
}
