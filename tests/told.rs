//! What the roster says is so when it says it, and stays so.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/load.rs"]
mod load;
#[path = "util/process.rs"]
mod process;
#[path = "util/server.rs"]
mod server;
#[path = "util/traffic.rs"]
mod traffic;
#[macro_use]
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use engine::PATIENCE;
use reuseport::{Error, Group, Options, ReusePort, Roster, Socket, Std, Steering, queue};
use traffic::{ADDR, Traffic};
use util::{Runtime, in_namespace};
use worker::Worker;

fn weights(weights: &[u32]) -> Options {
    Options::new().steering(Steering::Weights(weights.to_vec()))
}

/// How many connections each listener has that it has not accepted.
fn lens<L: AsFd>(listeners: &[L]) -> Vec<u32> {
    let lens = listeners
        .iter()
        .map(|listener| queue(listener).unwrap().waiting);
    lens.collect()
}

/// Connections of which all wait to be accepted.
fn connect(addr: SocketAddr, n: usize) -> Vec<TcpStream> {
    (0..n).map(|_| TcpStream::connect(addr).unwrap()).collect()
}

fn into_std<S: Socket>(group: Group<S>) -> Vec<S> {
    group.into_iter().map(|member| member.into_std()).collect()
}

/// On which nobody accepts.
#[test]
fn a_member_of_weight_0_gets_nothing_while_others_leave_and_join() {
    in_namespace("a member of weight 0", || {
        let group = weights(&[0, 1, 1]).group(ADDR, 3).unwrap();
        let roster = group.roster();
        let mut members = into_std(group).into_iter();
        let zero = members.next().unwrap();
        let mut worker = Worker::start(members.next().unwrap(), 1);
        let _other = Worker::start(members.next().unwrap(), 1);
        let traffic = [Traffic::tcp(ADDR), Traffic::tcp(ADDR)];
        traffic[0].go_on(100);
        for _ in 0..60 {
            let leaving = roster.leave(1).unwrap();
            assert_eq!(engine::drain_blocking(leaving, PATIENCE).unwrap(), 0);
            worker.stop();
            util::until(|| (!roster.places().contains(&Some(1))).then_some(()));
            let joined = roster.join().unwrap();
            assert_eq!(engine::number(&joined), 1);
            worker = Worker::start(joined.into_std(), 1);
        }
        let outcomes = traffic.map(Traffic::stop);
        let lost: Vec<_> = outcomes.iter().map(|outcomes| outcomes.lost()).collect();
        let answered: usize = outcomes.iter().map(|outcomes| outcomes.answered).sum();
        assert_eq!(
            (lens(&[zero]), lost),
            (vec![0], vec![0, 0]),
            "at the member of weight 0, and lost beside {answered}"
        );
    });
}

/// Also until the old process has closed its listeners.
#[test]
fn each_new_member_gets_its_share_after_a_takeover() {
    in_namespace("the shares after a takeover", || {
        let nonblocking = |group| {
            let listeners: Vec<TcpListener> = into_std(group);
            for listener in &listeners {
                listener.set_nonblocking(true).unwrap();
            }
            listeners
        };
        let (group, first) = Options::new().generation(ADDR, 2).unwrap();
        let old = nonblocking(group);
        engine::take_over(&first, PATIENCE).unwrap();
        let (group, second) = Options::new().generation(ADDR, 4).unwrap();
        let new = nonblocking(group);
        thread::scope(|scope| {
            let taking = scope.spawn(|| engine::take_over(&second, PATIENCE));
            first.relieved_blocking();
            let _clients = connect(ADDR, 200);
            let (to_old, to_new) = (lens(&old), lens(&new));
            drop(old);
            assert_eq!(taking.join().unwrap().unwrap(), 0);
            assert_eq!(to_old, [0, 0]);
            assert_eq!(to_new.iter().sum::<u32>(), 200);
            let is_fair = to_new.iter().all(|&len| len >= 20);
            assert!(
                is_fair,
                "of 200 connections the four members have {to_new:?}"
            );
        });
    });
}

/// Leaves, is closed, and another joins at once, as often as is asked.
fn the_number_is_free<R: Runtime>() {
    in_namespace("the number of a member that has left", || {
        let mut wrong = Vec::new();
        for _ in 0..5 {
            R::block_on(async {
                let group = weights(&[1, 1, 1, 1]).group("127.0.0.1:0", 4).unwrap();
                let (addr, roster) = (group.local_addr(), group.roster());
                let members = group.into_iter();
                let mut listeners: Vec<_> = members
                    .map(|member| member.attach::<R>().unwrap())
                    .collect();
                let drained = engine::drain(roster.leave(0).unwrap(), PATIENCE).await;
                assert_eq!(engine::lost(drained).unwrap(), 0);
                let begin = Instant::now();
                let told = (roster.has_left(0), roster.places().contains(&Some(0)));
                if told != (true, false) || begin.elapsed() > Duration::from_millis(500) {
                    let took = begin.elapsed();
                    wrong.push(format!("(has_left, is in places) {told:?} in {took:.0?}"));
                }
                drop(listeners.remove(0));
                let joined = roster.join().unwrap();
                if engine::number(&joined) != 0 {
                    wrong.push(format!("joined as {}", engine::number(&joined)));
                }
                let joined = joined.attach::<R>().unwrap();
                let _clients = connect(addr, 60);
                if lens(&[joined]) == [0] {
                    wrong.push("of 60 connections it has none".to_owned());
                }
            });
        }
        assert!(wrong.is_empty(), "{}: {wrong:#?}", R::NAME);
    });
}

/// Without a look at the table in between.
fn the_number_is_free_at_once<R: Runtime>() {
    in_namespace("the number of a member that has left", || {
        let numbers: Vec<_> = (0..10)
            .map(|_| {
                R::block_on(async {
                    let group = Options::new().group("127.0.0.1:0", 3).unwrap();
                    let roster = group.roster();
                    let members = group.into_iter();
                    let mut listeners: Vec<_> = members
                        .map(|member| member.attach::<R>().unwrap())
                        .collect();
                    let drained = engine::drain(roster.leave(1).unwrap(), PATIENCE).await;
                    assert_eq!(engine::lost(drained).unwrap(), 0);
                    drop(listeners.remove(1));
                    let joined = roster.join().unwrap();
                    engine::number(&joined)
                })
            })
            .collect();
        assert_eq!(numbers, [1; 10], "{}", R::NAME);
    });
}

on_every_runtime! {
    the_number_is_free
    the_number_is_free_at_once
}

/// Sockets of which one begins to leave and stays.
trait Stays: Socket + 'static {
    fn open() -> Group<Self>;
    /// Whether it is the one that gets some of what is new.
    fn gets(&self, addr: SocketAddr) -> bool;
}

impl Stays for TcpListener {
    fn open() -> Group<Self> {
        Options::new().group("127.0.0.1:0", 3).unwrap()
    }
    fn gets(&self, addr: SocketAddr) -> bool {
        (0..200).any(|_| {
            let _client = TcpStream::connect(addr).unwrap();
            queue(self).unwrap().waiting > 0
        })
    }
}

impl Stays for UdpSocket {
    fn open() -> Group<Self> {
        Options::new().packet_group("127.0.0.1:0", 3).unwrap()
    }
    fn gets(&self, addr: SocketAddr) -> bool {
        self.set_nonblocking(true).unwrap();
        (0..200).any(|_| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"?", addr).unwrap();
            self.recv(&mut [0; 8]).is_ok()
        })
    }
}

/// Dropped at any moment before it is ready.
fn a_drain_that_is_dropped_leaves_the_member_where_it_is<S: Stays>() {
    in_namespace("a drain that is dropped", || {
        const TIMES: usize = 60;
        let mut dropped: Vec<(Roster<S>, SocketAddr, Vec<S>)> = Vec::new();
        // Xorshift: the same moments each time.
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..10 * TIMES {
            if dropped.len() == TIMES {
                break;
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let group = S::open();
            let (roster, addr) = (group.roster(), group.local_addr());
            let members = into_std(group);
            let mut drain = engine::drain(roster.leave(0).unwrap(), PATIENCE);
            is_ready(&mut drain);
            thread::sleep(Duration::from_micros(random % 25_000));
            if !is_ready(&mut drain) {
                drop(drain);
                dropped.push((roster, addr, members));
            }
        }
        assert_eq!(dropped.len(), TIMES, "dropped before it was ready");
        let stays = dropped
            .iter()
            .filter(|(roster, addr, members)| !roster.has_left(0) && members[0].gets(*addr))
            .count();
        assert_eq!(stays, TIMES, "of {TIMES} members that is how many stay");
    });
}

/// Whether it is ready; what is ready has succeeded.
fn is_ready(drain: &mut engine::Drain) -> bool {
    match smol::block_on(smol::future::poll_once(drain)) {
        Some(drained) => engine::lost(drained).is_ok(),
        None => false,
    }
}

#[test]
fn a_drain_that_is_dropped_leaves_the_listener_where_it_is() {
    a_drain_that_is_dropped_leaves_the_member_where_it_is::<TcpListener>();
}

#[test]
fn a_drain_that_is_dropped_leaves_the_packet_socket_where_it_is() {
    a_drain_that_is_dropped_leaves_the_member_where_it_is::<UdpSocket>();
}

/// The socket is open as long as any descriptor is.
#[test]
fn an_owner_may_clone_its_listener_and_close_the_original() {
    in_namespace("a listener that is cloned", || {
        let group = weights(&[1, 1, 1]).group("127.0.0.1:0", 3).unwrap();
        let (addr, roster) = (group.local_addr(), group.roster());
        let mut listeners: Vec<TcpListener> = into_std(group);
        for listener in &mut listeners {
            let clone = listener.try_clone().unwrap();
            *listener = clone;
        }
        assert_eq!(roster.places(), [Some(0), Some(1), Some(2)]);
        roster.steer(&Steering::Weights(vec![0, 1, 0])).unwrap();
        let clients = connect(addr, 30);
        assert_eq!(lens(&listeners), [0, 30, 0]);
        drop(clients);
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {}
        }

        roster.steer(&Steering::Hash).unwrap();
        let leaving = roster.leave(1).unwrap();
        assert_eq!(engine::drain_blocking(leaving, PATIENCE).unwrap(), 0);
        let _clients = connect(addr, 60);
        let got = [lens(&listeners[..1])[0], lens(&listeners[2..])[0]];
        assert_eq!(got[0] + got[1], 60, "{got:?}");
        assert!(got.iter().all(|&len| len > 0), "{got:?}");
    });
}

/// Another part of the program opens a socket on the port of a steered group.
///
/// Nothing that the crate then says of a member that leaves may be untrue: that nothing is lost,
/// while all that is new goes to the other socket.
fn a_stranger_of_the_same_process<S: Socket>(
    group: Group<S>,
    stranger: impl FnOnce(SocketAddr) -> Result<S, Error>,
    received: impl Fn(&S) -> usize,
    send: impl FnOnce(SocketAddr),
) {
    let (addr, roster) = (group.local_addr(), group.roster());
    let members = into_std(group);
    let Ok(stranger) = stranger(addr) else {
        // Which is also an answer.
        return;
    };
    let said = match roster.leave(0) {
        Ok(leaving) => {
            let is_lossless = engine::is_lossless(&leaving);
            let drained = engine::drain_blocking(leaving, Duration::from_secs(2));
            format!("lossless {is_lossless}, {drained:?}")
        }
        Err(error) => error.to_string(),
    };
    send(addr);
    let got = [
        received(&members[0]),
        received(&members[1]),
        received(&stranger),
    ];
    let is_true = if said.starts_with("lossless true") {
        got[0] == 0 && got[2] == 0
    } else {
        got[0] + got[1] > 0
    };
    assert!(
        is_true,
        "{said}: of 100, member 0 got {}, member 1 {} and the other socket {}",
        got[0], got[1], got[2]
    );
}

#[test]
fn a_packet_socket_that_is_no_member_is_noticed() {
    in_namespace("a socket that is no member", || {
        a_stranger_of_the_same_process(
            weights(&[1, 1]).packet_group("127.0.0.1:0", 2).unwrap(),
            Std::listen_packet,
            |socket| {
                socket.set_nonblocking(true).unwrap();
                std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count()
            },
            |addr| {
                for _ in 0..100 {
                    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                    client.send_to(b"?", addr).unwrap();
                }
            },
        );
    });
}

#[test]
fn a_listener_that_is_no_member_is_noticed() {
    in_namespace("a listener that is no member", || {
        let mut clients = Vec::new();
        a_stranger_of_the_same_process(
            weights(&[1, 1]).group("127.0.0.1:0", 2).unwrap(),
            Std::listen,
            |listener| {
                listener.set_nonblocking(true).unwrap();
                std::iter::from_fn(|| listener.accept().ok()).count()
            },
            |addr| clients = connect(addr, 100),
        );
    });
}
