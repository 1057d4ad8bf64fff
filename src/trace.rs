//! What the crate tells whoever listens, with the feature `tracing`; without it, nothing.
//!
//! Only opening, adopting, dialing and steering are told, which happen once: nothing on the path of
//! a connection.

use std::net::SocketAddr;

use crate::sys::{AsFd, Kind};
use crate::{Error, Promise, Spread, Steering};

cfg_if::cfg_if! {
    if #[cfg(feature = "tracing")] {
        use tracing::debug;

        use crate::local_addr;

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
            spread: Spread,
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

        pub(crate) fn steered(addr: SocketAddr, steering: &Steering) {
            debug!(target: "reuseport", %addr, ?steering, "steered");
        }

        pub(crate) fn received(kind: Kind, addr: SocketAddr, members: usize) {
            debug!(target: "reuseport", protocol = kind.name(), %addr, members, "received a group");
        }

        pub(crate) fn joined(addr: SocketAddr, member: usize, places: Option<&[usize]>) {
            debug!(target: "reuseport", %addr, member, ?places, "a member joined");
        }

        pub(crate) fn leaving(addr: SocketAddr, member: usize, promise: Promise) {
            debug!(target: "reuseport", %addr, member, ?promise, "a member leaves");
        }

        pub(crate) fn closed(addr: SocketAddr, member: usize, places: Option<&[usize]>) {
            debug!(target: "reuseport", %addr, member, ?places, "closed a member");
        }

        pub(crate) fn refused(error: &Error) {
            debug!(target: "reuseport", %error, kind = ?error.kind(), "refused");
        }
    } else {
        pub(crate) fn opened(_: Kind, _: &impl AsFd) {}

        pub(crate) fn opened_group(_: Kind, _: SocketAddr, _: usize, _: Spread, _: bool) {}

        pub(crate) fn adopted(_: Kind, _: SocketAddr) {}

        pub(crate) fn dialed(_: SocketAddr, _: SocketAddr) {}

        pub(crate) fn steered(_: SocketAddr, _: &Steering) {}

        pub(crate) fn received(_: Kind, _: SocketAddr, _: usize) {}

        pub(crate) fn joined(_: SocketAddr, _: usize, _: Option<&[usize]>) {}

        pub(crate) fn leaving(_: SocketAddr, _: usize, _: Promise) {}

        pub(crate) fn closed(_: SocketAddr, _: usize, _: Option<&[usize]>) {}

        pub(crate) fn refused(_: &Error) {}
    }
}
