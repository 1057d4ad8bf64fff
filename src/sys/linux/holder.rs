//! Who holds an address that the kernel refused, from what every user may read.
//!
//! sock_diag(7) and /proc/net name each socket's address, state and owner. They do not say whether
//! a socket shares; that is asked by binding beside it, at an address where nothing can arrive.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::process::{self, Process};
use super::table::{self, Row, TIME_WAIT};
use super::{GROUP_LIMIT, diag};
use crate::sys::Holder;
use crate::sys::{Asked, Blame, Kind, Socket, Want};

fn excludes(row: &Row, addr: &SocketAddr, only_v6: bool) -> bool {
    let (held, asked) = (row.local.ip(), addr.ip());
    row.local.port() == addr.port()
        && match (held, asked) {
            (IpAddr::V4(held), IpAddr::V4(asked)) => {
                held == asked || held.is_unspecified() || asked.is_unspecified()
            }
            (IpAddr::V6(held), IpAddr::V6(asked)) => {
                held == asked || held.is_unspecified() || asked.is_unspecified()
            }
            // The table does not tell a socket that takes both families from one that does not.
            (IpAddr::V6(held), IpAddr::V4(_)) => held.is_unspecified(),
            (IpAddr::V4(_), IpAddr::V6(asked)) => asked.is_unspecified() && !only_v6,
        }
}

pub(crate) fn blame(
    kind: Kind,
    addr: &SocketAddr,
    asked: Asked,
    error: &io::Error,
) -> Option<Blame> {
    // kernel: reuseport_grow refuses with ENOMEM, which listen(2) hands on, and bind(2) of UDP
    // turns into EADDRINUSE.
    let in_use = error.kind() == io::ErrorKind::AddrInUse;
    if !in_use && error.raw_os_error() != Some(libc::ENOMEM) {
        return None;
    }
    let excludes = |row: &Row| excludes(row, addr, asked.only_v6);
    // The dump takes a millisecond where the tables take tens, and has no connection that has ended.
    let mut rows = diag::rows(kind, addr.port()).unwrap_or_default();
    rows.retain(excludes);
    if !rows.iter().any(|row| row.receives(kind)) {
        rows = table::rows(kind, excludes).ok()?;
    }
    let me = crate::sys::user();
    let other_family = |row: &&Row| row.local.is_ipv4() != addr.is_ipv4();

    let mut receivers: Vec<&Row> = rows.iter().filter(|row| row.receives(kind)).collect();
    // The nearest in address is surely in the way, and another user's where two are as near.
    receivers.sort_by_key(|row| {
        (
            other_family(row),
            row.local.ip() != addr.ip(),
            row.uid == me,
        )
    });
    let Some(first) = receivers.first() else {
        if !in_use || kind == Kind::Udp {
            return None;
        }
        let mut bound = diag::bound(addr.port()).unwrap_or_default();
        bound.retain(excludes);
        return Some(match bound.first() {
            Some(row) => Case::of(row, addr).bound(me),
            None => rest(&rows, addr),
        });
    };

    let is_full = receivers
        .iter()
        .filter(|row| row.local == first.local && row.uid == me)
        .count()
        >= GROUP_LIMIT;
    if is_full {
        let why = format!("the group is full: this kernel takes {GROUP_LIMIT} members at the most");
        return Some(Blame {
            holder: Holder::Group,
            process: None,
            why,
        });
    }
    if !in_use {
        return None;
    }
    let case = Case::of(first, addr);
    Some(match asked.want {
        _ if first.uid != me => case.of_user(),
        Want::Group | Want::Generation if shares(kind, &first.local) => {
            case.shares(asked.want, kind)
        }
        Want::Generation if kind == Kind::Tcp => {
            let mut blame = case.does_not_share();
            blame
                .why
                .push_str("; Generation::adopt makes a generation of its listener");
            blame
        }
        _ => case.does_not_share(),
    })
}

/// Whether this process has a descriptor of each socket that is in the way of a new one, and none of them is on
/// its very address; false where there is none, or it cannot be told.
pub(crate) fn holds_all(kind: Kind, addr: &SocketAddr, only_v6: bool) -> bool {
    let Ok(mut rows) = diag::rows(kind, addr.port()) else {
        return false;
    };
    rows.retain(|row| row.receives(kind) && excludes(row, addr, only_v6));
    let own = process::sockets();
    let is_own = |row: &Row| row.local != *addr && own.contains(&row.inode);
    !rows.is_empty() && rows.iter().all(is_own)
}

/// A socket that is in the way of another.
struct Case<'a> {
    row: &'a Row,
    process: Option<Process>,
    /// Its address: "it" where the sentence has named it.
    what: String,
    is_here: bool,
}

impl<'a> Case<'a> {
    fn of(row: &'a Row, addr: &SocketAddr) -> Self {
        let is_here = row.local == *addr;
        Self {
            row,
            // What no process has a descriptor of has no inode.
            process: (row.inode != 0).then(|| process::of(row.inode)).flatten(),
            what: if is_here {
                "it".to_owned()
            } else {
                row.local.to_string()
            },
            is_here,
        }
    }

    /// "this process", or "process 4711 (nginx)", where it may be seen.
    fn who(&self) -> Option<String> {
        self.process.as_ref().map(Process::to_string)
    }

    fn blame(self, holder: Holder, why: String) -> Blame {
        let process = self.process.map(|process| (process.id, process.name));
        Blame {
            holder,
            process,
            why,
        }
    }

    fn of_user(self) -> Blame {
        let (uid, what) = (self.row.uid, &self.what);
        let why = match (&self.process, self.who()) {
            (Some(Process { is_own: true, .. }), Some(who)) => {
                format!("{who} opened {what} as user {uid}, and ports are shared within one user")
            }
            (_, Some(who)) => {
                format!("{who} of user {uid} holds {what}, and ports are shared within one user")
            }
            (_, None) => format!("user {uid} holds {what}, and ports are shared within one user"),
        };
        self.blame(Holder::User(uid), why)
    }

    fn does_not_share(self) -> Blame {
        let why = match (self.who(), self.is_here) {
            (Some(who), _) => format!(
                "{who} holds {} and did not set SO_REUSEPORT before bind",
                self.what
            ),
            (None, true) => "its holder did not set SO_REUSEPORT before bind".to_owned(),
            (None, false) => format!(
                "the holder of {} did not set SO_REUSEPORT before bind",
                self.what
            ),
        };
        self.blame(Holder::NotSharing, why)
    }

    /// What a group of this user that shares means to one that must be new.
    fn shares(self, want: Want, kind: Kind) -> Blame {
        let who = self
            .who()
            .unwrap_or_else(|| "a group of this user".to_owned());
        let what = &self.what;
        let generation = match kind {
            Kind::Tcp => "Options::generation",
            Kind::Udp => "Options::packet_generation",
        };
        let advice = match want {
            Want::Generation if self.is_here => {
                ", and no generation is found there; Generation::adopt makes one of its sockets"
                    .to_owned()
            }
            Want::Generation => {
                "; a server that moves opens both addresses, by Generation::open".to_owned()
            }
            _ if self.is_here => format!(
                " (Options::join joins it unless it is steered, and {generation} relieves what \
                 {generation} opened)"
            ),
            _ => " (Options::join opens beside it)".to_owned(),
        };
        let why = format!("{who} shares {what} already{advice}");
        self.blame(Holder::Group, why)
    }

    /// A TCP socket that is bound and does not listen.
    fn bound(self, me: u32) -> Blame {
        let Row { uid, .. } = *self.row;
        if uid != me {
            return self.of_user();
        }
        let who = self
            .who()
            .unwrap_or_else(|| "a socket of this user".to_owned());
        let why = format!(
            "{who} has bound {}, does not listen on it and does not share it",
            self.what
        );
        self.blame(Holder::NotSharing, why)
    }
}

/// No socket listens, so it is what a listener left behind, a connection made from the port, or a
/// socket that is bound and in no table (before Linux 6.8); which of them, the kernel does not say.
fn rest(rows: &[Row], addr: &SocketAddr) -> Blame {
    let row = rows.iter().find(|row| row.remote.port() != 0);
    let case = row.map(|row| Case::of(row, addr));
    let what = match &case {
        Some(Case {
            row:
                Row {
                    state: TIME_WAIT,
                    remote,
                    ..
                },
            ..
        }) => format!(
            "a connection with {remote} that ended a moment ago, or a socket that is bound,"
        ),
        Some(case) => {
            let whose = case
                .who()
                .map(|who| format!(" of {who}"))
                .unwrap_or_default();
            format!(
                "a connection{whose} with {}, or a socket that is bound,",
                case.row.remote
            )
        }
        None => "a socket that is bound".to_owned(),
    };
    let why = format!("no socket listens on it, but {what} holds it and does not share");
    match case {
        Some(case) => case.blame(Holder::NotSharing, why),
        None => Blame {
            holder: Holder::NotSharing,
            process: None,
            why,
        },
    }
}

/// Whether the socket at `held` shares its port with this user.
fn shares(kind: Kind, held: &SocketAddr) -> bool {
    /// TEST-NET-1 (RFC 5737) and the discard prefix (RFC 6666).
    const NOWHERE: (Ipv4Addr, Ipv6Addr) = (
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1),
    );
    // Bound for a moment beside a wildcard, at an address where nothing arrives, or as the wildcard
    // beside an address: so the question takes no datagram from another socket.
    let ip: IpAddr = match held.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => NOWHERE.0.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => NOWHERE.1.into(),
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let addr = SocketAddr::new(ip, held.port());
    let ask = || {
        let socket = Socket::new(kind, &addr, false)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        super::restartable(&socket, kind)?;
        super::share(&socket)?;
        socket.set_freebind(&addr)?;
        socket.bind(&addr)
    };
    ask().is_ok()
}
