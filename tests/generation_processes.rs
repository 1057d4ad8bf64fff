//! Generations in processes of their own, which relieve each other under load.

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

use engine::{Before, PATIENCE};
use load::{Counters, assert_nothing_lost};
use process::Process;
use traffic::{ADDR, Traffic, ask, assert_all_answered};
use util::in_namespace;

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn group(n: usize) -> String {
    format!("tcp {ADDR} {n}")
}

fn processes_relieve_each_other(start: fn() -> Process, serve: &str) {
    in_namespace("processes that relieve each other", || {
        let before = Counters::read();
        let mut old = start();
        assert_eq!(old.open(&group(2)).unwrap().before, Before::Nothing);
        old.ask(&format!("{serve} 1"));
        assert_eq!(old.take_over(PATIENCE).unwrap(), 0);
        let traffic = Traffic::tcp(ADDR);
        let mut served = 0;
        for (tag, n) in [(2, 3), (3, 1), (4, 2)] {
            traffic.go_on(200);
            let mut new = start();
            let opened = new.open(&group(n)).unwrap();
            assert_eq!(opened.before, Before::Process(old.pid()));
            new.ask(&format!("{serve} {tag}"));
            assert_eq!(ask(ADDR).unwrap(), tag - 1);
            assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
            served += old.ends();
            traffic.go_on(200);
            assert_eq!(ask(ADDR).unwrap(), tag);
            // Its members alone are in the group, long before it would take others out.
            let own: Vec<_> = (0..n).map(Some).collect();
            util::until(|| {
                let mut places = new.places();
                places.sort_unstable();
                (places == own).then_some(())
            });
            old = new;
        }
        let outcomes = traffic.stop();
        assert_nothing_lost(&outcomes, &Counters::read().since(&before));
        let mut last = start();
        last.serve(&group(1), 9);
        served += old.ends();
        assert_eq!(served, outcomes.answered + 6);
    });
}

#[test]
fn processes_relieve_each_other_under_load() {
    processes_relieve_each_other(Process::start, "serve");
}

#[test]
fn processes_that_block_relieve_each_other_under_load() {
    processes_relieve_each_other(Process::start, "serve-blocking");
}

#[test]
fn processes_without_privilege_relieve_each_other_under_load() {
    processes_relieve_each_other(|| Process::start_as(65_534), "serve");
}

#[test]
fn several_start_at_once() {
    in_namespace("several new processes at once", || {
        for (many, runs) in [(2, false), (5, false), (2, true), (5, true)] {
            let mut all: Vec<Process> = Vec::new();
            let mut predecessors = Vec::new();
            let mut traffic = None;
            if runs {
                all.push(Process::serving(&group(2), 100));
                predecessors.push(Before::Nothing);
                traffic = Some(Traffic::tcp(ADDR));
            }
            let started: Vec<_> = thread::scope(|scope| {
                let start = |tag: u8| {
                    scope.spawn(move || {
                        let mut process = Process::start();
                        let opened = process.open(&group(1 + usize::from(tag) % 3)).unwrap();
                        process.ask(&format!("serve {tag}"));
                        assert_eq!(process.take_over(PATIENCE).unwrap(), 0);
                        (process, opened.before)
                    })
                };
                let started: Vec<_> = (0..many).map(start).collect();
                let joined = started.into_iter().map(|thread| thread.join().unwrap());
                joined.collect()
            });
            for (process, before) in started {
                all.push(process);
                predecessors.push(before);
            }
            // One has none before it, and each other has one of its own; one is nobody's.
            let count = |before| predecessors.iter().filter(|one| **one == before).count();
            assert_eq!(count(Before::Nothing), 1, "{predecessors:?}");
            let (mut last, mut ended) = (Vec::new(), Vec::new());
            for process in all {
                match count(Before::Process(process.pid())) {
                    0 => last.push(process),
                    1 => ended.push(process),
                    n => panic!("{n} of {predecessors:?}"),
                }
            }
            assert_eq!(last.len(), 1, "{predecessors:?}");
            for process in ended {
                process.ends();
            }
            let tag = ask(ADDR).unwrap();
            assert_all_answered(ADDR, tag);
            if let Some(traffic) = traffic {
                traffic.go_on(200);
                traffic.assert_nothing_lost("several new processes at once");
            }
            last.into_iter().for_each(Process::kill);
        }
    });
}
