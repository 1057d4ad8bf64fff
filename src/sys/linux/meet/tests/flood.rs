//! Many strangers.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::net::SendFlags;

use super::strangers::*;
use super::*;
use crate::sys::child::alone;

/// What a caller does where too much is still being closed.
fn pause(old: bool, error: &io::Error) {
    assert!(old && error.kind() == ErrorKind::ResourceBusy, "{error}");
    thread::sleep(Duration::from_millis(5));
}

/// Eight threads of another user connect and connect again, and send.
fn flood(old: bool, sends_fds: bool) {
    const THREADS: usize = 8;
    const TIMES: usize = 50;
    let name = name();
    let rendezvous = listen(&name).unwrap();
    if old {
        as_before_6_16(&rendezvous);
    }
    let (is_over, connections) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut dismissed = 0;
    thread::scope(|scope| {
        let flooding: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    if !become_other("a flood") {
                        return false;
                    }
                    while !is_over.load(Ordering::Relaxed) {
                        if let Ok(stream) = call(&name) {
                            connections.fetch_add(1, Ordering::Relaxed);
                            let _ = match sends_fds {
                                true => send_fd(&stream, &stream, SendFlags::NOSIGNAL),
                                false => {
                                    rustix::net::send(&stream, b"garbage", SendFlags::NOSIGNAL)
                                }
                            };
                        }
                    }
                    true
                })
            })
            .collect();
        let _end = End(&is_over);
        let start = Instant::now();
        let name = &name;
        let finding = scope.spawn(move || {
            let mut worst = Duration::ZERO;
            for n in 0..TIMES {
                // Spread over two seconds.
                thread::sleep(Duration::from_millis(40 * n as u64).saturating_sub(start.elapsed()));
                let asked = Instant::now();
                let line = connect(name);
                // Heard only once it has been accepted.
                assert_eq!(
                    receive(line.as_fd(), Some(soon())).unwrap().bytes,
                    b"welcome"
                );
                worst = worst.max(asked.elapsed());
            }
            worst
        });
        let mut accepted = 0;
        while !finding.is_finished() {
            let accepted_one = accept(rendezvous.as_fd(), me()).unwrap_or_else(|error| {
                pause(old, &error);
                Accepted::None
            });
            match accepted_one {
                Accepted::Line(line) => {
                    send(line.as_fd(), b"welcome", &[], Some(soon())).unwrap();
                    accepted += 1;
                }
                Accepted::Stranger(stranger) => {
                    dismiss(stranger, b"refused");
                    dismissed += 1;
                }
                Accepted::None => {
                    let until = Instant::now() + Duration::from_millis(20);
                    wait::poll(&[rendezvous.as_fd()], Some(until)).unwrap();
                }
            }
        }
        let took = start.elapsed();
        is_over.store(true, Ordering::Relaxed);
        // Those that wait for room in the queue are woken by this, and not by a close.
        drop(rendezvous);
        let worst = finding.join().unwrap();
        let flooded = flooding.into_iter().all(|thread| thread.join().unwrap());
        assert_eq!(accepted, TIMES);
        if flooded {
            assert!(dismissed > TIMES, "{dismissed}");
            assert!(worst < AT_ONCE, "{worst:?}");
            measured(&format!(
                "{TIMES} times found and accepted in {took:?}, the slowest in {worst:?}, among {} \
                 strangers, of which {dismissed} were dismissed{}{}",
                connections.load(Ordering::Relaxed),
                if sends_fds { ", with descriptors" } else { "" },
                if old { " (as before Linux 6.16)" } else { "" }
            ));
        }
    });
}

#[test]
fn a_flood_keeps_the_owner_from_nothing() {
    alone(
        "sys::linux::meet::tests::flood::a_flood_keeps_the_owner_from_nothing",
        || {
            flood(false, false);
            flood(true, false);
            flood(false, true);
            flood(true, true);
        },
    );
}

/// All that strangers can do in two thousand connections, and nothing is left of it.
fn two_thousand(old: bool) {
    const N: usize = 2000;
    let name = name();
    let rendezvous = listen(&name).unwrap();
    if old {
        as_before_6_16(&rendezvous);
    }
    let owner = me();
    let before = (descriptors(), threads());
    let mut took = Duration::ZERO;
    let mut worst = Duration::ZERO;
    let done = on_thread(|| {
        if !become_other("two thousand strangers") {
            return false;
        }
        for n in 0..N {
            let stream = call(&name).unwrap();
            let sent = match n % 5 {
                0 => Ok(0),
                1 => rustix::net::send(&stream, b"garbage", SendFlags::NOSIGNAL),
                2 => send_fd(&stream, &stream_socket(), SendFlags::NOSIGNAL),
                // Out of band, which a look at the queue does not see.
                3 => send_fd(
                    &stream,
                    &stream_socket(),
                    SendFlags::NOSIGNAL | SendFlags::OOB,
                ),
                _ => rustix::net::send(&stream, &[0; 100_000], SendFlags::NOSIGNAL),
            };
            if let Err(error) = sent {
                assert!(!old && matches!(n % 5, 2 | 3), "{n}: {error}");
            }
            // Half of them stay, as far as they can.
            let stream = (n % 2 == 0).then_some(stream);
            let start = Instant::now();
            loop {
                match accept(rendezvous.as_fd(), owner) {
                    Ok(Accepted::Stranger(stranger)) => break dismiss(stranger, b"refused"),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => pause(old, &error),
                }
            }
            took += start.elapsed();
            worst = worst.max(start.elapsed());
            if let Some(stream) = stream {
                let frame = receive(stream.as_fd(), Some(soon())).unwrap();
                assert_eq!(frame.bytes, b"refused");
            }
        }
        true
    });
    if done {
        until("nothing is left", || (descriptors(), threads()) == before);
        let each = took / N as u32;
        assert!(each < Duration::from_millis(1), "{each:?}");
        let old = if old { " (as before Linux 6.16)" } else { "" };
        measured(&format!(
            "{N} strangers, each {each:?}, the slowest {worst:?}{old}"
        ));
    }
}

#[test]
fn two_thousand_strangers_leave_nothing_behind() {
    let test = "sys::linux::meet::tests::flood::two_thousand_strangers_leave_nothing_behind";
    alone(test, || {
        two_thousand(false);
        two_thousand(true);
    });
}

/// The owner is behind few of them, however many come.
#[test]
fn few_wait_in_front_of_the_owner() {
    let name = name();
    let rendezvous = listen(&name).unwrap();
    let fill = || {
        let mut waiting = Vec::new();
        loop {
            let stream = stream_socket();
            rustix::io::ioctl_fionbio(&stream, true).unwrap();
            match socket::connect_unix(&stream, &path(&name)) {
                Ok(()) => waiting.push(stream),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    return waiting;
                }
            }
        }
    };
    let Some(waiting) = as_other("a queue full of strangers", fill) else {
        return;
    };
    assert!(waiting.len() <= 32, "{}", waiting.len());
    thread::scope(|scope| {
        let finding = scope.spawn(|| connect(&name));
        drop(accept_line(&rendezvous));
        drop(finding.join().unwrap());
    });
}
