//! Generations where the kernel, a container or a filter of system calls refuses a part of it.
//!
//! Each in a process of its own, which cannot take back what it gave up.

#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

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

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use generations::{PORT, Server, V4};
use reuseport::{Guarantee, Options, Tokio};
use traffic::Traffic;
use util::{PATIENCE, assert_drained, in_namespace};

/// The takeover of kernels and sandboxes that know less.
fn takes_over_all_the_same(guarantee: Guarantee, least: Duration) {
    in_namespace("a takeover in a sandbox", || {
        let addr = SocketAddr::new(V4, PORT);
        let mut old = Server::serving::<Tokio>(&Options::new(), addr, 2);
        for m in [2, 3, 1] {
            let traffic = Traffic::tcp(addr);
            let new = Server::open::<Tokio>(&Options::new(), addr, m);
            assert_eq!(new.generation.guarantee(), guarantee);
            traffic.go_on(200);
            let begin = Instant::now();
            new.take_over();
            assert!(begin.elapsed() >= least);
            old.relieved();
            traffic.go_on(200);
            // One member that moves to another place, past listeners that cannot be hidden, leaves a gap
            // of a system call.
            let most = match guarantee {
                Guarantee::BestEffort if m == 1 => 30,
                _ => 0,
            };
            traffic.assert_lost_at_most(most, &format!("a takeover by {m} in a sandbox"));
            new.alone();
            new.assert_places();
            old = new;
        }
        old.end();
    });
}

#[test]
fn no_membarrier() {
    const TEST: &str = "no_membarrier";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    // The command by which the kernel waits for all processors.
    util::answer(libc::SYS_membarrier, &[(0, 1)], libc::EPERM);
    takes_over_all_the_same(Guarantee::Lossless, Duration::from_millis(100));
}

#[test]
fn no_hiding() {
    const TEST: &str = "no_hiding";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    util::answer_option(libc::SO_BINDTOIFINDEX, libc::EPERM);
    takes_over_all_the_same(Guarantee::BestEffort, Duration::ZERO);
}

/// Where a UDP socket is in its group until it is closed, the predecessor is waited for.
#[test]
fn no_hiding_of_packet_sockets() {
    const TEST: &str = "no_hiding_of_packet_sockets";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    util::answer_option(libc::SO_BINDTOIFINDEX, libc::EPERM);
    in_namespace("packet sockets that cannot be hidden", || {
        let addr = SocketAddr::new(V4, PORT);
        let open = |n| {
            let (group, generation) = Options::new().packet_generation(addr, n).unwrap();
            assert_eq!(generation.guarantee(), Guarantee::BestEffort);
            let sockets: Vec<_> = group.into_iter().map(|member| member.into_std()).collect();
            for socket in &sockets {
                socket.set_nonblocking(true).unwrap();
            }
            (sockets, generation)
        };
        let read = |sockets: &[std::net::UdpSocket]| -> usize {
            let read = sockets
                .iter()
                .map(|socket| std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count());
            read.sum()
        };
        let send = || {
            for _ in 0..60 {
                let client = std::net::UdpSocket::bind((V4, 0)).unwrap();
                client.send_to(b"?", addr).unwrap();
            }
        };
        let (mut old, mut before) = open(2);
        assert_drained(before.take_over_blocking(PATIENCE));
        for n in [3, 1, 2] {
            let (new, generation) = open(n);
            send();
            assert_eq!((read(&old), read(&new)), (60, 0), "a successor of {n}");
            assert_drained(generation.take_over_blocking(PATIENCE));
            before.relieved_blocking();
            send();
            assert_eq!((read(&old), read(&new)), (0, 60), "a successor of {n}");
            (old, before) = (new, generation);
            // As the last copies of the old sockets are closed, one member that moves to another place
            // leaves a gap of a system call; several leave none.
            send();
            let lost = 60 - read(&old);
            let most = if n == 1 { 10 } else { 0 };
            assert!(lost <= most, "{lost} datagrams lost in a takeover by {n}");
        }
    });
}

/// Where no peer can be heard: the program and the clock still are.
#[test]
fn no_poll() {
    const TEST: &str = "no_poll";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    #[cfg(target_arch = "x86_64")]
    util::answer(libc::SYS_poll, &[], libc::EPERM);
    util::answer(libc::SYS_ppoll, &[], libc::EPERM);
    in_namespace("a generation without poll", || {
        let addr = SocketAddr::new(V4, PORT);
        let (_group, generation) = Options::new().generation(addr, 1).unwrap();
        assert_drained(generation.take_over_blocking(PATIENCE));
        generation.stop();
        generation.relieved_blocking();
    });
}

/// Where every address is an IPv4 address.
#[test]
fn no_ipv6() {
    const TEST: &str = "no_ipv6";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    util::answer(libc::SYS_socket, &[(0, libc::AF_INET6)], libc::EAFNOSUPPORT);
    in_namespace("generations without IPv6", || {
        let addr = format!(":{PORT}");
        let (_old, first) = Options::new().generation(&addr, 2).unwrap();
        assert_drained(first.take_over_blocking(PATIENCE));
        let (_new, second) = Options::new().generation(&addr, 2).unwrap();
        let predecessor = second.predecessor().unwrap();
        assert_eq!(predecessor.pid(), Some(std::process::id()));
        assert_drained(second.take_over_blocking(PATIENCE));
        first.relieved_blocking();
    });
}
