//! The calls that open sockets, and which options each of them has.

use super::Options;
use crate::error::Error;
use crate::steering::{Spread, Steering};
use crate::sys::Kind;

/// A public call that opens sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `Options::listen` and `Options::listen_packet`.
    Listen(Kind),
    /// `Options::dial` and `Options::dial_blocking`.
    Dial,
    /// `Options::group` and `Options::packet_group`, and what joins such a group.
    Group(Kind),
    /// `Options::generation` and `Options::packet_generation`.
    Generation(Kind),
}

impl Call {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Dial => Kind::Tcp,
            Self::Listen(kind) | Self::Group(kind) | Self::Generation(kind) => kind,
        }
    }

    /// Its name among the methods of `Options`.
    fn name(self) -> &'static str {
        match self {
            Self::Listen(Kind::Tcp) => "listen",
            Self::Listen(Kind::Udp) => "listen_packet",
            Self::Dial => "dial",
            Self::Group(Kind::Tcp) => "group",
            Self::Group(Kind::Udp) => "packet_group",
            Self::Generation(Kind::Tcp) => "generation",
            Self::Generation(Kind::Udp) => "packet_generation",
        }
    }
}

impl Options {
    /// Refuses what is set and means nothing to a call.
    ///
    /// `family`, `device` and `before_bind` mean the same to all of them. `listen` and
    /// `listen_packet` join what is on the port in any case, so `join` says there what they do.
    pub(crate) fn check(&self, call: Call) -> Result<(), Error> {
        const GROUPS: &str = "it is for groups (Options::group, Options::packet_group)";
        let single = matches!(call, Call::Listen(_) | Call::Dial);
        // What is set, and why it means nothing to this call.
        let table = [
            (
                "backlog",
                self.backlog.is_some(),
                match (call, call.kind()) {
                    (Call::Dial, _) => Some("a connection has no backlog"),
                    (_, Kind::Udp) => Some("a UDP socket has no backlog"),
                    (_, Kind::Tcp) => None,
                },
            ),
            (
                "join",
                self.join,
                match call {
                    Call::Dial => Some("a connection joins no group"),
                    Call::Generation(_) => Some("a generation joins its predecessor only"),
                    Call::Listen(_) | Call::Group(_) => None,
                },
            ),
            (
                "spread",
                self.spread != Spread::Best,
                single.then_some(GROUPS),
            ),
            (
                "steering",
                !matches!(self.steering, Steering::Hash),
                single.then_some(GROUPS),
            ),
            (
                "rendezvous",
                self.rendezvous.is_some(),
                (!matches!(call, Call::Generation(_))).then_some("only generations meet"),
            ),
        ];
        let refused = table
            .into_iter()
            .filter(|(_, is_set, _)| *is_set)
            .find_map(|(option, _, why)| Some((option, why?)));
        match refused {
            Some((option, why)) => {
                let what = format!("cannot use Options::{option} with Options::{}", call.name());
                Err(Error::invalid(what, why))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Every call with every option: which go together.
    #[test]
    fn options_go_with_some_calls() {
        use Kind::{Tcp, Udp};
        let calls = [
            Call::Listen(Tcp),
            Call::Listen(Udp),
            Call::Dial,
            Call::Group(Tcp),
            Call::Group(Udp),
            Call::Generation(Tcp),
            Call::Generation(Udp),
        ];
        let new = Options::new;
        let table = [
            ("nothing", new(), "yyyyyyy"),
            ("family", new().family(crate::Family::V4), "yyyyyyy"),
            ("device", new().device("lo"), "yyyyyyy"),
            ("before_bind", new().before_bind(|_| Ok(())), "yyyyyyy"),
            ("backlog", new().backlog(7), "ynnynyn"),
            ("join", new().join(true), "yynyynn"),
            ("spread", new().spread(Spread::Queue), "nnnyyyy"),
            ("spread", new().spread(Spread::Kernel), "nnnyyyy"),
            ("steering", new().steering(Steering::Cpu), "nnnyyyy"),
            ("rendezvous", new().rendezvous("/run"), "nnnnnyy"),
        ];
        for (option, options, row) in table {
            for (call, expected) in calls.into_iter().zip(row.chars()) {
                let result = options.check(call);
                assert_eq!(result.is_ok(), expected == 'y', "{option} with {call:?}");
                if let Err(error) = result {
                    let what = format!(
                        "cannot use Options::{option} with Options::{}: ",
                        call.name()
                    );
                    assert!(error.to_string().starts_with(&what), "{error}");
                    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                }
            }
        }
    }
}
