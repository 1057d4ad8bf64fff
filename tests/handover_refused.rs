//! A group that cannot be handed over: both sides are told why, nothing leaks, and the sender goes on.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/handover.rs"]
mod handover;
#[path = "util/members.rs"]
mod members;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use engine::frame;
use handover::{goes_on, pair, pass};
use reuseport::{Error, Group, Options, ReusePort, Std};
use util::{addr_of, as_user, in_child, is_child};

const NOBODY: u32 = 65534;

#[test]
fn who_dies_midway_changes_nothing() {
    let group = Options::new().group("127.0.0.1:0", 300).unwrap();
    let addr = group.local_addr();
    let roster = group.roster();
    let what = format!("cannot hand the group on {addr} over: ");
    // Gone before, and gone before it has all: the answer to the first portion never comes.
    let (a, b) = pair();
    drop(b);
    let error = roster.hand_over(&a).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().starts_with(&what)),
        (ErrorKind::BrokenPipe, true),
        "{error}"
    );
    goes_on(&group);
    let (a, mut b) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            b.read_exact(&mut [0; 8]).unwrap();
        });
        let error = roster.hand_over(&a).unwrap_err();
        let kinds = [
            ErrorKind::BrokenPipe,
            ErrorKind::UnexpectedEof,
            ErrorKind::ConnectionReset,
        ];
        assert!(kinds.contains(&error.kind()), "{error}");
    });
    goes_on(&group);
    // It never answers.
    let (a, _b) = pair();
    a.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(
        roster.hand_over(&a).unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    goes_on(&group);
    // The sender dies.
    let (a, b) = pair();
    drop(a);
    let error = Group::<TcpListener>::receive(&b).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(
        error.to_string().starts_with("cannot receive a group: "),
        "{error}"
    );
}

#[test]
fn another_kind_is_refused_on_both_sides() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let addr = group.local_addr();
    let (sent, received) = pass::<_, UdpSocket>(&group.roster());
    let why = "cannot receive a group: its members are TCP sockets, and UDP was meant";
    let received = received.unwrap_err();
    assert_eq!(
        (received.kind(), received.to_string().as_str()),
        (ErrorKind::InvalidInput, why)
    );
    let sent = sent.unwrap_err();
    assert_eq!(
        (sent.kind(), sent.to_string()),
        (
            ErrorKind::ConnectionRefused,
            format!("cannot hand the group on {addr} over: the other process refuses: {why}")
        )
    );
    goes_on(&group);
    // The next one takes it.
    let (sent, received) = pass::<_, TcpListener>(&group.roster());
    sent.unwrap();
    assert_eq!(received.unwrap().len(), 2);
}

/// What a receiver says of these bytes, and what it answers.
fn receive(bytes: &[u8]) -> (Error, Vec<u8>) {
    let (mut a, b) = pair();
    a.write_all(bytes).unwrap();
    let error = Group::<TcpListener>::receive(&b).unwrap_err();
    drop(b);
    let mut answer = Vec::new();
    // It has not read all of it, perhaps.
    let _ = a.read_to_end(&mut answer);
    (error, answer)
}

#[test]
fn what_is_no_group_is_refused() {
    let cases: [(&[u8], &str); 5] = [
        (b"HTTP/1.1 400", "the other process speaks another language"),
        (b"reuseport", "the other process speaks another language"),
        (
            b"reuseport\x02\x06",
            "the other process speaks version 2 of the hand-over, and this one 1",
        ),
        (
            b"reuseport\x01\x0b",
            "the other process said Taking, and its members were expected",
        ),
        (
            b"reuseport\x01\xff",
            "the other process said something unknown (255)",
        ),
    ];
    for (payload, why) in cases {
        let (error, _) = receive(&frame(payload));
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(error.to_string(), format!("cannot receive a group: {why}"));
    }
    let broken = "cannot receive a group: the message is broken";
    for body in [
        &b""[..],
        &[2, 0, 0, 0, 0, 1],
        &[0, 1, 0, 0, 0],
        &[0, 1, 0, 0, 0, 1, 9],
        // A member that comes with no socket.
        &[0, 1, 0, 0, 0, 1],
    ] {
        let (error, answer) = receive(&frame(&[b"reuseport\x01\x06", body].concat()));
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(error.to_string(), broken);
        // The other side is told.
        let refusal = [b"reuseport\x01\x02", broken.as_bytes()].concat();
        assert_eq!(answer, frame(&refusal));
    }
    let (error, _) = receive(&frame(b"reuseport\x01\x06\x00"));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "cannot receive a group: it has no member"
    );
}

/// Streams of async runtimes do not block.
#[test]
fn a_stream_may_be_nonblocking() {
    let group = Options::new().group("127.0.0.1:0", 300).unwrap();
    let (a, b) = pair();
    for end in [&a, &b] {
        end.set_nonblocking(true).unwrap();
    }
    let received = thread::scope(|scope| {
        let roster = group.roster();
        let a = &a;
        let sender = scope.spawn(move || roster.hand_over(a));
        let received = Group::<TcpListener>::receive(&b).unwrap();
        sender.join().unwrap().unwrap();
        received
    });
    assert_eq!(received.len(), 300);
}

#[test]
fn a_group_with_a_stranger_in_it_is_refused() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let addr = group.local_addr();
    let stranger = Options::new().join(true).group(addr, 1).unwrap();
    let error = group.roster().hand_over(&pair().0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot lend the members of the group on {addr}: a socket shares its port that it did \
             not open"
        )
    );
    drop(stranger);
    let (sent, received) = pass::<_, TcpListener>(&group.roster());
    sent.unwrap();
    drop(received.unwrap());
}

/// It would get nothing in the other process, until that steers.
#[test]
fn a_group_of_which_a_member_is_leaving_is_refused() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let leaving = group.roster().leave(1).unwrap();
    let (sent, received) = pass::<_, TcpListener>(&group.roster());
    let why = format!(
        "cannot lend the members of the group on {}: a member is leaving, or has left and is not \
         closed",
        group.local_addr()
    );
    let sent = sent.unwrap_err();
    assert_eq!(
        (sent.kind(), sent.to_string()),
        (ErrorKind::InvalidInput, why.clone())
    );
    assert!(received.unwrap_err().to_string().ends_with(&why));
    drop(leaving);
    goes_on(&group);
    let (sent, received) = pass::<_, TcpListener>(&group.roster());
    sent.unwrap();
    assert_eq!(received.unwrap().len(), 2);
}

#[test]
fn another_user_gets_nothing() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let me = rustix::process::getuid().as_raw();
    // The credentials of a pair are those of whom has made it.
    let Some((a, b)) = as_user(NOBODY, "a pair of another user", pair) else {
        return;
    };
    let why = format!("the other process is user {NOBODY}'s, and");
    let error = group.roster().hand_over(&a).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot hand the group on {} over: {why} the sockets are user {me}'s",
            group.local_addr()
        )
    );
    let error = Group::<TcpListener>::receive(&b).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(
        error.to_string(),
        format!("cannot receive a group: {why} this one is user {me}'s")
    );
    goes_on(&group);
}

/// In a process of its own, which counts its descriptors.
#[test]
fn nothing_leaks() {
    if !is_child("nothing_leaks") {
        return in_child("nothing_leaks");
    }
    let group = Options::new().group("127.0.0.1:0", 300).unwrap();
    let roster = group.roster();
    let before = util::descriptors();
    for _ in 0..10 {
        let (a, mut b) = pair();
        thread::scope(|scope| {
            scope.spawn(move || b.read_exact(&mut [0; 8]).unwrap());
            roster.hand_over(&a).unwrap_err();
        });
    }
    let (sent, received) = pass::<_, UdpSocket>(&roster);
    sent.unwrap_err();
    received.unwrap_err();
    assert_eq!(util::descriptors(), before);
    let (sent, received) = pass::<_, TcpListener>(&roster);
    sent.unwrap();
    assert_eq!(util::descriptors(), before + 300);
    // Unclaimed members are closed with the group.
    drop(received.unwrap());
    assert_eq!(util::descriptors(), before);
    let addr = group.local_addr();
    drop(group);
    assert_eq!(
        TcpStream::connect(addr).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    let _ = addr_of(&Std::listen(addr).unwrap());
}

#[test]
fn what_is_no_stream_is_refused() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let none = std::fs::File::open("/dev/null").unwrap();
    let what = format!("cannot hand the group on {} over: ", group.local_addr());
    let error = group.roster().hand_over(&none).unwrap_err();
    assert!(error.to_string().starts_with(&what), "{error}");
    assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOTSOCK));
    goes_on(&group);
    let error = Group::<TcpListener>::receive(&none).unwrap_err();
    assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOTSOCK));
    let (a, _b) = pair();
    a.shutdown(std::net::Shutdown::Both).unwrap();
    let error = group.roster().hand_over(&a).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    goes_on(&group);
}
