//! What keeps a member from leaving, and what is not guaranteed where less is known or allowed.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
mod util;

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};

use members::{HERE, Kind, Open, PLACES, grace_period, stays_pending, weights};
use reuseport::{Group, Guarantee, Options, ReusePort, Std};
use util::assert_drained;

fn refusals_are_sentences<S: Kind>() {
    let open = Open::<S>::new(&Options::new(), HERE, 2);
    let addr = open.ways[0];
    let refused = |number| {
        let error = open.roster.leave(number).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        let cannot = format!("member {number} of the group on {addr} cannot leave: ");
        let why = text.strip_prefix(&cannot);
        why.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(refused(2), "it has no member 2");
    let leaving = open.roster.leave(0).unwrap();
    assert_eq!(refused(0), "it is leaving already");
    assert_eq!(refused(1), "no other stays to take its connections");
    assert!(!open.roster.has_left(0));
    assert_drained(leaving.wait());
    assert!(open.roster.has_left(0) && open.roster.has_left(2));
    assert_eq!(refused(0), "it has no member 0");
    assert_eq!(refused(1), "no other stays to take its connections");
}

#[test]
fn refusals_of_listeners() {
    refusals_are_sentences::<TcpListener>();
}

#[test]
fn refusals_of_sockets() {
    refusals_are_sentences::<UdpSocket>();
}

/// Where it is not known who stands where, nothing can be promised of TCP, and it is said before.
#[test]
fn an_adopted_group_promises_nothing() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let group = Group::<TcpListener>::adopt(group).unwrap();
    let roster = group.roster();
    assert!(roster.places().is_empty());
    let leaving = roster.leave(0).unwrap();
    assert_eq!(leaving.guarantee(), Guarantee::None);
    assert_drained(leaving.wait());
    // Its worker blocks, so that it is taken out.
    util::until(|| roster.has_left(0).then_some(()));
    assert!(!roster.has_left(1));
    // Of one alone it is known where it stands.
    assert_eq!(roster.places(), [Some(1)]);

    let held = Std::listen("127.0.0.1:0").unwrap();
    let options = Options::new().join(true);
    let group = options.group(util::addr_of(&held), 2).unwrap();
    let leaving = group.roster().leave(1).unwrap();
    assert_eq!(leaving.guarantee(), Guarantee::None);
}

/// A UDP socket is taken out of its group wherever it stands; but then it cannot answer.
#[test]
fn an_adopted_group_of_sockets_loses_no_datagram() {
    let group = Options::new().packet_group("127.0.0.1:0", 2).unwrap();
    let to = group.local_addr();
    let group = Group::<UdpSocket>::adopt(group).unwrap();
    let roster = group.roster();
    let sockets: Vec<_> = group.into_iter().map(|member| member.into_std()).collect();
    for socket in &sockets {
        socket.stop_blocking();
    }
    let send = || UdpSocket::client(to).send(b"?");
    util::until_sent(send, || sockets[0].peek(&mut [0]).ok());
    let mut leaving = roster.leave(0).unwrap();
    assert_eq!(leaving.guarantee(), Guarantee::BestEffort);
    assert!(stays_pending(&mut leaving));
    while sockets[0].take() {}
    for _ in 0..50 {
        send();
    }
    util::until(|| sockets[1].take().then_some(()));
    assert!(!sockets[0].take());
    assert_drained(leaving.wait());
    assert!(roster.has_left(0));
    assert_eq!(roster.places(), [Some(1)]);
}

/// Members that are restricted to an interface leave as the others do.
fn with_a_device<S: Kind>() {
    for place in PLACES {
        let mut open = Open::<S>::new(&weights(&[0, 1, 1]).device("lo"), place, 3);
        let leaving = open.roster.leave(1).unwrap();
        // Without a privilege it keeps its interface, by which the kernel finds it until its end.
        let guarantee = match rustix::process::geteuid().is_root() {
            true => Guarantee::Lossless,
            false => Guarantee::BestEffort,
        };
        assert_eq!(leaving.guarantee(), guarantee);
        let counts = open.counts(40, b"?");
        assert_eq!(counts[2], 40, "{place:?} {counts:?}");
        assert_drained(leaving.wait());
        // It has not been dropped yet, at whatever the drain is meanwhile.
        for _ in 0..6 {
            let counts = open.counts(20, b"?");
            // For two system calls the hash may choose among those that stay.
            let strays = if S::IS_TCP { 0 } else { counts[0] };
            assert_eq!(counts[2], 20 - strays, "{place:?} {counts:?}");
            grace_period();
        }
        drop(open.remove(1));
        assert_eq!(open.places(), [0, 2]);
        assert_eq!(open.counts(40, b"?")[2], 40);
        assert_eq!(open.join(), 1);
        open.leave(2);
        assert_eq!(open.counts(40, b"?")[1], 40);
    }
}

#[test]
fn listeners_of_a_device_leave() {
    with_a_device::<TcpListener>();
}

#[test]
fn sockets_of_a_device_leave() {
    with_a_device::<UdpSocket>();
}

/// Without a privilege the kernel moves no socket from its interface (kernel: sock_bindtoindex).
#[test]
fn listeners_of_a_device_leave_without_a_privilege() {
    util::as_user(
        65_534,
        "leaving without a privilege",
        with_a_device::<TcpListener>,
    );
}

#[test]
fn sockets_of_a_device_leave_without_a_privilege() {
    util::as_user(
        65_534,
        "leaving without a privilege",
        with_a_device::<UdpSocket>,
    );
}
