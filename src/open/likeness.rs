//! What a socket must have to stand in a group that was opened elsewhere.

use std::net::SocketAddr;

use super::Options;
use super::addr::{Place, Target};
use super::adopt;
use crate::error::Error;
use crate::sys::{self, AsFd, Kind};

/// What the members of a group were opened with, read back from one of them.
///
/// The kernel tells groups apart by family, IPV6_V6ONLY and interface (kernel:
/// inet_reuseport_add_sock), and what is accepted has most options of its listener.
#[derive(Clone, Debug)]
pub(crate) struct Likeness {
    options: sys::Likeness,
    only_v6: Option<bool>,
}

impl Likeness {
    /// MPTCP, where it is not the plain protocol of its kind.
    pub(crate) fn protocol(&self) -> Option<i32> {
        self.options.protocol()
    }

    /// Gives a new socket what the others have; the error says which option it cannot have.
    pub(crate) fn give(&self, to: &sys::Socket) -> Result<(), (String, std::io::Error)> {
        self.options.give(to.lend())
    }

    /// The address as the others have it: of an IPv6 socket that is bound to an IPv4 address too.
    pub(crate) fn place(&self, addr: SocketAddr) -> Place {
        Place {
            addr,
            only_v6: self.only_v6.filter(|_| addr.is_ipv6()),
            or_v4: false,
        }
    }
}

impl Options {
    /// Whether they are of a socket of MPTCP that was opened elsewhere.
    pub(crate) fn is_mptcp(&self) -> bool {
        self.like
            .as_ref()
            .is_some_and(|like| like.protocol().is_some())
    }

    /// With what another member is opened beside one that was opened elsewhere.
    pub(crate) fn like(member: &impl AsFd) -> Result<Self, Error> {
        let cannot = || format!("cannot tell how {} was opened", adopt::number(member));
        let fd = sys::borrow(member);
        let failed = |error| Error::system(cannot(), error);
        let found = sys::describe(fd).map_err(failed)?;
        if sys::is_hidden(fd) {
            let why = "it has been taken out of its group";
            return Err(Error::invalid(cannot(), why));
        }
        let like = Likeness {
            options: sys::Likeness::of(fd).map_err(failed)?,
            only_v6: sys::only_v6(member).ok(),
        };
        // The backlog as the kernel has cut it; where it does not tell, its longest.
        let backlog = match found.kind {
            Some(Kind::Tcp) => sys::queue(fd).ok().map(|queue| queue.limit),
            Some(Kind::Udp) | None => None,
        };
        Ok(Self {
            backlog,
            like: Some(like),
            ..Self::new().beside(member)
        })
    }

    /// For the network namespace of a socket: from a thread in another one nothing is opened.
    pub(crate) fn beside(mut self, member: &impl AsFd) -> Self {
        self.namespace = sys::namespace(sys::borrow(member));
        self
    }
}

impl Target {
    /// The address of a group that was opened elsewhere.
    pub(crate) fn exact(self) -> Option<SocketAddr> {
        match self {
            Self::Exact(addr) => Some(addr),
            Self::Localhost(_) | Self::Every(_) => None,
        }
    }
}
