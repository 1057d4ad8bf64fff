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

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::{fs, io};

use process::Process;
use reuseport::{Error, Generation, Group, Holder, Options, Protocol, ReusePort, Std, occupants};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use traffic::{Traffic, assert_all_answered};
use util::{PATIENCE, assert_drained, in_namespace, ours};
use worker::Worker;

const ADDR: &str = "127.0.0.1:4000";

fn addr() -> SocketAddr {
    ADDR.parse().unwrap()
}

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
        let client = addr();
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

/// The listeners of another process on a port: the program of GUIDE.md.
fn listeners_of(pid: u32, port: u16) -> io::Result<Vec<OwnedFd>> {
    let process = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let mut sockets = occupants(port)?;
    sockets.retain(|socket| socket.protocol == Protocol::Tcp);
    let mut listeners = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let link = fs::read_link(entry.path())?;
        let is_it = |inode: u64| link == Path::new(&format!("socket:[{inode}]"));
        let Some(at) = sockets.iter().position(|socket| is_it(socket.inode)) else {
            continue;
        };
        // Of several descriptors of one socket the first.
        sockets.remove(at);
        let number = entry.file_name().to_string_lossy().parse();
        let number = number.map_err(|_| io::ErrorKind::InvalidData)?;
        listeners.push(pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?);
    }
    Ok(listeners)
}

/// From an old process to a generation, and from that to the next, under load; nothing is lost.
fn first_restart(how: &str, n: usize) {
    in_namespace("the first restart", || {
        let mut old = Process::start();
        old.ask(&format!("old {how} {ADDR} {n} 1"));
        let traffic = Traffic::tcp(addr());
        traffic.go_on(1_000);
        let listeners = match listeners_of(old.pid(), 4000) {
            Ok(listeners) => listeners,
            Err(error) => return util::skip(&format!("the first restart ({error})")),
        };
        let (group, generation) = Generation::adopt::<TcpListener, _>(listeners).unwrap();
        assert_eq!((group.len(), group.local_addr()), (n, addr()));
        assert_eq!(generation.predecessor(), None);
        let workers = serve(group, 2);
        assert_drained(generation.take_over_blocking(PATIENCE));
        traffic.go_on(1_000);
        let served: usize = old.ask("finish").parse().unwrap();
        old.kill();
        assert!(served >= 1_000, "{served}");
        assert_all_answered(addr(), 2);
        // From here on it is as ever.
        let next = Process::serving(&format!("tcp {ADDR} 3"), 3);
        generation.relieved_blocking();
        assert_drained(generation.outcome());
        workers.into_iter().for_each(Worker::end);
        assert_all_answered(addr(), 3);
        traffic.go_on(1_000);
        let last = Process::serving(&format!("tcp {ADDR} 1"), 4);
        next.ends();
        assert_all_answered(addr(), 4);
        let outcomes = traffic.stop();
        println!("measured: from {how} of {n}: {outcomes}");
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        last.kill();
    });
}

#[test]
fn from_a_plain_listener() {
    first_restart("plain", 1);
}

#[test]
fn from_listen() {
    first_restart("listen", 1);
}

#[test]
fn from_a_group() {
    first_restart("group", 3);
}

/// A failure's own part, the holder, and where it stands: what is said of an old process.
fn refused<T>(opened: Result<T, Error>) -> (Option<Holder>, String) {
    let error = opened.map(drop).unwrap_err();
    (error.holder(), ours(&error))
}

#[test]
fn what_is_refused_says_what_to_do() {
    in_namespace("first generations that are refused", || {
        let options = Options::new();
        let every: SocketAddr = "0.0.0.0:4000".parse().unwrap();
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        let comm = comm.trim_end();
        for (how, holder) in [("plain", Holder::NotSharing), ("group", Holder::Group)] {
            let mut old = Process::start();
            old.ask(&format!("old {how} {ADDR} 1 1"));
            let who = format!("process {} ({comm})", old.pid());
            let here = match holder {
                Holder::Group => format!(
                    "{who} shares it already, and no generation is found there; Generation::adopt makes one of its sockets"
                ),
                _ => format!(
                    "{who} holds it and did not set SO_REUSEPORT before bind; Generation::adopt makes a generation of its \
                     listener"
                ),
            };
            let here = (
                Some(holder),
                format!("cannot open a generation on {ADDR}: {here}"),
            );
            assert_eq!(refused(options.generation(ADDR, 1)), here);
            let there = match holder {
                Holder::Group => format!(
                    "{who} shares {ADDR} already; a server that moves opens both addresses, by Generation::open"
                ),
                _ => format!(
                    "{who} holds {ADDR} and did not set SO_REUSEPORT before bind; Generation::adopt makes a generation \
                     of its listener"
                ),
            };
            let there = (
                Some(holder),
                format!("cannot open a generation on {every}: {there}"),
            );
            assert_eq!(refused(options.generation(every, 1)), there);
            // Who follows the one advice is given the other.
            let both = (options.want(every, 1), options.want(ADDR, 1));
            assert_eq!(
                refused(Generation::open(both)),
                if how == "plain" { there } else { here }
            );
            if let Ok(listeners) = listeners_of(old.pid(), 4000) {
                let (_old, _generation) = Generation::adopt::<TcpListener, _>(listeners).unwrap();
                let (_new, new) = options.generation(every, 1).unwrap();
                assert_eq!(new.predecessor(), None);
            }
            old.kill();
        }
    });
}
