//! Generations whose processes have one queue together, as on systems that cannot be told whom to choose.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/incoming.rs"]
mod incoming;
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

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::{Router, routing::get};
use engine::{Before, PATIENCE};
use load::{Counters, assert_nothing_lost};
use process::Process;
use reuseport::{Drained, Generation, Group, Guarantee, Incoming, Options, Spread, Std, Tokio};
use traffic::{ADDR, Traffic, ask, assert_all_answered};
use util::{Runtime, assert_drained, in_namespace};

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn options() -> Options {
    Options::new().spread(Spread::Queue)
}

fn open(n: usize) -> (Group<TcpListener>, Generation) {
    options().generation(ADDR, n).unwrap()
}

/// A process that takes over and then serves; with one queue the process that accepts gets.
fn start(kind: &str, n: usize, tag: u8, before: Before) -> Process {
    let mut process = Process::start();
    let opened = process.open(&format!("{kind} {ADDR} {n} queue")).unwrap();
    assert_eq!(opened.before, before);
    assert_eq!(process.take_over(PATIENCE).unwrap(), 0);
    process.ask(&format!("serve {tag}"));
    process
}

fn processes_relieve_each_other(kind: &str) {
    in_namespace("processes of one queue that relieve each other", || {
        let before = Counters::read();
        let mut old = start(kind, 2, 1, Before::Nothing);
        let traffic = Traffic::of(kind, ADDR);
        let mut served = 0;
        for (tag, n) in [(2, 3), (3, 1), (4, 4), (5, 2)] {
            traffic.go_on(200);
            let new = start(kind, n, tag, Before::Process(old.pid()));
            served += old.ends();
            old = new;
        }
        traffic.go_on(200);
        let outcomes = traffic.stop();
        match kind {
            "tcp" => assert_nothing_lost(&outcomes, &Counters::read().since(&before)),
            _ => assert_eq!(outcomes.lost(), 0, "{outcomes}"),
        }
        let last = start(kind, 1, 9, Before::Process(old.pid()));
        served += old.ends();
        assert_eq!(served, outcomes.answered);
        last.kill();
    });
}

#[test]
fn listeners_relieve_each_other_under_load() {
    processes_relieve_each_other("tcp");
}

#[test]
fn packet_sockets_relieve_each_other_under_load() {
    processes_relieve_each_other("udp");
}

/// A process that has not yet begun to accept costs nothing, whenever it dies.
#[test]
fn the_next_one_is_killed_at_any_instant() {
    in_namespace("one queue, and the next process is killed", || {
        let mut old = start("tcp", 2, 1, Before::Nothing);
        let traffic = Traffic::tcp(ADDR);
        for round in 0..20_u32 {
            traffic.go_on(20);
            let mut new = Process::start();
            // It runs.
            new.ask("served");
            new.tell(&format!("open tcp {ADDR} 3 queue"));
            new.tell("take 20000");
            thread::sleep(Duration::from_micros(u64::from(round) * 150));
            new.kill();
            if old
                .hear_within("relieved", Duration::from_millis(100))
                .is_some()
            {
                // It was killed when it had taken over, and left the queue without a process that accepts.
                old = start("tcp", 2, 1, Before::Nothing);
            }
        }
        assert_all_answered(ADDR, 1);
        drop(traffic);
        old.kill();
    });
}

/// What waits in the queue is not lost with the process that has not accepted it.
#[test]
fn the_old_one_is_killed() {
    in_namespace("one queue, and the old process is killed", || {
        for takes_over in [false, true] {
            let old = start("tcp", 2, 1, Before::Nothing);
            old.stop();
            let mut clients: Vec<_> = (0..50).map(|_| TcpStream::connect(ADDR).unwrap()).collect();
            // It answers the next process, and is killed before it has accepted one.
            old.signal(libc::SIGCONT);
            let mut new = Process::start();
            new.open(&format!("tcp {ADDR} 3 queue")).unwrap();
            if takes_over {
                assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
            }
            old.kill();
            let late: Vec<_> = (0..50).map(|_| TcpStream::connect(ADDR).unwrap()).collect();
            if !takes_over {
                assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
            }
            new.ask("serve 2");
            // Those before it may have come to the old one while that still ran.
            clients.drain(..);
            for mut client in late {
                client.write_all(&[7]).unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
            new.kill();
        }
    });
}

/// Workers as an `Incoming` makes them: each says how many it has accepted, when it has ended.
struct Workers {
    generation: Generation,
    threads: Vec<JoinHandle<usize>>,
}

impl Workers {
    fn start<R: Runtime>(n: usize) -> Self {
        let (group, generation) = open(n);
        assert_eq!(generation.guarantee(), Guarantee::Lossless);
        let (begin, begun) = mpsc::channel();
        let workers = group.into_iter().map(|member| {
            let (generation, begin) = (generation.clone(), begin.clone());
            thread::spawn(move || {
                R::block_on(async {
                    let listener = member.attach::<R>().unwrap();
                    let mut incoming = generation.incoming::<R>(listener);
                    begin.send(()).unwrap();
                    let mut accepted = 0;
                    while let Some(stream) = incoming.accept().await {
                        let (stream, _) = stream.unwrap();
                        accepted += 1;
                        let mut question = [0];
                        R::read_exact(&stream, &mut question).await.unwrap();
                        R::write_all(&stream, &question).await.unwrap();
                    }
                    accepted
                })
            })
        });
        let threads: Vec<_> = workers.collect();
        for _ in &threads {
            begun.recv_timeout(PATIENCE).unwrap();
        }
        assert_drained(generation.take_over_blocking(PATIENCE));
        Self {
            generation,
            threads,
        }
    }

    #[track_caller]
    fn ended(self) -> usize {
        let accepted = self
            .threads
            .into_iter()
            .map(|thread| thread.join().unwrap());
        let accepted = accepted.sum();
        assert_drained(self.generation.outcome());
        accepted
    }
}

on_every_runtime!(
    a_restart_loses_nothing what_comes_is_the_next_ones idle_workers_end_at_once a_server_that_stops_accepts_what_has_come
);

fn a_restart_loses_nothing<R: Runtime>() {
    in_namespace("a restart with one queue", || {
        let mut old = Workers::start::<R>(2);
        let traffic = Traffic::tcp(ADDR);
        let mut accepted = 0;
        for n in [3, 1, 4, 2] {
            traffic.go_on(200);
            let new = Workers::start::<R>(n);
            accepted += old.ended();
            old = new;
        }
        traffic.go_on(200);
        let outcomes = traffic.stop();
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        old.generation.stop();
        accepted += old.ended();
        assert_eq!(accepted, outcomes.answered);
    });
}

/// Also where the old one would find a connection when it looks.
fn what_comes_is_the_next_ones<R: Runtime>() {
    in_namespace("one queue after a takeover", || {
        let ((old, first), (new, second)) = (open(1), open(1));
        let old = old.into_iter().next().unwrap();
        R::block_on(async {
            let mut incoming = first.incoming::<R>(old.attach::<R>().unwrap());
            assert_drained(second.take_over_blocking(PATIENCE));
            first.relieved_blocking();
            let _client = TcpStream::connect(ADDR).unwrap();
            let waits = |listener: &TcpListener| reuseport::queue(listener).unwrap().waiting;
            let listener = new.into_iter().next().unwrap().into_std();
            util::until(|| (waits(&listener) == 1).then_some(()));
            assert!(incoming.accept().await.is_none());
            assert_eq!(waits(&listener), 1);
        });
    });
}

/// Nothing comes, and so nothing but the takeover itself can wake those that wait.
fn idle_workers_end_at_once<R: Runtime>() {
    in_namespace("idle workers of one queue", || {
        let old = Workers::start::<R>(4);
        let new = Workers::start::<R>(1);
        let begin = Instant::now();
        assert_eq!(old.ended(), 0);
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
        assert_eq!(ask(ADDR).unwrap(), 255);
        new.generation.stop();
        assert_eq!(new.ended(), 1);
    });
}

/// Those that still connect to a server which has been told to stop, until it refuses one.
fn last_clients() -> Vec<TcpStream> {
    let mut clients = Vec::new();
    util::until(|| match TcpStream::connect(ADDR) {
        Ok(client) => {
            clients.push(client);
            None
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            Some(())
        }
    });
    clients
}

fn a_server_that_stops_accepts_what_has_come<R: Runtime>() {
    in_namespace("one queue that stops", || {
        let (group, generation) = open(2);
        let mut clients: Vec<_> = (0..30).map(|_| TcpStream::connect(ADDR).unwrap()).collect();
        generation.stop();
        clients.extend(last_clients());
        assert!(!generation.is_relieved());
        let members = group.into_iter();
        let workers = members.map(|member| incoming::answering::<R>(member, &generation, b'!'));
        let workers: Vec<_> = workers.collect();
        for client in &mut clients {
            client.read_exact(&mut [0]).unwrap();
        }
        let accepted: usize = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum();
        assert_eq!(accepted, clients.len());
        assert_drained(generation.outcome());
        // The next one is a first one.
        assert_eq!(open(1).1.predecessor(), None);
    });
}

/// Its queue is the next one's too, which does not find it closed.
#[test]
fn one_that_stops_leaves_the_queue_to_the_next() {
    in_namespace("one queue, stopped beside the next process", || {
        let (old, generation) = open(2);
        let mut clients: Vec<_> = (0..30).map(|_| TcpStream::connect(ADDR).unwrap()).collect();
        let mut new = Process::start();
        new.open(&format!("tcp {ADDR} 1 queue")).unwrap();
        generation.stop();
        generation.relieved_blocking();
        drop(old);
        clients.extend((0..10).map(|_| TcpStream::connect(ADDR).unwrap()));
        assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
        new.ask("serve 2");
        for client in &mut clients {
            client.write_all(&[7]).unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        new.kill();
    });
}

/// The port is free when the old one has closed its listener, which is a while after it has ended.
#[test]
fn the_next_one_waits_for_one_that_stops() {
    in_namespace("one queue, and the next process comes too late", || {
        let (group, generation) = open(2);
        let mut clients = vec![TcpStream::connect(ADDR).unwrap()];
        generation.stop();
        clients.extend(last_clients());
        let mut new = Process::start();
        new.ask("served");
        new.tell(&format!("open tcp {ADDR} 1 queue"));
        assert!(
            new.hear_within("open", Duration::from_millis(500))
                .is_none()
        );
        let mut members = group.into_iter();
        let first = members.next().unwrap().attach::<Std>().unwrap();
        let mut incoming = generation.incoming::<Std>(first);
        for client in &mut clients {
            let (mut stream, _) = incoming.next().unwrap().unwrap();
            stream.write_all(b"!").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        assert!(incoming.next().is_none());
        generation.relieved_blocking();
        assert!(
            new.hear_within("open", Duration::from_millis(500))
                .is_none()
        );
        drop(members);
        assert_eq!(new.opened(PATIENCE).unwrap().before, Before::Nothing);
        new.kill();
    });
}

#[test]
fn one_that_gives_up_leaves_the_queue_as_it_was() {
    in_namespace("one queue, and the next process gives up", || {
        let old = Workers::start::<Tokio>(2);
        let traffic = Traffic::tcp(ADDR);
        for generation_first in [true, false] {
            traffic.go_on(50);
            let (group, generation) = open(3);
            if generation_first {
                drop(generation);
                drop(group);
            } else {
                drop(group);
                drop(generation);
            }
        }
        traffic.go_on(50);
        traffic.assert_nothing_lost("one that gives up");
        assert!(!old.generation.is_relieved());
        old.generation.stop();
        old.ended();
    });
}

#[test]
fn one_queue_does_not_follow_a_queue_each() {
    in_namespace("generations of another spread", || {
        let refusal = |options: &Options| {
            let error = options.generation(ADDR, 1).unwrap_err();
            (error.kind(), error.to_string())
        };
        let sentence = |has: &str, meant: &str| {
            let me = std::process::id();
            let name = std::fs::read_to_string("/proc/self/comm").unwrap();
            let name = name.trim();
            (
                ErrorKind::InvalidInput,
                format!(
                    "cannot take over {ADDR} from process {me} ({name}): its members have {has}, and {meant} \
                     was meant (Options::spread)"
                ),
            )
        };
        let first = open(1);
        assert_eq!(
            refusal(&Options::new().spread(Spread::Kernel)),
            sentence("one queue together", "a queue each")
        );
        // One that does not say follows.
        let next = Options::new().generation(ADDR, 2).unwrap();
        assert_eq!(next.0.spread(), Spread::Queue);
        assert_drained(next.1.take_over_blocking(PATIENCE));
        drop(first);
        next.1.stop();
        drop(next);
        let first = util::until(|| Options::new().generation(ADDR, 1).ok());
        assert_eq!(refusal(&options()), sentence("a queue each", "one queue"));
        drop(first);
    });
}

/// The mode is one for both processes, and so no worker of one may change it.
#[test]
fn a_socket_does_not_block() {
    in_namespace("the mode of one queue", || {
        let (group, _generation) = open(1);
        let (next, _next) = open(1);
        for group in [group, next] {
            let listener = group.into_iter().next().unwrap().attach::<Std>().unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            // Here it waits all the same.
            let client = thread::spawn(|| TcpStream::connect(ADDR).unwrap());
            let (stream, _) = <Std as Runtime>::block_on(async {
                <Std as reuseport::Net>::accept(&listener).await.unwrap()
            });
            drop(client.join().unwrap());
            let mut rest = Vec::new();
            (&stream).read_to_end(&mut rest).unwrap();
        }
        let (group, _generation) = options().packet_generation(ADDR, 1).unwrap();
        let socket = group.into_iter().next().unwrap().attach::<Std>().unwrap();
        assert_eq!(
            socket.recv(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sent = thread::spawn(move || client.send_to(b"x", ADDR).unwrap());
        let received = <Std as Runtime>::block_on(async {
            <Std as reuseport::Net>::recv_from(&socket, &mut [0; 8])
                .await
                .unwrap()
        });
        assert_eq!((received.0, sent.join().unwrap()), (1, 1));
    });
}

/// A framework's listener that stops when another process has taken over: GUIDE.md, 24.
struct Accepting(Incoming<Tokio>, SocketAddr);

impl axum::serve::Listener for Accepting {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            match self.0.accept().await {
                Some(Ok(accepted)) => return accepted,
                Some(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.1)
    }
}

/// Returns when it serves.
fn axum(says: &'static str) -> JoinHandle<()> {
    let (begin, begun) = mpsc::channel();
    let serving = thread::spawn(move || {
        <Tokio as Runtime>::block_on(async {
            let (listener, generation) = options().serve::<Tokio>(ADDR).unwrap();
            generation.set_grace(Duration::from_secs(3));
            let accepting = Accepting(generation.incoming(listener), ADDR);
            let app = Router::new().route("/", get(move || async move { says }));
            let mut serving = pin!(
                axum::serve(accepting, app)
                    .with_graceful_shutdown(generation.shutdown())
                    .into_future()
            );
            // Its first poll takes over.
            assert!(smol::future::poll_once(&mut serving).await.is_none());
            begin.send(()).unwrap();
            serving.await.unwrap();
            assert_drained(generation.outcome());
        });
    });
    begun.recv_timeout(PATIENCE).unwrap();
    serving
}

/// A client that takes a while to ask.
fn get_slowly(pause: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect(ADDR)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    thread::sleep(pause);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_framework_by_an_incoming_cuts_no_client_off() {
    in_namespace("axum with one queue", || {
        let mut old = axum("0");
        let is_over = AtomicBool::new(false);
        let asked = thread::scope(|scope| {
            let clients: Vec<_> = (0..16)
                .map(|number| {
                    let is_over = &is_over;
                    scope.spawn(move || {
                        let mut asked = 0;
                        while !is_over.load(Ordering::Relaxed) {
                            let answer = get_slowly(Duration::from_millis(number % 4 * 5));
                            let answer = answer.unwrap();
                            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
                            asked += 1;
                        }
                        asked
                    })
                })
                .collect();
            for says in ["1", "2", "3"] {
                let new = axum(says);
                std::mem::replace(&mut old, new).join().unwrap();
                assert!(get_slowly(Duration::ZERO).unwrap().ends_with(says));
            }
            is_over.store(true, Ordering::Relaxed);
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .sum::<usize>()
        });
        assert!(asked > 100, "{asked}");
        let last = open(1);
        assert_drained(last.1.take_over_blocking(PATIENCE));
        old.join().unwrap();
    });
}

/// Nothing was left that no process could accept.
#[test]
fn the_outcome_is_that_nothing_is_lost() {
    in_namespace("what one queue says of its end", || {
        let (old, first) = open(1);
        let (new, second) = open(1);
        let _waits = TcpStream::connect(ADDR).unwrap();
        assert_eq!(
            second.take_over_blocking(PATIENCE).unwrap(),
            Drained::default()
        );
        first.relieved_blocking();
        assert_drained(first.outcome());
        drop(old);
        let listener = new.into_iter().next().unwrap().into_std();
        assert_eq!(reuseport::queue(&listener).unwrap().waiting, 1);
    });
}
