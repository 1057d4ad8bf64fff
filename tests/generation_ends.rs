//! How a generation ends: relieved, dropped before or after it has taken over, or at its timeout.

#![cfg(target_os = "linux")]

#[path = "util/generations.rs"]
mod generations;
#[path = "util/load.rs"]
mod load;
#[path = "util/serve.rs"]
mod serve;
mod util;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use generations::{PORT, Server, V4, ask};
use load::Counters;
use reuseport::{Holder, Options, Std, Tokio};
use util::{PATIENCE, Runtime, assert_drained, in_namespace};

#[test]
fn everybody_is_told_that_it_is_relieved() {
    in_namespace("who is told", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Server::serving::<Tokio>(&Options::new(), addr, 2);
        let future = old.generation.relieved();
        assert!(smol::block_on(smol::future::poll_once(future.clone())).is_none());
        let told = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                let future = future.clone();
                scope.spawn(|| {
                    // Two of one executor, of which each has a waker of its own.
                    Tokio::block_on(async {
                        let again = future.clone();
                        tokio::join!(future, again);
                    });
                    told.fetch_add(1, Ordering::Relaxed);
                });
                let future = old.generation.relieved();
                scope.spawn(|| {
                    smol::block_on(future);
                    told.fetch_add(1, Ordering::Relaxed);
                });
                scope.spawn(|| {
                    old.generation.relieved_blocking();
                    told.fetch_add(1, Ordering::Relaxed);
                });
            }
            let new = Server::open::<Std>(&Options::new(), addr, 2);
            assert_eq!(told.load(Ordering::Relaxed), 0);
            new.take_over();
            old.generation.relieved_blocking();
            new.end();
        });
        assert_eq!(told.load(Ordering::Relaxed), 9);
        // It stays so, however often and whenever somebody asks.
        smol::block_on(future);
        old.relieved();
    });
}

#[test]
fn dropped_before_it_has_taken_over() {
    if !util::is_child("dropped_before_it_has_taken_over") {
        return util::in_child("dropped_before_it_has_taken_over");
    }
    in_namespace("a takeover that is given up", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Server::serving::<Tokio>(&Options::new(), addr, 3);
        let descriptors = util::descriptors();
        let mut asked = 0;
        for n in [1, 3, 5, 2] {
            let (group, generation) = Options::new().generation(addr, n).unwrap();
            // What somebody still holds is in nobody's way.
            let relieved = generation.relieved();
            drop((group, generation));
            for _ in 0..40 {
                ask(addr, 1).unwrap();
                asked += 1;
            }
            util::until(|| (old.roster.places().len() == 3).then_some(()));
            drop(relieved);
        }
        // The thread that watched has its share of them for an instant longer.
        util::until(|| (util::descriptors() == descriptors).then_some(()));
        assert_eq!(old.accepted(), asked);
        old.alone();
        old.assert_places();
        let new = Server::serving::<Tokio>(&Options::new(), addr, 2);
        old.relieved();
        new.end();
        let kept = || util::descriptors() <= descriptors;
        util::until(|| kept().then_some(()));
    });
}

#[test]
fn dropped_while_it_serves() {
    for takes_over in [false, true] {
        in_namespace("a generation that is dropped", || {
            let addr = SocketAddr::new(V4, PORT);
            let mut serving = Server::serving::<Std>(&Options::new(), addr, 2);
            if takes_over {
                let next = Server::serving::<Std>(&Options::new(), addr, 2);
                serving.relieved();
                serving = next;
            }
            serving.alone();
            // Who still waits is in nobody's way.
            let relieved = serving.generation.relieved();
            drop(serving.generation);
            let error = Options::new().generation(addr, 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            assert_eq!(error.holder(), Some(Holder::Group), "{error}");
            // It is a group like any other, whose workers end with this process.
            ask(addr, 1).unwrap();
            assert_eq!(serving.roster.places().len(), 2);
            assert!(smol::block_on(smol::future::poll_once(relieved)).is_none());
        });
    }
}

#[test]
fn what_nobody_accepts_is_lost_at_the_timeout() {
    // Where nobody forks, what is closed is gone.
    if !util::is_child("what_nobody_accepts_is_lost_at_the_timeout") {
        return util::in_child("what_nobody_accepts_is_lost_at_the_timeout");
    }
    in_namespace("a worker that is stuck", || {
        let addr = SocketAddr::new(V4, PORT);
        for (n, m) in [(1, 1), (2, 1), (2, 3), (3, 2)] {
            let (old, first) = Options::new().generation(addr, n).unwrap();
            assert_drained(first.take_over_blocking(PATIENCE));
            let before = Counters::read();
            let mut client = TcpStream::connect(addr).unwrap();
            let new = Server::open::<Tokio>(&Options::new(), addr, m);
            let begin = Instant::now();
            let timeout = Duration::from_millis(200);
            let drained = new.generation.take_over_blocking(timeout).unwrap();
            assert_eq!((drained.unaccepted, drained.unread), (1, false));
            assert!(begin.elapsed() >= timeout);
            // What is accepted before the listener is taken out is not lost after all; this one is.
            first.relieved_blocking();
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            // Which is what the tests under load would see.
            assert!(Counters::read().since(&before).estab_resets >= 1);
            for _ in 0..20 {
                ask(addr, 1).unwrap();
            }
            // The new one keeps nothing of it when its owner does not.
            let sockets: Vec<_> = old.iter().map(name).collect();
            drop(old);
            util::until(|| sockets.iter().all(|name| !has(name)).then_some(()));
            new.end();
        }
    });
}

/// The socket's name in /proc.
fn name(fd: &impl AsFd) -> PathBuf {
    let number = fd.as_fd().as_raw_fd();
    fs::read_link(format!("/proc/self/fd/{number}")).unwrap()
}

/// Has this process a descriptor of it?
fn has(name: &Path) -> bool {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let mut all = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    all.any(|other| other == name)
}

/// What is told is what the kernel had, also where no time is given at all; and as often as it is asked.
#[test]
fn it_takes_over_once() {
    in_namespace("a takeover that is asked for twice", || {
        let addr = SocketAddr::new(V4, PORT);
        let (group, first) = Options::new().generation(addr, 2).unwrap();
        assert_drained(first.take_over_blocking(PATIENCE));
        let _client = TcpStream::connect(addr).unwrap();
        let (_next, second) = Options::new().generation(addr, 1).unwrap();
        let taken = second.take_over(Duration::ZERO);
        assert_eq!(smol::block_on(taken).unwrap().unaccepted, 1);
        drop(group);
        // Asked again it tells the same, and does nothing.
        for (generation, unaccepted) in [(&first, 0), (&second, 1)] {
            let again = generation.take_over_blocking(PATIENCE).unwrap();
            assert_eq!(again.unaccepted, unaccepted);
            let again = smol::block_on(generation.take_over(PATIENCE)).unwrap();
            assert_eq!(again.unaccepted, unaccepted);
        }
    });
}
