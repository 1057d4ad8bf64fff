//! The sentence for each system call that is refused.

use std::io;

use super::{Call, Opening, Purpose};
use crate::error::Error;
use crate::sys::{self, Asked, Want};

impl Opening<'_> {
    /// What could not be done.
    pub(super) fn cannot(&self, purpose: Purpose) -> String {
        let addr = self.place.addr;
        match (purpose, self.call) {
            (Purpose::Found | Purpose::Alone, Call::Generation(_)) => {
                format!("cannot open a generation on {addr}")
            }
            (Purpose::Found | Purpose::Alone, _) => format!("cannot open a new group on {addr}"),
            (Purpose::Share | Purpose::Join(0, _), _) => format!("cannot share {addr}"),
            (Purpose::Join(index, n), _) => {
                format!("cannot open member {} of {n} on {addr}", index + 1)
            }
            (Purpose::Dial, _) => format!("cannot dial from {addr}"),
        }
    }

    /// The crate itself refuses.
    pub(super) fn invalid(&self, purpose: Purpose, why: impl Into<String>) -> Error {
        Error::invalid(self.cannot(purpose), why.into()).at(self.place.addr)
    }

    /// The whole sentence for a system call that failed.
    pub(crate) fn refused(&self, purpose: Purpose, error: io::Error) -> Error {
        let addr = self.place.addr;
        let is_new = matches!(purpose, Purpose::Found | Purpose::Alone);
        let asked = Asked {
            only_v6: self.place.only_v6 == Some(true),
            want: match self.call {
                Call::Generation(_) if is_new => Want::Generation,
                _ if is_new => Want::Group,
                _ => Want::Share,
            },
        };
        let blame = match addr.port() {
            0 => None,
            _ => sys::blame(self.call.kind(), &addr, asked, &error),
        };
        let why = || match error.kind() {
            io::ErrorKind::AddrInUse if addr.port() == 0 => {
                Some("no port is free for it".to_owned())
            }
            io::ErrorKind::AddrInUse if is_new => Some("another socket holds it".to_owned()),
            io::ErrorKind::AddrInUse => {
                Some("its holder does not share it with this user".to_owned())
            }
            _ => sys::explain(&error, &addr, self.options.device.as_deref())
                .or_else(|| sys::reason(&error, &addr).map(str::to_owned)),
        };
        let (holder, why) = match blame {
            Some(blame) => (Some((blame.holder, blame.process)), Some(blame.why)),
            None => (None, why()),
        };
        let kind = if sys::is_unsupported(&error) {
            io::ErrorKind::Unsupported
        } else {
            error.kind()
        };
        let error = Error::system(self.cannot(purpose), error)
            .at(addr)
            .with_kind(kind)
            .why(why);
        match holder {
            Some((holder, process)) => error.held_by(holder, process),
            None => error,
        }
    }
}
