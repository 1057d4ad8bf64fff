//! Members leave a group while their workers accept, in every runtime.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
#[macro_use]
mod util;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

use members::{PLACES, grace_period, len, places, stays_pending};
use reuseport::{AsyncStd, Drained, Guarantee, Leaving, Options, Roster, Smol, Std, Tokio};
use smol::future;
use util::{Runtime, assert_drained};

#[test]
fn what_leaves_can_be_sent_to_other_threads() {
    fn check<T: Send + Sync + std::fmt::Debug + 'static>() {}
    check::<Leaving>();
    check::<Drained>();
    check::<Roster<TcpListener>>();
}

/// Of three the second leaves, with connections in its queue, and comes back.
fn one_leaves_and_another_joins<R: Runtime>() {
    R::block_on(async {
        let group = Options::new().group("127.0.0.1:0", 3).unwrap();
        let to = group.local_addr();
        let roster = group.roster();
        let mut listeners: Vec<_> = group
            .into_iter()
            .map(|member| member.attach::<R>().unwrap())
            .collect();
        let mut clients = Vec::new();
        while listeners.iter().any(|listener| len(listener) == 0) {
            clients.push(TcpStream::connect(to).unwrap());
        }
        let all = || listeners.iter().map(len).sum::<usize>();
        util::until(|| (all() == clients.len()).then_some(()));
        let waiting = len(&listeners[1]);

        let mut leaving = roster.leave(1).unwrap();
        assert_eq!(
            (leaving.member(), leaving.guarantee()),
            (1, Guarantee::Lossless)
        );
        assert!(!roster.has_left(1));
        clients.extend((0..100).map(|_| TcpStream::connect(to).unwrap()));
        util::until(|| (all() == clients.len()).then_some(()));
        assert_eq!(len(&listeners[1]), waiting, "nothing new comes to it");

        for _ in 0..waiting {
            assert!(stays_pending(&mut leaving), "connections wait");
            R::accept(&listeners[1]).await.unwrap();
        }
        assert!(!roster.has_left(1));
        assert_drained(leaving.await);
        assert!(roster.has_left(1));
        drop(listeners.remove(1));
        assert_eq!(places(&roster), [0, 2]);

        let all = || listeners.iter().map(len).sum::<usize>();
        let before = all();
        clients.extend((0..100).map(|_| TcpStream::connect(to).unwrap()));
        util::until(|| (all() == before + 100).then_some(()));

        let again = roster.join().unwrap();
        assert_eq!((again.number(), places(&roster)), (1, vec![0, 2, 1]));
        assert!(!roster.has_left(1));
        let again = again.attach::<R>().unwrap();
        let before: Vec<_> = listeners.iter().map(len).collect();
        clients.extend((0..300).map(|_| TcpStream::connect(to).unwrap()));
        let new = || {
            let shares = listeners.iter().map(len).zip(&before);
            let mut shares: Vec<_> = shares.map(|(now, before)| now - before).collect();
            shares.push(len(&again));
            shares
        };
        util::until(|| (new().iter().sum::<usize>() == 300).then_some(()));
        // A share of 300 is below 50 by chance once in 10^10.
        assert!(new().iter().all(|&share| share > 50), "{:?}", new());
        R::accept(&again).await.unwrap();
    });
}

on_every_runtime!(one_leaves_and_another_joins);

#[test]
fn no_privilege_is_needed() {
    util::as_user(
        65_534,
        "leaving without a privilege",
        one_leaves_and_another_joins::<Std>,
    );
}

/// A thread that waits in the kernel for a connection is told that none comes any more.
#[test]
fn a_blocking_worker_is_woken() {
    for (_, prefix) in PLACES {
        let group = Options::new().group(format!("{prefix}0"), 3).unwrap();
        let roster = group.roster();
        let workers: Vec<_> = group
            .into_iter()
            .map(|member| {
                let roster = roster.clone();
                std::thread::spawn(move || {
                    let number = member.number();
                    let listener = member.attach::<Std>().unwrap();
                    loop {
                        match listener.accept() {
                            Ok(_) => {}
                            Err(error) => return (error.kind(), roster.has_left(number)),
                        }
                    }
                })
            })
            .collect();
        for number in [1, 0] {
            assert_drained(roster.leave(number).unwrap().wait());
        }
        assert_eq!(places(&roster), [2]);
        assert!(!roster.has_left(2));
        for worker in workers.into_iter().take(2) {
            let ended = worker.join().unwrap();
            assert_eq!(ended, (ErrorKind::InvalidInput, true));
        }
    }
}

/// An async server never sees an error, however late it drops its listener.
fn no_error_is_seen<R: Runtime>() {
    R::block_on(async {
        let group = Options::new().group("127.0.0.1:0", 9).unwrap();
        let to = group.local_addr();
        let roster = group.roster();
        let mut listeners: Vec<_> = group
            .into_iter()
            .map(|member| member.attach::<R>().unwrap())
            .collect();
        let _stayer = listeners.pop();
        let other = R::listen("127.0.0.1:0").unwrap();
        for (number, listener) in listeners.into_iter().enumerate() {
            let _client = TcpStream::connect(to).unwrap();
            let accept = async {
                loop {
                    R::accept(&listener).await.unwrap();
                }
            };
            let leaving = roster.leave(number).unwrap();
            assert_drained(future::or(leaving, accept).await);
            // What is ready first wins, and an error would be.
            for _ in 0..6 {
                grace_period();
                let _client = TcpStream::connect(util::addr_of(&other)).unwrap();
                let accept = async {
                    let accepted = R::accept(&listener).await.map(drop);
                    panic!("{number}: {accepted:?}");
                };
                let next = async { R::accept(&other).await.map(drop) };
                future::or(accept, next).await.unwrap();
            }
            assert!(roster.places().contains(&None));
            drop(listener);
            assert!(!places(&roster).contains(&number));
        }
    });
}

#[test]
fn tokio_sees_no_error() {
    no_error_is_seen::<Tokio>();
}

#[test]
fn async_std_sees_no_error() {
    no_error_is_seen::<AsyncStd>();
}

#[test]
fn smol_sees_no_error() {
    no_error_is_seen::<Smol>();
}
