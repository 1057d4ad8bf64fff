//! A member stays where its `Leaving` is dropped, and nothing is lost in whichever order things are dropped.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
mod util;

use std::net::{TcpListener, TcpStream, UdpSocket};

use members::{Kind, Open, PLACES, len, places, stays_pending, weights};
use reuseport::{ConnectionIds, Family, Leaving, Options, Steering};
use util::{assert_drained, in_child, is_child};

/// Whoever changes his mind has a member that is as it was.
fn what_is_dropped_stays<S: Kind>(options: &Options, payload: &[u8]) {
    for place in PLACES {
        let mut open = Open::<S>::new(options, place, 3);
        let gets = |open: &Open<S>, n| open.counts(n, payload)[1] > 0;
        drop(open.roster.leave(1).unwrap());
        assert!(gets(&open, 100), "{place:?}");
        let leaving = open.roster.leave(1).unwrap();
        assert!(!gets(&open, 50), "{place:?}");
        drop(leaving);
        assert!(gets(&open, 100), "{place:?}");
        assert_eq!(open.roster.places(), [Some(0), Some(1), Some(2)]);
        open.leave(1);
        assert!(open.counts(50, payload)[1..2] == [0], "{place:?}");
        assert_eq!(open.places(), [0, 2]);
    }
}

#[test]
fn a_listener_whose_leaving_is_dropped_stays() {
    what_is_dropped_stays::<TcpListener>(&Options::new(), b"?");
    what_is_dropped_stays::<TcpListener>(&weights(&[1, 2, 1]), b"?");
}

#[test]
fn a_socket_whose_leaving_is_dropped_stays() {
    what_is_dropped_stays::<UdpSocket>(&Options::new(), b"?");
    what_is_dropped_stays::<UdpSocket>(&weights(&[1, 2, 1]), b"?");
}

#[test]
fn a_socket_with_connection_ids_whose_leaving_is_dropped_stays() {
    let ids = Steering::ConnectionIds(ConnectionIds::quic());
    what_is_dropped_stays::<UdpSocket>(&Options::new().steering(ids), b"?");
}

#[test]
fn no_privilege_is_needed() {
    util::as_user(65_534, "leaving without a privilege", || {
        what_is_dropped_stays::<TcpListener>(&Options::new(), b"?");
        what_is_dropped_stays::<UdpSocket>(&Options::new(), b"?");
    });
}

/// Connections wait in the queue meanwhile, and stay there.
#[test]
fn a_listener_whose_future_is_dropped_keeps_its_queue() {
    for place in PLACES {
        let mut open = Open::<TcpListener>::new(&weights(&[0, 1, 0]), place, 3);
        let connect = || TcpStream::connect(open.way()).unwrap();
        let mut clients = vec![connect()];
        util::until(|| (len(open.get(1)) == 1).then_some(()));
        let mut leaving = open.roster.leave(1).unwrap();
        assert!(stays_pending(&mut leaving));
        drop(leaving);
        // At once it gets its share again, which is all here.
        clients.extend((0..3).map(|_| connect()));
        util::until(|| (len(open.get(1)) == clients.len()).then_some(()));
        for _ in &clients {
            assert!(open.get(1).take());
        }
        assert_drained(smol::block_on(open.roster.leave(1).unwrap()));
        drop(open.remove(1));
        assert_eq!(open.places(), [0, 2]);
    }
}

/// In every order, at every stage: nothing is held that others do not hold, and no port is lost.
#[test]
fn dropping_in_any_order_loses_nothing() {
    const NAME: &str = "dropping_in_any_order_loses_nothing";
    if !is_child(NAME) {
        // Alone in its process, whose descriptors are counted.
        return in_child(NAME);
    }
    // The reactor lives as long as the process, and is there when it has had a socket.
    drop(smol::Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap());
    for place in PLACES {
        in_any_order::<TcpListener>(place);
        in_any_order::<UdpSocket>(place);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// It has not been asked how it goes.
    Begun,
    Polled,
    Ready,
}

fn in_any_order<S: Kind>(place: (Family, &str)) {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for stage in [Stage::Begun, Stage::Polled, Stage::Ready] {
        for order in ORDERS {
            for is_kept in [false, true] {
                let mut open = Open::<S>::new(&weights(&[1, 1, 1]), place, 3);
                let roster = open.roster.clone();
                let before = util::descriptors() - 1;
                let kept = is_kept.then(|| roster.clone());
                let listener = open.remove(1);
                let mut leaving = roster.leave(1).unwrap();
                poll(&mut leaving, stage);
                // The group's own table is dropped with the others.
                let Open { ways, members, .. } = open;
                let mut things: [Option<Box<dyn std::any::Any>>; 3] = [
                    Some(Box::new(roster)),
                    Some(Box::new(leaving)),
                    Some(Box::new(listener)),
                ];
                for thing in order {
                    drop(things[thing].take());
                }
                util::until(|| (util::descriptors() == before).then_some(()));
                let rest = [&members[0].1, &members[1].1];
                for n in 0..100 {
                    let client = S::client(ways[n % ways.len()]);
                    let taken = || rest.iter().any(|socket| socket.take()).then_some(());
                    util::until_sent(|| client.send(b"?"), taken);
                }
                if let Some(kept) = kept {
                    assert_eq!(places(&kept), [0, 2], "{place:?} {stage:?} {order:?}");
                }
            }
        }
    }
}

fn poll(leaving: &mut Leaving, stage: Stage) {
    match stage {
        Stage::Begun => {}
        // It may be ready, too.
        Stage::Polled => drop(smol::block_on(smol::future::poll_once(leaving))),
        Stage::Ready => assert_drained(smol::block_on(leaving)),
    }
}
