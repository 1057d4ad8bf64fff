//! A process that has a part of what is new is killed, or the one that has given it that part.

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

use std::thread;
use std::time::{Duration, Instant};

use engine::{Before, PATIENCE};
use process::Process;
use traffic::{ADDR, Traffic, ask, assert_all_answered};
use util::{in_namespace, until};

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

/// Without a privilege.
fn start() -> Process {
    Process::start_as(65_534)
}

fn group(n: usize) -> String {
    format!("tcp {ADDR} {n}")
}

fn serving(n: usize, tag: u8) -> Process {
    let mut process = start();
    process.serve(&group(n), tag);
    process
}

/// One that has opened its group beside `old`'s, serves, and has that part of what is new.
#[track_caller]
fn canary(old: &Process, n: usize, tag: u8, part: f64) -> Process {
    let mut process = start();
    let opened = process.open(&group(n)).unwrap();
    assert_eq!(opened.before, Before::Process(old.pid()));
    process.ask(&format!("serve {tag}"));
    assert_eq!(process.ask(&format!("share {part}")), part.to_string());
    process
}

/// Waits until it has noticed that the other one is gone.
#[track_caller]
fn alone(old: &mut Process, n: usize) {
    until(|| (old.places().len() == n).then_some(()));
}

#[test]
fn its_death_costs_what_it_held() {
    in_namespace("a canary dies", || {
        let mut old = serving(2, 1);
        for (n, part) in [(1, 0.1), (3, 0.5), (2, 1.0)] {
            let traffic = Traffic::tcp(ADDR);
            let new = canary(&old, n, 2, part);
            until(|| (ask(ADDR).unwrap() == 2).then_some(()));
            traffic.go_on(200);
            new.kill();
            // What comes before the old one has noticed is lost with what the new one had.
            alone(&mut old, 2);
            traffic.go_on(200);
            // No more than there were clients at that time.
            traffic.assert_lost_at_most(100, "a canary dies");
            assert_all_answered(ADDR, 1);
        }
        let mut third = canary(&old, 2, 3, 0.5);
        assert_eq!(third.take_over(PATIENCE).unwrap(), 0);
        old.ends();
        assert_all_answered(ADDR, 3);
    });
}

#[test]
fn it_gets_everything_where_the_old_one_dies() {
    in_namespace("the predecessor of a canary dies", || {
        for part in [0.0, 0.1, 1.0] {
            let old = serving(2, 1);
            let mut new = canary(&old, 2, 2, part);
            old.kill();
            until(|| (ask(ADDR).ok() == Some(2)).then_some(()));
            until(|| (new.ask("share 0.5") == "1").then_some(()));
            assert_all_answered(ADDR, 2);
            // It serves as any other.
            new.take_over(PATIENCE).unwrap();
            let mut next = canary(&new, 1, 3, 0.5);
            assert_eq!(next.take_over(PATIENCE).unwrap(), 0);
            new.ends();
            next.kill();
        }
    });
}

/// Whenever it is killed while its part changes, the old one goes on.
#[test]
fn killed_at_any_instant() {
    in_namespace("a canary dies at any instant", || {
        let mut old = serving(2, 1);
        for at in 0..20 {
            let mut new = canary(&old, 1 + at % 3, 2, 0.5);
            let words = [["share 1", "share 0"], ["share 0.1", "stop"]];
            words[at % 2].iter().for_each(|word| new.tell(word));
            thread::sleep(Duration::from_micros(200) * at as u32);
            new.kill();
            alone(&mut old, 2);
            assert_all_answered(ADDR, 1);
        }
        let mut last = canary(&old, 2, 3, 0.5);
        assert_eq!(last.take_over(PATIENCE).unwrap(), 0);
        old.ends();
    });
}

/// Who asks for a part hears that the old process does not answer, and a late answer is not taken for that to the next.
#[test]
fn an_old_one_that_hangs_is_told_of() {
    in_namespace("the predecessor of a canary hangs", || {
        let mut old = serving(1, 1);
        let mut new = canary(&old, 1, 2, 0.5);
        old.stop();
        let begin = Instant::now();
        let said = new.ask("share 0.1");
        let took = begin.elapsed();
        let expected =
            format!("cannot take a share of {ADDR}: the process that serves does not answer");
        assert!(
            said.starts_with("error TimedOut") && said.contains(&expected),
            "{said}"
        );
        assert!(took > Duration::from_secs(4), "{took:?}");
        old.signal(libc::SIGCONT);
        // What was asked first is answered first, and is no answer to this.
        assert_eq!(new.ask("share 0.75"), "0.75");
        assert_eq!(new.ask("share 0"), "0");
        assert_all_answered(ADDR, 1);
        assert!(!old.is_relieved());
    });
}

/// It is not given up for another, which is told what it waits for.
#[test]
fn another_waits_for_it() {
    in_namespace("a process beside a canary", || {
        let old = serving(1, 1);
        let mut new = canary(&old, 1, 2, 0.5);
        let mut third = start();
        third.tell(&format!("open {}", group(1)));
        // Longer than one has that has had no part.
        assert!(third.hear_within("open", Duration::from_secs(6)).is_none());
        assert_eq!(new.ask("stop").split(' ').next(), Some("0"));
        drop(new);
        let opened = third.opened(PATIENCE).unwrap();
        assert_eq!(opened.before, Before::Process(old.pid()));
        third.ask("serve 3");
        assert_eq!(third.take_over(PATIENCE).unwrap(), 0);
        old.ends();
        assert_all_answered(ADDR, 3);
    });
}
