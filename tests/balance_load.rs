//! A balancer under load: nothing is lost, a worker that is stuck is steered around and taken back, and long
//! connections are spread.

#![cfg(target_os = "linux")]

#[path = "util/load.rs"]
mod load;
mod util;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use load::Load;
use reuseport::{Balancing, Engine, Member, Options, Roster, queue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use util::{PATIENCE, assert_drained, in_namespace, until};

const PAUSE: Duration = Duration::from_millis(2);

/// A worker that answers each connection with the byte that it sends, one after the other.
struct Worker {
    stalls: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(member: Member<TcpListener>) -> Self {
        let [stalls, ends] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let served = Arc::new(AtomicUsize::new(0));
        let seen = (stalls.clone(), ends.clone(), served.clone());
        let listener = member.into_std();
        listener.set_nonblocking(true).unwrap();
        let thread = thread::spawn(move || {
            let (stalls, ends, served) = seen;
            while !ends.load(SeqCst) {
                if stalls.load(SeqCst) {
                    thread::park_timeout(Duration::from_millis(1));
                } else if let Ok(true) = answer(&listener) {
                    served.fetch_add(1, SeqCst);
                } else {
                    wait(&listener);
                }
            }
        });
        Self {
            stalls,
            ends,
            served,
            thread,
        }
    }

    fn served(&self) -> usize {
        self.served.load(SeqCst)
    }

    fn end(self) -> usize {
        self.ends.store(true, SeqCst);
        self.thread.join().unwrap();
        self.served.load(SeqCst)
    }
}

/// False where nobody waits.
fn answer(listener: &TcpListener) -> io::Result<bool> {
    let mut stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    };
    stream.set_nonblocking(false)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    Ok(true)
}

/// A little while at the most, after which it may have been told something.
fn wait(listener: &TcpListener) {
    let timeout = Timespec::try_from(Duration::from_millis(2)).unwrap();
    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout));
}

fn clients(to: SocketAddr, connections: usize, per_second: u32) -> Load {
    Load {
        to: vec![to],
        connections,
        per_second,
        at_most: 2_000,
        timeout: Duration::from_secs(40),
    }
}

/// The second where it can be had.
const ENGINES: [Engine; 2] = [Engine::Classic, Engine::Ebpf];

fn balance(roster: &Roster<TcpListener>, engine: Engine) -> Balancing {
    let balancer = roster.balance().unwrap().engine(engine);
    balancer.spawn(PAUSE).unwrap()
}

fn wait_for_stuck(balancing: &Balancing, expected: &[usize]) {
    until(|| (balancing.last().unwrap().stuck == expected).then_some(()));
}

#[test]
fn a_worker_that_stops_accepting_loses_nothing_and_is_taken_back() {
    for engine in ENGINES {
        let group = Options::new().group("127.0.0.1:0", 4).unwrap();
        let addr = group.local_addr();
        let balancing = balance(&group.roster(), engine);
        let watch = group.iter().nth(1).unwrap().try_clone_fd();
        let waiting = || queue(&watch).unwrap().waiting;
        let workers: Vec<_> = group.into_iter().map(Worker::start).collect();
        let running = clients(addr, 6_000, 3_000).start();
        let go_on = |n: usize| {
            let before = running.started();
            until(|| (running.started() >= before + n).then_some(()));
        };
        go_on(300);
        workers[1].stalls.store(true, SeqCst);
        wait_for_stuck(&balancing, &[1]);
        // Those whose packets were under way when it was found out.
        go_on(200);
        let left = waiting();
        assert!(left > 0);
        go_on(800);
        assert_eq!(waiting(), left, "it gets nothing while it is stuck");
        let before = workers[1].served();
        workers[1].stalls.store(false, SeqCst);
        wait_for_stuck(&balancing, &[]);
        until(|| (workers[1].served() > before + left as usize + 50).then_some(()));
        let outcomes = running.join();
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        // It knows of nothing that waits any more.
        wait_for_stuck(&balancing, &[]);
        drop(watch);
        let served: usize = workers.into_iter().map(Worker::end).sum();
        assert_eq!(served, outcomes.answered);
        println!("measured: {left} waited for the stuck one; {outcomes}");
    }
}

#[test]
fn members_come_and_go_under_load() {
    for engine in ENGINES {
        let group = Options::new().group("127.0.0.1:0", 4).unwrap();
        let (addr, roster) = (group.local_addr(), group.roster());
        let balancing = balance(&roster, engine);
        let mut workers: Vec<_> = group
            .into_iter()
            .map(|member| (member.number(), Worker::start(member)))
            .collect();
        let (mut served, mut changes, mut answered) = (0, 0, 0);
        let begin = Instant::now();
        // As fast as they can, which is more than ten a second on a machine that is not too busy.
        while changes < 60 {
            let running = clients(addr, 1_500, 3_000).start();
            while !running.finished() {
                let joined = roster.join().unwrap();
                workers.push((joined.number(), Worker::start(joined)));
                let (number, worker) = workers.remove(changes % 4);
                roster.load(number).unwrap().set(changes % 3 * 1000);
                assert_drained(roster.leave(number).unwrap().wait());
                served += worker.end();
                changes += 1;
            }
            let outcomes = running.join();
            assert_eq!(outcomes.lost(), 0, "{outcomes}");
            answered += outcomes.answered;
        }
        let per_second = changes as f64 / begin.elapsed().as_secs_f64();
        let last = balancing.last().unwrap();
        assert!(last.attaches > 0);
        for (_, worker) in workers {
            served += worker.end();
        }
        assert_eq!(served, answered);
        println!(
            "measured: {changes} joined and left, {per_second:.0} a second, {} attaches; {answered} answered",
            last.attaches
        );
    }
}

/// Two generations in one process: each is balanced while it decides.
#[test]
fn a_generation_is_balanced_before_during_and_after_a_takeover() {
    for engine in ENGINES {
        in_namespace("a takeover that is balanced", || {
            let addr: SocketAddr = "127.0.0.1:4000".parse().unwrap();
            let (group, old) = Options::new().generation(addr, 4).unwrap();
            assert_drained(old.take_over_blocking(PATIENCE));
            let roster = group.roster();
            let balancing = balance(&roster, engine);
            let workers: Vec<_> = group.into_iter().map(Worker::start).collect();
            let running = clients(addr, 12_000, 3_000).start();
            let go_on = |n: usize| {
                let before = running.started();
                until(|| (running.started() >= before + n).then_some(()));
            };
            // The kernel is told of a load that changes.
            let is_balanced = |roster: &Roster<TcpListener>, balancing: &Balancing| {
                for load in [1_000_000, 0] {
                    let attaches = balancing.last().unwrap().attaches;
                    roster.load(2).unwrap().set(load);
                    let is_told = || {
                        let last = balancing.last().unwrap();
                        // One program sees all loads.
                        last.attaches > attaches || last.engine == Engine::Ebpf
                    };
                    until(|| is_told().then_some(()));
                    go_on(100);
                }
                assert!(balancing.last().unwrap().decides);
            };
            is_balanced(&roster, &balancing);
            let (group, new) = Options::new().generation(addr, 4).unwrap();
            let next = group.roster();
            let next_balancing = balance(&next, engine);
            let next_workers: Vec<_> = group.into_iter().map(Worker::start).collect();
            // Lent: the old one goes on, and the new one does nothing yet.
            assert!(!next_balancing.last().unwrap().decides);
            is_balanced(&roster, &balancing);
            assert_eq!(next_workers.iter().map(Worker::served).sum::<usize>(), 0);
            assert_drained(new.take_over_blocking(PATIENCE));
            until(|| next_balancing.last().unwrap().decides.then_some(()));
            until(|| (!balancing.last().unwrap().decides).then_some(()));
            let attaches = balancing.last().unwrap().attaches;
            is_balanced(&next, &next_balancing);
            assert_eq!(balancing.last().unwrap().attaches, attaches);
            // Also when the old process drops what is of no use to it any more.
            drop(balancing);
            go_on(300);
            let outcomes = running.join();
            assert_eq!(outcomes.lost(), 0, "{outcomes}");
            let all = workers.into_iter().chain(next_workers);
            assert_eq!(all.map(Worker::end).sum::<usize>(), outcomes.answered);
        });
    }
}

/// The worker in a process of its own, whose listener is its standard input.
#[test]
fn child_serves() {
    if std::env::var_os("REUSEPORT_TEST_SERVES").is_none() {
        return;
    }
    let listener = TcpListener::from(io::stdin().lock().try_clone_fd());
    listener.set_nonblocking(false).unwrap();
    loop {
        let _ = answer(&listener);
    }
}

trait CloneFd {
    fn try_clone_fd(&self) -> std::os::fd::OwnedFd;
}

impl<T: std::os::fd::AsFd> CloneFd for T {
    fn try_clone_fd(&self) -> std::os::fd::OwnedFd {
        self.as_fd().try_clone_to_owned().unwrap()
    }
}

#[test]
fn a_process_that_is_stopped_costs_what_is_in_its_queue_and_is_taken_back() {
    for engine in ENGINES {
        let group = Options::new().group("127.0.0.1:0", 4).unwrap();
        let addr = group.local_addr();
        let balancing = balance(&group.roster(), engine);
        let mut members = group.into_iter();
        // This process keeps it open, and serves the others.
        let theirs = members.next().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child_serves", "--nocapture"])
            .env("REUSEPORT_TEST_SERVES", "1")
            .stdin(theirs.try_clone_fd())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = util::spawn(&mut command).unwrap();
        drop(command);
        let pid = Pid::from_child(&child);
        let waiting = || queue(&theirs).unwrap().waiting;
        let workers: Vec<_> = members.map(Worker::start).collect();
        let served = || workers.iter().map(Worker::served).sum::<usize>();
        let running = clients(addr, 9_000, 2_000).start();
        let go_on = |n: usize| {
            let before = running.started();
            until(|| (running.started() >= before + n).then_some(()));
        };
        // The child serves when others have ended than these workers have served.
        until(|| (running.ended() > served() + 20).then_some(()));
        kill_process(pid, Signal::STOP).unwrap();
        wait_for_stuck(&balancing, &[0]);
        go_on(200);
        let left = waiting();
        go_on(1_000);
        assert_eq!(waiting(), left, "it gets nothing while it is stopped");
        kill_process(pid, Signal::CONT).unwrap();
        let begin = Instant::now();
        let before = running.ended().saturating_sub(served());
        wait_for_stuck(&balancing, &[]);
        let seen = begin.elapsed();
        until(|| (running.ended() > served() + before + left as usize + 20).then_some(()));
        let back = begin.elapsed();
        let outcomes = running.join();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        println!(
            "measured: {left} waited for it; back after {seen:.0?}, and 20 more served after {back:.0?}"
        );
        workers
            .into_iter()
            .for_each(|worker| assert!(worker.end() > 0));
    }
}

/// Long connections, each with a life of its own length.
fn spread(connections: usize, is_balanced: bool) -> f64 {
    type Lives = Mutex<HashMap<SocketAddr, (TcpStream, Option<reuseport::Held>, usize)>>;
    const WORKERS: usize = 8;
    let group = Options::new().group("127.0.0.1:0", WORKERS).unwrap();
    let (addr, roster) = (group.local_addr(), group.roster());
    // A step after so many connections: how the clock and the threads go does not matter.
    let never = Duration::from_secs(3600);
    let mut balancer = is_balanced.then(|| roster.balance().unwrap().patience(never));
    let lives: Arc<Lives> = Arc::default();
    let ends = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = group
        .into_iter()
        .map(|member| {
            let load = roster.load(member.number()).unwrap();
            let (number, listener) = (member.number(), member.into_std());
            listener.set_nonblocking(true).unwrap();
            let (lives, ends) = (lives.clone(), ends.clone());
            thread::spawn(move || {
                while !ends.load(SeqCst) {
                    match listener.accept() {
                        Ok((stream, from)) => {
                            let held = is_balanced.then(|| load.hold());
                            lives.lock().unwrap().insert(from, (stream, held, number));
                        }
                        Err(_) => wait(&listener),
                    }
                }
            })
        })
        .collect();
    // A client closes at once, so that a connection needs one descriptor; the server holds it on.
    let mut open: Vec<SocketAddr> = Vec::new();
    // The same numbers each time.
    let mut number = 1u64;
    let mut chance = |n: usize| {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as usize % n
    };
    for begun in 0..2 * connections {
        open.push(TcpStream::connect(addr).unwrap().local_addr().unwrap());
        if begun >= connections {
            let ends = open.swap_remove(chance(open.len()));
            drop(until(|| lives.lock().unwrap().remove(&ends)));
        }
        if begun % 16 == 0 {
            until(|| (lives.lock().unwrap().len() == open.len()).then_some(()));
            balancer.as_mut().map(|balancer| balancer.step().unwrap());
        }
    }
    until(|| (lives.lock().unwrap().len() == open.len()).then_some(()));
    let mut counts = [0; WORKERS];
    for (_, _, number) in lives.lock().unwrap().values() {
        counts[*number] += 1;
    }
    ends.store(true, SeqCst);
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    let fullest = *counts.iter().max().unwrap();
    let ratio = (fullest * WORKERS) as f64 / open.len() as f64;
    println!("measured: {counts:?}, the fullest {ratio:.3} of the mean, balanced: {is_balanced}");
    ratio
}

#[test]
fn long_connections_are_spread() {
    const CONNECTIONS: usize = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let needed = CONNECTIONS as u64 + 1_000;
    if limit.maximum.is_some_and(|most| most < needed) || setrlimit(Resource::Nofile, all).is_err()
    {
        return util::skip("10,000 long connections (RLIMIT_NOFILE is too low)");
    }
    in_namespace("10,000 long connections", || {
        spread(CONNECTIONS, false);
        let ratio = spread(CONNECTIONS, true);
        assert!(ratio <= 1.05, "{ratio}");
    });
}
