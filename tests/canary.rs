//! A part of what is new for the next process, before it takes over.

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

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use generations::{EVERY, PORT, Server, V4, V6, ask, ways};
use load::{Counters, assert_nothing_lost};
use reuseport::{Generation, Group, Options, Spread, Std, Steering, Tokio};
use traffic::Traffic;
use util::{PATIENCE, Runtime, assert_drained, in_namespace, until};

/// Pearson's statistic for two classes; of 2,000 with a part of 0.01 more than this comes once in ten million times.
const CHANCE: f64 = 35.0;

#[track_caller]
fn assert_split(of: usize, got: usize, part: f64) {
    let expected = [of as f64 * part, of as f64 * (1.0 - part)];
    let seen = [got as f64, (of - got) as f64];
    let square = |(expected, seen): (f64, f64)| (seen - expected).powi(2) / expected;
    let statistic: f64 = expected.into_iter().zip(seen).map(square).sum();
    assert!(
        statistic < CHANCE,
        "{got} of {of}, and {part} was meant: {statistic}"
    );
}

fn split_between<R: Runtime>(ip: IpAddr, n: usize, m: usize) {
    in_namespace("the part of a canary", || {
        let addr = SocketAddr::new(ip, PORT);
        let options = Options::new();
        let old = Server::serving::<R>(&options, addr, n);
        let new = Server::open::<R>(&options, addr, m);
        for part in [0.01, 0.1, 0.5] {
            assert_eq!(new.generation.take_share_blocking(part).unwrap(), part);
            let before = new.accepted();
            for at in 0..2_000 {
                let to = ways(addr);
                ask(to[at % to.len()], 7).unwrap();
            }
            assert_split(2_000, new.accepted() - before, part);
        }
        // Its members are alike.
        let members = new.members.iter().map(|member| member.tally.accepted());
        assert!(members.min() >= Some(1_000 / m / 2));
        // All, and nothing.
        for (part, expected) in [(1.0, 100), (0.0, 0)] {
            assert_eq!(new.generation.take_share_blocking(part).unwrap(), part);
            let before = new.accepted();
            (0..100).for_each(|_| assert!(ask(ways(addr)[0], 7).is_ok()));
            assert_eq!(new.accepted() - before, expected);
        }
        new.take_over();
        old.relieved();
        assert_eq!(new.generation.take_share_blocking(0.0).unwrap(), 1.0);
        new.end();
    });
}

#[test]
fn it_gets_the_part_that_it_asks_for() {
    split_between::<Std>(V4, 1, 1);
    split_between::<Tokio>(EVERY, 2, 3);
    split_between::<Tokio>(V6, 3, 2);
}

/// Parts that go up and down under load, and then `end`; how many each of the two has accepted is checked.
fn under_load<R: Runtime>(what: &str, end: impl Fn(Server, Server) + Sync) {
    in_namespace(what, || {
        let addr = SocketAddr::new(EVERY, PORT);
        let options = Options::new();
        let old = Server::serving::<R>(&options, addr, 2);
        let new = Server::open::<R>(&options, addr, 2);
        new.generation.set_grace(Duration::ZERO);
        let before = Counters::read();
        let traffic = Traffic::tcp_to(ways(addr));
        for part in [0.01, 0.5, 1.0, 0.0, 0.9, 0.1, 0.5] {
            assert_eq!(new.generation.take_share_blocking(part).unwrap(), part);
            traffic.go_on(200);
        }
        assert!(new.accepted() > 0);
        end(old, new);
        traffic.go_on(200);
        let outcomes = traffic.stop();
        assert_nothing_lost(&outcomes, &Counters::read().since(&before));
    });
}

fn and_takes_over<R: Runtime>() {
    under_load::<R>("a canary that takes over", |old, new| {
        new.take_over();
        old.relieved();
        std::mem::forget(new);
    });
}

fn and_stops<R: Runtime>() {
    under_load::<R>("a canary that stops", |old, new| {
        new.generation.stop();
        new.generation.relieved_blocking();
        assert_drained(new.generation.outcome());
        let accepted = new.relieved();
        assert!(accepted > 0);
        old.alone();
        // The next one is not kept waiting.
        let next = Server::open::<R>(&Options::new(), old.addr, 1);
        next.take_over();
        old.relieved();
        std::mem::forget(next);
    });
}

#[test]
fn nothing_is_lost_where_it_takes_over() {
    and_takes_over::<Std>();
    and_takes_over::<Tokio>();
}

#[test]
fn nothing_is_lost_where_it_stops() {
    and_stops::<Std>();
    and_stops::<Tokio>();
}

#[test]
fn it_gets_everything_where_the_predecessor_stops() {
    under_load::<Tokio>("a canary whose predecessor stops", |old, new| {
        old.generation.stop();
        old.relieved();
        until(|| (new.generation.take_share_blocking(0.1).unwrap() == 1.0).then_some(()));
        std::mem::forget(new);
    });
}

/// While the old one's members are balanced, weighted, or leave.
#[test]
fn the_old_one_steers_what_is_left() {
    in_namespace("a canary beside a group that is steered", || {
        let addr = SocketAddr::new(V4, PORT);
        let mut old = Server::serving::<Tokio>(&Options::new(), addr, 3);
        let new = Server::open::<Tokio>(&Options::new(), addr, 2);
        assert_eq!(new.generation.take_share_blocking(0.5).unwrap(), 0.5);
        let counts = |old: &Server| {
            old.members
                .iter()
                .map(|one| one.tally.accepted())
                .collect::<Vec<_>>()
        };
        let ask_all = |old: &Server| {
            let before = (new.accepted(), counts(old));
            (0..600).for_each(|_| assert!(ask(addr, 7).is_ok()));
            assert_split(600, new.accepted() - before.0, 0.5);
            let pairs = counts(old).into_iter().zip(before.1);
            pairs
                .map(|(after, before)| after - before)
                .collect::<Vec<_>>()
        };
        let balancing = old
            .roster
            .balance()
            .unwrap()
            .spawn(Duration::from_millis(1))
            .unwrap();
        assert!(ask_all(&old).into_iter().all(|n| n > 30));
        drop(balancing);
        old.roster.steer(&Steering::Weights(vec![0, 1, 3])).unwrap();
        let got = ask_all(&old);
        assert!(got[0] == 0 && got[1] > 30 && got[2] > got[1], "{got:?}");
        old.roster.steer(&Steering::Hash).unwrap();
        let leaving = old.roster.leave(1).unwrap();
        assert_drained(leaving.timeout(PATIENCE).wait());
        let got = ask_all(&old);
        assert!(got[0] > 30 && got[1] == 0 && got[2] > 30, "{got:?}");
        old.stop(1);
        let got = ask_all(&old);
        assert!(got.iter().all(|n| *n > 30), "{got:?}");
        new.take_over();
        old.relieved();
        new.end();
    });
}

/// A worker that dies, in either process, gets nothing more, though the other process has a descriptor of its listener.
#[test]
fn a_worker_that_ends_gets_nothing_more() {
    in_namespace("workers that end beside a canary", || {
        let addr = SocketAddr::new(V4, PORT);
        let mut old = Server::serving::<Tokio>(&Options::new(), addr, 2);
        let mut new = Server::open::<Tokio>(&Options::new(), addr, 3);
        assert_eq!(new.generation.take_share_blocking(0.5).unwrap(), 0.5);
        let answers = |n: usize| (0..n).all(|_| is_answered(addr));
        let ends = |server: &mut Server| {
            server.stop(0);
            // Until it was seen.
            until(|| answers(30).then_some(()));
            assert!(answers(300));
        };
        ends(&mut new);
        ends(&mut old);
        ends(&mut new);
        let before = new.accepted();
        assert!(answers(100));
        assert!(new.accepted() > before);
        // With its last one it has no part.
        ends(&mut new);
        assert_eq!(new.accepted(), 0);
        new.generation.stop();
        new.relieved();
        old.alone();
        old.end();
    });
}

fn is_answered(addr: SocketAddr) -> bool {
    let ask = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(&[7])?;
        stream.read_exact(&mut [0])
    };
    ask().is_ok()
}

/// Also where the workers go on when the generation has been dropped.
#[test]
fn nothing_is_lost_where_it_is_dropped() {
    under_load::<Tokio>("a canary that is dropped", |old, new| {
        let Server {
            generation,
            members,
            ..
        } = new;
        drop(generation);
        // Until its sockets have left the group.
        old.alone();
        drop(members);
        std::mem::forget(old);
    });
}

#[test]
fn several_addresses_have_the_same_part() {
    in_namespace("a canary of two addresses", || {
        let addrs = [4001, 4002].map(|port| SocketAddr::new(V4, port));
        let options = Options::new();
        let open = || {
            let wanted: Vec<_> = addrs.iter().map(|addr| options.want(*addr, 1)).collect();
            let (groups, generation) = Generation::open(wanted).unwrap();
            let listener = |group: Group<TcpListener>| {
                let listener = group.into_iter().next().unwrap().into_std();
                listener.set_nonblocking(true).unwrap();
                listener
            };
            (
                groups.into_iter().map(listener).collect::<Vec<_>>(),
                generation,
            )
        };
        let (old, first) = open();
        assert_drained(first.take_over_blocking(PATIENCE));
        assert_eq!(first.take_share_blocking(0.3).unwrap(), 1.0);
        let (new, second) = open();
        for part in [1.0, 0.0] {
            assert_eq!(smol::block_on(second.take_share(part)).unwrap(), part);
            for (at, addr) in addrs.iter().enumerate() {
                let client = TcpStream::connect(addr).unwrap();
                let (gets, other) = if part == 1.0 {
                    (&new, &old)
                } else {
                    (&old, &new)
                };
                until(|| gets[at].accept().ok());
                assert_eq!(
                    other[at].accept().unwrap_err().kind(),
                    ErrorKind::WouldBlock
                );
                drop(client);
            }
        }
    });
}

#[test]
fn what_is_refused() {
    in_namespace("refusals of a part", || {
        let addr = SocketAddr::new(V4, PORT);
        let refused = |generation: &Generation, part: f64| {
            let error = generation.take_share_blocking(part).unwrap_err();
            let asynchronous = smol::block_on(generation.take_share(part)).unwrap_err();
            assert_eq!(asynchronous.to_string(), error.to_string());
            (error.kind(), error.to_string())
        };
        let sentence = |why: &str| format!("cannot take a share of {addr}: {why}");
        let old = Server::serving::<Tokio>(&Options::new(), addr, 1);
        let new = Server::open::<Tokio>(&Options::new(), addr, 1);
        for part in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let why = sentence(&format!("{part} is no part between 0 and 1"));
            assert_eq!(
                refused(&new.generation, part),
                (ErrorKind::InvalidInput, why)
            );
        }
        new.generation
            .take_share_blocking(f64::MIN_POSITIVE)
            .unwrap();
        new.generation.stop();
        let why = sentence("this process has been told to end");
        assert_eq!(
            refused(&new.generation, 0.5),
            (ErrorKind::ConnectionAborted, why)
        );
        new.relieved();
        old.alone();
        let next = Server::serving::<Tokio>(&Options::new(), addr, 1);
        let why = sentence("this process has been told to end, or another takes over");
        assert_eq!(
            refused(&old.generation, 0.5),
            (ErrorKind::ConnectionAborted, why)
        );
        old.relieved();
        next.end();

        let addr = SocketAddr::new(V4, PORT + 1);
        let queue = Options::new().spread(Spread::Queue);
        let (_old, first) = queue.generation(addr, 1).unwrap();
        let (_new, second) = queue.generation(addr, 1).unwrap();
        let (kind, text) = refused(&second, 0.5);
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(
            text.ends_with("have one queue together, of which the workers take what they can"),
            "{text}"
        );
        assert_eq!(first.take_share_blocking(0.5).unwrap(), 1.0);
    });
}

/// The kernel's limit is the namespace's own from Linux 6.8 on, and so can be too low for a moment.
#[test]
fn a_part_that_the_kernel_refuses_is_what_it_was() {
    const LIMIT: &str = "/proc/sys/net/core/optmem_max";
    in_namespace("a part that the kernel refuses", || {
        let Ok(enough) = std::fs::read_to_string(LIMIT) else {
            return util::skip("a part that the kernel refuses: no limit of this namespace");
        };
        let addr = SocketAddr::new(V4, PORT);
        let old = Server::serving::<Tokio>(&Options::new(), addr, 1);
        let new = Server::open::<Tokio>(&Options::new(), addr, 1);
        assert_eq!(new.generation.take_share_blocking(1.0).unwrap(), 1.0);
        std::fs::write(LIMIT, "16").unwrap();
        let error = new.generation.take_share_blocking(0.5).unwrap_err();
        let expected = format!(
            "cannot take a share of {addr}: the process that serves refuses: cannot steer the group on {addr}: the \
             program is longer than net.core.optmem_max allows: "
        );
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().starts_with(&expected), "{error}");
        let before = new.accepted();
        (0..50).for_each(|_| assert!(ask(addr, 7).is_ok()));
        assert_eq!(new.accepted() - before, 50);
        std::fs::write(LIMIT, enough).unwrap();
        assert_eq!(new.generation.take_share_blocking(0.0).unwrap(), 0.0);
        (0..50).for_each(|_| assert!(ask(addr, 7).is_ok()));
        assert_eq!(new.accepted() - before, 50);
        new.take_over();
        old.relieved();
        new.end();
    });
}
