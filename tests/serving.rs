//! The server's side of a restart: loops that end by themselves, and answers that say goodbye.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/load.rs"]
mod load;
#[path = "util/traffic.rs"]
mod traffic;
#[macro_use]
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::{Router, routing::get};
use reuseport::{Generation, Net, Options, Serve, Shutdown, Std, Tokio};
use traffic::{Traffic, ask};
use util::{PATIENCE, Runtime, assert_drained, in_namespace, is_child};

const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);

on_every_runtime!(a_loop_ends_when_the_next_process_serves_or_it_stops);

/// A process whose workers each have a loop of their own.
struct Server {
    generation: Generation,
    workers: Vec<JoinHandle<usize>>,
}

impl Server {
    fn start<R: Runtime>() -> Self {
        let (group, generation) = Options::new().generation(ADDR, 2).unwrap();
        let workers = group.into_iter().map(|member| {
            let generation = generation.clone();
            thread::spawn(move || {
                R::block_on(async {
                    let listener = member.attach::<R>().unwrap();
                    let mut incoming = generation.incoming::<R>(listener);
                    let mut accepted = 0;
                    while let Some(connection) = incoming.accept().await {
                        let (stream, _) = connection.unwrap();
                        accepted += 1;
                        let mut byte = [0];
                        if R::read(&stream, &mut byte).await.unwrap() == 1 {
                            R::write_all(&stream, &byte).await.unwrap();
                        }
                    }
                    assert!(incoming.get_ref().is_none());
                    assert!(incoming.accept().await.is_none());
                    accepted
                })
            })
        });
        let workers = workers.collect();
        Self {
            generation,
            workers,
        }
    }

    fn ended(self) -> usize {
        let accepted = self
            .workers
            .into_iter()
            .map(|worker| worker.join().unwrap());
        let accepted = accepted.sum();
        assert_drained(self.generation.outcome());
        accepted
    }
}

fn a_loop_ends_when_the_next_process_serves_or_it_stops<R: Runtime>() {
    let test = format!(
        "a_loop_ends_when_the_next_process_serves_or_it_stops::{}",
        R::NAME.replace('-', "_")
    );
    if !is_child(&test) {
        return util::in_child(&test);
    }
    in_namespace("loops that end", || {
        let mut old = Server::start::<R>();
        let traffic = Traffic::tcp(ADDR);
        for _ in 0..3 {
            traffic.go_on(100);
            // Its first accept takes over.
            let new = Server::start::<R>();
            assert!(old.ended() > 0);
            old = new;
        }
        traffic.go_on(100);
        traffic.assert_nothing_lost(R::NAME);
        old.generation.stop();
        assert!(old.ended() > 0);
        ask(ADDR).unwrap_err();
    });
}

#[test]
fn an_iterator_ends_for_blocking_workers() {
    if !is_child("an_iterator_ends_for_blocking_workers") {
        return util::in_child("an_iterator_ends_for_blocking_workers");
    }
    in_namespace("an iterator that ends", || {
        let (listener, generation) = Std::serve(ADDR).unwrap();
        let incoming = generation.incoming::<Std>(listener);
        let worker = thread::spawn(move || incoming.map(Result::unwrap).count());
        let clients = [(); 3].map(|()| TcpStream::connect(ADDR).unwrap());
        generation.stop();
        assert_eq!(worker.join().unwrap(), clients.len());

        // So does a member that is closed alone.
        let (group, generation) = Options::new().generation(ADDR, 2).unwrap();
        let (roster, mut members) = (group.roster(), group.into_iter());
        let first = generation.incoming::<Std>(members.next().unwrap().into_std());
        let worker = thread::spawn(move || first.map(Result::unwrap).count());
        roster.close(0).unwrap();
        worker.join().unwrap();
    });
}

/// A loop as anybody writes it with tokio, which is told when to end; how many it has accepted.
async fn accept_until(end: Shutdown, listener: tokio::net::TcpListener) -> usize {
    let mut end = std::pin::pin!(end);
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

/// Those that come in the grace of others, and one that stops in it, leave them their listeners.
#[test]
fn a_grace_is_not_cut() {
    const TEST: &str = "a_grace_is_not_cut";
    if !is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("a grace that is not cut", || {
        let start = || {
            let (addr, taken) = std::sync::mpsc::channel();
            let worker = thread::spawn(move || {
                <Tokio as Runtime>::block_on(async {
                    let (listener, generation) = Tokio::serve(ADDR).unwrap();
                    let taking = generation.take_over(PATIENCE);
                    let stops = generation.clone();
                    tokio::spawn(async move { addr.send((stops, taking.await)).unwrap() });
                    let accepted = accept_until(generation.shutdown(), listener).await;
                    assert_drained(generation.outcome());
                    accepted
                })
            });
            let (generation, taken) = taken.recv_timeout(PATIENCE).unwrap();
            assert_drained(taken);
            (generation, worker)
        };
        let mut servers = vec![start()];
        let traffic = Traffic::tcp(ADDR);
        for _ in 0..4 {
            traffic.go_on(100);
            servers.push(start());
        }
        // One that comes and goes, beside four of before.
        drop(Std::serve(ADDR).unwrap());
        traffic.go_on(100);
        traffic.assert_nothing_lost("graces that overlap");
        let (last, _) = &servers[4];
        last.stop();
        for (_, worker) in servers {
            assert!(worker.join().unwrap() > 0);
        }
        // All have left nothing behind.
        ask(ADDR).unwrap_err();
        let (_listener, generation) = Std::serve(ADDR).unwrap();
        assert!(generation.predecessor().is_none());
    });
}

/// Asks on a connection that stays open; whether the answer says that it is the last.
fn is_last(stream: &mut TcpStream) -> bool {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ok"), "{answer}");
    answer.contains("connection: close")
}

/// What a reader of the README has.
#[test]
fn axum_is_restarted_in_three_lines() {
    const TEST: &str = "axum_is_restarted_in_three_lines";
    if !is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("axum in three lines", || {
        let start = || {
            let (give, take) = std::sync::mpsc::channel();
            let server = thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let (listener, generation) = Tokio::serve(ADDR).unwrap();
                    generation.set_grace(Duration::from_millis(500));
                    give.send(generation.clone()).unwrap();
                    let app = Router::new().route("/", get(|| async { "hello" }));
                    let app = app.layer(generation.farewell());
                    let server = axum::serve(listener, app);
                    server
                        .with_graceful_shutdown(generation.shutdown())
                        .await
                        .unwrap();
                    assert_drained(generation.outcome());
                });
            });
            (server, take.recv().unwrap())
        };
        let connect = || {
            let stream = TcpStream::connect(ADDR).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let (old, one) = start();
        let mut kept = connect();
        assert!(!is_last(&mut kept) && !is_last(&mut kept));
        let (new, two) = start();
        one.relieved_blocking();
        assert!(is_last(&mut kept));
        assert_eq!(kept.read(&mut [0]).unwrap(), 0);
        let mut kept = connect();
        assert!(!is_last(&mut kept));
        old.join().unwrap();
        two.stop();
        assert!(is_last(&mut kept));
        new.join().unwrap();
    });
}

/// Whether it is there or not, the thread that asks is not blocked, and what is dropped is given up.
/// HTTP/2 has its own farewell, and forbids the header (RFC 9113, 8.2.2).
#[test]
fn only_http_1_is_told_by_a_header() {
    use axum::http::{Request, Version, header::CONNECTION};
    use tower_layer::Layer;
    use tower_service::Service;

    in_namespace("the farewell by version", || {
        let (_group, generation) = Options::new().generation(ADDR, 1).unwrap();
        let app = Router::new().route("/", get(|| async { "hello" }));
        let mut service = generation.farewell().layer(app);
        let mut ask = |version| {
            let request = Request::builder().version(version);
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer =
                smol::block_on(Service::<Request<_>>::call(&mut service, request)).unwrap();
            answer.headers().get(CONNECTION).cloned()
        };
        assert_eq!(ask(Version::HTTP_11), None);
        generation.stop();
        let farewell = generation.farewell();
        util::until(|| farewell.is_ending().then_some(()));
        assert_eq!(ask(Version::HTTP_11).unwrap(), "close");
        assert_eq!(ask(Version::HTTP_10).unwrap(), "close");
        assert_eq!(ask(Version::HTTP_2), None);
    });
}

#[test]
fn a_generation_is_opened_without_blocking() {
    if !is_child("a_generation_is_opened_without_blocking") {
        return util::in_child("a_generation_is_opened_without_blocking");
    }
    in_namespace("opening without blocking", || {
        let open = || Options::new().generation_async(ADDR, 2);
        let (group, first) = smol::block_on(open()).unwrap();
        assert!(first.predecessor().is_none());
        drop(open());
        let mut second = std::pin::pin!(open());
        assert!(smol::block_on(smol::future::poll_once(&mut second)).is_none());
        let (_group, second) = smol::block_on(second).unwrap();
        assert!(second.predecessor().is_some());
        assert_drained(smol::block_on(second.take_over(PATIENCE)));
        drop(group);
        let (sockets, packets) =
            smol::block_on(Options::new().packet_generation_async(ADDR, 3)).unwrap();
        assert_eq!((sockets.len(), packets.predecessor().is_none()), (3, true));
        let error = Options::new().generation_async("no address", 1);
        let error = smol::block_on(error).unwrap_err().to_string();
        assert!(error.starts_with("cannot use \"no address\""), "{error}");
    });
}
