//! What the crate tells a subscriber, with the feature `tracing`; without it, nothing.
//!
//! Only opening, adopting, dialing, steering and waiting are told, which happen once: nothing on the path of
//! a connection.

use std::net::SocketAddr;

use std::fmt::Debug;

use crate::error::Error;
use crate::sys::{AsFd, Kind};

cfg_if::cfg_if! {
    if #[cfg(feature = "tracing")] {
        use tracing::{debug, warn};

        use crate::sys::local_addr;

        /// Only where it is told is the socket asked.
        fn addr(socket: &impl AsFd) -> Option<SocketAddr> {
            local_addr(socket).ok()
        }

        pub(crate) fn opened(kind: Kind, socket: &impl AsFd) {
            debug!(target: "reuseport", protocol = kind.name(), addr = ?addr(socket), "opened");
        }

        pub(crate) fn opened_group(
            kind: Kind,
            addr: SocketAddr,
            members: usize,
            spread: &dyn Debug,
            new: bool,
        ) {
            let what = if new { "opened a group" } else { "joined a group" };
            debug!(target: "reuseport", protocol = kind.name(), %addr, members, ?spread, "{what}");
        }

        pub(crate) fn adopted(kind: Kind, addr: SocketAddr) {
            debug!(target: "reuseport", protocol = kind.name(), %addr, "adopted");
        }

        pub(crate) fn dialed(local: SocketAddr, remote: SocketAddr) {
            debug!(target: "reuseport", %local, %remote, "dialed");
        }

        pub(crate) fn received(kind: Kind, addr: SocketAddr, members: usize) {
            debug!(target: "reuseport", protocol = kind.name(), %addr, members, "received a group");
        }

        pub(crate) fn waits(addr: SocketAddr, for_whom: &str, why: &str) {
            warn!(target: "reuseport", %addr, predecessor = for_whom, why, "waits to take over");
        }

        pub(crate) fn refused(error: &Error) {
            debug!(target: "reuseport", %error, kind = ?error.kind(), "refused");
        }
    } else {
        pub(crate) fn opened(_: Kind, _: &impl AsFd) {}

        pub(crate) fn opened_group(_: Kind, _: SocketAddr, _: usize, _: &dyn Debug, _: bool) {}

        pub(crate) fn adopted(_: Kind, _: SocketAddr) {}

        pub(crate) fn dialed(_: SocketAddr, _: SocketAddr) {}

        pub(crate) fn received(_: Kind, _: SocketAddr, _: usize) {}

        pub(crate) fn waits(_: SocketAddr, _: &str, _: &str) {}

        pub(crate) fn refused(_: &Error) {}
    }
}

/// An operator may want to know.
const STUCK: &str = "a member is stuck";
const ACCEPTS: &str = "a member accepts again";

/// What has happened to a group while its lock was held, to be told when the lock is free.
#[derive(Debug)]
pub(crate) struct Event {
    what: &'static str,
    addr: SocketAddr,
    member: Option<usize>,
    detail: String,
}

impl Event {
    fn new(
        what: &'static str,
        addr: SocketAddr,
        member: Option<usize>,
        detail: &dyn Debug,
    ) -> Self {
        let detail = match cfg!(feature = "tracing") {
            true => format!("{detail:?}"),
            false => String::new(),
        };
        Self {
            what,
            addr,
            member,
            detail,
        }
    }

    pub(crate) fn steered(addr: SocketAddr, steering: &dyn Debug) -> Self {
        Self::new("steered", addr, None, steering)
    }

    pub(crate) fn joined(addr: SocketAddr, member: usize, places: &dyn Debug) -> Self {
        Self::new("a member joined", addr, Some(member), places)
    }

    pub(crate) fn leaving(addr: SocketAddr, member: usize, guarantee: &dyn Debug) -> Self {
        Self::new("a member leaves", addr, Some(member), guarantee)
    }

    pub(crate) fn removed(addr: SocketAddr, member: usize, places: &dyn Debug) -> Self {
        Self::new("a member has left", addr, Some(member), places)
    }

    pub(crate) fn shared(addr: SocketAddr, part: f64) -> Self {
        Self::new("the next process gets a part", addr, None, &part)
    }

    pub(crate) fn stuck(addr: SocketAddr, member: usize, waiting: u32) -> Self {
        Self::new(STUCK, addr, Some(member), &waiting)
    }

    pub(crate) fn accepts_again(addr: SocketAddr, member: usize) -> Self {
        Self::new(ACCEPTS, addr, Some(member), &())
    }

    pub(crate) fn tell(self) {
        let Self {
            what,
            addr,
            member,
            detail,
        } = self;
        cfg_if::cfg_if! {
            if #[cfg(feature = "tracing")] {
                match what {
                    STUCK => warn!(target: "reuseport", %addr, member, waiting = detail, "{what}"),
                    ACCEPTS => debug!(target: "reuseport", %addr, member, "{what}"),
                    _ => debug!(target: "reuseport", %addr, member, detail, "{what}"),
                }
            } else {
                let _ = (what, addr, member, detail);
            }
        }
    }
}
