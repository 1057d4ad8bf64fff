//! Servers that have several addresses, which are taken over together or not at all.

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

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use engine::{Before, PATIENCE};
use process::{Opened, Process, Refused};
use reuseport::{Generation, Group, Options, Wanted};
use server::SEVERAL;
use traffic::{Traffic, ask};
use util::{Runtime, assert_drained, in_namespace};
use worker::{WHO, Worker};

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn addr(at: usize) -> SocketAddr {
    SEVERAL[at].parse().unwrap()
}

fn open(process: &mut Process, order: &str) -> Result<Opened, Refused> {
    process.tell(&format!("open-several {order}"));
    process.opened(PATIENCE)
}

fn start(order: &str, tag: u8, before: Before) -> Process {
    let mut process = Process::start();
    assert_eq!(open(&mut process, order).unwrap().before, before);
    let spread = order.split_once(' ').map(|(_, spread)| spread);
    if spread != Some("queue") {
        process.ask(&format!("serve {tag}"));
    }
    assert_eq!(process.take_over(PATIENCE).unwrap(), 0);
    if spread == Some("queue") {
        process.ask(&format!("serve {tag}"));
    }
    process
}

fn ask_packet(to: SocketAddr) -> Option<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    socket.send_to(&[WHO], to).unwrap();
    let mut answer = [0];
    socket.recv(&mut answer).ok()?;
    Some(answer[0])
}

/// Who answers at each address.
fn who() -> [Option<u8>; 3] {
    [ask(addr(0)).ok(), ask(addr(1)).ok(), ask_packet(addr(2))]
}

fn traffic() -> [Traffic; 3] {
    [
        Traffic::tcp(addr(0)),
        Traffic::tcp(addr(1)),
        Traffic::udp(addr(2)),
    ]
}

fn relieve_each_other(spread: &str) {
    in_namespace("several addresses, restarted", || {
        let order = |order: &str| format!("{order} {spread}").trim().to_owned();
        let mut old = start(&order("forward"), 1, Before::Nothing);
        let traffic = traffic();
        for (tag, way) in [(2, "backward"), (3, "backward"), (4, "forward")] {
            traffic.iter().for_each(|traffic| traffic.go_on(50));
            let new = start(&order(way), tag, Before::Process(old.pid()));
            old.ends();
            assert_eq!(who(), [Some(tag); 3]);
            old = new;
        }
        traffic.iter().for_each(|traffic| traffic.go_on(50));
        for traffic in traffic {
            traffic.assert_nothing_lost("several addresses");
        }
        old.kill();
    });
}

#[test]
fn they_are_taken_over_together() {
    relieve_each_other("");
}

#[test]
fn they_are_taken_over_together_with_one_queue_each() {
    relieve_each_other("queue");
}

#[test]
fn where_one_is_refused_all_are_given_back() {
    in_namespace("several addresses, and one is refused", || {
        let options = Options::new();
        // The first and the last in the order in which they are opened.
        for held in [addr(0), addr(1)] {
            let free = if held == addr(0) { addr(1) } else { addr(0) };
            let (_group, generation) = options.generation(free, 1).unwrap();
            let _held = util::until(|| TcpListener::bind(held).ok());
            let mut new = Process::start();
            let refused = open(&mut new, "forward").unwrap_err();
            assert_eq!(refused.kind, "AddrInUse", "{refused:?}");
            assert!(refused.text.contains(&held.to_string()), "{refused:?}");
            assert!(!generation.is_relieved());
            // Nothing stands beside it any more: the next one is lent all.
            let (_next, next) = options.generation(free, 1).unwrap();
            assert!(next.predecessor().is_some());
            assert_drained(next.take_over_blocking(PATIENCE));
            drop(new);
        }
    });
}

#[test]
fn two_that_name_them_in_different_orders_do_not_wait_for_each_other() {
    in_namespace("several addresses in two orders", || {
        for round in 0..5 {
            let old = start("forward", 0, Before::Nothing);
            let begin = Instant::now();
            let (one, other) = thread::scope(|scope| {
                let begin = |way: &'static str| {
                    scope.spawn(move || {
                        let mut process = Process::start();
                        let before = open(&mut process, way).unwrap().before;
                        process.ask("serve 1");
                        assert_eq!(process.take_over(PATIENCE).unwrap(), 0);
                        (process, before)
                    })
                };
                let (one, other) = (begin("forward"), begin("backward"));
                (one.join().unwrap(), other.join().unwrap())
            });
            // One that waited for the other would be given up after five seconds.
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(5), "round {round}: {took:?}");
            let first = Before::Process(old.pid());
            assert!(one.1 == first || other.1 == first);
            assert_ne!(one.1, other.1);
            old.ends();
            assert_eq!(who(), [Some(1); 3]);
            one.0.kill();
            other.0.kill();
        }
    });
}

/// Of which addresses a process would relieve that one.
fn served_by(process: &Process) -> [bool; 3] {
    let is_its = |generation: Generation| {
        let predecessor = generation.predecessor();
        predecessor.and_then(|predecessor| predecessor.pid()) == Some(process.pid())
    };
    let options = Options::new();
    [
        options
            .generation(addr(0), 1)
            .is_ok_and(|(_, one)| is_its(one)),
        options
            .generation(addr(1), 1)
            .is_ok_and(|(_, one)| is_its(one)),
        options
            .packet_generation(addr(2), 1)
            .is_ok_and(|(_, one)| is_its(one)),
    ]
}

/// Whatever it was doing: all addresses are with the old process, or it has been relieved of all.
#[test]
fn killed_at_any_instant() {
    in_namespace("several addresses, and the next process is killed", || {
        let mut old = start("forward", 1, Before::Nothing);
        let mut relieved = 0;
        for round in 0..40_u32 {
            let mut new = Process::start();
            new.tell("open-several backward");
            if round % 2 == 1 {
                new.opened(PATIENCE).unwrap();
            }
            new.tell("serve 2");
            new.tell("take 20000");
            thread::sleep(Duration::from_micros(u64::from(round) * 1_500));
            new.kill();
            match served_by(&old) {
                [true, true, true] => assert_eq!(who(), [Some(1); 3], "round {round}"),
                [false, false, false] => {
                    relieved += 1;
                    drop(old);
                    old = start("forward", 1, Before::Nothing);
                }
                some => panic!("round {round}: the old process serves {some:?}"),
            }
        }
        println!("measured: {relieved} of 40 were killed after they had taken over");
        old.kill();
    });
}

/// The kernel refuses the program of one, and the process that serves goes on with all.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn where_one_cannot_be_taken_over_none_is() {
    const TEST: &str = "where_one_cannot_be_taken_over_none_is";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("several addresses, and the kernel refuses one", || {
        let old = start("forward", 1, Before::Nothing);
        let traffic = traffic();
        let options = Options::new();
        // It is opened last, so that the thread of this one alone is refused.
        let refused = Options::new().before_bind(|_| {
            util::answer_option(libc::SO_ATTACH_REUSEPORT_CBPF, libc::EPERM);
            Ok(())
        });
        let wanted = (
            refused.want_packet(addr(2), 1),
            options.want(addr(0), 2),
            options.want(addr(1), 1),
        );
        let ((quic, http, https), generation) = Generation::open(wanted).unwrap();
        let serve = |group: Group<TcpListener>| {
            let members = group.into_iter();
            members
                .map(|member| Worker::start(member.into_std(), 1))
                .collect::<Vec<_>>()
        };
        let mut workers = serve(http);
        workers.extend(serve(https));
        workers.extend(
            quic.into_iter()
                .map(|member| Worker::start(member.into_std(), 1)),
        );
        for _ in 0..3 {
            traffic.iter().for_each(|traffic| traffic.go_on(20));
            let error = generation.take_over_blocking(PATIENCE).unwrap_err();
            let cannot = format!("cannot steer the group on {}", addr(2));
            assert!(error.to_string().starts_with(&cannot), "{error}");
        }
        traffic.iter().for_each(|traffic| traffic.go_on(20));
        assert_eq!(who(), [Some(1); 3]);
        drop(generation);
        workers.into_iter().for_each(Worker::end);
        for traffic in traffic {
            traffic.assert_nothing_lost("a takeover that is refused");
        }
        old.kill();
    });
}

/// One that comes later takes one address, after five seconds, and the others are given back.
#[test]
fn where_one_is_superseded_all_are_given_back() {
    in_namespace("several addresses, and one is superseded", || {
        let old = start("forward", 1, Before::Nothing);
        let options = Options::new();
        let wanted = (
            options.want(addr(0), 1),
            options.want(addr(1), 1),
            options.want_packet(addr(2), 1),
            // That one is new, serves at once, and ends with the others.
            options.want("127.0.0.1:4002", 1),
        );
        let (_groups, generation) = Generation::open(wanted).unwrap();
        let (_later, later) = options.generation(addr(1), 1).unwrap();
        let error = generation.take_over_blocking(PATIENCE).unwrap_err();
        assert!(error.to_string().contains("it was superseded"), "{error}");
        assert!(generation.outcome().is_err());
        generation.relieved_blocking();
        smol::block_on(generation.shutdown());
        assert_eq!(who(), [Some(1); 3]);
        drop(later);
        old.kill();
    });
}

#[test]
fn what_cannot_be_is_refused() {
    in_namespace("several addresses that cannot be", || {
        let options = Options::new();
        let one = || options.want(addr(0), 1);
        let sentence = |error: reuseport::Error| (error.kind(), error.to_string());
        let what = "cannot open a generation of several addresses";
        assert_eq!(
            sentence(Generation::open((one(), one())).unwrap_err()),
            (
                ErrorKind::InvalidInput,
                format!("{what}: TCP {} is named twice", addr(0))
            )
        );
        assert_eq!(
            sentence(Generation::open(Vec::<Wanted<TcpListener>>::new()).unwrap_err()),
            (
                ErrorKind::InvalidInput,
                "cannot open a generation: no address is wanted".to_owned()
            )
        );
        let name = options.want("example.com:80", 1);
        let text = Generation::open((one(), name)).unwrap_err().to_string();
        assert!(text.contains("is a name"), "{text}");
        // None of them has the port.
        let listener = TcpListener::bind(addr(0)).unwrap();
        drop(listener);
        let wanted = vec![options.want(addr(1), 2), options.want(addr(0), 1)];
        let (groups, generation) = Generation::open(wanted).unwrap();
        let found: Vec<_> = groups
            .iter()
            .map(|group| (group.local_addr(), group.len()))
            .collect();
        assert_eq!(found, [(addr(1), 2), (addr(0), 1)]);
        assert_eq!(generation.predecessor(), None);
    });
}

on_every_runtime!(each_loop_ends_with_its_address);

/// Of two addresses the next process takes one, and adds a third.
fn each_loop_ends_with_its_address<R: Runtime>() {
    in_namespace("one of two addresses", || {
        let options = Options::new();
        let wanted = (options.want(addr(0), 1), options.want(addr(1), 1));
        let ((one, other), generation) = Generation::open(wanted).unwrap();
        assert_drained(generation.take_over_blocking(PATIENCE));
        let serve = |group: Group<TcpListener>, tag: u8, generation: &Generation| {
            let member = group.into_iter().next().unwrap();
            incoming::answering::<R>(member, generation, tag)
        };
        let (one, other) = (serve(one, 1, &generation), serve(other, 2, &generation));
        let tag = |at: usize| {
            use std::io::Read;
            let mut answer = [0];
            TcpStream::connect(addr(at))
                .unwrap()
                .read_exact(&mut answer)
                .unwrap();
            answer[0]
        };
        assert_eq!((tag(0), tag(1)), (1, 2));
        let third: SocketAddr = "127.0.0.1:4002".parse().unwrap();
        let wanted = (options.want(third, 1), options.want(addr(0), 1));
        let ((third_group, next), successor) = Generation::open(wanted).unwrap();
        assert!(successor.predecessor().is_some());
        let workers = [
            serve(next, 3, &successor),
            serve(third_group, 4, &successor),
        ];
        assert_drained(successor.take_over_blocking(PATIENCE));
        assert_eq!(one.join().unwrap(), 1);
        assert!(!generation.is_relieved());
        assert!(generation.farewell().is_ending());
        assert_eq!((tag(0), tag(1)), (3, 2));
        generation.stop();
        assert_eq!(other.join().unwrap(), 2);
        generation.relieved_blocking();
        assert_drained(generation.outcome());
        successor.stop();
        let accepted = workers.map(|worker| worker.join().unwrap());
        assert_eq!(accepted, [1, 0]);
    });
}
