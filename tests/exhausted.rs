//! Where the process may have no more descriptors or threads, what runs goes on as before.

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

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use engine::PATIENCE;
use process::Process;
use reuseport::{Error, Options, Roster, queue};
use server::{limit, take_descriptors};
use socket2::{Domain, Socket, Type};
use traffic::{ADDR, Traffic, assert_all_answered};
use util::in_namespace;

/// A user that has no other processes.
const USER: u32 = 61_234;

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

/// Three listeners, and clients that need no descriptor any more.
struct Group {
    addr: SocketAddr,
    roster: Roster<TcpListener>,
    listeners: Vec<TcpListener>,
    clients: Vec<Socket>,
}

impl Group {
    fn open() -> Self {
        let group = Options::new().group("127.0.0.1:0", 3).unwrap();
        let (addr, roster) = (group.local_addr(), group.roster());
        let client = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        Self {
            addr,
            roster,
            listeners: group.into_iter().map(|member| member.into_std()).collect(),
            clients: std::iter::repeat_with(client).take(60).collect(),
        }
    }

    /// How many of the clients each member gets.
    fn connect(&self) -> Vec<u32> {
        for client in &self.clients {
            client.connect(&self.addr.into()).unwrap();
        }
        // One that is out has no queue.
        let lens = self
            .listeners
            .iter()
            .map(|listener| queue(listener).map_or(0, |queue| queue.waiting));
        lens.collect()
    }

    /// What has failed leaves all as it was, and what has not has lost nothing.
    #[track_caller]
    fn assert_true(&self, drained: &Result<u32, Error>) {
        let got = self.connect();
        let is_true = match drained {
            Ok(0) => got[0] == 0 && self.roster.has_left(0),
            Ok(_) => false,
            Err(_) => got[0] > 0 && !self.roster.has_left(0),
        };
        let stays = got[1] > 0 && got[2] > 0;
        let has_left = self.roster.has_left(0);
        assert!(
            is_true && stays,
            "{drained:?}, and then has_left {has_left}, and of 60 connections the members got {got:?}"
        );
    }

    /// With all that it needs it leaves as any other.
    #[track_caller]
    fn assert_leaves(&self) {
        for listener in &self.listeners {
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {}
        }
        if self.roster.has_left(0) {
            return;
        }
        assert_eq!(self.roster.places(), [Some(0), Some(1), Some(2)]);
        let leaving = self.roster.leave(0).unwrap();
        assert!(engine::is_lossless(&leaving));
        assert_eq!(engine::drain_blocking(leaving, PATIENCE).unwrap(), 0);
    }
}

#[test]
fn a_member_leaves_when_no_descriptor_is_left() {
    const TEST: &str = "a_member_leaves_when_no_descriptor_is_left";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("leaving without descriptors", || {
        let group = Group::open();
        let taken = take_descriptors(0);
        let drained = group.roster.leave(0).and_then(|leaving| {
            assert!(engine::is_lossless(&leaving), "it leaves, with losses");
            engine::drain_blocking(leaving, Duration::from_secs(1))
        });
        group.assert_true(&drained);
        drop(taken);
        group.assert_leaves();
    });
}

#[test]
fn a_member_is_drained_when_no_descriptor_is_left() {
    const TEST: &str = "a_member_is_drained_when_no_descriptor_is_left";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("draining without descriptors", || {
        let group = Group::open();
        let leaving = group.roster.leave(0).unwrap();
        let taken = take_descriptors(0);
        let drained = engine::drain_blocking(leaving, Duration::from_secs(1));
        group.assert_true(&drained);
        drop(taken);
        group.assert_leaves();
    });
}

#[test]
fn the_table_is_asked_when_no_descriptor_is_left() {
    const TEST: &str = "the_table_is_asked_when_no_descriptor_is_left";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("a table without descriptors", || {
        let group = Group::open();
        let taken = take_descriptors(0);
        assert_eq!(group.roster.places(), [Some(0), Some(1), Some(2)]);
        assert!(!group.roster.has_left(0));
        let joined = group.roster.join().map(drop).unwrap_err();
        assert!(joined.to_string().contains("os error 24"), "{joined}");
        drop(taken);
        assert_eq!(group.roster.places(), [Some(0), Some(1), Some(2)]);
        group.assert_leaves();
    });
}

#[test]
fn a_member_leaves_when_no_thread_can_start() {
    const TEST: &str = "a_member_leaves_when_no_thread_can_start";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("leaving without threads", || {
        let group = Group::open();
        become_user();
        limit(rustix::process::Resource::Nproc, 0);
        let drained = group
            .roster
            .leave(0)
            .and_then(|leaving| engine::drain_blocking(leaving, Duration::from_secs(1)));
        group.assert_true(&drained);
        limit(rustix::process::Resource::Nproc, 100);
        group.assert_leaves();
    });
}

/// All threads, and for good.
#[allow(unsafe_code, reason = "nothing safe changes the user of a process")]
fn become_user() {
    // SAFETY: it takes three numbers.
    let set = unsafe { libc::setresuid(USER, USER, USER) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// A successor that cannot take over, where `prevents` and `allows` change it from outside.
///
/// After an error the old one goes on, also when another successor comes.
fn a_takeover_that_cannot_be(what: &str, prevents: &str, allows: &str) {
    in_namespace(what, || {
        let mut old = Process::start_as(USER);
        old.serve(&format!("tcp {ADDR} 3"), 1);
        let traffic = Traffic::tcp(ADDR);
        traffic.go_on(100);
        let mut new = Process::start_as(USER);
        new.open(&format!("tcp {ADDR} 3")).unwrap();
        new.ask("serve 2");
        new.ask(prevents);
        new.tell("take-here 3000");
        let taken = new.taken();
        if taken.is_err() {
            assert_all_answered(ADDR, 1);
        }
        new.ask(allows);
        let mut third = None;
        if let Err(error) = taken {
            traffic.go_on(100);
            assert!(!old.is_relieved(), "{error:?}");
            third
                .insert(Process::start_as(USER))
                .serve(&format!("tcp {ADDR} 2"), 3);
        }
        old.ends();
        let last = if third.is_some() { 3 } else { 2 };
        assert_all_answered(ADDR, last);
        traffic.assert_nothing_lost(what);
    });
}

#[test]
fn a_successor_takes_over_when_it_has_no_descriptor_left() {
    for left in 0..4 {
        a_takeover_that_cannot_be(
            "a takeover without descriptors",
            &format!("descriptors {left}"),
            "enough-descriptors",
        );
    }
}

#[test]
fn a_successor_takes_over_when_it_can_start_no_thread() {
    a_takeover_that_cannot_be("a takeover without threads", "threads 0", "threads 100");
}

/// Whoever of the two has too few: the old one goes on, and the next start succeeds.
fn an_opening_that_cannot_be(what: &str, of_new: Option<usize>, of_old: Option<usize>) {
    in_namespace(what, || {
        let mut old = Process::serving(&format!("tcp {ADDR} 4"), 1);
        let mut new = Process::start();
        if let Some(left) = of_new {
            new.ask(&format!("descriptors {left}"));
        }
        if let Some(left) = of_old {
            old.ask(&format!("descriptors {left}"));
        }
        new.tell(&format!("open tcp {ADDR} 4"));
        let opened = new.hear_within("open", Duration::from_secs(2));
        old.ask("enough-descriptors");
        assert!(!old.is_relieved());
        assert_all_answered(ADDR, 1);
        if of_new.is_some() {
            // The sentence says whose descriptors they are.
            let said = opened.expect("it is told at once");
            assert!(
                said.starts_with("error") && said.contains("RLIMIT_NOFILE"),
                "{said}"
            );
        }
        new.kill();
        let mut third = Process::start();
        third.serve(&format!("tcp {ADDR} 2"), 3);
        old.ends();
        assert_all_answered(ADDR, 3);
    });
}

#[test]
fn a_successor_that_has_no_descriptor_for_the_members_is_told_so() {
    for left in [0, 1, 3, 6] {
        an_opening_that_cannot_be("an opening without descriptors", Some(left), None);
    }
}

#[test]
fn a_predecessor_that_has_no_descriptor_to_lend_serves_on() {
    for left in [0, 1, 3, 5] {
        an_opening_that_cannot_be("a predecessor without descriptors", None, Some(left));
    }
}
