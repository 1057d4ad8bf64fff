//! Processes that follow each other so fast that fresh connections of several before still have their time.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/load.rs"]
mod load;
#[path = "util/traffic.rs"]
mod traffic;
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reuseport::{Generation, Guarantee, Net, Options, Std, Steering, Tokio};
use tokio::net::TcpListener;
use traffic::{Traffic, ask};
use util::{PATIENCE, Runtime, assert_drained, in_namespace, is_child};

const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);

/// A process whose workers are loops as anybody writes them with tokio.
struct Server {
    generation: Generation,
    workers: Vec<JoinHandle<usize>>,
}

impl Server {
    /// Returns when it has taken over.
    fn start(options: &Options, members: usize, grace: Option<Duration>) -> Self {
        let (group, generation) = options.generation(ADDR, members).unwrap();
        if let Some(grace) = grace {
            generation.set_grace(grace);
        }
        let (begun, workers_begun) = mpsc::channel();
        let workers = group.into_iter().map(|member| {
            let (generation, begun) = (generation.clone(), begun.clone());
            thread::spawn(move || {
                <Tokio as Runtime>::block_on(async {
                    let listener = member.attach::<Tokio>().unwrap();
                    begun.send(()).unwrap();
                    accept_until(&generation, listener).await
                })
            })
        });
        let workers: Vec<_> = workers.collect();
        for _ in &workers {
            workers_begun.recv_timeout(PATIENCE).unwrap();
        }
        assert_drained(generation.take_over_blocking(PATIENCE));
        Self {
            generation,
            workers,
        }
    }

    /// How many connections it has accepted in all.
    fn ended(self) -> usize {
        let workers = self.workers.into_iter();
        let accepted = workers.map(|worker| worker.join().unwrap()).sum();
        assert_drained(self.generation.outcome());
        accepted
    }
}

async fn accept_until(generation: &Generation, listener: TcpListener) -> usize {
    let mut end = pin!(generation.shutdown());
    let mut accepted = 0;
    loop {
        tokio::select! {
            () = &mut end => return accepted,
            connection = listener.accept() => {
                let (stream, _) = connection.expect("nothing is amiss until it is to end");
                accepted += 1;
                tokio::spawn(async move {
                    let mut byte = [0];
                    if Tokio::read(&stream, &mut byte).await.unwrap() == 1 {
                        Tokio::write_all(&stream, &byte).await.unwrap();
                    }
                });
            }
        }
    }
}

/// The port is as if nobody had ever had it.
fn assert_nothing_is_left() {
    ask(ADDR).unwrap_err();
    let (_group, generation) = Options::new().generation(ADDR, 2).unwrap();
    assert!(generation.predecessor().is_none());
}

/// Those that come in the grace of others, and one that stops in it, leave them their listeners.
#[test]
fn a_grace_is_not_cut() {
    const TEST: &str = "a_grace_is_not_cut";
    if !is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("a grace that is not cut", || {
        let options = Options::new();
        let mut servers = vec![Server::start(&options, 1, None)];
        let traffic = Traffic::tcp(ADDR);
        for _ in 0..4 {
            traffic.go_on(100);
            servers.push(Server::start(&options, 1, None));
        }
        // One that comes and goes, beside the listeners of all.
        drop(options.serve::<Std>(ADDR).unwrap());
        traffic.go_on(100);
        traffic.assert_nothing_lost("graces that overlap");
        servers[4].generation.stop();
        for server in servers {
            assert!(server.ended() > 0);
        }
        assert_nothing_is_left();
    });
}

/// When the last handle is dropped, nothing of the process is in the group any more.
#[test]
fn who_is_dropped_has_left() {
    const TEST: &str = "who_is_dropped_has_left";
    if !is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("a generation that is dropped", || {
        let options = Options::new();
        let server = Server::start(&options, 1, Some(Duration::ZERO));
        for round in 0..50 {
            let (listener, generation) = options.serve::<Std>(ADDR).unwrap();
            listener.set_nonblocking(true).unwrap();
            drop(generation);
            let error = listener.accept().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{round}: {error}");
        }
        server.generation.stop();
        server.ended();
    });
}

/// So many in a row that the next one waits until those before have ended.
#[test]
fn a_long_row_is_waited_for() {
    const TEST: &str = "a_long_row_is_waited_for";
    if !is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("a long row of processes", || {
        let options = Options::new();
        let grace = Duration::from_secs(2);
        let begin = Instant::now();
        let mut servers = vec![Server::start(&options, 1, Some(grace))];
        let traffic = Traffic::tcp(ADDR);
        for _ in 0..18 {
            traffic.go_on(10);
            servers.push(Server::start(&options, 1, Some(grace)));
        }
        // Seventeen stand beside it, which is one more than it takes with it.
        assert!(begin.elapsed() >= grace);
        traffic.go_on(100);
        traffic.assert_nothing_lost("a long row");
        servers[18].generation.stop();
        for server in servers {
            server.ended();
        }
        assert_nothing_is_left();
    });
}

/// Groups of any size, weights, processes that give up: in any order.
#[test]
fn whatever_comes_in_a_grace_loses_nothing() {
    const TEST: &str = "whatever_comes_in_a_grace_loses_nothing";
    if !is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("graces at random", || {
        let mut random = u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        println!("seed {random}");
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut server = Server::start(&Options::new(), 2, Some(Duration::from_millis(500)));
        let traffic = Traffic::tcp(ADDR);
        let mut before = Vec::new();
        for _ in 0..30 {
            traffic.go_on(20);
            let members = 1 + below(3) as usize;
            let mut options = Options::new();
            if below(2) == 0 {
                let weights = (0..members).map(|_| 1 + below(3) as u32).collect();
                options = options.steering(Steering::Weights(weights));
            }
            if below(3) == 0 {
                let gives_up = options.generation(ADDR, members).unwrap();
                traffic.go_on(20);
                drop(gives_up);
                continue;
            }
            // Alike for all, as it is for one program: listeners go with the shortest.
            let grace = Duration::from_millis(500);
            let next = Server::start(&options, members, Some(grace));
            assert_eq!(next.generation.guarantee(), Guarantee::Lossless);
            before.push(std::mem::replace(&mut server, next));
        }
        traffic.go_on(100);
        traffic.assert_nothing_lost("whatever comes");
        server.generation.stop();
        before.push(server);
        for server in before {
            server.ended();
        }
        assert_nothing_is_left();
    });
}
