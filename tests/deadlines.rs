//! What has a deadline keeps it, and what has none depends on how many members there are only
//! where it must.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "nothing safe sends signals to a thread")]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[path = "util/barrier.rs"]
mod barrier;
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
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use engine::PATIENCE;
use process::Process;
use reuseport::{Generation, Group, Options, Steering, queue};
use traffic::ADDR;
use util::{in_namespace, skip};

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

/// A signal that interrupts what waits.
const SIGNAL: libc::c_int = libc::SIGUSR1;

/// How long `f` takes on a thread that gets a signal every 100 ms, for so long at the most.
fn under_signals<T: Send + 'static>(
    most: Duration,
    f: impl FnOnce() -> T + Send + 'static,
) -> (T, Duration) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a sigaction is plain data, for which zeros are valid: without SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: it reads one sigaction, whose handler does nothing.
    let set = unsafe { libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let begin = Instant::now();
    let waiting = thread::spawn(f);
    while !waiting.is_finished() && begin.elapsed() < most {
        thread::sleep(Duration::from_millis(100));
        // SAFETY: the thread has not been joined.
        unsafe { libc::pthread_kill(waiting.as_pthread_t(), SIGNAL) };
    }
    let took = begin.elapsed();
    (waiting.join().unwrap(), took)
}

#[test]
fn a_group_that_does_not_come_is_waited_for_as_long_as_was_asked() {
    let (_silent, stream) = UnixStream::pair().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    let (received, took) = under_signals(Duration::from_secs(3), move || {
        Group::<TcpListener>::receive(&stream).map(drop)
    });
    assert_eq!(received.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(took < Duration::from_secs(2), "of 0.4 s it took {took:.1?}");
}

#[test]
fn a_group_that_is_not_taken_is_handed_over_for_as_long_as_was_asked() {
    let (_silent, stream) = UnixStream::pair().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let roster = group.roster();
    let (given, took) = under_signals(Duration::from_secs(3), move || roster.hand_over(&stream));
    assert_eq!(given.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(took < Duration::from_secs(2), "of 0.4 s it took {took:.1?}");
    drop(group);
}

/// A predecessor that is stopped, with connections in its queues: it neither accepts nor answers.
#[test]
fn a_predecessor_that_is_stopped_is_waited_for_as_long_as_was_asked() {
    in_namespace("a predecessor that is stopped", || {
        let old = Process::serving(&format!("tcp {ADDR} 2"), 1);
        let (group, generation) = Options::new().generation(ADDR, 2).unwrap();
        old.stop();
        let _clients: Vec<_> = (0..10).map(|_| TcpStream::connect(ADDR).unwrap()).collect();
        let timeout = Duration::from_secs(1);
        let (taken, took) = under_signals(Duration::from_secs(10), move || {
            engine::take_over(&generation, timeout)
        });
        assert_eq!(taken.unwrap(), 10);
        assert!(
            took >= timeout && took < 2 * timeout + timeout / 2,
            "of 1 s it took {took:.1?}"
        );
        drop(group);
    });
}

/// Datagrams as fast as they go: the queues are never empty, and processors have no pause.
#[test]
fn a_flood_of_datagrams_does_not_delay_a_takeover() {
    in_namespace("a takeover under a flood", || {
        let (old, first) = Options::new().packet_generation(ADDR, 4).unwrap();
        engine::take_over(&first, PATIENCE).unwrap();
        let (_new, second) = Options::new().packet_generation(ADDR, 4).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                        for _ in 0..1_000 {
                            let _ = client.send_to(&[0; 16], ADDR);
                        }
                    }
                });
            }
            let closing = scope.spawn(|| {
                first.relieved_blocking();
                drop(old);
            });
            let timeout = Duration::from_secs(2);
            let begin = Instant::now();
            let taken = engine::take_over(&second, timeout);
            let took = begin.elapsed();
            stop.store(true, Ordering::Relaxed);
            closing.join().unwrap();
            taken.unwrap();
            assert!(took < 2 * timeout, "of 2 s it took {took:.1?}");
        });
    });
}

/// A flood can delay the kernel's grace periods by any time.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn a_grace_period_that_takes_long_does_not_delay_a_takeover() {
    const TEST: &str = "a_grace_period_that_takes_long_does_not_delay_a_takeover";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("long grace periods", || {
        if let Err(error) = barrier::late(Duration::from_secs(5)) {
            return skip(&format!("long grace periods ({error})"));
        }
        let (old, first) = listeners(2);
        engine::take_over(&first, PATIENCE).unwrap();
        let (new, second) = listeners(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                first.relieved_blocking();
                drop(old);
            });
            let timeout = Duration::from_secs(1);
            let begin = Instant::now();
            engine::take_over(&second, timeout).unwrap();
            let took = begin.elapsed();
            assert!(took < 3 * timeout, "of 1 s it took {took:.1?}");
        });
        assert_eq!(reach(&new, 40), [0, 1]);
    });
}

/// The same, when one member leaves.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn a_grace_period_that_takes_long_does_not_delay_a_member() {
    const TEST: &str = "a_grace_period_that_takes_long_does_not_delay_a_member";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("long grace periods", || {
        if let Err(error) = barrier::late(Duration::from_secs(5)) {
            return skip(&format!("long grace periods ({error})"));
        }
        let group = Options::new().group("127.0.0.1:0", 3).unwrap();
        let leaving = group.roster().leave(0).unwrap();
        let timeout = Duration::from_secs(1);
        let begin = Instant::now();
        engine::drain_blocking(leaving, timeout).unwrap();
        let took = begin.elapsed();
        // The grace period takes five; machines are shared.
        assert!(took < 4 * timeout, "of 1 s it took {took:.1?}");
        drop(group);
    });
}

/// As many members as there are descriptors for, each member taking so many; says so where these
/// are fewer than were wanted.
fn room_for(members: usize, each: usize) -> usize {
    const OTHERS: usize = 500;
    let wanted = (each * members + OTHERS) as u64;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: it fills one rlimit, which `limit` is.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(got, 0);
    // The hard limit can be raised only with a privilege.
    for hard in [wanted.max(limit.rlim_max), limit.rlim_max] {
        let limit = libc::rlimit {
            rlim_cur: wanted.min(hard),
            rlim_max: hard,
        };
        // SAFETY: it reads one rlimit, which `limit` is.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == 0 {
            let room = (limit.rlim_cur as usize - OTHERS) / each;
            if room < members {
                skip(&format!(
                    "more than {room} members (RLIMIT_NOFILE is {hard})"
                ));
            }
            return room.min(members);
        }
    }
    panic!("{}", std::io::Error::last_os_error());
}

/// The listeners of a generation, without a worker.
fn listeners(n: usize) -> (Vec<TcpListener>, Generation) {
    let (group, generation) = Options::new().generation(ADDR, n).unwrap();
    let listeners = group.into_iter().map(|member| {
        let listener = member.into_std();
        listener.set_nonblocking(true).unwrap();
        listener
    });
    (listeners.collect(), generation)
}

/// So many connections, and how many of the members that gets any.
fn reach(listeners: &[TcpListener], n: usize) -> Vec<usize> {
    let addr = listeners[0].local_addr().unwrap();
    let clients: Vec<_> = (0..n).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut reached = Vec::new();
    let mut count = 0;
    for (at, listener) in listeners.iter().enumerate() {
        let len = queue(listener).map_or(0, |queue| queue.waiting) as usize;
        if len > 0 {
            reached.push(at);
            count += len;
        }
        while listener.accept().is_ok() {}
    }
    assert_eq!(count, n);
    drop(clients);
    reached
}

fn takes_over_many(n: usize, most: Duration) {
    in_namespace("a takeover of many members", || {
        let (old, first) = listeners(n);
        engine::take_over(&first, PATIENCE).unwrap();
        let (new, second) = listeners(n);
        thread::scope(|scope| {
            scope.spawn(|| {
                first.relieved_blocking();
                drop(old);
            });
            let begin = Instant::now();
            assert_eq!(engine::take_over(&second, most).unwrap(), 0);
            let took = begin.elapsed();
            assert!(took < most, "{n} members took {took:.1?}");
        });
        let reached = reach(&new, 200);
        assert!(reached.len() > 100, "only {} members", reached.len());
    });
}

#[test]
fn a_thousand_members_are_taken_over_in_two_seconds() {
    const TEST: &str = "a_thousand_members_are_taken_over_in_two_seconds";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    takes_over_many(room_for(1_024, 4), Duration::from_secs(2));
}

/// More than the kernel's programs have instructions for.
#[test]
fn thousands_of_members_are_taken_over() {
    const TEST: &str = "thousands_of_members_are_taken_over";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    takes_over_many(room_for(2_200, 4), Duration::from_secs(8));
}

/// A member of so many leaves, and they are steered.
fn steers_many(n: usize) {
    in_namespace("many members", || {
        let group = Options::new().group("127.0.0.1:0", n).unwrap();
        let roster = group.roster();
        let listeners: Vec<TcpListener> = group
            .into_iter()
            .map(|member| {
                let listener = member.into_std();
                listener.set_nonblocking(true).unwrap();
                listener
            })
            .collect();
        let mut failed = Vec::new();
        // Those of one weight stand beside each other.
        let mut weights = vec![3; n];
        weights[..n / 2].fill(0);
        weights[n - 100..].fill(1);
        match roster.steer(&Steering::Weights(weights)) {
            Ok(()) => assert!(reach(&listeners, 40).iter().all(|&at| at >= n / 2)),
            Err(error) => failed.push(format!("weights: {error}")),
        }
        match roster.steer(&Steering::Cpu) {
            Ok(()) => assert!(reach(&listeners, 40).len() <= 40),
            Err(error) => failed.push(format!("processors: {error}")),
        }
        roster.steer(&Steering::Hash).unwrap();
        let drained = roster
            .leave(n - 2)
            .and_then(|leaving| engine::drain_blocking(leaving, PATIENCE));
        match drained {
            Ok(lost) => {
                assert_eq!(lost, 0);
                assert!(!reach(&listeners, 200).contains(&(n - 2)));
                let here = roster.places().iter().flatten().count();
                assert_eq!(here, n - 1);
            }
            Err(error) => failed.push(format!("leaving: {error}")),
        }
        assert!(failed.is_empty(), "{n} members: {failed:#?}");
    });
}

#[test]
fn thousands_of_members_are_steered_and_leave() {
    const TEST: &str = "thousands_of_members_are_steered_and_leave";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    steers_many(room_for(2_200, 1));
}

#[test]
fn tens_of_thousands_of_members_are_steered_and_leave() {
    const TEST: &str = "tens_of_thousands_of_members_are_steered_and_leave";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    steers_many(room_for(32_768, 1));
}
