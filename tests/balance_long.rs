//! Long connections are spread over the workers by a balancer.

#![cfg(target_os = "linux")]

mod util;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reuseport::Options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use util::{in_namespace, until};

/// Long connections, each with a life of its own length.
fn spread(connections: usize, is_balanced: bool) -> f64 {
    type Lives = Mutex<HashMap<SocketAddr, (TcpStream, Option<reuseport::Held>, usize)>>;
    const WORKERS: usize = 8;
    let group = Options::new().group("127.0.0.1:0", WORKERS).unwrap();
    let (addr, roster) = (group.local_addr(), group.roster());
    // A step after so many connections: how the clock and the threads go does not matter.
    let never = Duration::from_secs(3600);
    let mut balancer = is_balanced.then(|| roster.balance().unwrap().patience(never));
    let lives: Arc<Lives> = Arc::default();
    let ends = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = group
        .into_iter()
        .map(|member| {
            let load = roster.load(member.number()).unwrap();
            let (number, listener) = (member.number(), member.into_std());
            listener.set_nonblocking(true).unwrap();
            let (lives, ends) = (lives.clone(), ends.clone());
            thread::spawn(move || {
                while !ends.load(SeqCst) {
                    match listener.accept() {
                        Ok((stream, from)) => {
                            let held = is_balanced.then(|| load.hold());
                            lives.lock().unwrap().insert(from, (stream, held, number));
                        }
                        // A little while at the most, after which it may have been told to end.
                        Err(_) => {
                            let timeout = Timespec::try_from(Duration::from_millis(2)).unwrap();
                            let _ =
                                poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&timeout));
                        }
                    }
                }
            })
        })
        .collect();
    // A client closes at once, so that a connection needs one descriptor; the server holds it on.
    let mut open: Vec<SocketAddr> = Vec::new();
    // The same numbers each time.
    let mut number = 1u64;
    let mut chance = |n: usize| {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as usize % n
    };
    for begun in 0..2 * connections {
        open.push(TcpStream::connect(addr).unwrap().local_addr().unwrap());
        if begun >= connections {
            let ends = open.swap_remove(chance(open.len()));
            drop(until(|| lives.lock().unwrap().remove(&ends)));
        }
        if begun % 16 == 0 {
            until(|| (lives.lock().unwrap().len() == open.len()).then_some(()));
            balancer.as_mut().map(|balancer| balancer.step().unwrap());
        }
    }
    until(|| (lives.lock().unwrap().len() == open.len()).then_some(()));
    let mut counts = [0; WORKERS];
    for (_, _, number) in lives.lock().unwrap().values() {
        counts[*number] += 1;
    }
    ends.store(true, SeqCst);
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    let fullest = *counts.iter().max().unwrap();
    let ratio = (fullest * WORKERS) as f64 / open.len() as f64;
    println!("measured: {counts:?}, the fullest {ratio:.3} of the mean, balanced: {is_balanced}");
    ratio
}

#[test]
fn long_connections_are_spread() {
    const CONNECTIONS: usize = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let needed = CONNECTIONS as u64 + 1_000;
    if limit.maximum.is_some_and(|most| most < needed) || setrlimit(Resource::Nofile, all).is_err()
    {
        return util::skip("10,000 long connections (RLIMIT_NOFILE is too low)");
    }
    in_namespace("10,000 long connections", || {
        spread(CONNECTIONS, false);
        let ratio = spread(CONNECTIONS, true);
        assert!(ratio <= 1.05, "{ratio}");
    });
}
