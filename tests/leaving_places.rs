//! Who stands where while members leave, are dropped without a word, and join again.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
mod util;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};

use members::{HERE, Kind, Open, PLACES, grace_period, len, program, stays_pending, weights};
use reuseport::{ConnectionIds, Guarantee, Options, Steering};
use util::assert_drained;

/// Each place is that of the member that the table has there.
#[track_caller]
fn assert_places<S: Kind>(open: &Open<S>, n: usize) {
    let places = open.places();
    for (place, number) in places.iter().enumerate() {
        open.roster.steer(&program(place)).unwrap();
        assert_eq!(open.taker(b"?"), *number, "{place} of {places:?}");
    }
    assert_eq!(places.len(), n);
}

/// Whoever is dropped without a word is missed at the next call.
fn a_plain_drop_is_noticed<S: Kind>() {
    for place in PLACES {
        let mut open = Open::<S>::new(&weights(&[1, 0, 0, 5]), place, 4);
        open.drop_plainly(0);
        assert_eq!(open.roster.places(), [Some(3), Some(1), Some(2)]);
        assert_eq!(open.counts(30, b"?")[3], 30, "{place:?}");
        assert!(open.roster.has_left(0));
        // Noticed by steering itself.
        open.drop_plainly(3);
        open.roster
            .steer(&Steering::Weights(vec![0, 1, 0, 0]))
            .unwrap();
        assert_eq!(open.counts(30, b"?")[1], 30, "{place:?}");
        assert_eq!(open.roster.places(), [Some(2), Some(1)]);
        // And by joining.
        open.drop_plainly(2);
        assert_eq!(open.join(), 0);
        assert_eq!(open.roster.places(), [Some(1), Some(0)]);
        assert_eq!(open.counts(30, b"?")[1], 30, "{place:?}");
        // The last that was there takes all along, and any order will do.
        open.drop_plainly(1);
        open.drop_plainly(0);
        assert!(open.roster.places().is_empty());
        let error = open.roster.steer(&Steering::Hash).unwrap_err();
        assert!(
            error.to_string().ends_with("none of its members is open"),
            "{error}"
        );
    }
}

#[test]
fn a_listener_that_is_dropped_is_noticed() {
    a_plain_drop_is_noticed::<TcpListener>();
}

#[test]
fn a_socket_that_is_dropped_is_noticed() {
    a_plain_drop_is_noticed::<UdpSocket>();
}

/// What comes is taken, even if all are leaving.
fn the_last_that_stays_goes<S: Kind>() {
    for by_close in [true, false] {
        for ids in [false, true] {
            let steering = match ids && !S::IS_TCP {
                true => Steering::ConnectionIds(ConnectionIds::quic()),
                false => Steering::Hash,
            };
            let options = Options::new().steering(steering.clone());
            let mut open = Open::<S>::new(&options, HERE, 3);
            let leaving = [0, 1].map(|number| open.roster.leave(number).unwrap());
            if by_close {
                open.roster.close(2).unwrap();
            }
            open.drop_plainly(2);
            assert_eq!(open.roster.places(), [Some(0), Some(1)]);
            assert_eq!(open.counts(50, b"?").iter().sum::<usize>(), 50);
            open.roster.steer(&steering).unwrap();
            // Whoever joins gets everything.
            assert_eq!(open.join(), 2);
            assert_eq!(open.counts(50, b"?")[2], 50);
            for leaving in leaving {
                let number = leaving.member();
                assert_drained(leaving.wait());
                drop(open.remove(number));
            }
            util::until(|| (open.roster.has_left(0) && open.roster.has_left(1)).then_some(()));
            assert_eq!(open.places(), [2]);
        }
    }
}

#[test]
fn the_last_listener_that_stays_goes() {
    the_last_that_stays_goes::<TcpListener>();
}

#[test]
fn the_last_socket_that_stays_goes() {
    the_last_that_stays_goes::<UdpSocket>();
}

/// A member that was empty gets what is new again when the last that stays is dropped, and has left when
/// another has joined and it is empty again.
#[test]
fn what_came_after_the_last_that_stays_is_waited_for() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 2);
    let mut leaving = open.roster.leave(0).unwrap();
    // It is empty by then, and has not been asked.
    (0..20).for_each(|_| grace_period());
    open.drop_plainly(1);
    let client = TcpStream::connect(open.way()).unwrap();
    util::until(|| (len(open.get(0)) == 1).then_some(()));
    assert!(stays_pending(&mut leaving));
    let third = open.roster.join().unwrap();
    (0..20).for_each(|_| grace_period());
    assert!(stays_pending(&mut leaving));
    assert!(open.get(0).take());
    assert_drained(leaving.wait());
    assert!(open.roster.has_left(0));
    drop((client, third));
}

#[test]
fn the_last_that_is_left_does_not_leave() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 2);
    let leaving = open.roster.leave(0).unwrap();
    open.drop_plainly(1);
    let error = leaving
        .timeout(std::time::Duration::from_millis(50))
        .wait()
        .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("member 0 of the group on "), "{text}");
    assert!(
        text.ends_with(" cannot leave: no other stays to take its connections"),
        "{text}"
    );
    assert_eq!(open.roster.places(), [Some(0)]);
    assert_eq!(open.counts(3, b"?")[0], 3);
}

/// The kernel's order depends on who went first, also where the other left by this crate.
fn a_drop_before_another_leaves_is_noticed<S: Kind>() {
    for place in PLACES {
        for by_close in [true, false] {
            let mut open = Open::<S>::new(&weights(&[1; 5]), place, 5);
            let leaving = (!by_close).then(|| open.roster.leave(1).unwrap());
            open.drop_plainly(0);
            match leaving {
                Some(leaving) => assert_drained(leaving.wait()),
                None => open.roster.close(1).unwrap(),
            }
            drop(open.remove(1));
            assert_places(&open, 3);
        }
    }
}

#[test]
fn a_listener_that_is_dropped_before_another_leaves() {
    a_drop_before_another_leaves_is_noticed::<TcpListener>();
}

#[test]
fn a_socket_that_is_dropped_before_another_leaves() {
    a_drop_before_another_leaves_is_noticed::<UdpSocket>();
}

/// When two are dropped, nothing tells which was first.
#[test]
fn two_plain_drops_leave_no_order() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 4);
    open.drop_plainly(0);
    open.drop_plainly(1);
    assert!(open.roster.places().is_empty());
    let error = open
        .roster
        .steer(&Steering::Weights(vec![1; 4]))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(
        text.ends_with("or several of its members were closed at once"),
        "{text}"
    );
    // Only by what needs no places.
    open.roster.steer(&program(1)).unwrap();
    open.roster.steer(&Steering::Hash).unwrap();
    let leaving = open.roster.leave(2).unwrap();
    assert_eq!(leaving.guarantee(), Guarantee::None);
    assert_drained(leaving.wait());
    // It goes on getting what is new, and has its number until it is closed.
    assert!(open.counts(50, b"?")[2] > 0);
    assert!(!open.roster.has_left(2));
    open.drop_plainly(2);
    // Of one alone it is known where it stands, when the drain has let go of the other.
    util::until(|| (open.roster.places() == [Some(3)]).then_some(()));
    assert!(open.roster.has_left(2));
    assert_eq!(open.join(), 0);
    let counts = open.counts(50, b"?");
    assert!(counts[0] > 0 && counts[3] > 0, "{counts:?}");
    assert_places(&open, 2);
}

/// A group whose order is lost goes on, and others can join it.
#[test]
fn others_join_where_no_order_is_left() {
    let mut open = Open::<TcpListener>::new(&weights(&[1; 4]), HERE, 4);
    open.drop_plainly(0);
    open.drop_plainly(1);
    assert!(open.roster.places().is_empty());
    assert_eq!(open.join(), 0);
    assert_eq!(open.counts(50, b"?").iter().sum::<usize>(), 50);
}

/// A number is free as soon as its member has left, also while its owner has the socket still; and the
/// newcomer is not the one that left.
fn a_newcomer_is_not_the_one_that_left<S: Kind>() {
    let mut open = Open::<S>::new(&Options::new(), HERE, 3);
    let leaving = open.roster.leave(1).unwrap();
    // Until then it is not.
    assert_eq!(open.join(), 3);
    open.leave(3);
    assert_drained(leaving.wait());
    assert!(open.roster.has_left(1));
    let left = open.remove(1);
    assert_eq!(open.join(), 1);
    assert!(!open.roster.has_left(1));
    assert!(open.counts(50, b"?")[1] > 0);
    drop(left);
    assert_places(&open, 3);
    assert!(!open.roster.has_left(1));
}

#[test]
fn a_listener_joins_with_the_number_of_one_that_left() {
    a_newcomer_is_not_the_one_that_left::<TcpListener>();
}

#[test]
fn a_socket_joins_with_the_number_of_one_that_left() {
    a_newcomer_is_not_the_one_that_left::<UdpSocket>();
}

/// Nor is it the one that was closed while it was leaving.
fn a_newcomer_is_not_the_one_that_was_closed<S: Kind>() {
    let mut open = Open::<S>::new(&Options::new(), HERE, 3);
    let leaving = open.roster.leave(1).unwrap();
    open.roster.close(1).unwrap();
    drop(open.remove(1));
    assert_eq!(open.join(), 1);
    assert_drained(leaving.wait());
    assert_eq!(open.places(), [0, 2, 1]);

    // Nor does it stay for another.
    let leaving = open.roster.leave(1).unwrap();
    open.roster.close(1).unwrap();
    drop(open.remove(1));
    assert_eq!(open.join(), 1);
    let again = open.roster.leave(1).unwrap();
    drop(leaving);
    assert_eq!(open.counts(50, b"?")[1], 0);
    assert_drained(again.wait());
    drop(open.remove(1));
    assert_eq!(open.places(), [0, 2]);
}

#[test]
fn a_listener_joins_with_the_number_of_one_that_was_closed() {
    a_newcomer_is_not_the_one_that_was_closed::<TcpListener>();
}

#[test]
fn a_socket_joins_with_the_number_of_one_that_was_closed() {
    a_newcomer_is_not_the_one_that_was_closed::<UdpSocket>();
}
