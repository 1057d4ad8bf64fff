//! Workers that are processes publish their loads to the one that balances: they are steered by them, and neither their
//! deaths nor what they write harm another.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "memory without seals, and forking, are libc's")]

#[path = "util/crew.rs"]
mod crew;
#[path = "util/load.rs"]
mod load;
mod util;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crew::Hand;
use reuseport::{Balancer, Balancing, Engine, Load, Member, Options, Roster, queue};
use rustix::process::Signal;
use util::{assert_drained, no_forks, until};

const PAUSE: Duration = Duration::from_millis(2);

/// The second where it can be had.
const ENGINES: [Engine; 2] = [Engine::Classic, Engine::Ebpf];

/// What the processes of [`Hand`] run.
#[test]
fn hand() {
    crew::work();
}

/// A group of which each member is open here, and served by a process.
struct Crew {
    addr: SocketAddr,
    roster: Roster<TcpListener>,
    hands: Vec<(Member<TcpListener>, Hand)>,
}

impl Crew {
    fn new(n: usize) -> Self {
        let group = Options::new().group("127.0.0.1:0", n).unwrap();
        let mut this = Self {
            addr: group.local_addr(),
            roster: group.roster(),
            hands: Vec::new(),
        };
        group.into_iter().for_each(|member| this.add(member));
        this
    }

    fn add(&mut self, member: Member<TcpListener>) {
        let hand = self.start(&member);
        self.hands.push((member, hand));
    }

    fn start(&self, member: &Member<TcpListener>) -> Hand {
        Hand::start(member, self.roster.lend_load(member.number()).unwrap())
    }

    fn balance(&self, engine: Engine) -> Balancer {
        self.roster.balance().unwrap().engine(engine)
    }

    fn balancing(&self, engine: Engine) -> Balancing {
        self.balance(engine).spawn(PAUSE).unwrap()
    }

    fn load(&self, at: usize) -> usize {
        self.roster.load(at).unwrap().get()
    }

    fn served(&self) -> Vec<usize> {
        self.hands.iter().map(|(_, hand)| hand.served()).collect()
    }

    /// How many of so many clients each gets, one after the other, with a step before each.
    fn counts(&self, balancer: &mut Balancer, n: usize) -> Vec<usize> {
        let before = self.served();
        for _ in 0..n {
            balancer.step().unwrap();
            let mut client = TcpStream::connect(self.addr).unwrap();
            client.write_all(b"?").unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"?");
        }
        let after = self.served();
        after.iter().zip(before).map(|(n, m)| n - m).collect()
    }
}

fn clients(to: SocketAddr, connections: usize, per_second: u32) -> load::Load {
    load::Load {
        to: vec![to],
        connections,
        per_second,
        at_most: 2_000,
        timeout: Duration::from_secs(40),
    }
}

/// Waits until so many connections more have begun.
fn go_on(running: &load::Running, n: usize) {
    let before = running.started();
    until(|| (running.started() >= before + n).then_some(()));
}

#[test]
fn a_process_that_is_loaded_is_steered_around() {
    for engine in ENGINES {
        let crew = Crew::new(4);
        let mut balancer = crew.balance(engine);
        for loaded in [2, 0] {
            crew.hands[loaded].1.set(1000);
            assert_eq!(crew.load(loaded), 1000);
            let got = crew.counts(&mut balancer, 200);
            assert!(got[loaded] < 25, "{got:?}");
            crew.hands[loaded].1.set(0);
        }
        let got = crew.counts(&mut balancer, 200);
        assert!(got.iter().all(|got| (20..=85).contains(got)), "{got:?}");
        // Connections that are held count by themselves.
        crew.hands.iter().for_each(|(_, hand)| hand.keep());
        crew.hands[1].1.set(50);
        let mut held = Vec::new();
        for n in 1..=600 {
            balancer.step().unwrap();
            held.push(TcpStream::connect(crew.addr).unwrap());
            let all = || (0..4).map(|at| crew.load(at)).sum::<usize>();
            until(|| (all() == n + 50).then_some(()));
        }
        let loads = [0, 1, 2, 3].map(|at| crew.load(at));
        println!("measured: {loads:?}, of which 50 were set, {engine:?}");
        assert!(
            loads.iter().all(|load| (135..=190).contains(load)),
            "{loads:?}"
        );
    }
}

#[test]
fn what_a_process_held_that_was_killed_ends_with_the_next_one() {
    for engine in ENGINES {
        let mut crew = Crew::new(2);
        let mut balancer = crew.balance(engine);
        balancer.step().unwrap();
        crew.hands[0].1.keep();
        crew.hands[1].1.keep();
        let clients: Vec<_> = (0..60)
            .map(|_| TcpStream::connect(crew.addr).unwrap())
            .collect();
        until(|| (crew.load(0) + crew.load(1) == clients.len()).then_some(()));
        let held = crew.load(0);
        assert!(held > 5);
        crew.hands[0].1.set(1000);
        crew.hands[0].1.signal(Signal::KILL);
        let (member, hand) = crew.hands.remove(0);
        drop(hand);
        // No process serves there, and nothing says otherwise.
        assert_eq!(crew.load(0), 1000 + held);
        let hand = crew.start(&member);
        assert_eq!(crew.load(0), 0);
        crew.hands.insert(0, (member, hand));
        let (member, hand) = crew.hands.remove(1);
        drop(hand);
        let hand = crew.start(&member);
        crew.hands.push((member, hand));
        let got = crew.counts(&mut balancer, 200);
        assert!(got.iter().all(|got| (60..=140).contains(got)), "{got:?}");
    }
}

/// The process before it goes on with what it has.
#[test]
fn what_an_older_process_ends_is_not_taken_from_the_newer_one() {
    let mut crew = Crew::new(1);
    crew.hands[0].1.keep();
    let old: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(crew.addr).unwrap())
        .collect();
    until(|| (crew.load(0) == old.len()).then_some(()));
    let lent = crew.roster.lend_load(0).unwrap();
    let load = Load::adopt(lent).unwrap();
    let held = [load.hold(), load.hold()];
    assert_eq!((crew.load(0), load.get()), (2, 2));
    let load = Load::adopt(crew.roster.lend_load(0).unwrap()).unwrap();
    let newer = load.hold();
    drop(held);
    assert_eq!(crew.load(0), 1);
    drop(newer);
    assert_eq!(crew.load(0), 0);
    crew.hands.clear();
}

#[test]
fn who_joins_with_the_number_of_another_has_a_load_of_its_own() {
    for engine in ENGINES {
        let mut crew = Crew::new(2);
        let mut balancer = crew.balance(engine);
        balancer.step().unwrap();
        let old = crew.roster.lend_load(1).unwrap();
        let (member, hand) = crew.hands.pop().unwrap();
        crew.roster.close(1).unwrap();
        let no_forks = no_forks();
        drop(member);
        drop(no_forks);
        let joined = crew.roster.join().unwrap();
        assert_eq!(joined.number(), 1);
        crew.add(joined);
        hand.set(1000);
        assert_eq!(Load::adopt(old).unwrap().get(), 0);
        hand.set(1000);
        assert_eq!(crew.load(1), 0);
        balancer.step().unwrap();
        crew.hands[1].1.set(7);
        assert_eq!(crew.load(1), 7);
    }
}

#[test]
fn what_a_process_writes_harms_nobody() {
    for engine in ENGINES {
        let crew = Crew::new(4);
        let balancing = crew.balancing(engine);
        for absurd in [usize::MAX, usize::MAX / 2, 1 << 32] {
            crew.hands[3].1.set(absurd);
            let outcomes = clients(crew.addr, 1_000, 3_000).run();
            assert_eq!(outcomes.lost(), 0, "{absurd}: {outcomes}");
        }
        crew.hands[3].1.scribble();
        let before = crew.served();
        crew.hands[0].1.set(1000);
        let outcomes = clients(crew.addr, 6_000, 3_000).run();
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        let after = crew.served();
        let got: Vec<_> = after.iter().zip(before).map(|(n, m)| n - m).collect();
        println!("measured: {got:?}, the first loaded, the last a scribbler, {engine:?}");
        // The load of the first counts all the same, and the others have what those do not get.
        assert!(
            got[0] < 1_500 && got[1] > 1_500 && got[2] > 1_500,
            "{got:?}"
        );
        // Nor can it take the memory away.
        assert_eq!(crew.hands[3].1.cut(), libc::EPERM);
        let _ = crew.load(3);
        assert!(balancing.last().is_ok());
        // And the next process gets it as it should be.
        let load = Load::adopt(crew.roster.lend_load(1).unwrap()).unwrap();
        assert_eq!(load.get(), 0);
    }
}

/// What a child does that is forked, and ends.
fn fork(child: impl FnOnce()) {
    // SAFETY: this process has no other thread that holds a lock of what `child` uses.
    match unsafe { libc::fork() } {
        0 => {
            let did = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: it takes a number, and ends the process.
            unsafe { libc::_exit(did.is_err().into()) };
        }
        pid => {
            let mut status = 0;
            // SAFETY: the pointer is that of `status`.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!((waited, status), (pid, 0));
        }
    }
}

/// A child that was forked has the same memory, and needs no descriptor.
#[test]
fn a_fork_publishes_too() {
    const TEST: &str = "a_fork_publishes_too";
    if !util::is_child(TEST) {
        // It has a copy of every socket of its parent.
        return util::in_child(TEST);
    }
    let group = Options::new().group("127.0.0.1:0", 1).unwrap();
    drop(group.roster().lend_load(0).unwrap());
    let load = group.roster().load(0).unwrap();
    fork(|| load.set(42));
    assert_eq!(load.get(), 42);
}

/// Wherever the load is: in memory that is copied, that the kernel's program sees, or that was lent.
#[test]
fn a_fork_takes_nothing_from_what_its_parent_holds() {
    const TEST: &str = "a_fork_takes_nothing_from_what_its_parent_holds";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let roster = group.roster();
    drop(roster.lend_load(1).unwrap());
    let loads = [0, 1].map(|member| roster.load(member).unwrap());
    let adopted = Load::adopt(roster.lend_load(1).unwrap()).unwrap();
    let mut held = Some([loads[0].hold(), loads[1].hold(), adopted.hold()]);
    let balancing = roster.balance().unwrap().spawn(PAUSE).unwrap();
    fork(|| {
        held = None;
        let own = [loads[0].hold(), adopted.hold()];
        drop(own);
        // The thread, whose lock it may have, is not here.
        let error = balancing.last().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!format!("{balancing:?}").is_empty());
    });
    assert_eq!((loads[0].get(), loads[1].get()), (1, 2));
    drop(held);
    assert_eq!((loads[0].get(), loads[1].get()), (0, 0));
}

fn memory(length: u64, seals: libc::c_int) -> OwnedFd {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a string that ends with 0.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), flags) };
    assert!(fd >= 0);
    // SAFETY: the kernel just made this descriptor, and no other code knows it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(length).unwrap();
    // SAFETY: F_ADD_SEALS takes an int and touches no memory.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }, 0);
    file.into()
}

#[test]
fn what_is_no_load_is_refused_in_a_sentence() {
    let socket = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let refused = |fd: OwnedFd| {
        let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let error = Load::adopt(fd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let start = format!("cannot adopt descriptor {number} as a load: ");
        error.to_string().strip_prefix(&start).unwrap().to_owned()
    };
    let other = "it is no memory that was lent for a load, but another file or a socket";
    for fd in [
        socket(),
        null(),
        File::open("/proc/self/exe").unwrap().into(),
    ] {
        assert_eq!(refused(fd), other);
    }
    let unsealed = "its memory is not sealed, so that it could be taken away while it is in use";
    for seals in [0, libc::F_SEAL_GROW, libc::F_SEAL_SEAL] {
        assert_eq!(refused(memory(4096, seals)), unsealed);
    }
    let length = |fd: &OwnedFd| {
        File::from(fd.try_clone().unwrap())
            .metadata()
            .unwrap()
            .len()
    };
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let right = length(&group.roster().lend_load(0).unwrap());
    for other in [0, 1, right - 1, right + 1, 1 << 20] {
        let expected =
            format!("its memory has {other} bytes, and that of a load has {right} in this version");
        assert_eq!(refused(memory(other, libc::F_SEAL_SHRINK)), expected);
    }
    // Of the right length and sealed, it is a load, whichever process has made it.
    let load = Load::adopt(memory(right, libc::F_SEAL_SHRINK)).unwrap();
    load.set(3);
    assert_eq!(load.get(), 3);
}

#[test]
fn what_cannot_be_lent_is_refused_in_a_sentence() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let (addr, roster) = (group.local_addr(), group.roster());
    let refused = |member: usize| {
        let error = roster.lend_load(member).unwrap_err();
        assert_eq!(
            (error.kind(), error.addr()),
            (ErrorKind::InvalidInput, Some(addr))
        );
        let start = format!("cannot lend the load of member {member} of the group on {addr}: ");
        error.to_string().strip_prefix(&start).unwrap().to_owned()
    };
    assert_eq!(refused(2), "the group has no such member");
    let load = roster.load(0).unwrap();
    let why = "a Load of it was handed out, by which this process publishes";
    assert_eq!(refused(0), why);
    let held = load.hold();
    drop(load);
    assert_eq!(refused(0), why);
    drop(held);
    let mut balancer = roster.balance().unwrap();
    balancer.step().unwrap();
    for member in [0, 1, 0] {
        drop(roster.lend_load(member).unwrap());
        balancer.step().unwrap();
    }
    roster.load(0).unwrap().set(1);
    assert_eq!(Load::adopt(roster.lend_load(0).unwrap()).unwrap().get(), 0);
}

fn wait_for_stuck(balancing: &Balancing, expected: &[usize]) {
    until(|| (balancing.last().unwrap().stuck == expected).then_some(()));
}

#[test]
fn a_process_that_was_stopped_has_its_share_again_at_once() {
    const PER_SECOND: u32 = 2_000;
    // Half of what is its share of 100 ms.
    const HALF: usize = PER_SECOND as usize / 4 / 10 / 2;
    for engine in ENGINES {
        let crew = Crew::new(4);
        let balancing = crew.balancing(engine);
        let (member, hand) = &crew.hands[0];
        let waiting = || queue(member).unwrap().waiting;
        let (mut took, mut queues) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            // Several times of what a machine needs that is not busy.
            let running = clients(crew.addr, 6_000, PER_SECOND).start();
            go_on(&running, 300);
            hand.signal(Signal::STOP);
            wait_for_stuck(&balancing, &[0]);
            // Those whose packets were under way when it was found out.
            go_on(&running, 100);
            let left = waiting();
            go_on(&running, 400);
            assert_eq!(waiting(), left, "it gets nothing while it is stopped");
            hand.signal(Signal::CONT);
            let begin = Instant::now();
            let before = hand.served();
            until(|| (hand.served() >= before + left as usize + HALF).then_some(()));
            took.push(begin.elapsed());
            queues.push(left);
            wait_for_stuck(&balancing, &[]);
            let outcomes = running.join();
            assert_eq!(outcomes.lost(), 0, "{outcomes}");
        }
        println!("measured: {queues:?} waited; its share again after {took:.0?}, {engine:?}");
        // A machine that is busy may be late with any of them.
        let best = took.iter().min().unwrap();
        assert!(*best < Duration::from_millis(100), "{took:?}");
    }
}

#[test]
fn processes_come_and_go_under_load() {
    for engine in ENGINES {
        let mut crew = Crew::new(4);
        let balancing = crew.balancing(engine);
        let (mut served, mut answered, mut changes) = (0, 0, 0);
        let begin = Instant::now();
        while changes < 40 {
            let running = clients(crew.addr, 1_000, 1_000).start();
            while !running.finished() {
                let joined = crew.roster.join().unwrap();
                crew.add(joined);
                let (member, hand) = crew.hands.remove(changes % 4);
                hand.set(changes % 3 * 1000);
                assert_drained(crew.roster.leave(member.number()).unwrap().wait());
                served += hand.served();
                drop(hand);
                let no_forks = no_forks();
                drop((member, no_forks));
                changes += 1;
            }
            let outcomes = running.join();
            assert_eq!(outcomes.lost(), 0, "{outcomes}");
            answered += outcomes.answered;
        }
        let per_second = f64::from(changes as u32) / begin.elapsed().as_secs_f64();
        served += crew.served().iter().sum::<usize>();
        assert_eq!(served, answered);
        let attaches = balancing.last().unwrap().attaches;
        assert!(attaches > 0);
        println!(
            "measured: {changes} joined and left, {per_second:.0} a second, {attaches} attaches; {answered} answered"
        );
    }
}
