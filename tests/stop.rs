//! A server that ends without a successor: new clients are refused, and none that was let in is lost.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/generations.rs"]
mod generations;
#[path = "util/load.rs"]
mod load;
#[path = "util/members.rs"]
mod members;
#[path = "util/serve.rs"]
mod serve;
#[path = "util/traffic.rs"]
mod traffic;
#[macro_use]
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use generations::{EVERY, PORT, Server, V4, V6, ask};
use members::deferred;
use reuseport::{Generation, Guarantee, Options, Serve, Std};
use traffic::Traffic;
use util::{PATIENCE, Runtime, assert_drained, in_namespace, until};

on_every_runtime!(nobody_is_reset_where_a_server_stops a_successor_gets_what_is_new_where_a_server_stops);

/// In a process of its own, where no other test's child has a copy of a socket.
fn alone(test: &str, what: &str, check: impl FnOnce() + Send) {
    if !util::is_child(test) {
        return util::in_child(test);
    }
    in_namespace(what, check);
}

fn is_ready(future: impl Future) -> bool {
    smol::block_on(smol::future::poll_once(std::pin::pin!(future))).is_some()
}

/// None but those who came too late have failed, and they were told at once.
#[track_caller]
fn assert_only_refused(traffic: Traffic, what: &str) -> usize {
    let outcomes = traffic.stop();
    let lost = outcomes.lost() - outcomes.refused;
    assert_eq!(lost, 0, "{what}: {outcomes}");
    outcomes.refused
}

fn nobody_is_reset_where_a_server_stops<R: Runtime>() {
    let test = format!(
        "nobody_is_reset_where_a_server_stops::{}",
        R::NAME.replace('-', "_")
    );
    alone(&test, "a server that stops", || {
        for ip in [V4, V6, EVERY] {
            let addr = SocketAddr::new(ip, PORT);
            for _ in 0..4 {
                let server = Server::serving::<R>(&Options::new(), addr, 2);
                assert_eq!(server.generation.guarantee(), Guarantee::Lossless);
                let farewell = server.generation.farewell();
                let traffic = Traffic::tcp_to(generations::ways(addr));
                traffic.go_on(200);
                assert!(!farewell.is_ending());
                server.generation.stop();
                let generation = server.generation.clone();
                assert!(server.relieved() > 0);
                assert!(farewell.is_ending());
                assert_drained(generation.outcome());
                assert!(assert_only_refused(traffic, R::NAME) > 0);
            }
        }
    });
}

/// One that has come, and has not taken over, takes all from there on.
fn a_successor_gets_what_is_new_where_a_server_stops<R: Runtime>() {
    let test = format!(
        "a_successor_gets_what_is_new_where_a_server_stops::{}",
        R::NAME.replace('-', "_")
    );
    alone(&test, "a server that stops beside a successor", || {
        let addr = SocketAddr::new(V4, PORT);
        for takes_over in [false, true] {
            let old = Server::serving::<R>(&Options::new(), addr, 2);
            let traffic = Traffic::tcp(addr);
            traffic.go_on(100);
            let new = Server::open::<R>(&Options::new(), addr, 3);
            old.generation.stop();
            if takes_over {
                new.take_over();
            }
            old.relieved();
            traffic.go_on(100);
            traffic.assert_nothing_lost("a stop beside a successor");
            until(|| (new.accepted() > 0).then_some(()));
            // It serves, and stops like any other.
            new.generation.stop();
            new.relieved();
        }
    });
}

/// Of which the handshake is half done until they have sent something.
#[test]
fn handshakes_that_are_under_way_are_waited_for() {
    alone(
        "handshakes_that_are_under_way_are_waited_for",
        "handshakes when a server stops",
        || {
            let addr = SocketAddr::new(V4, PORT);
            let (listener, generation) = deferred(Options::new()).serve::<Std>(addr).unwrap();
            let mut clients: Vec<_> = (0..4).map(|_| TcpStream::connect(addr).unwrap()).collect();
            generation.stop();
            // Refused as soon as the listener is hidden, which is not waited for.
            until(|| {
                TcpStream::connect(addr)
                    .err()
                    .map(|error| assert_eq!(error.kind(), ErrorKind::ConnectionRefused))
            });
            let relieved = generation.relieved();
            for client in &mut clients {
                assert!(!is_ready(relieved.clone()));
                client.write_all(b"?").unwrap();
                // One that came before the listener was hidden may be in front of it.
                let own = client.local_addr().unwrap();
                let mut accepted = std::iter::repeat_with(|| listener.accept().unwrap());
                let (mut server, _) = accepted.find(|(_, from)| *from == own).unwrap();
                server.write_all(b"!").unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
            smol::block_on(relieved);
            assert_drained(generation.outcome());
        },
    );
}

/// A client that has vanished is not waited for longer than that, and is counted.
#[test]
fn at_the_timeout_the_rest_is_counted() {
    alone(
        "at_the_timeout_the_rest_is_counted",
        "what is left when a server stops",
        || {
            let addr = SocketAddr::new(V4, PORT);
            let (listener, generation) = Std::serve(addr).unwrap();
            generation.set_timeout(Duration::from_millis(100));
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
            let begin = Instant::now();
            generation.stop();
            generation.relieved_blocking();
            assert!(begin.elapsed() >= Duration::from_millis(100));
            assert_eq!(generation.outcome().unwrap().unaccepted, 3);
            drop((clients, listener));
        },
    );
}

/// The futures of a framework: the first poll takes over, and there is time for fresh connections.
#[test]
fn a_shutdown_takes_over_and_has_a_grace() {
    alone(
        "a_shutdown_takes_over_and_has_a_grace",
        "futures of a shutdown",
        || {
            let addr = SocketAddr::new(V4, PORT);
            let open = || Std::serve(addr).unwrap();
            let (first, one) = open();
            first.set_nonblocking(true).unwrap();
            let grace = Duration::from_millis(300);
            one.set_grace(grace);
            let ends = one.shutdown();
            assert!(!is_ready(ends.clone()));
            assert_drained(one.outcome());

            let (second, two) = open();
            assert!(!is_ready(one.relieved()));
            let begin = Instant::now();
            assert!(!is_ready(two.shutdown()));
            one.relieved_blocking();
            assert!(one.farewell().is_ending() && !two.farewell().is_ending());
            // The listener is the server's until the future is ready, without an error.
            assert_eq!(first.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            smol::block_on(ends.clone());
            assert!(begin.elapsed() >= grace);
            assert_eq!(first.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            assert!(is_ready(ends));
            drop(first);
            let client = TcpStream::connect(addr).unwrap();
            let (_, from) = second.accept().unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            assert_drained(two.outcome());
        },
    );
}

#[track_caller]
fn assert_ends_unserved(generation: &Generation, why: &str) {
    let begin = Instant::now();
    smol::block_on(generation.shutdown());
    // Nothing has come to it, so that nothing is waited for.
    assert!(begin.elapsed() < Duration::from_secs(4));
    let error = generation.outcome().unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

/// One that has not taken over gives up, and the other goes on.
#[test]
fn one_that_does_not_serve_yet_gives_up() {
    alone(
        "one_that_does_not_serve_yet_gives_up",
        "a stop before the takeover",
        || {
            let addr = SocketAddr::new(V4, PORT);
            let old = Server::serving::<Std>(&Options::new(), addr, 2);
            let traffic = Traffic::tcp(addr);
            let (_listener, generation) = Std::serve(addr).unwrap();
            generation.stop();
            generation.relieved_blocking();
            smol::block_on(generation.shutdown());
            // Nothing was lost, as it has asked for that.
            assert_drained(generation.outcome());
            let error = generation.take_over_blocking(PATIENCE).unwrap_err();
            assert!(
                error.to_string().contains("has been told to end"),
                "{error}"
            );
            assert!(!old.generation.farewell().is_ending());
            traffic.go_on(100);
            traffic.assert_nothing_lost("a stop before the takeover");
            for _ in 0..20 {
                ask(addr, 1).unwrap();
            }
            old.end();
        },
    );
}

#[test]
fn one_that_was_superseded_says_so() {
    alone(
        "one_that_was_superseded_says_so",
        "a server that was superseded",
        || {
            let addr = SocketAddr::new(V4, PORT);
            let old = Server::serving::<Std>(&Options::new(), addr, 2);
            let (_late, late) = Std::serve(addr).unwrap();
            // It has five seconds to take over.
            let (_next, next) = Std::serve(addr).unwrap();
            assert_ends_unserved(&late, "it was superseded");
            drop(next);
            old.end();
        },
    );
}

/// Nothing is refused, and what is there is read.
#[test]
fn datagrams_are_read_until_none_is_there() {
    alone(
        "datagrams_are_read_until_none_is_there",
        "datagrams when a server stops",
        || {
            let addr = SocketAddr::new(V4, PORT);
            let (socket, generation) = Std::serve_packet(addr).unwrap();
            let client = UdpSocket::bind((V4, 0)).unwrap();
            client.connect(addr).unwrap();
            client.send(b"?").unwrap();
            generation.stop();
            let relieved = generation.relieved();
            assert!(!is_ready(relieved.clone()));
            let (_, from) = socket.recv_from(&mut [0; 8]).unwrap();
            socket.send_to(b"!", from).unwrap();
            client.recv(&mut [0; 8]).unwrap();
            smol::block_on(relieved);
            assert_drained(generation.outcome());
            // Answers can be sent as long as the socket is open.
            socket.send_to(b"!", from).unwrap();
            client.recv(&mut [0; 8]).unwrap();
        },
    );
}

/// A worker that waits in accept(2) is let go.
#[test]
fn a_blocking_worker_is_woken() {
    alone(
        "a_blocking_worker_is_woken",
        "a blocking worker when a server stops",
        || {
            let addr = SocketAddr::new(V4, PORT);
            let (listener, generation): (TcpListener, _) = Std::serve(addr).unwrap();
            let worker = std::thread::spawn(move || listener.accept().unwrap_err().kind());
            generation.stop();
            assert_eq!(worker.join().unwrap(), ErrorKind::InvalidInput);
            generation.relieved_blocking();
            // Twice is once.
            generation.stop();
            // The port is free.
            drop(Std::serve(addr).unwrap());
        },
    );
}
