//! Generations that cannot be, each refused by a sentence, and what is none the worse for it.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/rendezvous.rs"]
mod rendezvous;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use engine::frame;
use rendezvous::addr_of;
use reuseport::{Error, Holder, Instruction, Options, ReusePort, Std, Steering};
use util::{PATIENCE, assert_drained, in_namespace};

/// In a namespace of its own each test has it to itself.
const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);

fn sentence<T: std::fmt::Debug>(result: Result<T, Error>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

/// This process as a sentence has it.
fn this_process() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    format!("process {} ({})", std::process::id(), name.trim_end())
}

/// Where the process that serves would be found.
fn rendezvous() -> std::os::unix::net::SocketAddr {
    let me = rustix::process::getuid().as_raw();
    addr_of(format!("reuseport/{me}/TCP//{ADDR}").as_bytes())
}

#[test]
fn what_cannot_be_is_refused() {
    in_namespace("refused generations", || {
        use ErrorKind::InvalidInput;
        let cannot = format!("cannot open a generation on {ADDR}");
        assert_eq!(
            sentence(Options::new().generation("127.0.0.1:0", 1)),
            (
                InvalidInput,
                "cannot open a generation on 127.0.0.1:0: for port 0 the kernel would give the next process another port"
                    .to_owned()
            )
        );
        assert_eq!(
            sentence(Options::new().generation(ADDR, 0)),
            (
                InvalidInput,
                format!("{cannot}: a group has at least one member")
            )
        );
        // None of these has the port.
        drop(Std::listen(ADDR).unwrap());
    });
}

#[test]
fn another_user_at_the_rendezvous_is_passed_over() {
    in_namespace("another user at the rendezvous", || {
        let at = rendezvous();
        let other = util::as_user(65_534, "another user at the rendezvous", || {
            UnixListener::bind_addr(&at).unwrap()
        });
        if let Some(other) = other {
            // The place is found all the same.
            let (_group, generation) = Options::new().generation(ADDR, 1).unwrap();
            assert_eq!(generation.predecessor(), None);
            let (_next, generation) = Options::new().generation(ADDR, 1).unwrap();
            let predecessor = generation.predecessor().unwrap();
            assert_eq!(predecessor.pid(), Some(std::process::id()));
            drop(other);
        }
    });
}

#[test]
fn who_says_something_else_is_told_from_a_predecessor() {
    in_namespace("a predecessor that says something else", || {
        use ErrorKind::{ConnectionRefused, InvalidData};
        let this = this_process();
        let answers: [(&[u8], ErrorKind, String); 4] = [
            (
                b"reuseport\x02\x06",
                InvalidData,
                "the process that serves does not lend its members: the other process speaks \
                 version 2 of the hand-over, and this one 1"
                    .to_owned(),
            ),
            (
                b"HTTP/1.1 400",
                InvalidData,
                "the process that serves does not lend its members: the other process speaks \
                 another language"
                    .to_owned(),
            ),
            (
                b"reuseport\x01\x0b",
                InvalidData,
                format!("{this} said Taking, and its members were expected"),
            ),
            (
                b"reuseport\x09\x02I do not\n want to",
                ConnectionRefused,
                format!("{this} refuses: I do not want to"),
            ),
        ];
        for (answer, kind, why) in answers {
            let listener = UnixListener::bind_addr(&rendezvous()).unwrap();
            let error = thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.write_all(&frame(answer)).unwrap();
                    // Until it is refused.
                    while stream.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
                });
                sentence(Options::new().generation(ADDR, 1))
            });
            let why = format!("cannot open a generation on {ADDR}: {why}");
            assert_eq!(error, (kind, why));
        }
    });
}

#[test]
fn who_says_nothing_is_given_up_after_ten_seconds() {
    in_namespace("a process that does not answer", || {
        let _silent = UnixListener::bind_addr(&rendezvous()).unwrap();
        let begin = Instant::now();
        let error = sentence(Options::new().generation(ADDR, 1));
        let what = format!("cannot open a generation on {ADDR}");
        let why = format!("{what}: {} does not answer", this_process());
        assert_eq!(error, (ErrorKind::TimedOut, why));
        assert!(begin.elapsed() >= Duration::from_secs(10));
    });
}

/// Somebody of this user who has nothing to do with it.
#[test]
fn a_stranger_on_the_port_is_refused() {
    // Where nobody forks, what is closed is gone.
    const TEST: &str = "a_stranger_on_the_port_is_refused";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("strangers on the port", || {
        let options = Options::new();
        let stranger = Std::listen(ADDR).unwrap();
        let error = options.generation(ADDR, 1).unwrap_err();
        assert_eq!(
            (error.kind(), error.holder()),
            (ErrorKind::AddrInUse, Some(Holder::Group))
        );
        drop(stranger);
        let (_group, first) = options.generation(ADDR, 2).unwrap();
        assert_drained(first.take_over_blocking(PATIENCE));
        let stranger = Std::listen(ADDR).unwrap();
        let what = format!("cannot open a generation on {ADDR}");
        assert_eq!(
            sentence(options.generation(ADDR, 1)),
            (
                ErrorKind::ConnectionRefused,
                format!(
                    "{what}: {} refuses: cannot lend the members of the group on {ADDR}: a socket \
                     shares its port that it did not open",
                    this_process()
                )
            )
        );
        drop(stranger);
        // The one that runs is none the worse for it.
        let _client = TcpStream::connect(ADDR).unwrap();
        let (_next, second) = options.generation(ADDR, 1).unwrap();
        let taken = second.take_over(Duration::ZERO);
        assert_eq!(smol::block_on(taken).unwrap().unaccepted, 1);
    });
}

#[test]
fn tcp_and_udp_on_one_port_are_two_servers() {
    in_namespace("TCP and UDP on one port", || {
        let (_group, first) = Options::new().packet_generation(ADDR, 1).unwrap();
        assert_drained(first.take_over_blocking(PATIENCE));
        let (_other, other) = Options::new().generation(ADDR, 1).unwrap();
        assert_eq!(other.predecessor(), None);
    });
}

/// It would be in force only when nothing can go back any more: so it is tried before.
#[test]
fn a_program_that_the_kernel_refuses_is_refused_at_once() {
    in_namespace("a program that is refused", || {
        let (old, first) = Options::new().generation(ADDR, 2).unwrap();
        assert_drained(first.take_over_blocking(PATIENCE));
        let unknown = Instruction {
            code: 0xffff,
            jt: 0,
            jf: 0,
            k: 0,
        };
        let no_program = std::fs::File::open("/dev/null").unwrap();
        let ebpf = Steering::Ebpf(Arc::new(no_program.into()));
        for steering in [Steering::Program(vec![unknown]), ebpf] {
            let options = Options::new().steering(steering);
            let (kind, text) = sentence(options.generation(ADDR, 2));
            let expected = format!(
                "cannot steer the group on {ADDR}: the kernel refuses the program, or the socket shares no port"
            );
            assert!(text.starts_with(&expected), "{text}");
            assert_eq!(kind, ErrorKind::InvalidInput);
        }
        let only = |place| {
            Steering::Program(vec![Instruction {
                code: 0x06,
                jt: 0,
                jf: 0,
                k: place,
            }])
        };
        let (_new, next) = Options::new()
            .steering(only(0))
            .generation(ADDR, 1)
            .unwrap();
        assert_drained(next.take_over_blocking(PATIENCE));
        first.relieved_blocking();
        drop(old);
    });
}
