//! Groups that are handed over within this process.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use reuseport::{Error, Group, Member, Roster, Steering};

use crate::members::{Kind, program};
use crate::util::{PATIENCE, until_sent};

/// Two ends that wait for each other for a while.
pub fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    for end in [&a, &b] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (a, b)
}

/// Hands a group over, and takes it as one of that kind.
pub fn pass<S: Kind, T: Kind>(roster: &Roster<S>) -> (Result<(), Error>, Result<Group<T>, Error>) {
    let (a, b) = pair();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = roster.hand_over(&a);
            drop(a);
            sent
        });
        let received = Group::receive(&b);
        drop(b);
        (sender.join().unwrap(), received)
    })
}

/// Takes one request without waiting, if there is one.
pub fn take<S: Kind>(member: &Member<S>) -> bool {
    let socket = S::from(member.as_fd().try_clone_to_owned().unwrap());
    socket.stop_blocking();
    socket.take()
}

/// Each member gets what is steered to its place, and nothing else.
#[track_caller]
pub fn assert_steered<S: Kind>(roster: &Roster<S>, members: &[Member<S>], to: SocketAddr) {
    let places = roster.places();
    assert_eq!(places.len(), members.len());
    for (place, number) in places.iter().enumerate() {
        roster.steer(&program(place)).unwrap();
        let client = S::client(to);
        let taker = || members.iter().find(|member| take(member));
        let (taker, _) = until_sent(|| client.send(b"?"), taker);
        assert_eq!(Some(taker.number()), *number, "{place} of {places:?}");
        assert!(!members.iter().any(take));
    }
    roster.steer(&Steering::Hash).unwrap();
}

/// What is refused changes nothing: the sender steers its group as before.
#[track_caller]
pub fn goes_on(group: &Group<TcpListener>) {
    let members: Vec<_> = group.iter().collect();
    let roster = group.roster();
    for place in [0, 1] {
        roster.steer(&program(place)).unwrap();
        let _client = <TcpListener as Kind>::client(group.local_addr());
        assert!(take(members[place]));
    }
    roster.steer(&Steering::Hash).unwrap();
    assert_eq!(roster.places().len(), group.len());
}
