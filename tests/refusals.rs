//! Whatever has become of the process before, the next one starts, or is told at once why not.

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

use std::time::{Duration, Instant};

use engine::{Before, PATIENCE};
use process::Process;
use traffic::{ADDR, Traffic, ask, assert_all_answered};
use util::in_namespace;

/// Many times what a start takes on a busy machine.
const SOON: Duration = Duration::from_secs(12);

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn group(n: usize) -> String {
    format!("tcp {ADDR} {n}")
}

/// Starts the next process, which serves soon.
#[track_caller]
fn starts_soon(n: usize, tag: u8) -> Process {
    let mut new = Process::start();
    new.tell(&format!("open {}", group(n)));
    new.opened(SOON).unwrap();
    new.ask(&format!("serve {tag}"));
    let begin = Instant::now();
    assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
    let took = begin.elapsed();
    assert!(took < SOON, "the takeover took {took:?}");
    new
}

/// It has been told to end, has closed its listeners, and still answers its last requests.
#[test]
fn a_predecessor_that_has_closed_its_members_makes_room() {
    in_namespace("a predecessor without members", || {
        let mut old = Process::serving(&group(2), 1);
        old.ask("finish");
        let _new = starts_soon(2, 2);
        assert_all_answered(ADDR, 2);
    });
}

/// As after a panic in each of them.
#[test]
fn a_predecessor_some_of_whose_workers_have_died_is_relieved() {
    let mut failed = Vec::new();
    for died in 1..4 {
        in_namespace("a predecessor that lacks workers", || {
            let mut old = Process::serving(&group(4), 1);
            for _ in 0..died {
                old.ask("drop worker");
            }
            assert_all_answered(ADDR, 1);
            let traffic = Traffic::tcp(ADDR);
            traffic.go_on(100);
            let mut new = Process::start();
            match new.open(&group(3)) {
                Ok(_) => {
                    new.ask("serve 2");
                    assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
                    old.ends();
                    traffic.go_on(100);
                    assert_all_answered(ADDR, 2);
                }
                Err(error) => failed.push(format!("{died} of 4 have died: {error:?}")),
            }
            let outcomes = traffic.stop();
            if outcomes.lost() != 0 {
                failed.push(format!("{died} of 4 have died: {outcomes}"));
            }
        });
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// All died at once, so that their order is unknown.
#[test]
fn a_predecessor_whose_order_is_unknown_is_relieved_twice() {
    in_namespace("a predecessor without an order", || {
        let mut old = Process::serving(&group(5), 1);
        for _ in 0..2 {
            old.ask("drop worker");
        }
        let next = starts_soon(2, 2);
        old.ends();
        let _last = starts_soon(2, 3);
        next.ends();
        assert_all_answered(ADDR, 3);
    });
}

/// The master ends, and a child that it has forked serves on.
#[test]
fn children_that_outlive_their_master_keep_nobody_waiting() {
    in_namespace("children of a master", || {
        let mut master = Process::start();
        master.open(&group(2)).unwrap();
        let worker: u32 = master.ask("prefork 1").parse().unwrap();
        assert_eq!(master.take_over(PATIENCE).unwrap(), 0);
        assert_all_answered(ADDR, 1);
        master.kill();
        let mut new = Process::start();
        new.tell(&format!("open {}", group(2)));
        let begin = Instant::now();
        let said = new.hear_within("open", SOON);
        kill(worker);
        let said = said.unwrap_or_else(|| panic!("nothing in {:.1?}", begin.elapsed()));
        // The port is the worker's, so that nothing new can be opened on it.
        assert!(said.starts_with("error AddrInUse"), "{said}");
        let _new = starts_soon(2, 2);
    });
}

#[allow(unsafe_code, reason = "nothing safe sends a signal")]
fn kill(pid: u32) {
    // SAFETY: it takes two numbers; the process is one of this test's own.
    let sent = unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    util::until(|| (ask(ADDR).is_err()).then_some(()));
}

#[test]
fn a_member_that_is_leaving_keeps_nobody_waiting() {
    in_namespace("a predecessor whose member leaves", || {
        let mut old = Process::serving(&group(3), 1);
        let traffic = Traffic::tcp(ADDR);
        traffic.go_on(100);
        assert_eq!(old.ask("leave 1"), "");
        let _new = starts_soon(2, 2);
        old.ends();
        traffic.go_on(100);
        assert_all_answered(ADDR, 2);
        traffic.assert_nothing_lost("a member that was leaving");
    });
}

/// A successor that has opened its group, and then does nothing.
///
/// The next one takes its place; when it does call, it is told so.
fn a_successor_is_superseded(
    what: &str,
    halt: impl Fn(&Process) + Sync,
    go_on: impl Fn(&Process) + Sync,
) {
    in_namespace(what, || {
        let old = Process::serving(&group(2), 1);
        let traffic = Traffic::tcp(ADDR);
        traffic.go_on(100);
        let mut second = Process::start();
        second.open(&group(2)).unwrap();
        second.ask("serve 2");
        halt(&second);

        let mut third = Process::start();
        third.tell(&format!("open {}", group(3)));
        let opened = third.opened(2 * SOON).unwrap();
        assert_eq!(opened.before, Before::Process(old.pid()));
        traffic.go_on(100);
        third.ask("serve 3");
        assert_eq!(third.take_over(PATIENCE).unwrap(), 0);
        old.ends();
        assert_all_answered(ADDR, 3);

        go_on(&second);
        let refused = second.take_over(PATIENCE).unwrap_err();
        assert!(refused.took < SOON, "{refused:?}");
        traffic.go_on(100);
        traffic.assert_nothing_lost(what);
        assert_all_answered(ADDR, 3);
        // Which is one like any other.
        let _fourth = starts_soon(1, 4);
        third.ends();
    });
}

#[test]
fn a_successor_that_never_takes_over_is_superseded() {
    a_successor_is_superseded("a successor that waits", |_| (), |_| ());
}

#[test]
fn a_successor_that_is_stopped_is_superseded() {
    a_successor_is_superseded("a successor that is stopped", Process::stop, |second| {
        second.signal(libc::SIGCONT);
    });
}

/// Its successor takes its listeners out of the group, which wakes them; one that hangs does not.
#[test]
fn workers_of_a_process_that_stops_are_woken_although_its_successor_hangs() {
    use reuseport::{Serve, Std};

    in_namespace("a stop beside a successor that hangs", || {
        let (listener, old) = Std::serve(ADDR).unwrap();
        let mut new = Process::start();
        new.open(&group(1)).unwrap();
        new.stop();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(listener.accept().map(drop)));
        old.stop();
        let accepted = told.recv_timeout(SOON).unwrap();
        assert_eq!(
            accepted.unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
        new.kill();
    });
}

/// As a daemon: after the fork no thread of the parent's is there.
#[test]
fn a_process_that_forks_after_it_has_opened_takes_over_in_its_usual_time() {
    in_namespace("a successor that forks", || {
        let old = Process::serving(&group(2), 1);
        let traffic = Traffic::tcp(ADDR);
        let mut new = Process::start();
        new.open(&group(2)).unwrap();
        new.ask("fork");
        new.ask("serve 2");
        traffic.go_on(100);
        assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
        let took: u64 = new.hear("took").parse().unwrap();
        old.ends();
        assert_all_answered(ADDR, 2);
        traffic.assert_nothing_lost("a successor that forks");
        let _last = starts_soon(2, 3);
        new.ends();
        assert!(took < 1_000, "the takeover took {took} ms");
    });
}

#[test]
fn a_first_process_that_forks_after_it_has_opened_is_relieved() {
    in_namespace("a first process that forks", || {
        let mut old = Process::start();
        old.open(&group(2)).unwrap();
        old.ask("fork");
        old.ask("serve 1");
        assert_eq!(old.take_over(PATIENCE).unwrap(), 0);
        let _new = starts_soon(2, 2);
        old.ends();
        assert_all_answered(ADDR, 2);
    });
}

/// Where flows are told apart by their ids, the predecessor serves its own until it closes.
#[test]
fn a_process_that_forks_takes_over_from_one_that_keeps_flows() {
    in_namespace("a successor that forks, under connection ids", || {
        let packets = format!("udp {ADDR} 2 ids");
        let mut old = Process::serving(&packets, 1);
        let mut new = Process::start();
        new.open(&packets).unwrap();
        new.ask("fork");
        new.ask("serve 2");
        assert_eq!(new.take_over(PATIENCE).unwrap(), 0);
        old.hear("relieved");
        old.ask("finish");
        // When the old one has no flows any more, the next one may come.
        let mut next = Process::start();
        next.tell(&format!("open {packets}"));
        next.opened(SOON).unwrap();
        next.ask("serve 3");
        assert_eq!(next.take_over(PATIENCE).unwrap(), 0);
        new.hear("relieved");
        new.ask("finish");
    });
}
