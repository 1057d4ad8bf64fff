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
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use load::Counters;
use process::Process;
use reuseport::{Error, Generation, Group, Holder, Options, Protocol, ReusePort, Std, occupants};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use traffic::{Traffic, ask, assert_all_answered};
use util::{PATIENCE, assert_drained, in_namespace, ours};
use worker::Worker;

const ADDR: &str = "127.0.0.1:4000";

fn addr() -> SocketAddr {
    ADDR.parse().unwrap()
}

/// In a namespace, one at a time: clients of several tests at once leave the servers no processor for seconds.
fn alone(what: &str, test: impl FnOnce() + Send) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    in_namespace(what, test);
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
    alone("a server whose address changes", || {
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
        let counted = Counters::read();
        println!("measured: from {old} to {new}: {outcomes}; {counted}");
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

/// Serves the old address until that ends; then no new datagram comes to it, and what is there is answered.
fn serve_packets(socket: &UdpSocket, ends: &AtomicBool) {
    let mut buf = [0; 1500];
    socket
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let mut is_last = false;
    loop {
        match socket.recv_from(&mut buf) {
            Ok((len, client)) => {
                let _ = socket.send_to(&buf[..len], client);
            }
            Err(_) if is_last => return,
            Err(_) => {}
        }
        if !is_last && ends.load(Ordering::SeqCst) {
            // From itself alone, which sends nothing: the kernel looks for another socket then.
            socket.connect(socket.local_addr().unwrap()).unwrap();
            is_last = true;
        }
    }
}

/// Datagrams move too, where the old sockets are emptied before they are closed: a stop lets them get what is new until
/// then.
fn packets_move(old: &str, new: &str) {
    alone("a UDP server whose address changes", || {
        let before = Process::serving(&format!("udp {old} 2"), 1);
        let traffic = Traffic::udp(addr());
        traffic.go_on(500);
        let options = Options::new();
        let wanted = (options.want_packet(old, 2), options.want_packet(new, 2));
        let ((at_old, at_new), generation) = Generation::open(wanted).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let old_workers: Vec<_> = at_old
            .into_iter()
            .map(|member| (member.into_std(), Arc::clone(&ends)))
            .map(|(socket, ends)| thread::spawn(move || serve_packets(&socket, &ends)))
            .collect();
        let members = at_new.into_iter();
        let workers: Vec<_> = members
            .map(|member| Worker::start(member.into_std(), 2))
            .collect();
        assert_drained(generation.take_over_blocking(PATIENCE));
        before.ends();
        traffic.go_on(500);
        let next = Process::serving(&format!("udp {new} 2"), 3);
        traffic.go_on(500);
        ends.store(true, Ordering::SeqCst);
        old_workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        generation.stop();
        generation.relieved_blocking();
        workers.into_iter().for_each(Worker::end);
        traffic.go_on(500);
        let outcomes = traffic.stop();
        println!("measured: datagrams from {old} to {new}: {outcomes}");
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        next.kill();
    });
}

#[test]
fn packets_move_there_and_back() {
    packets_move("127.0.0.1:4000", "0.0.0.0:4000");
    packets_move("0.0.0.0:4000", "127.0.0.1:4000");
}

/// The sockets that another process has on an address: the program of GUIDE.md.
fn sockets_of(pid: i32, protocol: Protocol, addr: SocketAddr) -> io::Result<Vec<OwnedFd>> {
    let process = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let mut sockets = occupants(addr.port())?;
    sockets.retain(|socket| socket.protocol == protocol && socket.addr == addr);
    let mut taken = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // It may have been closed since.
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        let is_it = |inode: u64| link == Path::new(&format!("socket:[{inode}]"));
        let Some(at) = sockets.iter().position(|socket| is_it(socket.inode)) else {
            continue;
        };
        // Of several descriptors of one socket the first.
        sockets.remove(at);
        let number = entry.file_name().to_string_lossy().parse();
        let number = number.map_err(|_| io::ErrorKind::InvalidData)?;
        taken.push(pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?);
    }
    Ok(taken)
}

/// From an old process to a generation, and from that to the next, under load; nothing is lost.
///
/// The old one ends while the new one accepts, or before.
fn first_restart(how: &str, at: &str, n: usize, ends_before: bool) {
    alone("the first restart", || {
        let mut old = Process::start();
        old.ask(&format!("old {how} {at} {n} 1"));
        let traffic = Traffic::tcp(addr());
        traffic.go_on(1_000);
        let listeners = match sockets_of(old.pid() as i32, Protocol::Tcp, at.parse().unwrap()) {
            Ok(listeners) => listeners,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return util::skip(
                    "the first restart (no descriptor of another process's: ptrace(2))",
                );
            }
            Err(error) => panic!("{error}"),
        };
        let (group, generation) = Generation::adopt::<TcpListener, _>(listeners).unwrap();
        assert_eq!((group.len(), group.local_addr()), (n, at.parse().unwrap()));
        assert_eq!(generation.predecessor(), None);
        let end = |mut old: Process| {
            let served: usize = old.ask("finish").parse().unwrap();
            old.kill();
            assert!(served >= 1_000, "{served}");
        };
        let workers = if ends_before {
            end(old);
            serve(group, 2)
        } else {
            let workers = serve(group, 2);
            traffic.go_on(1_000);
            end(old);
            workers
        };
        assert_drained(generation.take_over_blocking(PATIENCE));
        traffic.go_on(1_000);
        assert_all_answered(addr(), 2);
        // From here on it is as ever.
        let next = Process::serving(&format!("tcp {at} 3"), 3);
        generation.relieved_blocking();
        assert_drained(generation.outcome());
        workers.into_iter().for_each(Worker::end);
        assert_all_answered(addr(), 3);
        traffic.go_on(1_000);
        let last = Process::serving(&format!("tcp {at} 1"), 4);
        next.ends();
        assert_all_answered(addr(), 4);
        let outcomes = traffic.stop();
        let counted = Counters::read();
        println!("measured: from {how} of {n} on {at}: {outcomes}; {counted}");
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        last.kill();
    });
}

#[test]
fn from_a_plain_listener() {
    first_restart("plain", ADDR, 1, false);
}

#[test]
fn from_a_plain_listener_of_both_families() {
    first_restart("plain", "[::]:4000", 1, false);
}

#[test]
fn from_a_plain_listener_that_has_ended() {
    first_restart("plain", ADDR, 1, true);
}

#[test]
fn from_listen() {
    first_restart("listen", ADDR, 1, false);
}

#[test]
fn from_a_group() {
    first_restart("group", ADDR, 3, false);
}

#[test]
fn from_a_steered_group() {
    first_restart("weights", ADDR, 3, true);
}

/// The new process fails before it serves: the old one goes on, and can be adopted again.
#[test]
fn an_adoption_that_is_given_up() {
    alone("an adoption that is given up", || {
        for (how, n) in [("plain", 1), ("group", 2)] {
            let mut old = Process::start();
            old.ask(&format!("old {how} {ADDR} {n} 1"));
            let traffic = Traffic::tcp(addr());
            for round in 0..10 {
                traffic.go_on(100);
                let listeners = match sockets_of(old.pid() as i32, Protocol::Tcp, addr()) {
                    Ok(listeners) => listeners,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return util::skip("an adoption that is given up (ptrace(2))");
                    }
                    Err(error) => panic!("{error}"),
                };
                let (group, generation) = Generation::adopt::<TcpListener, _>(listeners).unwrap();
                if round % 2 == 0 {
                    drop((generation, group));
                } else {
                    drop((group, generation));
                }
            }
            traffic.go_on(100);
            assert_all_answered(addr(), 1);
            traffic.assert_nothing_lost("an adoption that is given up");
            old.kill();
        }
    });
}

/// Where the old release can hand its group over, no privilege is needed.
#[test]
fn from_a_group_that_is_handed_over() {
    alone("the first restart from a group that is handed over", || {
        let group = Options::new().group(ADDR, 2).unwrap();
        let roster = group.roster();
        let old = serve(group, 1);
        let traffic = Traffic::tcp(addr());
        traffic.go_on(1_000);
        let (to, from) = UnixStream::pair().unwrap();
        let sends = thread::spawn(move || roster.hand_over(&to));
        let received = Group::<TcpListener>::receive(&from).unwrap();
        sends.join().unwrap().unwrap();
        old.into_iter().for_each(Worker::end);
        let (group, generation) = Generation::adopt::<TcpListener, _>(received).unwrap();
        let workers = serve(group, 2);
        assert_drained(generation.take_over_blocking(PATIENCE));
        traffic.go_on(1_000);
        let next = Process::serving(&format!("tcp {ADDR} 1"), 3);
        generation.relieved_blocking();
        workers.into_iter().for_each(Worker::end);
        assert_all_answered(addr(), 3);
        traffic.assert_nothing_lost("a group that is handed over");
        next.kill();
    });
}

#[test]
fn from_a_packet_group() {
    alone("the first restart of a UDP server", || {
        let mut old = Process::start();
        old.ask(&format!("old packet {ADDR} 2 1"));
        let traffic = Traffic::udp(addr());
        traffic.go_on(500);
        let sockets = match sockets_of(old.pid() as i32, Protocol::Udp, addr()) {
            Ok(sockets) => sockets,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return util::skip("the first restart of a UDP server (ptrace(2))");
            }
            Err(error) => panic!("{error}"),
        };
        let (group, generation) = Generation::adopt::<UdpSocket, _>(sockets).unwrap();
        let members = group.into_iter();
        let workers: Vec<_> = members
            .map(|member| Worker::start(member.into_std(), 2))
            .collect();
        assert_drained(generation.take_over_blocking(PATIENCE));
        old.ask("finish");
        old.kill();
        traffic.go_on(500);
        let next = Process::serving(&format!("udp {ADDR} 2"), 3);
        generation.relieved_blocking();
        workers.into_iter().for_each(Worker::end);
        traffic.go_on(500);
        let outcomes = traffic.stop();
        println!("measured: from a packet group: {outcomes}");
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        next.kill();
    });
}

/// A failure's own part, the holder, and where it stands: what is said of an old process.
fn refused<T>(opened: Result<T, Error>) -> (Option<Holder>, String) {
    let error = opened.map(drop).unwrap_err();
    (error.holder(), ours(&error))
}

#[test]
fn what_is_refused_says_what_to_do() {
    alone("first generations that are refused", || {
        let options = Options::new();
        let every: SocketAddr = "0.0.0.0:4000".parse().unwrap();
        for (how, holder) in [("plain", Holder::NotSharing), ("group", Holder::Group)] {
            let mut old = Process::start();
            old.ask(&format!("old {how} {ADDR} 1 1"));
            let comm = fs::read_to_string(format!("/proc/{}/comm", old.pid())).unwrap();
            let who = format!("process {} ({})", old.pid(), comm.trim_end());
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
            if let Ok(listeners) = sockets_of(old.pid() as i32, Protocol::Tcp, addr()) {
                let (_old, _generation) = Generation::adopt::<TcpListener, _>(listeners).unwrap();
                let (_new, new) = options.generation(every, 1).unwrap();
                assert_eq!(new.predecessor(), None);
            }
            old.kill();
        }
    });
}

#[test]
fn what_cannot_be_adopted_is_refused() {
    alone("sockets that no generation can be made of", || {
        let options = Options::new();
        let listen = || -> TcpListener { Std::listen(addr()).unwrap() };
        let adopt = |fds: Vec<OwnedFd>| Generation::adopt::<TcpListener, _>(fds);
        let what = |socket: &TcpListener| {
            format!(
                "cannot make a generation of descriptor {}",
                socket.as_raw_fd()
            )
        };
        // One of two.
        let (one, other) = (listen(), listen());
        assert_eq!(
            refused(adopt(vec![one.into()])).1,
            format!(
                "cannot open a generation on {ADDR}: a socket shares the port that is not among those that were adopted: \
                 adopt it too, or close it"
            )
        );
        // It is alone then, and is adopted; it is not found by a second one.
        let (_group, generation) = adopt(vec![other.try_clone().unwrap().into()]).unwrap();
        let this = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(
            refused(adopt(vec![other.into()])).1,
            format!(
                "cannot open a generation on {ADDR}: process {} ({}) serves there as a generation already: \
                 Options::generation relieves it",
                std::process::id(),
                this.trim_end()
            )
        );
        let (_next, next) = options.generation(ADDR, 1).unwrap();
        assert!(next.predecessor().is_some());
        drop((next, generation));
        // What is no listener, and one that is another user's.
        assert_eq!(
            refused(adopt(Vec::new())).1,
            "cannot adopt a group: there is no descriptor"
        );
        let packets = UdpSocket::bind("127.0.0.1:0").unwrap();
        let text = refused(adopt(vec![packets.into()])).1;
        assert!(
            text.ends_with("it is a UDP socket, and a TCP listener was meant"),
            "{text}"
        );
        let others = util::as_user(65_534, "a listener of another user", || {
            TcpListener::bind("127.0.0.1:4001").unwrap()
        });
        if let Some(others) = others {
            let what = what(&others);
            assert_eq!(
                refused(adopt(vec![others.into()])).1,
                format!(
                    "{what}: user 65534 opened it, and ports are shared within one user: the next process could open none \
                     beside it"
                )
            );
        }
        // Options::device.
        let device = options
            .clone()
            .device("lo")
            .listen::<Std>("127.0.0.1:4002")
            .unwrap();
        let what = what(&device);
        assert_eq!(
            refused(adopt(vec![device.into()])).1,
            format!("{what}: it is for one device")
        );
    });
}

/// Whatever becomes of the process that has both addresses before it takes over: the old one serves its own.
#[test]
fn a_move_that_is_given_up() {
    alone("a move that is given up", || {
        let old = Process::serving(&format!("tcp {ADDR} 2"), 1);
        let traffic = Traffic::tcp(addr());
        for round in 0..10 {
            traffic.go_on(100);
            let mut new = Process::start();
            new.tell(&format!("open-both {ADDR} 0.0.0.0:4000 2"));
            new.opened(PATIENCE).unwrap();
            new.ask("serve 2");
            if round % 2 == 0 {
                new.ask("drop generation");
            }
            new.kill();
        }
        traffic.go_on(100);
        assert_all_answered(addr(), 1);
        traffic.assert_nothing_lost("a move that is given up");
        old.kill();
    });
}

/// From all addresses to one: what comes to that is the new process's from its opening on, and lost with it.
#[test]
fn a_move_to_fewer_addresses_that_is_given_up() {
    alone("a move to fewer addresses that is given up", || {
        let old = Process::serving("tcp 0.0.0.0:4000 2", 1);
        let traffic = Traffic::tcp(addr());
        for _ in 0..10 {
            traffic.go_on(100);
            let mut new = Process::start();
            new.tell(&format!("open-both 0.0.0.0:4000 {ADDR} 2"));
            new.opened(PATIENCE).unwrap();
            new.ask("serve 2");
            traffic.go_on(100);
            assert_all_answered(addr(), 2);
            new.kill();
            assert_all_answered(addr(), 1);
        }
        let outcomes = traffic.stop();
        println!("measured: ten killed that moved to one address: {outcomes}");
        old.kill();
    });
}

/// Both in one release: the old address is a generation of its own, and stops when this process has it.
#[test]
fn in_one_release() {
    alone("a server that moves in one release", || {
        let before = Process::serving(&format!("tcp {ADDR} 2"), 1);
        let traffic = Traffic::tcp(addr());
        traffic.go_on(1_000);
        let options = Options::new();
        let (at_old, old) = options.generation(ADDR, 2).unwrap();
        let (at_new, new) = options.generation("0.0.0.0:4000", 2).unwrap();
        let (old_workers, new_workers) = (serve(at_old, 2), serve(at_new, 3));
        assert_drained(old.take_over_blocking(PATIENCE));
        assert_drained(new.take_over_blocking(PATIENCE));
        before.ends();
        old.stop();
        old.relieved_blocking();
        old_workers.into_iter().for_each(Worker::end);
        traffic.go_on(1_000);
        assert_all_answered(addr(), 3);
        traffic.assert_nothing_lost("a move in one release");
        new_workers.into_iter().for_each(Worker::end);
    });
}

/// What the other ways cost: nothing is asserted but what each is for.
#[test]
fn other_ways_lose() {
    alone("other ways to restart for the first time", || {
        // Ended, and started anew.
        for (how, n) in [("plain", 1), ("group", 2)] {
            let mut old = Process::start();
            old.ask(&format!("old {how} {ADDR} {n} 1"));
            let traffic = Traffic::tcp(addr());
            traffic.go_on(1_000);
            old.ask("finish");
            let new = Process::serving(&format!("tcp {ADDR} 2"), 2);
            traffic.go_on(1_000);
            let outcomes = traffic.stop();
            println!("measured: {how}, ended before the next began: {outcomes}");
            new.kill();
            drop(old);
        }
        // A group beside a group, of which the old one is closed.
        let (mut lost, mut all, mut split) = (0, 0, [0; 2]);
        for _ in 0..10 {
            let mut old = Process::start();
            old.ask(&format!("old group {ADDR} 2 1"));
            let group = Options::new().join(true).group(ADDR, 2).unwrap();
            let workers = serve(group, 2);
            for _ in 0..100 {
                split[usize::from(ask(addr()).unwrap()) - 1] += 1;
            }
            let traffic = Traffic::tcp(addr());
            traffic.go_on(500);
            old.ask("finish");
            old.kill();
            traffic.go_on(500);
            let outcomes = traffic.stop();
            (lost, all) = (lost + outcomes.lost(), all + outcomes.attempts);
            workers.into_iter().for_each(Worker::end);
        }
        println!(
            "measured: ten groups closed beside another: {lost} of {all} lost; before, {split:?} of 1000 each"
        );
        assert!(split.iter().all(|part| *part > 300), "{split:?}");
    });
}
