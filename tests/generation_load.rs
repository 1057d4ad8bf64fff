//! Generations of all sizes relieve one another under load, in every runtime and at every address.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/generations.rs"]
mod generations;
#[path = "util/load.rs"]
mod load;
#[path = "util/process.rs"]
mod process;
#[path = "util/serve.rs"]
mod serve;
#[path = "util/server.rs"]
mod server;
#[path = "util/traffic.rs"]
mod traffic;
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use generations::{EVERY, PORT, Server, V4, V6, ways};
use load::{Counters, assert_nothing_lost};
use reuseport::{Guarantee, Options, Std, Tokio};
use traffic::Traffic;
use util::{PATIENCE, Runtime, assert_drained, in_namespace};

/// Every number from 1 to `most`, followed once by every number (de Bruijn, by Lyndon words).
fn every_pair(most: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    for first in 1..=most {
        sizes.push(first);
        for second in first + 1..=most {
            sizes.extend([first, second]);
        }
    }
    sizes.push(1);
    sizes
}

/// Generations of those sizes, each relieving the one before while connections come.
fn chain<R: Runtime>(ip: IpAddr, sizes: &[usize]) {
    let mut took = [Vec::new(), Vec::new()];
    in_namespace("generations under load", || {
        let addr = SocketAddr::new(ip, PORT);
        let options = Options::new();
        let mut old = Server::serving::<R>(&options, addr, sizes[0]);
        assert_eq!(old.generation.predecessor(), None);
        assert_eq!(old.generation.guarantee(), Guarantee::Lossless);
        let mut apart = 0;
        for pair in sizes.windows(2) {
            let &[n, m] = pair else { unreachable!() };
            let before = Counters::read();
            let traffic = Traffic::tcp_to(ways(addr));
            let new = Server::open::<R>(&options, addr, m);
            let predecessor = new.generation.predecessor().unwrap();
            assert_eq!(predecessor.pid(), Some(std::process::id()));
            assert_eq!(new.generation.guarantee(), Guarantee::Lossless);
            traffic.go_on(200);
            assert_eq!(new.accepted(), 0, "{n} to {m}");

            let begin = Instant::now();
            new.take_over();
            took[usize::from(m < n)].push(begin.elapsed());
            let accepted = old.relieved();
            traffic.go_on(200);
            let outcomes = traffic.stop();
            let counted = Counters::read().since(&before);
            assert_nothing_lost(&outcomes, &counted);
            // The old one may have been asked before this load, for its places.
            assert_eq!(
                accepted - apart + new.accepted(),
                outcomes.answered,
                "{n} to {m}"
            );
            assert!(new.accepted() >= 100);

            let before = new.accepted();
            new.alone();
            new.assert_places();
            apart = before + new.members.len();
            assert_eq!(new.accepted(), apart);
            old = new;
        }
        old.end();
    });
    for (took, which) in took.iter_mut().zip(["m >= n", "m < n"]) {
        took.sort();
        if let [least, .., most] = took[..] {
            let median = took[took.len() / 2];
            println!(
                "{}, {ip}, {which}: {median:.1?} ({least:.1?} to {most:.1?})",
                R::NAME
            );
        }
    }
}

#[test]
fn any_number_relieves_any_number() {
    let sizes = every_pair(8);
    let mut pairs: Vec<_> = sizes.windows(2).collect();
    pairs.sort();
    pairs.dedup();
    assert_eq!(pairs.len(), 64);
    chain::<Tokio>(V4, &sizes);
}

#[test]
fn any_number_relieves_any_number_that_blocks() {
    chain::<Std>(V4, &every_pair(5));
}

#[test]
fn on_ipv6() {
    chain::<Tokio>(V6, &[1, 1, 2, 2, 1, 3, 8, 8, 5, 1]);
    chain::<Std>(V6, &[2, 2, 3, 1, 1]);
}

#[test]
fn on_every_address() {
    chain::<Tokio>(EVERY, &[1, 1, 2, 2, 1, 3, 8, 8, 5, 1]);
    chain::<Std>(EVERY, &[2, 2, 3, 1, 1]);
}

/// From when the kernel is told, which is soon after the call, and not a connection before the call.
#[test]
fn what_is_new_goes_to_the_new_one_from_then_on() {
    for ip in [V4, V6, EVERY] {
        for (n, m) in [(1, 1), (3, 3), (2, 5), (4, 1)] {
            in_namespace("where connections go", || {
                let addr = SocketAddr::new(ip, PORT);
                let listeners = |n| {
                    let (group, generation) = Options::new().generation(addr, n).unwrap();
                    let listeners: Vec<_> = group.into_iter().map(|m| m.into_std()).collect();
                    for listener in &listeners {
                        listener.set_nonblocking(true).unwrap();
                    }
                    (listeners, generation)
                };
                let accept = |listeners: &[TcpListener]| {
                    let accepted = listeners
                        .iter()
                        .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count());
                    accepted.sum::<usize>()
                };
                let connect = || -> Vec<_> {
                    let to = ways(addr);
                    let clients = (0..40).map(|at| TcpStream::connect(to[at % to.len()]).unwrap());
                    clients.collect()
                };
                let (old, first) = listeners(n);
                assert_drained(first.take_over_blocking(PATIENCE));
                let (new, second) = listeners(m);
                let _to_old = connect();
                assert_eq!(accept(&new), 0);
                let taking = second.take_over(PATIENCE);
                let mut first_to_old = 40;
                let mut clients = Vec::new();
                util::until(|| {
                    clients.push(TcpStream::connect(ways(addr)[0]).unwrap());
                    first_to_old += 1;
                    (accept(&new) == 1).then_some(())
                });
                // The old one has not accepted, and so is not relieved.
                let _to_new = connect();
                let told = smol::future::poll_once(first.relieved());
                assert!(smol::block_on(told).is_none());
                let accepted = (accept(&new), accept(&old));
                assert_eq!(accepted, (40, first_to_old - 1), "{n} to {m}");
                assert_drained(smol::block_on(taking));
                first.relieved_blocking();
                let _to_new = connect();
                assert_eq!((accept(&new), accept(&old)), (40, 0), "{n} to {m}");
            });
        }
    }
}
