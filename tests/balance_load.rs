//! A balancer under load: nothing is lost, and a worker that is stuck is steered around and taken back.

#![cfg(target_os = "linux")]

#[path = "util/load.rs"]
mod load;
mod util;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use load::Load;
use reuseport::{Balancing, Engine, Member, Options, Roster, queue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
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
            let running = clients(addr, 15_000, 3_000).start();
            let go_on = |n: usize| {
                let before = running.started();
                until(|| (running.started() >= before + n).then_some(()));
            };
            // The kernel is told of a load, by which a member gets less, and of its end.
            let is_balanced =
                |roster: &Roster<TcpListener>, balancing: &Balancing, workers: &[Worker]| {
                    for (load, few) in [(1_000_000, true), (0, false)] {
                        let before = balancing.last().unwrap();
                        roster.load(2).unwrap().set(load);
                        let is_told = || {
                            let last = balancing.last().unwrap();
                            // One program sees all loads.
                            last.attaches > before.attaches || last.engine == Engine::Ebpf
                        };
                        until(|| is_told().then_some(()));
                        // What came before.
                        go_on(50);
                        let before = workers[2].served();
                        go_on(400);
                        let got = workers[2].served() - before;
                        // Of which a quarter is its part.
                        assert_eq!(got < 50, few, "{got}");
                    }
                    let last = balancing.last().unwrap();
                    assert!(last.decides);
                    last.engine
                };
            let alone = is_balanced(&roster, &balancing, &workers);
            let (group, new) = Options::new().generation(addr, 4).unwrap();
            let next = group.roster();
            let next_balancing = balance(&next, engine);
            let next_workers: Vec<_> = group.into_iter().map(Worker::start).collect();
            // Lent: the old one goes on, and the new one does nothing yet.
            assert!(!next_balancing.last().unwrap().decides);
            let beside = is_balanced(&roster, &balancing, &workers);
            assert_eq!(beside, Engine::Classic);
            assert_eq!(next_workers.iter().map(Worker::served).sum::<usize>(), 0);
            assert_drained(new.take_over_blocking(PATIENCE));
            until(|| next_balancing.last().unwrap().decides.then_some(()));
            until(|| (!balancing.last().unwrap().decides).then_some(()));
            let attaches = balancing.last().unwrap().attaches;
            // The old one has its listeners open.
            let beside = is_balanced(&next, &next_balancing, &next_workers);
            assert_eq!(beside, Engine::Classic);
            assert_eq!(balancing.last().unwrap().attaches, attaches);
            // Also when the old process drops what is of no use to it any more.
            drop(balancing);
            let served: usize = workers.into_iter().map(Worker::end).sum();
            until(|| (next_balancing.last().unwrap().engine == alone).then_some(()));
            is_balanced(&next, &next_balancing, &next_workers);
            let outcomes = running.join();
            assert_eq!(outcomes.lost(), 0, "{outcomes}");
            let rest: usize = next_workers.into_iter().map(Worker::end).sum();
            assert_eq!(served + rest, outcomes.answered);
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
