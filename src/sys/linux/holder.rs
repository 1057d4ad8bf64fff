//! Who holds an address that the kernel refused, from what every user may read.
//!
//! sock_diag(7) and /proc/net name each socket's address, state and owner. They do not say whether
//! a socket shares; that is asked by binding beside it, at an address where nothing can arrive.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::table::{self, Row, TIME_WAIT};
use super::{GROUP_LIMIT, diag};
use crate::Holder;
use crate::sys::{Asked, Blame, Kind, Socket};

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
        return if in_use && kind == Kind::Tcp {
            Some(blame_connection(rows.first()))
        } else {
            None
        };
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
            why,
        });
    }
    if !in_use {
        return None;
    }

    // "it" is the address of the sentence; another address is named.
    let what = if first.local == *addr {
        "it".to_owned()
    } else {
        first.local.to_string()
    };
    if first.uid != me {
        let uid = first.uid;
        let why = format!("user {uid} holds {what}, and ports are shared within one user");
        return Some(Blame {
            holder: Holder::User(uid),
            why,
        });
    }
    if asked.new && shares(kind, &first.local) {
        let why = format!("a group of this user holds {what} already (Options::join joins it)");
        return Some(Blame {
            holder: Holder::Group,
            why,
        });
    }
    let whose = if first.local == *addr {
        "its holder".to_owned()
    } else {
        format!("the holder of {what}")
    };
    let why = format!("{whose} did not set SO_REUSEPORT before bind");
    Some(Blame {
        holder: Holder::NotSharing,
        why,
    })
}

/// Nobody listens, so it is what a listener left behind, a connection made from the port, or a socket
/// that is bound and in no table; which of them, nobody can tell.
fn blame_connection(row: Option<&Row>) -> Blame {
    let what = match row.filter(|row| row.remote.port() != 0) {
        Some(Row {
            state: TIME_WAIT,
            remote,
            ..
        }) => format!(
            "a connection with {remote} that ended a moment ago, or a socket that is bound,"
        ),
        Some(Row { remote, .. }) => {
            format!("a connection with {remote}, or a socket that is bound,")
        }
        None => "a socket that is bound".to_owned(),
    };
    Blame {
        holder: Holder::NotSharing,
        why: format!("nobody listens on it, but {what} holds it and does not share"),
    }
}

/// Does the socket at `held` share its port with this user?
fn shares(kind: Kind, held: &SocketAddr) -> bool {
    /// TEST-NET-1 (RFC 5737) and the discard prefix (RFC 6666).
    const NOWHERE: (Ipv4Addr, Ipv6Addr) = (
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1),
    );
    // Bound for a moment beside a wildcard, at an address where nothing arrives, or as the wildcard
    // beside an address: so the question takes no datagram from anybody.
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
