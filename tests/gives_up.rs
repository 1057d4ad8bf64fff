//! A successor that gives up before it takes over leaves no client unanswered.

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

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use process::Process;
use traffic::{ADDR, Traffic};
use util::in_namespace;

const ADDR_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 4000);

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

/// How many datagrams may be lost in all: one that the kernel is about to give to a group when the socket
/// leaves by which it has found that (kernel: udp4_lib_lookup2, inet_lookup_reuseport). A SYN is sent again.
const DATAGRAMS: usize = 2;

/// TCP over both versions, and UDP: `give_up` has a successor of so many members give up.
fn loses_nothing(what: &str, members: usize, give_up: impl Fn(&str) + Sync) {
    let mut losses = Vec::new();
    for (kind, addr) in [("tcp", ADDR), ("tcp", ADDR_V6), ("udp", ADDR)] {
        in_namespace(what, || {
            let mut old = Process::serving(&format!("{kind} {addr} 2"), 1);
            let traffic = Traffic::of(kind, addr);
            traffic.go_on(100);
            give_up(&format!("{kind} {addr} {members}"));
            traffic.go_on(100);
            let outcomes = traffic.stop();
            let most = if kind == "udp" { DATAGRAMS } else { 0 };
            if outcomes.lost() > most {
                losses.push(format!("{kind} {addr}: {outcomes}"));
            }
            assert!(!old.is_relieved());
            // The next one finds it as it was.
            let mut next = Process::start();
            next.serve(&format!("{kind} {addr} 3"), 2);
            old.ends();
        });
    }
    assert!(losses.is_empty(), "{what}: {losses:#?}");
}

/// Gives up in a way again and again, in one process.
fn gives_up(what: &str, how: &str, times: usize) {
    loses_nothing(what, 4, |group| {
        let mut new = Process::start();
        new.ask(&format!("give-up {group} {how} {times}"));
    });
}

#[test]
fn its_generation_is_dropped_first() {
    gives_up(
        "a generation is dropped, and then its group",
        "generation-first",
        25,
    );
}

#[test]
fn its_group_is_dropped_first() {
    gives_up(
        "a group is dropped, and then its generation",
        "group-first",
        25,
    );
}

#[test]
fn it_returns_an_error() {
    gives_up("an error is returned", "error", 25);
}

#[test]
fn it_panics() {
    gives_up("a panic", "panic", 25);
}

#[test]
fn its_workers_have_begun() {
    gives_up("workers have begun", "workers", 25);
}

#[test]
fn it_lives_on() {
    gives_up("the program lives on", "lives-on", 2);
}

/// Its descriptors are closed in the order of their numbers, one after the other.
#[test]
fn it_exits() {
    loses_nothing("a process exits", 64, |group| {
        for _ in 0..4 {
            let mut new = Process::start();
            new.open(group).unwrap();
            new.tell("exit");
            new.exits();
        }
    });
}

#[test]
fn it_is_killed() {
    loses_nothing("a process is killed", 64, |group| {
        for _ in 0..4 {
            let mut new = Process::start();
            new.open(group).unwrap();
            new.ask("serve 2");
            new.kill();
        }
    });
}
