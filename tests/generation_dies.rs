//! One of two generations is killed, before, while and after the one takes over from the other.

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
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use engine::{Before, PATIENCE};
use process::Process;
use traffic::{ADDR, Traffic, ask, assert_all_answered};
use util::in_namespace;
use worker::WHO;

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn group(n: usize) -> String {
    format!("tcp {ADDR} {n}")
}

/// Without a privilege.
fn start() -> Process {
    Process::start_as(65_534)
}

fn serving(n: usize, tag: u8) -> Process {
    let mut process = start();
    process.serve(&group(n), tag);
    process
}

/// One that has opened its group beside `old`'s, and serves.
#[track_caller]
fn beside(old: &Process, n: usize, tag: u8) -> Process {
    let mut process = start();
    let opened = process.open(&group(n)).unwrap();
    assert_eq!(opened.before, Before::Process(old.pid()));
    process.ask(&format!("serve {tag}"));
    process
}

fn begin_to_take_over(process: &mut Process) {
    process.tell(&format!("take {}", PATIENCE.as_millis()));
    process.hear("taking");
}

#[test]
fn killed_before_it_has_taken_over() {
    in_namespace("a new process dies", || {
        let old = serving(2, 1);
        for n in [1, 2, 3] {
            let traffic = Traffic::tcp(ADDR);
            traffic.go_on(200);
            let new = beside(&old, n, 2);
            traffic.go_on(200);
            new.kill();
            traffic.go_on(200);
            traffic.assert_nothing_lost("a new process dies");
            assert_all_answered(ADDR, 1);
        }
        let mut third = beside(&old, 2, 3);
        assert_eq!(third.take_over(PATIENCE).unwrap(), 0);
        old.ends();
        assert_all_answered(ADDR, 3);
    });
}

#[test]
fn killed_while_it_takes_over() {
    in_namespace("a new process dies while it takes over", || {
        for (n, m) in [(1, 1), (2, 3), (3, 2), (3, 1)] {
            let mut old = start();
            old.serve(&format!("{} defers", group(n)), 1);
            let mut silent = TcpStream::connect(ADDR).unwrap();
            let mut new = beside(&old, m, 2);
            begin_to_take_over(&mut new);
            util::until(|| (ask(ADDR).unwrap() == 2).then_some(()));
            new.kill();
            // What comes before the old one has noticed is lost with what the new one had.
            util::until(|| (ask(ADDR).ok() == Some(1)).then_some(()));
            assert_all_answered(ADDR, 1);
            silent.write_all(&[WHO]).unwrap();
            let mut answer = [0];
            silent.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [1]);

            let mut third = beside(&old, m, 3);
            assert_eq!(third.take_over(PATIENCE).unwrap(), 0);
            old.ends();
            assert_all_answered(ADDR, 3);
            third.kill();
        }
    });
}

/// One serves, whenever the new one is killed: the old one until it has been relieved.
#[test]
fn killed_at_any_instant() {
    in_namespace("a new process dies at any instant", || {
        let mut running: Option<Process> = None;
        let mut went_on = 0;
        for at in 0..24 {
            let (n, m) = [(1, 1), (2, 2), (3, 1), (3, 2)][at % 4];
            let mut old = running.take().unwrap_or_else(|| serving(n, 1));
            let mut new = start();
            let opened = new.open(&group(m)).unwrap();
            if opened.before != Before::Process(old.pid()) {
                // It had been relieved, and was about to end.
                assert_eq!(opened.before, Before::Nothing);
                old.ends();
                new.kill();
                continue;
            }
            new.ask("serve 2");
            begin_to_take_over(&mut new);
            // What a takeover takes, in steps.
            thread::sleep(Duration::from_millis(3) * at as u32);
            new.kill();
            let goes_on = util::until(|| match old.is_relieved() {
                true => Some(false),
                false => (ask(ADDR).ok() == Some(1)).then_some(true),
            });
            if goes_on {
                assert_all_answered(ADDR, 1);
                went_on += 1;
                running = Some(old);
            } else {
                old.ends();
            }
        }
        println!("went on {went_on} of 24 times");
        assert!(went_on > 0);
    });
}

#[test]
fn the_old_one_is_killed() {
    in_namespace("an old process dies", || {
        for (n, m) in [(1, 1), (2, 3), (3, 1)] {
            for begun in [false, true] {
                let mut old = start();
                old.serve(&format!("{} defers", group(n)), 1);
                let _silent = TcpStream::connect(ADDR).unwrap();
                let mut new = beside(&old, m, 2);
                if begun {
                    begin_to_take_over(&mut new);
                    util::until(|| (ask(ADDR).unwrap() == 2).then_some(()));
                }
                old.kill();
                let begin = Instant::now();
                // What comes before the new one has noticed is lost with what the old one had.
                let mut lost = 1;
                while ask(ADDR).map_err(|_| lost += 1) != Ok(2) {}
                let took = begin.elapsed();
                assert!(took < Duration::from_secs(10), "{n} to {m}: {took:?}");
                assert_all_answered(ADDR, 2);
                let said = match begun {
                    true => new.taken(),
                    false => new.take_over(PATIENCE),
                };
                assert_eq!(said.unwrap(), lost);
                assert_all_answered(ADDR, 2);
                let mut third = beside(&new, 2, 3);
                assert_eq!(third.take_over(PATIENCE).unwrap(), 0);
                new.ends();
                assert_all_answered(ADDR, 3);
                third.kill();
            }
        }
    });
}

/// The one before has been relieved, and is in nobody's way, however long it lives.
#[test]
fn killed_after_it_has_taken_over() {
    in_namespace("a new process dies after it has taken over", || {
        let mut old = serving(2, 1);
        let mut new = beside(&old, 2, 2);
        assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
        old.relieved();
        assert_all_answered(ADDR, 2);
        new.kill();
        // The old one knows of its sockets until it has heard that it is done.
        util::until(|| {
            let refused = ErrorKind::ConnectionRefused;
            (ask(ADDR).unwrap_err().kind() == refused).then_some(())
        });
        let mut third = start();
        assert_eq!(third.open(&group(2)).unwrap().before, Before::Nothing);
        third.ask("serve 3");
        assert_eq!(third.take_over(PATIENCE).unwrap(), 0);
        assert_all_answered(ADDR, 3);
    });
}
