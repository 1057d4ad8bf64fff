//! A server whose address changes, and the first restart from a listener that knows of no generations.

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

use process::Process;
use reuseport::{Generation, Group, Options};
use traffic::{Traffic, assert_all_answered};
use util::{PATIENCE, assert_drained, in_namespace};
use worker::Worker;

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    process::obey();
}

fn serve(group: Group<TcpListener>, tag: u8) -> Vec<Worker> {
    let members = group.into_iter();
    members
        .map(|member| Worker::start(member.into_std(), tag))
        .collect()
}

/// A server moves from one address to the other under load; nothing is lost, and the old address is the new one's.
fn moves(old: &str, new: &str) {
    in_namespace("a server whose address changes", || {
        let client: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let before = Process::serving(&format!("tcp {old} 2"), 1);
        let traffic = Traffic::tcp(client);
        traffic.go_on(1_000);
        let options = Options::new();
        // The release that has both.
        let wanted = (options.want(old, 2), options.want(new, 2));
        let ((at_old, at_new), generation) = Generation::open(wanted).unwrap();
        let mut workers = serve(at_old, 2);
        workers.extend(serve(at_new, 3));
        assert_drained(generation.take_over_blocking(PATIENCE));
        before.ends();
        traffic.go_on(1_000);
        // The release that has the new one only.
        let (group, next) = options.generation(new, 2).unwrap();
        let next_workers = serve(group, 4);
        assert_drained(next.take_over_blocking(PATIENCE));
        traffic.go_on(1_000);
        generation.stop();
        generation.relieved_blocking();
        assert_drained(generation.outcome());
        workers.into_iter().for_each(Worker::end);
        assert_all_answered(client, 4);
        traffic.go_on(1_000);
        let outcomes = traffic.stop();
        println!("measured: from {old} to {new}: {outcomes}");
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        next_workers.into_iter().for_each(Worker::end);
    });
}

#[test]
fn from_one_address_to_all() {
    moves("127.0.0.1:4000", "0.0.0.0:4000");
}

#[test]
fn from_all_addresses_to_one() {
    moves("0.0.0.0:4000", "127.0.0.1:4000");
}

#[test]
fn from_one_address_to_both_families() {
    moves("127.0.0.1:4000", "[::]:4000");
}

#[test]
fn from_both_families_to_one_address() {
    moves("[::]:4000", "127.0.0.1:4000");
}

#[test]
fn from_one_family_to_both() {
    moves("0.0.0.0:4000", "[::]:4000");
}

#[test]
fn from_both_families_to_one() {
    moves("[::]:4000", "0.0.0.0:4000");
}
