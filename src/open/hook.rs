//! The hook of the caller, and what it must leave as the crate has set it.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::sys::{self, BorrowedFd, Kind, Socket};

/// What [`Options::before_bind`](super::Options::before_bind) got.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// Why a socket cannot be used after the hook had it.
#[derive(Debug)]
pub(crate) enum Spoilt {
    /// The hook said so itself.
    Failed(io::Error),
    /// A clause that begins with "the before_bind hook".
    Changed(&'static str),
}

impl From<io::Error> for Spoilt {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Hook {
    pub(crate) fn new(
        hook: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(hook))
    }

    /// Calls the hook, and looks at what it must not change; `new` where the port must be new.
    pub(crate) fn run(&self, socket: &Socket, kind: Kind, new: bool) -> Result<(), Spoilt> {
        let fd = socket.lend();
        let facts = || (sys::is_shared(fd).ok(), sys::only_v6(&fd).ok());
        let (shared, only_v6) = facts();
        (self.0)(fd)?;
        let (shares_now, only_v6_now) = facts();
        let changed = match () {
            () if shared == Some(true) && shares_now == Some(false) => {
                "the before_bind hook cleared SO_REUSEPORT"
            }
            // Until the bind of a first member has proven that the port is new.
            () if shared != shares_now => {
                "the before_bind hook set SO_REUSEPORT, which this crate does after bind"
            }
            () if only_v6 != only_v6_now => {
                "the before_bind hook changed IPV6_V6ONLY, which Options::family decides"
            }
            // kernel: inet_rcv_saddr_equal: two UDP sockets that have it are bound side by side,
            // of whichever users they are.
            () if new && kind == Kind::Udp && sys::reuses_address(fd).unwrap_or(false) => {
                "the before_bind hook set SO_REUSEADDR, with which other sockets may have the port too"
            }
            () if sys::local_addr(&fd).is_ok_and(|addr| addr.port() != 0) => {
                "the before_bind hook bound it already"
            }
            () => return Ok(()),
        };
        Err(Spoilt::Changed(changed))
    }
}
