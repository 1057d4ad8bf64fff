//! What a member that leaves waits for, and what its timeout counts.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use members::{
    HERE, Kind, Open, PLACES, deferred, half_open_handshakes_are_waited_for, len, stays_pending,
    weights,
};
use reuseport::{Guarantee, Options, Spread};
use util::assert_drained;

#[test]
fn handshakes_that_are_under_way() {
    half_open_handshakes_are_waited_for();
}

#[test]
fn no_privilege_is_needed() {
    util::as_user(65_534, "leaving without a privilege", || {
        half_open_handshakes_are_waited_for();
        datagrams_are_read_to_the_end();
    });
}

#[test]
fn at_the_timeout_half_open_handshakes_are_counted() {
    let mut open = Open::<TcpListener>::new(&deferred(weights(&[1, 0])), HERE, 2);
    let mut clients: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(open.way()).unwrap())
        .collect();
    // One of them is queued, and two are not.
    clients[1].write_all(b"!").unwrap();
    util::until(|| (len(open.get(0)) == 1).then_some(()));
    let leaving = open.roster.leave(0).unwrap();
    let drained = leaving.timeout(Duration::from_millis(200)).wait().unwrap();
    assert_eq!((drained.unaccepted, drained.unread), (3, false));
    drop(open.remove(0));
    assert_eq!(open.places(), [1]);
    let error = clients[1].read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// What nobody accepts is lost at the timeout, and counted.
#[test]
fn the_timeout_tells_how_many_are_left() {
    for place in PLACES {
        for waiting in [1, 7] {
            let mut open = Open::<TcpListener>::new(&weights(&[0, 1, 0]), place, 3);
            let _clients: Vec<_> = (0..waiting)
                .map(|_| TcpStream::connect(open.way()).unwrap())
                .collect();
            util::until(|| (len(open.get(1)) == waiting).then_some(()));
            let leaving = open.roster.leave(1).unwrap();
            let drained = leaving.timeout(Duration::from_millis(100)).wait().unwrap();
            assert!(!drained.is_empty());
            let counted = (drained.unaccepted as usize, drained.unread);
            assert_eq!(counted, (waiting, false), "{place:?}");
            // It is kept open, stands in its place, and gets nothing all the same.
            let kept = open.remove(1);
            assert_eq!(open.roster.places(), [Some(0), None, Some(2)]);
            assert_eq!(open.counts(50, b"?").iter().sum::<usize>(), 50);
            drop(kept);
            assert_eq!(open.places(), [0, 2]);
        }
    }
}

/// Datagrams that were queued before are read, and a child that has the socket too gets none.
fn datagrams_are_read_to_the_end() {
    for place in PLACES {
        let mut open = Open::<UdpSocket>::new(&weights(&[0, 1, 0]), place, 3);
        let copy = open.get(1).try_clone().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60").stdin(std::os::fd::OwnedFd::from(copy));
        let mut child = util::spawn(&mut command).unwrap();
        // It has the copy as long as it is there.
        drop(command);
        let client = UdpSocket::client(open.way());
        (0..5).for_each(|_| client.send(b"?"));
        util::until_sent(
            || client.send(b"?"),
            || open.get(1).peek(&mut [0]).ok().map(drop),
        );
        let mut leaving = open.roster.leave(1).unwrap();
        assert_eq!(leaving.guarantee(), Guarantee::Lossless);
        let after: usize = open
            .members
            .iter()
            .filter(|(number, _)| *number != 1)
            .map(|(_, socket)| {
                (0..50).for_each(|_| UdpSocket::client(open.way()).send(b"?"));
                util::until(|| socket.take().then_some(1))
            })
            .sum();
        assert_eq!(after, 2);
        let mut read = 0;
        while open.get(1).peek(&mut [0]).is_ok() {
            assert!(stays_pending(&mut leaving), "{place:?} {read}");
            assert!(open.get(1).take());
            read += 1;
        }
        assert!((1..=6).contains(&read), "none but those before: {read}");
        assert_drained(smol::block_on(leaving));
        let left = open.remove(1);
        // What it has read is still to be answered.
        let asked = UdpSocket::bind((left.local_addr().unwrap().ip(), 0)).unwrap();
        left.send_to(b"!", asked.local_addr().unwrap()).unwrap();
        asked.recv(&mut [0]).unwrap();
        drop(left);
        while open.members.iter().any(|(_, socket)| socket.take()) {}
        // The copy would have a third.
        assert_eq!(open.counts(100, b"?").iter().sum::<usize>(), 100);
        assert_eq!(open.places(), [0, 2]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn datagrams() {
    datagrams_are_read_to_the_end();
}

#[test]
fn at_the_timeout_unread_datagrams_are_told() {
    let open = Open::<UdpSocket>::new(&weights(&[0, 1]), HERE, 2);
    let client = UdpSocket::client(open.way());
    util::until_sent(
        || (0..3).for_each(|_| client.send(b"?")),
        || open.get(1).peek(&mut [0]).ok(),
    );
    let leaving = open.roster.leave(1).unwrap();
    let drained = leaving.timeout(Duration::from_millis(50)).wait().unwrap();
    assert_eq!((drained.unaccepted, drained.unread), (0, true));
    assert!(!drained.is_empty());
}

/// A worker that stops before it is told loses what it had, and is told so.
#[test]
fn a_listener_that_is_closed_too_early_is_counted() {
    let mut open = Open::<TcpListener>::new(&weights(&[0, 1]), HERE, 2);
    let _clients: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(open.way()).unwrap())
        .collect();
    util::until(|| (len(open.get(1)) == 3).then_some(()));
    let mut leaving = open.roster.leave(1).unwrap();
    assert!(stays_pending(&mut leaving));
    drop(open.remove(1));
    assert_eq!(smol::block_on(leaving).unwrap().unaccepted, 3);
    assert_eq!(open.places(), [0]);
    assert_eq!(open.counts(20, b"?")[0], 20);
}

/// The namespace of whoever waits need not be that of the group.
#[test]
fn a_group_of_another_namespace_leaves() {
    let made = util::in_namespace("leaving from another namespace", || {
        let mut open = Open::<TcpListener>::new(&deferred(weights(&[0, 1])), HERE, 2);
        let client = TcpStream::connect(open.way()).unwrap();
        let leaving = open.roster.leave(1).unwrap();
        open.ways.clear();
        (open, client, leaving)
    });
    let Some((open, mut client, mut leaving)) = made else {
        return;
    };
    assert!(stays_pending(&mut leaving), "a handshake is under way");
    client.write_all(b"!").unwrap();
    util::until(|| open.get(1).accept().ok());
    assert_drained(smol::block_on(leaving));
}

/// With tcp_migrate_req the kernel hands over what is left, so that nobody waits.
#[test]
fn a_kernel_that_migrates_hands_over() {
    util::in_namespace("that connections migrate", || {
        std::fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1").unwrap();
        for place in PLACES {
            // A blocking listener too, whose worker is elsewhere.
            let mut open = Open::<TcpListener>::new(&weights(&[0, 1, 0]), place, 3);
            let mut clients: Vec<_> = (0..20)
                .map(|_| TcpStream::connect(open.way()).unwrap())
                .collect();
            util::until(|| (len(open.get(1)) == 20).then_some(()));
            assert_drained(open.roster.leave(1).unwrap().wait());
            drop(open.remove(1));
            assert_eq!(open.places(), [0, 2]);
            for _ in 0..20 {
                let accept = || open.members.iter().find_map(|(_, own)| own.accept().ok());
                let (mut stream, _) = util::until(accept);
                stream.write_all(b"!").unwrap();
            }
            for client in &mut clients {
                client.read_exact(&mut [0]).unwrap();
            }
        }
    });
}

/// What waits in a queue of all is the others' too.
#[test]
fn of_one_queue_a_member_leaves_at_once() {
    let options = Options::new().spread(Spread::Queue);
    let mut open = Open::<TcpListener>::new(&options, HERE, 3);
    let clients: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(open.way()).unwrap())
        .collect();
    util::until(|| (len(open.get(1)) == clients.len()).then_some(()));
    let leaving = open.roster.leave(1).unwrap();
    assert_eq!(leaving.guarantee(), Guarantee::Lossless);
    assert_drained(leaving.wait());
    assert!(open.roster.has_left(1));
    drop(open.remove(1));
    for _ in clients {
        assert!(open.get(2).take());
    }
    assert_eq!(open.join(), 1);
    TcpStream::connect(open.way()).unwrap();
    util::until(|| open.get(1).take().then_some(()));
    open.leave(0);
    open.leave(2);
    assert_eq!(open.taker(b"?"), 1);
    let error = open.roster.leave(1).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(": no other stays to take its connections"),
        "{error}"
    );
}

/// Without traffic it takes a grace period or two of the kernel.
#[test]
fn an_idle_member_leaves_soon() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 2);
    open.members
        .iter()
        .for_each(|(_, listener)| listener.set_nonblocking(false).unwrap());
    let mut times: Vec<_> = (0..21)
        .map(|_| {
            let start = Instant::now();
            open.leave(1);
            let time = start.elapsed();
            assert_eq!(open.join(), 1);
            open.get(1).set_nonblocking(false).unwrap();
            time
        })
        .collect();
    times.sort();
    println!(
        "left in: median {:?}, {:?} to {:?}",
        times[10], times[0], times[20]
    );
    assert!(times[10] < Duration::from_secs(1), "{times:?}");
}
