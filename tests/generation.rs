//! Generations of a server that relieve one another, in one process and in several, under load.

#![cfg(target_os = "linux")]

#[path = "util/load.rs"]
mod load;
#[path = "util/serve.rs"]
mod serve;
mod util;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use load::{Counters, Load, Outcomes};
use reuseport::{
    ConnectionIds, Error, Generation, Holder, Instruction, Options, Promise, ReusePort, Roster,
    Spread, Std, Steering, Tokio,
};
use serve::{Tally, serve_member};
use util::{Runtime, in_namespace};

/// In a namespace of its own each test has it to itself.
const PORT: u16 = 4000;

/// Longer than anything takes that does end.
const PATIENCE: Duration = Duration::from_secs(30);

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const EVERY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// One generation, each of whose members serves on a thread of its own.
struct Server {
    generation: Generation,
    roster: Roster<TcpListener>,
    members: Vec<Serving>,
}

struct Serving {
    number: usize,
    tally: Arc<Tally>,
    thread: JoinHandle<()>,
}

impl Server {
    fn open<R: Runtime>(options: &Options, addr: SocketAddr, n: usize) -> Self {
        let (group, generation) = options.generation(addr, n).unwrap();
        assert_eq!((group.len(), group.local_addr()), (n, addr));
        let roster = group.roster();
        let (attached, serves) = mpsc::channel();
        let members = group.into_iter().map(|member| {
            let number = member.index();
            let tally = Arc::new(Tally::default());
            let (told, roster, counts) = (generation.relieved(), roster.clone(), tally.clone());
            let attached = attached.clone();
            let thread = thread::spawn(move || {
                R::block_on(async {
                    let listener = member.attach::<R>().unwrap();
                    attached.send(()).unwrap();
                    // Who is told needs no error, so that each is counted as one.
                    let left = || !R::NONBLOCKING && roster.has_left(number);
                    serve_member::<R>(listener, told, left, &counts).await;
                });
            });
            Serving {
                number,
                tally,
                thread,
            }
        });
        let members = members.collect();
        assert_eq!(serves.iter().take(n).count(), n);
        Self {
            generation,
            roster,
            members,
        }
    }

    fn sum(&self, count: impl Fn(&Tally) -> usize) -> usize {
        self.members.iter().map(|member| count(&member.tally)).sum()
    }

    fn accepted(&self) -> usize {
        self.sum(Tally::accepted)
    }

    /// The next generation has taken over; how many connections this one had.
    fn relieved(self, fewer_follow: bool) -> usize {
        self.generation.relieved_blocking();
        let mut accepted = 0;
        for member in self.members {
            member.thread.join().unwrap();
            assert!(self.roster.has_left(member.number));
            let tally = member.tally;
            accepted += tally.accepted();
            let failed = [tally.silent(), tally.broken(), tally.unfinished()];
            assert_eq!(failed, [0, 0, 0], "{tally:?}");
            assert!(fewer_follow || tally.accept_errors() == 0, "{tally:?}");
        }
        accepted
    }

    /// Ends it by a generation that nobody serves.
    fn end(self, addr: SocketAddr) -> usize {
        let (_group, generation) = Options::new().generation(addr, 1).unwrap();
        assert_eq!(generation.take_over_blocking(PATIENCE).unwrap(), 0);
        self.relieved(true)
    }
}

/// Connections that come without a pause until this is stopped.
struct Loading {
    stop: Arc<AtomicBool>,
    batches: Arc<AtomicUsize>,
    thread: JoinHandle<Outcomes>,
}

impl Loading {
    fn start(addr: SocketAddr) -> Self {
        let to = match addr.ip() {
            EVERY => vec![(V4, addr.port()).into(), (V6, addr.port()).into()],
            _ => vec![addr],
        };
        let load = Load {
            to,
            connections: 100,
            per_second: 5_000,
            at_most: 100,
            timeout: PATIENCE,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let batches = Arc::new(AtomicUsize::new(0));
        let (stopped, counted) = (stop.clone(), batches.clone());
        let thread = thread::spawn(move || {
            let mut all = Outcomes::default();
            while !stopped.load(Ordering::Relaxed) {
                let outcomes = load.run();
                outcomes.assert_complete(load.connections);
                add(&mut all, &outcomes);
                counted.fetch_add(1, Ordering::Relaxed);
            }
            all
        });
        Self {
            stop,
            batches,
            thread,
        }
    }

    /// Waits until a hundred connections have come that had not begun before.
    fn go_on(&self) {
        let batches = || self.batches.load(Ordering::Relaxed);
        let before = batches();
        util::until(|| {
            let over = batches() >= before + 2 || self.thread.is_finished();
            over.then_some(())
        });
    }

    fn stop(self) -> Outcomes {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn add(all: &mut Outcomes, more: &Outcomes) {
    all.attempts += more.attempts;
    all.answered += more.answered;
    all.refused += more.refused;
    all.reset += more.reset;
    all.eof += more.eof;
    all.timed_out += more.timed_out;
    all.wrong += more.wrong;
    all.other += more.other;
    all.slowest = all.slowest.max(more.slowest);
    all.took += more.took;
    if all.first_other.is_none() {
        all.first_other.clone_from(&more.first_other);
    }
}

#[track_caller]
fn assert_nothing_lost(outcomes: &Outcomes, counted: &Counters) {
    assert_eq!(outcomes.lost(), 0, "{outcomes}; {counted}");
    // A RST may also be a client's that has closed, for what another processor brings too late.
    let bad = [
        counted.estab_resets,
        counted.attempt_fails,
        counted.listen_drops,
        counted.syn_retrans,
        counted.abort_on_close,
    ];
    assert_eq!(bad, [0; 5], "{outcomes}; {counted}");
}

/// Every number from 1 to `most`, followed once by every number (de Bruijn, by Lyndon words).
fn every_pair(most: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    for first in 1..=most {
        sizes.push(first);
        for second in first + 1..=most {
            sizes.extend([first, second]);
        }
    }
    sizes.push(1);
    sizes
}

/// One connection's answer.
fn ask(to: SocketAddr, question: u8) -> io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[question])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// The address at which a client finds a server on `addr`.
fn to(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        EVERY => (V4, addr.port()).into(),
        ip => (ip, addr.port()).into(),
    }
}

fn only(place: usize) -> Steering {
    Steering::Program(vec![Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: place as u32,
    }])
}

/// What the table says is where the kernel has the members.
fn assert_places(server: &Server, addr: SocketAddr) {
    let places = server.roster.places();
    let mut sorted = places.clone();
    sorted.sort_unstable();
    let mut numbers: Vec<_> = server.members.iter().map(|member| member.number).collect();
    numbers.sort_unstable();
    assert_eq!(sorted, numbers);
    for (place, number) in places.iter().enumerate() {
        server.roster.steer(&only(place)).unwrap();
        let counts = || -> Vec<_> {
            let members = server.members.iter();
            members
                .map(|member| (member.number, member.tally.accepted()))
                .collect()
        };
        let before = counts();
        ask(to(addr), 7).unwrap();
        for ((member, before), (_, after)) in before.into_iter().zip(counts()) {
            let expected = usize::from(member == *number);
            assert_eq!(
                after - before,
                expected,
                "{member} in {places:?} at {place}"
            );
        }
    }
    server.roster.steer(&Steering::Hash).unwrap();
}

/// Generations of those sizes, each relieving the one before while connections come.
fn chain<R: Runtime>(ip: IpAddr, sizes: &[usize]) {
    let mut took = [Vec::new(), Vec::new()];
    in_namespace("generations under load", || {
        let addr = SocketAddr::new(ip, PORT);
        let options = Options::new();
        let mut old = Server::open::<R>(&options, addr, sizes[0]);
        assert_eq!(old.generation.predecessor(), None);
        assert_eq!(old.generation.promise(), Promise::Lossless);
        assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        let mut apart = 0;
        for pair in sizes.windows(2) {
            let &[n, m] = pair else { unreachable!() };
            let before = Counters::read();
            let loading = Loading::start(addr);
            let new = Server::open::<R>(&options, addr, m);
            assert_eq!(new.generation.predecessor(), Some(std::process::id()));
            assert_eq!(new.generation.promise(), Promise::Lossless);
            loading.go_on();
            assert_eq!(new.accepted(), 0, "{n} to {m}");

            let begin = Instant::now();
            assert_eq!(new.generation.take_over_blocking(PATIENCE).unwrap(), 0);
            took[usize::from(m < n)].push(begin.elapsed());
            let accepted = old.relieved(m < n);
            loading.go_on();
            let outcomes = loading.stop();
            let counted = Counters::read().since(&before);
            assert_nothing_lost(&outcomes, &counted);
            // The old one may have been asked before this load, for its places.
            assert_eq!(
                accepted - apart + new.accepted(),
                outcomes.answered,
                "{n} to {m}"
            );
            assert!(new.accepted() >= 100);

            let before = new.accepted();
            assert_places(&new, addr);
            apart = before + new.members.len();
            assert_eq!(new.accepted(), apart);
            old = new;
        }
        old.end(addr);
    });
    for (took, which) in took.iter_mut().zip(["m >= n", "m < n"]) {
        took.sort();
        if let [least, .., most] = took[..] {
            let median = took[took.len() / 2];
            println!(
                "{}, {ip}, {which}: {median:.1?} ({least:.1?} to {most:.1?})",
                R::NAME
            );
        }
    }
}

#[test]
fn any_number_relieves_any_number() {
    let sizes = every_pair(8);
    let mut pairs: Vec<_> = sizes.windows(2).collect();
    pairs.sort();
    pairs.dedup();
    assert_eq!(pairs.len(), 64);
    chain::<Tokio>(V4, &sizes);
}

#[test]
fn any_number_relieves_any_number_that_blocks() {
    chain::<Std>(V4, &every_pair(5));
}

#[test]
fn on_ipv6() {
    chain::<Tokio>(V6, &[1, 1, 2, 2, 1, 3, 8, 8, 5, 1]);
    chain::<Std>(V6, &[2, 2, 3, 1, 1]);
}

#[test]
fn on_every_address() {
    chain::<Tokio>(EVERY, &[1, 1, 2, 2, 1, 3, 8, 8, 5, 1]);
    chain::<Std>(EVERY, &[2, 2, 3, 1, 1]);
}

/// From the call on, and not a connection before.
#[test]
fn what_is_new_goes_to_the_new_one_from_the_call_on() {
    for ip in [V4, V6, EVERY] {
        for (n, m) in [(1, 1), (3, 3), (2, 5), (4, 1)] {
            in_namespace("where connections go", || {
                let addr = SocketAddr::new(ip, PORT);
                let listeners = |n| {
                    let (group, generation) = Options::new().generation(addr, n).unwrap();
                    let listeners: Vec<_> = group.into_iter().map(|m| m.into_std()).collect();
                    for listener in &listeners {
                        listener.set_nonblocking(true).unwrap();
                    }
                    (listeners, generation)
                };
                let accept = |listeners: &[TcpListener]| {
                    let accepted = listeners
                        .iter()
                        .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count());
                    accepted.sum::<usize>()
                };
                let connect = || -> Vec<_> {
                    let clients = (0..40).map(|_| TcpStream::connect(to(addr)).unwrap());
                    clients.collect()
                };
                let (old, first) = listeners(n);
                assert_eq!(first.take_over_blocking(PATIENCE).unwrap(), 0);
                let (new, second) = listeners(m);
                let _to_old = connect();
                let taking = second.take_over(PATIENCE);
                // The old one has not accepted, and so is not relieved.
                let _to_new = connect();
                assert_eq!((accept(&new), accept(&old)), (40, 40), "{n} to {m}");
                assert_eq!(smol::block_on(taking).unwrap(), 0);
                first.relieved_blocking();
                let _to_new = connect();
                assert_eq!((accept(&new), accept(&old)), (40, 0), "{n} to {m}");
            });
        }
    }
}

/// What members of the given weights, and of processors, get.
#[test]
fn the_new_one_is_steered_as_it_was_asked() {
    // Where nobody forks, what is closed is gone.
    if !util::is_child("the_new_one_is_steered_as_it_was_asked") {
        return util::in_child("the_new_one_is_steered_as_it_was_asked");
    }
    in_namespace("steered generations", || {
        let addr = SocketAddr::new(V4, PORT);
        let plain = Server::open::<Std>(&Options::new(), addr, 2);
        assert_eq!(plain.generation.take_over_blocking(PATIENCE).unwrap(), 0);

        let weights = Options::new().steering(Steering::Weights(vec![0, 1, 0]));
        let new = Server::open::<Std>(&weights, addr, 3);
        assert_eq!(new.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        plain.relieved(false);
        for _ in 0..40 {
            ask(addr, 1).unwrap();
        }
        let accepted: Vec<_> = new.members.iter().map(|one| one.tally.accepted()).collect();
        assert_eq!(accepted, [0, 40, 0]);

        // All connections come from one processor, and so to its one member.
        let cores = core_affinity::get_core_ids().unwrap();
        let cpu = Options::new().steering(Steering::Cpu);
        for n in [cores.len(), cores.len() + 1, 1] {
            let old = Server::open::<Std>(&cpu, addr, n);
            assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
            for (at, &core) in cores.iter().enumerate().take(n) {
                let before: Vec<_> = old.members.iter().map(|m| m.tally.accepted()).collect();
                thread::spawn(move || {
                    assert!(core_affinity::set_for_current(core));
                    for _ in 0..20 {
                        ask(addr, 1).unwrap();
                    }
                })
                .join()
                .unwrap();
                for (one, before) in old.members.iter().zip(before) {
                    let gets = one.number % cores.len() == at || n == 1;
                    let got = one.tally.accepted() - before;
                    assert_eq!(got > 0, gets, "{} of {n}: {got}", one.number);
                }
            }
            old.end(addr);
        }

        let wrong = Options::new().steering(Steering::Weights(vec![1, 1]));
        let error = wrong.generation(addr, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error
                .to_string()
                .contains("there are 2 weights for 3 members"),
            "{error}"
        );
    });
}

/// A generation is a group like any other.
#[test]
fn members_leave_and_join_a_generation() {
    in_namespace("members of a generation leave", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Server::open::<Tokio>(&Options::new(), addr, 3);
        assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        let mut new = Server::open::<Tokio>(&Options::new(), addr, 4);

        let refusal = |roster: &Roster<TcpListener>| {
            let errors = [
                roster.leave(0).map(drop).unwrap_err(),
                roster.join().map(drop).unwrap_err(),
                roster.steer(&Steering::Hash).unwrap_err(),
            ];
            errors.map(|error| {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                error.to_string()
            })
        };
        let why = format!("cannot steer the group on {addr}: it has not taken over yet");
        assert_eq!(refusal(&new.roster), [&why; 3].map(Clone::clone));
        assert!(new.roster.places().is_empty());

        assert_eq!(new.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        let roster = old.roster.clone();
        old.relieved(false);
        let why = format!("cannot steer the group on {addr}: another process has taken it over");
        assert_eq!(refusal(&roster), [&why; 3].map(Clone::clone));
        assert!((0..3).all(|number| roster.has_left(number)));

        let loading = Loading::start(addr);
        loading.go_on();
        for number in [1, 3] {
            let leaving = new.roster.leave(number).unwrap();
            assert_eq!(leaving.promise(), Promise::Lossless);
            assert_eq!(leaving.settled_blocking(PATIENCE).unwrap(), 0);
        }
        let outcomes = loading.stop();
        assert_eq!(outcomes.lost(), 0, "{outcomes}");
        let left: Vec<_> = new.roster.places();
        assert_eq!(left.len(), 2);
        new.members.retain(|one| left.contains(&one.number));
        assert_places(&new, addr);
        let joined = new.roster.join().unwrap();
        assert_eq!(joined.index(), 1);
        assert_eq!(new.roster.places().last(), Some(&1));

        // The next one has its own numbers, whatever became of these.
        drop(joined);
        let next = Server::open::<Tokio>(&Options::new(), addr, 2);
        assert_eq!(next.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        new.relieved(false);
        assert_places(&next, addr);
        next.end(addr);
    });
}

/// Set for processes that this file's tests start, with what they are to do.
const SERVER: &str = "REUSEPORT_TEST_GENERATION";

/// Asked this, a server answers with its own tag.
const WHO: u8 = 255;

/// Not a test: the servers of the others, each in a process of its own.
#[test]
fn server() {
    if let Ok(what) = std::env::var(SERVER) {
        serve_process(&what);
    }
}

fn serve_process(what: &str) {
    let words: Vec<_> = what.split(' ').collect();
    let [addr, n, tag, how @ ..] = &words[..] else {
        panic!("{what}");
    };
    let (addr, n, tag) = (
        addr.parse().unwrap(),
        n.parse().unwrap(),
        tag.parse().unwrap(),
    );
    let serve = || serve_as(addr, n, tag, how);
    if how.contains(&"nobody") {
        let nobody = util::as_user(65534, "a server of another user", serve);
        assert!(nobody.is_some());
    } else {
        serve();
    }
}

#[allow(unsafe_code, reason = "no safe API sets this option")]
fn defer_accept(socket: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    let seconds: libc::c_int = 60;
    // SAFETY: the pointer and the length are those of `seconds`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Says each step in a line of its own, and takes the next when it is told to.
fn say(what: &str) {
    // In one piece, and not through the harness.
    io::stdout()
        .write_all(format!("\n@{what}\n").as_bytes())
        .unwrap();
    io::stdout().flush().unwrap();
}

fn serve_as(addr: SocketAddr, n: usize, tag: u8, how: &[&str]) {
    let mut options = Options::new();
    if how.contains(&"defers") {
        // A client that says nothing stays a half-open request (tcp(7)).
        options = options.before_bind(|socket| defer_accept(&socket));
    }
    let (group, generation) = match options.generation(addr, n) {
        Ok(opened) => opened,
        Err(error) => return say(&format!("error {error}")),
    };
    let descriptors = util::descriptors();
    say(&format!("open {}", generation.predecessor().unwrap_or(0)));
    let served = Arc::new(AtomicUsize::new(0));
    let roster = group.roster();
    let workers: Vec<_> = group
        .into_iter()
        .map(|member| {
            let (served, roster, number) = (served.clone(), roster.clone(), member.index());
            thread::spawn(move || {
                let listener = member.into_std();
                loop {
                    match listener.accept() {
                        Ok((mut stream, _)) => {
                            let mut byte = [0];
                            if stream.read(&mut byte).is_ok_and(|len| len == 1) {
                                let answer = if byte[0] == WHO { tag } else { byte[0] };
                                if stream.write_all(&[answer]).is_ok() {
                                    served.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                        Err(_) if roster.has_left(number) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let generation = Arc::new(generation);
    let own = generation.clone();
    thread::spawn(move || {
        let mut line = String::new();
        while io::stdin().read_line(&mut line).is_ok_and(|len| len > 0) {
            match line.trim() {
                "take" => {
                    say("taking");
                    let taking = own.clone();
                    thread::spawn(move || match taking.take_over_blocking(PATIENCE) {
                        Ok(lost) => say(&format!("taken {lost}")),
                        Err(error) => say(&format!("error {error}")),
                    });
                }
                "descriptors" => say(&format!("descriptors {}", util::descriptors())),
                other => panic!("{other}"),
            }
            line.clear();
        }
        // The test is over, well or not.
        std::process::exit(1);
    });
    if how.contains(&"at-once") {
        let lost = generation.take_over_blocking(PATIENCE).unwrap();
        say(&format!("taken {lost}"));
    }
    generation.relieved_blocking();
    for worker in workers {
        worker.join().unwrap();
    }
    say(&format!(
        "served {} {descriptors}",
        served.load(Ordering::Relaxed)
    ));
    if how.contains(&"lingers") {
        loop {
            thread::park();
        }
    }
}

/// A server in a process of its own, killed at the latest when this is dropped.
struct Process {
    child: std::process::Child,
    said: mpsc::Receiver<String>,
}

impl Process {
    fn start(addr: SocketAddr, n: usize, tag: u8, how: &str) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "server", "--nocapture", "--test-threads=1"])
            .env(SERVER, format!("{addr} {n} {tag} {how}"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = util::spawn(&mut command).unwrap();
        let stdout = io::BufReader::new(child.stdout.take().unwrap());
        let (tell, said) = mpsc::channel();
        thread::spawn(move || {
            for line in io::BufRead::lines(stdout).map_while(Result::ok) {
                if let Some(said) = line.strip_prefix('@') {
                    if tell.send(said.to_owned()).is_err() {
                        return;
                    }
                }
            }
        });
        Self { child, said }
    }

    /// Starts it, and waits until its group is open; its predecessor.
    fn opened(addr: SocketAddr, n: usize, tag: u8, how: &str) -> (Self, u32) {
        let this = Self::start(addr, n, tag, how);
        let predecessor = this.hear("open").parse().unwrap();
        (this, predecessor)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    fn hear(&self, what: &str) -> String {
        let said = self.said.recv_timeout(PATIENCE).unwrap();
        match said.split_once(' ').unwrap_or((&said, "")) {
            (word, rest) if word == what => rest.to_owned(),
            _ => panic!("{what} was expected: {said}"),
        }
    }

    fn tell(&mut self, what: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    /// Takes over, and says how many are lost.
    #[track_caller]
    fn take_over(&mut self) -> u32 {
        self.tell("take");
        self.hear("taking");
        self.hear("taken").parse().unwrap()
    }

    /// It ends by itself; how many it has served.
    fn ends(mut self) -> usize {
        let served = self.hear("served");
        self.exits();
        served.split(' ').next().unwrap().parse().unwrap()
    }

    fn exits(&mut self) {
        // Which wait() would close, and so end it.
        let _stdin = self.child.stdin.take();
        assert!(self.child.wait().unwrap().success());
    }

    /// SIGKILL; when this returns, all that it had is closed.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connections of which each is answered by that server.
#[track_caller]
fn assert_all_answered(addr: SocketAddr, tag: u8) {
    for number in 0..200 {
        match ask(addr, WHO) {
            Ok(answer) => assert_eq!(answer, tag, "connection {number}"),
            Err(error) => panic!("connection {number}: {error}"),
        }
    }
}

fn processes_relieve_each_other(how: &str) {
    in_namespace("processes that relieve each other", || {
        let addr = SocketAddr::new(V4, PORT);
        let before = Counters::read();
        let (mut old, none) = Process::opened(addr, 2, 1, how);
        assert_eq!((none, old.take_over()), (0, 0));
        let loading = Loading::start(addr);
        let mut served = 0;
        for (tag, n) in [(2, 3), (3, 1), (4, 2)] {
            loading.go_on();
            let (mut new, predecessor) = Process::opened(addr, n, tag, how);
            assert_eq!(predecessor, old.pid());
            assert_eq!(ask(addr, WHO).unwrap(), tag - 1);
            assert_eq!(new.take_over(), 0);
            served += old.ends();
            loading.go_on();
            assert_eq!(ask(addr, WHO).unwrap(), tag);
            old = new;
        }
        let outcomes = loading.stop();
        assert_nothing_lost(&outcomes, &Counters::read().since(&before));
        let (mut last, _) = Process::opened(addr, 1, 9, how);
        assert_eq!(last.take_over(), 0);
        served += old.ends();
        assert_eq!(served, outcomes.answered + 6);
    });
}

#[test]
fn processes_relieve_each_other_under_load() {
    processes_relieve_each_other("");
}

#[test]
fn processes_without_privilege_relieve_each_other_under_load() {
    processes_relieve_each_other("nobody");
}

#[test]
fn killed_before_it_has_taken_over() {
    in_namespace("a new process dies", || {
        let addr = SocketAddr::new(V4, PORT);
        let (mut old, _) = Process::opened(addr, 2, 1, "nobody");
        old.take_over();
        for n in [1, 2, 3] {
            let loading = Loading::start(addr);
            loading.go_on();
            let (new, _) = Process::opened(addr, n, 2, "nobody");
            loading.go_on();
            new.kill();
            loading.go_on();
            let outcomes = loading.stop();
            assert_eq!(outcomes.lost(), 0, "{outcomes}");
            assert_all_answered(addr, 1);
        }
        let (mut third, predecessor) = Process::opened(addr, 2, 3, "nobody");
        assert_eq!(predecessor, old.pid());
        assert_eq!(third.take_over(), 0);
        old.ends();
        assert_all_answered(addr, 3);
    });
}

#[test]
fn killed_while_it_takes_over() {
    in_namespace("a new process dies while it takes over", || {
        let addr = SocketAddr::new(V4, PORT);
        for (n, m) in [(1, 1), (2, 3), (3, 2), (3, 1)] {
            let (mut old, _) = Process::opened(addr, n, 1, "nobody defers");
            old.take_over();
            let mut silent = TcpStream::connect(addr).unwrap();
            let (mut new, _) = Process::opened(addr, m, 2, "nobody");
            new.tell("take");
            new.hear("taking");
            util::until(|| (ask(addr, WHO).unwrap() == 2).then_some(()));
            new.kill();
            // Of what comes from here on it had nothing.
            assert_all_answered(addr, 1);
            silent.write_all(&[WHO]).unwrap();
            let mut answer = [0];
            silent.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [1]);

            let (mut third, predecessor) = Process::opened(addr, m, 3, "nobody");
            assert_eq!(predecessor, old.pid());
            assert_eq!(third.take_over(), 0);
            old.ends();
            assert_all_answered(addr, 3);
            third.kill();
        }
    });
}

/// Somebody serves, whenever the new one is killed: the old one until it has let go.
#[test]
fn killed_at_any_instant() {
    in_namespace("a new process dies at any instant", || {
        let addr = SocketAddr::new(V4, PORT);
        let mut running: Option<Process> = None;
        let mut went_on = 0;
        for at in 0..24 {
            let (n, m) = [(1, 1), (2, 2), (3, 1), (3, 2)][at % 4];
            let old = running.take().unwrap_or_else(|| {
                let (mut old, predecessor) = Process::opened(addr, n, 1, "nobody");
                assert_eq!((predecessor, old.take_over()), (0, 0));
                old
            });
            let (mut new, predecessor) = Process::opened(addr, m, 2, "nobody");
            if predecessor != old.pid() {
                // It had let go of the one before, and was about to end.
                assert_eq!(predecessor, 0);
                old.ends();
                new.kill();
                continue;
            }
            new.tell("take");
            new.hear("taking");
            // What a takeover takes, in steps.
            thread::sleep(Duration::from_millis(3) * at as u32);
            new.kill();
            if (0..200).all(|_| ask(addr, WHO).is_ok_and(|tag| tag == 1)) {
                went_on += 1;
                running = Some(old);
            } else {
                // It had let go before.
                old.ends();
            }
        }
        println!("went on {went_on} of 24 times");
        assert!(went_on > 0);
    });
}

#[test]
fn the_old_one_is_killed() {
    in_namespace("an old process dies", || {
        let addr = SocketAddr::new(V4, PORT);
        for (n, m) in [(1, 1), (2, 3), (3, 1)] {
            for begun in [false, true] {
                let (mut old, _) = Process::opened(addr, n, 1, "nobody defers");
                old.take_over();
                let _silent = TcpStream::connect(addr).unwrap();
                let (mut new, _) = Process::opened(addr, m, 2, "nobody");
                if begun {
                    new.tell("take");
                    new.hear("taking");
                    util::until(|| (ask(addr, WHO).unwrap() == 2).then_some(()));
                }
                old.kill();
                let begin = Instant::now();
                // What comes before the new one has noticed is lost with what the old one had.
                let mut lost = 1;
                while ask(addr, WHO).map_err(|_| lost += 1) != Ok(2) {}
                let took = begin.elapsed();
                // A SYN that meets an old member while it is taken out is sent again after a second.
                let most = if m == 1 && n > 1 { 2 } else { 1 };
                assert!(took < Duration::from_secs(most), "{n} to {m}: {took:?}");
                assert_all_answered(addr, 2);
                let said: u32 = match begun {
                    true => new.hear("taken").parse().unwrap(),
                    false => new.take_over(),
                };
                assert_eq!(said, lost);
                assert_all_answered(addr, 2);
                let (mut third, predecessor) = Process::opened(addr, 2, 3, "nobody");
                assert_eq!(predecessor, new.pid());
                assert_eq!(third.take_over(), 0);
                new.ends();
                assert_all_answered(addr, 3);
                third.kill();
            }
        }
    });
}

/// The one before has been relieved, and is in nobody's way, however long it lives.
#[test]
fn killed_after_it_has_taken_over() {
    in_namespace("a new process dies after it has taken over", || {
        let addr = SocketAddr::new(V4, PORT);
        let (mut old, _) = Process::opened(addr, 2, 1, "nobody lingers");
        old.take_over();
        let (mut new, _) = Process::opened(addr, 2, 2, "nobody");
        assert_eq!(new.take_over(), 0);
        old.hear("served");
        assert_all_answered(addr, 2);
        new.kill();
        assert_eq!(
            ask(addr, WHO).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        let (mut third, predecessor) = Process::opened(addr, 2, 3, "nobody");
        assert_eq!((predecessor, third.take_over()), (0, 0));
        assert_all_answered(addr, 3);
    });
}

#[test]
fn several_start_at_once() {
    in_namespace("several new processes at once", || {
        let addr = SocketAddr::new(V4, PORT);
        for (many, runs) in [(2, false), (5, false), (2, true), (5, true)] {
            let mut all: Vec<Process> = Vec::new();
            let mut predecessors = Vec::new();
            let mut loading = None;
            if runs {
                let (mut first, predecessor) = Process::opened(addr, 2, 100, "");
                first.take_over();
                predecessors.push(predecessor);
                all.push(first);
                loading = Some(Loading::start(addr));
            }
            let started: Vec<_> = (0..many)
                .map(|tag| Process::start(addr, 1 + usize::from(tag) % 3, tag, "at-once"))
                .collect();
            for process in started {
                predecessors.push(process.hear("open").parse().unwrap());
                assert_eq!(process.hear("taken"), "0");
                all.push(process);
            }
            // One has none before it, and each other has one of its own; one is nobody's.
            let mut sorted = predecessors.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), all.len(), "{predecessors:?}");
            assert_eq!(sorted[0], 0, "{predecessors:?}");
            let last = all
                .iter()
                .position(|one| !sorted.contains(&one.pid()))
                .unwrap();
            let last = all.remove(last);
            for process in all {
                process.ends();
            }
            let tag = ask(addr, WHO).unwrap();
            assert_all_answered(addr, tag);
            if let Some(loading) = loading {
                loading.go_on();
                let outcomes = loading.stop();
                assert_eq!(outcomes.lost(), 0, "{outcomes}");
            }
            last.kill();
        }
    });
}

fn sentence<T: std::fmt::Debug, E: Into<Error>>(result: Result<T, E>) -> (ErrorKind, String) {
    let error = result.unwrap_err().into();
    (error.kind(), error.to_string())
}

fn name_of(addr: SocketAddr, uid: u32) -> std::os::unix::net::SocketAddr {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("reuseport/{uid}/TCP/{addr}/");
    std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap()
}

#[test]
fn what_cannot_be_is_refused() {
    // Where nobody forks, what is closed is gone.
    if !util::is_child("what_cannot_be_is_refused") {
        return util::in_child("what_cannot_be_is_refused");
    }
    in_namespace("refused generations", || {
        use ErrorKind::{InvalidData, InvalidInput, PermissionDenied};
        use std::os::unix::net::UnixListener;
        let addr = SocketAddr::new(V4, PORT);
        let me = rustix::process::getuid().as_raw();
        let pid = std::process::id();
        let options = Options::new();
        let cannot = format!("cannot open a generation on {addr}");
        assert_eq!(
            sentence(options.generation("127.0.0.1:0", 1)),
            (
                InvalidInput,
                "cannot open a generation on 127.0.0.1:0: port 0 is another one each time"
                    .to_owned()
            )
        );
        assert_eq!(
            sentence(options.generation(addr, 0)),
            (
                InvalidInput,
                format!("{cannot}: a group has at least one member")
            )
        );
        let queue = Options::new().spread(Spread::Queue);
        assert_eq!(
            sentence(queue.generation(addr, 2)),
            (
                InvalidInput,
                format!("{cannot}: its members have one queue together, and nothing to choose")
            )
        );

        // Who is at the other end.
        let uid = 65534;
        let other = util::as_user(uid, "another user at the place to meet", || {
            UnixListener::bind_addr(&name_of(addr, me)).unwrap()
        });
        if let Some(other) = other {
            let why = "the process before does not hand over: the other process is user";
            assert_eq!(
                sentence(options.generation(addr, 1)),
                (
                    PermissionDenied,
                    format!("{cannot}: {why} {uid}'s, and this one user {me}'s")
                )
            );
            drop(other);
        }
        let frame =
            |payload: &[u8]| [&(payload.len() as u32).to_le_bytes()[..], &[0; 4], payload].concat();
        let answers: [(&[u8], &str); 3] = [
            (
                b"reuseport\x02\x01",
                "the other process speaks version 2 of the hand-over, and this one 1",
            ),
            (b"HTTP/1.1 400", "the other process speaks another language"),
            (
                b"reuseport\x01\x05",
                "the other process said Refused, and Members was expected",
            ),
        ];
        for (answer, why) in answers {
            let listener = UnixListener::bind_addr(&name_of(addr, me)).unwrap();
            let error = thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.write_all(&frame(answer)).unwrap();
                    // Until it is refused.
                    while stream.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
                });
                sentence(options.generation(addr, 1))
            });
            let why = format!("{cannot}: the process before does not hand over: {why}");
            assert_eq!(error, (InvalidData, why));
        }

        // Somebody of this user who has nothing to do with it.
        let stranger = Std::listen(addr).unwrap();
        let error = options.generation(addr, 1).unwrap_err();
        assert_eq!(
            (error.kind(), error.holder()),
            (ErrorKind::AddrInUse, Some(Holder::Group))
        );
        drop(stranger);
        let (group, first) = options.generation(addr, 2).unwrap();
        assert_eq!(first.take_over_blocking(PATIENCE).unwrap(), 0);
        let stranger = Std::listen(addr).unwrap();
        assert_eq!(
            sentence(options.generation(addr, 1)),
            (
                InvalidInput,
                format!(
                    "cannot take over {addr} from process {pid}: a socket that neither of the two \
                     knows shares it too"
                )
            )
        );
        drop(stranger);
        // The one that runs is none the worse for it.
        let _client = TcpStream::connect(addr).unwrap();
        let (_next, second) = options.generation(addr, 1).unwrap();
        let taken = second.take_over(Duration::ZERO);
        assert_eq!(smol::block_on(taken).unwrap(), 1);
        drop(group);
        for generation in [&first, &second] {
            let why = format!("cannot take over {addr}: it has been called before");
            assert_eq!(
                sentence(generation.take_over_blocking(PATIENCE)),
                (InvalidInput, why.clone())
            );
            let future = generation.take_over(PATIENCE);
            assert_eq!(sentence(smol::block_on(future)), (InvalidInput, why));
        }
    });
}

/// It takes 75 seconds: run with --ignored.
#[test]
#[ignore = "it takes 75 seconds"]
fn who_does_not_answer_is_given_up() {
    in_namespace("a process that does not answer", || {
        let addr = SocketAddr::new(V4, PORT);
        let me = rustix::process::getuid().as_raw();
        let name = name_of(addr, me);
        let _silent = std::os::unix::net::UnixListener::bind_addr(&name).unwrap();
        let (kind, error) = sentence(Options::new().generation(addr, 1));
        assert_eq!(kind, ErrorKind::TimedOut);
        let what = format!("cannot open a generation on {addr}: ");
        assert!(
            error.starts_with(&(what + "the process before does not answer")),
            "{error}"
        );
    });
}

#[test]
fn everybody_is_told_that_it_is_relieved() {
    in_namespace("who is told", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Server::open::<Tokio>(&Options::new(), addr, 2);
        assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        let future = old.generation.relieved();
        assert!(smol::block_on(smol::future::poll_once(future.clone())).is_none());
        let told = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                let future = future.clone();
                scope.spawn(|| {
                    // Two of one executor, of which each has a waker of its own.
                    Tokio::block_on(async {
                        let again = future.clone();
                        tokio::join!(future, again);
                    });
                    told.fetch_add(1, Ordering::Relaxed);
                });
                let future = old.generation.relieved();
                scope.spawn(|| {
                    smol::block_on(future);
                    told.fetch_add(1, Ordering::Relaxed);
                });
                scope.spawn(|| {
                    old.generation.relieved_blocking();
                    told.fetch_add(1, Ordering::Relaxed);
                });
            }
            let new = Server::open::<Std>(&Options::new(), addr, 2);
            assert_eq!(told.load(Ordering::Relaxed), 0);
            assert_eq!(new.generation.take_over_blocking(PATIENCE).unwrap(), 0);
            old.generation.relieved_blocking();
            new.end(addr);
        });
        assert_eq!(told.load(Ordering::Relaxed), 9);
        // It stays so, however often and whenever somebody asks.
        smol::block_on(future);
        old.relieved(false);
    });
}

#[test]
fn dropped_before_it_has_taken_over() {
    if !util::is_child("dropped_before_it_has_taken_over") {
        return util::in_child("dropped_before_it_has_taken_over");
    }
    in_namespace("a takeover that is given up", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Server::open::<Tokio>(&Options::new(), addr, 3);
        assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        let descriptors = util::descriptors();
        let mut asked = 0;
        for n in [1, 3, 5, 2] {
            let (group, generation) = Options::new().generation(addr, n).unwrap();
            // What somebody still holds is in nobody's way.
            let relieved = generation.relieved();
            drop((group, generation));
            for _ in 0..40 {
                ask(addr, 1).unwrap();
                asked += 1;
            }
            util::until(|| (!old.roster.places().is_empty()).then_some(()));
            drop(relieved);
        }
        // The thread that watched has its share of them for an instant longer.
        util::until(|| (util::descriptors() == descriptors).then_some(()));
        assert_eq!(old.accepted(), asked);
        assert_places(&old, addr);
        let new = Server::open::<Tokio>(&Options::new(), addr, 2);
        assert_eq!(new.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        old.relieved(true);
        new.end(addr);
        let kept = || util::descriptors() <= descriptors;
        util::until(|| kept().then_some(()));
    });
}

#[test]
fn dropped_while_it_reigns() {
    for takes_over in [false, true] {
        in_namespace("a generation that is dropped", || {
            let addr = SocketAddr::new(V4, PORT);
            let mut reigning = Server::open::<Std>(&Options::new(), addr, 2);
            assert_eq!(reigning.generation.take_over_blocking(PATIENCE).unwrap(), 0);
            if takes_over {
                let next = Server::open::<Std>(&Options::new(), addr, 2);
                assert_eq!(next.generation.take_over_blocking(PATIENCE).unwrap(), 0);
                reigning.relieved(false);
                reigning = next;
            }
            // Who still waits is in nobody's way.
            let relieved = reigning.generation.relieved();
            drop(reigning.generation);
            let error = Options::new().generation(addr, 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            assert_eq!(error.holder(), Some(Holder::Group), "{error}");
            // It is a group like any other, whose workers end with this process.
            ask(addr, 1).unwrap();
            assert_eq!(reigning.roster.places().len(), 2);
            assert!(smol::block_on(smol::future::poll_once(relieved)).is_none());
        });
    }
}

#[test]
fn what_nobody_accepts_is_lost_at_the_deadline() {
    // Where nobody forks, what is closed is gone.
    if !util::is_child("what_nobody_accepts_is_lost_at_the_deadline") {
        return util::in_child("what_nobody_accepts_is_lost_at_the_deadline");
    }
    in_namespace("a worker that is stuck", || {
        let addr = SocketAddr::new(V4, PORT);
        for (n, m) in [(1, 1), (2, 1), (2, 3), (3, 2)] {
            let (old, first) = Options::new().generation(addr, n).unwrap();
            assert_eq!(first.take_over_blocking(PATIENCE).unwrap(), 0);
            let before = Counters::read();
            let mut client = TcpStream::connect(addr).unwrap();
            let new = Server::open::<Tokio>(&Options::new(), addr, m);
            let begin = Instant::now();
            let deadline = Duration::from_millis(200);
            assert_eq!(
                new.generation.take_over_blocking(deadline).unwrap(),
                1,
                "{n} to {m}"
            );
            assert!(begin.elapsed() >= deadline);
            first.relieved_blocking();
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            // Which is what the tests under load would see.
            assert!(Counters::read().since(&before).estab_resets >= 1);
            for _ in 0..20 {
                ask(addr, 1).unwrap();
            }
            drop(old);
            new.end(addr);
        }
    });
}

/// The takeover of kernels and sandboxes that know less.
fn takes_over_all_the_same(least: Duration) {
    in_namespace("a takeover in a sandbox", || {
        let addr = SocketAddr::new(V4, PORT);
        let mut old = Server::open::<Tokio>(&Options::new(), addr, 2);
        assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        for m in [2, 3, 1] {
            let loading = Loading::start(addr);
            let new = Server::open::<Tokio>(&Options::new(), addr, m);
            loading.go_on();
            let begin = Instant::now();
            assert_eq!(new.generation.take_over_blocking(PATIENCE).unwrap(), 0);
            assert!(begin.elapsed() >= least);
            old.relieved(true);
            loading.go_on();
            let outcomes = loading.stop();
            assert_eq!(outcomes.lost(), 0, "{outcomes}");
            assert_places(&new, addr);
            old = new;
        }
        old.end(addr);
    });
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod sandboxes {
    use super::*;

    #[test]
    fn no_membarrier() {
        const TEST: &str = "sandboxes::no_membarrier";
        if !util::is_child(TEST) {
            return util::in_child(TEST);
        }
        // The command by which the kernel waits for all processors.
        util::answer(libc::SYS_membarrier, &[(0, 1)], libc::EPERM);
        takes_over_all_the_same(Duration::from_millis(200));
    }

    #[test]
    fn no_hiding() {
        const TEST: &str = "sandboxes::no_hiding";
        if !util::is_child(TEST) {
            return util::in_child(TEST);
        }
        util::answer_option(libc::SO_BINDTOIFINDEX, libc::EPERM);
        takes_over_all_the_same(Duration::ZERO);
    }

    /// Where every address is an IPv4 address.
    #[test]
    fn no_ipv6() {
        const TEST: &str = "sandboxes::no_ipv6";
        if !util::is_child(TEST) {
            return util::in_child(TEST);
        }
        util::answer(libc::SYS_socket, &[(0, libc::AF_INET6)], libc::EAFNOSUPPORT);
        in_namespace("generations without IPv6", || {
            let addr = format!(":{PORT}");
            let (_old, first) = Options::new().generation(&addr, 2).unwrap();
            assert_eq!(first.take_over_blocking(PATIENCE).unwrap(), 0);
            let (_new, second) = Options::new().generation(&addr, 2).unwrap();
            assert_eq!(second.predecessor(), Some(std::process::id()));
            assert_eq!(second.take_over_blocking(PATIENCE).unwrap(), 0);
            first.relieved_blocking();
        });
    }
}

/// UDP sockets of one generation, each with its number.
struct Packets {
    sockets: Vec<(usize, UdpSocket)>,
    generation: Generation,
}

impl Packets {
    fn open(options: &Options, addr: SocketAddr, n: usize) -> Self {
        let (group, generation) = options.packet_generation(addr, n).unwrap();
        let sockets = group.into_iter().map(|member| {
            let number = member.index();
            let socket = member.into_std();
            socket.set_nonblocking(true).unwrap();
            (number, socket)
        });
        Self {
            sockets: sockets.collect(),
            generation,
        }
    }

    /// What each has, by its number.
    fn read(&self) -> Vec<(usize, Vec<u8>)> {
        let mut read = Vec::new();
        for (number, socket) in &self.sockets {
            let mut packet = [0; 64];
            while let Ok(len) = socket.recv(&mut packet) {
                read.push((*number, packet[..len].to_vec()));
            }
        }
        read
    }
}

/// Many flows, which are spread over all members.
fn send(addr: SocketAddr, count: usize, packet: &[u8]) {
    for _ in 0..count {
        let client = UdpSocket::bind((addr.ip(), 0)).unwrap();
        client.send_to(packet, addr).unwrap();
    }
}

#[test]
fn datagrams_that_are_queued_are_read_by_the_old_one() {
    for (ip, n, m) in [(V4, 3, 3), (V4, 2, 5), (V4, 3, 1), (V6, 2, 2)] {
        in_namespace("datagrams of two generations", || {
            let addr = SocketAddr::new(ip, PORT);
            let old = Packets::open(&Options::new(), addr, n);
            assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
            assert_eq!(old.generation.promise(), Promise::Lossless);
            let new = Packets::open(&Options::new(), addr, m);
            send(addr, 60, b"old");
            let taking = new.generation.take_over(PATIENCE);
            send(addr, 60, b"new");
            assert!(smol::block_on(smol::future::poll_once(old.generation.relieved())).is_none());
            let read = old.read();
            assert_eq!(read.len(), 60);
            assert!(read.iter().all(|(_, packet)| packet == b"old"));
            assert_eq!(smol::block_on(taking).unwrap(), 0);
            old.generation.relieved_blocking();
            send(addr, 60, b"new");
            let read = new.read();
            assert_eq!(read.len(), 120, "{n} to {m}");
            assert!(read.iter().all(|(_, packet)| packet == b"new"));
            assert!(old.read().is_empty());
        });
    }
}

#[test]
fn datagrams_that_nobody_reads_are_told() {
    in_namespace("datagrams that nobody reads", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Packets::open(&Options::new(), addr, 2);
        assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        let new = Packets::open(&Options::new(), addr, 2);
        send(addr, 10, b"old");
        let deadline = Duration::from_millis(100);
        assert_eq!(new.generation.take_over_blocking(deadline).unwrap(), 1);
        old.generation.relieved_blocking();
    });
}

/// Datagrams at a steady pace, while one generation follows the other.
#[test]
fn no_datagram_is_lost() {
    in_namespace("generations under datagrams", || {
        let addr = SocketAddr::new(V4, PORT);
        let sent = Arc::new(AtomicUsize::new(0));
        let read = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let serve = |n: usize| {
            let (group, generation) = Options::new().packet_generation(addr, n).unwrap();
            let workers: Vec<_> = group
                .into_iter()
                .map(|member| {
                    let (relieved, read) = (generation.relieved(), read.clone());
                    thread::spawn(move || {
                        Tokio::block_on(async {
                            let socket = member.attach::<Tokio>().unwrap();
                            let mut relieved = std::pin::pin!(relieved);
                            let mut packet = [0; 64];
                            loop {
                                // Told first: what is read after that is read by nobody.
                                tokio::select! {
                                    biased;
                                    () = &mut relieved => return,
                                    got = socket.recv(&mut packet) => {
                                        assert_eq!(got.unwrap(), 8);
                                        read.fetch_add(1, Ordering::Relaxed);
                                    }
                                }
                            }
                        });
                    })
                })
                .collect();
            (generation, workers)
        };
        let mut old = serve(2);
        assert_eq!(old.0.take_over_blocking(PATIENCE).unwrap(), 0);
        let (counted, taken, stopped) = (sent.clone(), read.clone(), stop.clone());
        let sender = thread::spawn(move || {
            let clients: Vec<_> = (0..64).map(|_| UdpSocket::bind((V4, 0)).unwrap()).collect();
            for client in clients.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A processor queues no more than a thousand packets that go over lo (kernel:
                // enqueue_to_backlog), and a socket no more than its buffer holds.
                while counted.load(Ordering::Relaxed) > taken.load(Ordering::Relaxed) + 100 {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::yield_now();
                }
                client.send_to(b"datagram", addr).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let go_on = || {
            let before = read.load(Ordering::Relaxed);
            util::until(|| (read.load(Ordering::Relaxed) > before + 500).then_some(()));
        };
        for m in [2, 3, 8, 8, 4, 1, 2] {
            go_on();
            let new = serve(m);
            go_on();
            assert_eq!(new.0.take_over_blocking(PATIENCE).unwrap(), 0);
            let (generation, workers) = std::mem::replace(&mut old, new);
            generation.relieved_blocking();
            workers
                .into_iter()
                .for_each(|worker| worker.join().unwrap());
        }
        go_on();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        let all = || sent.load(Ordering::Relaxed) == read.load(Ordering::Relaxed);
        let begin = Instant::now();
        while !all() && begin.elapsed() < Duration::from_secs(2) {
            thread::yield_now();
        }
        let (sent, read) = (sent.load(Ordering::Relaxed), read.load(Ordering::Relaxed));
        println!("{sent} sent, {read} read");
        assert_eq!(sent, read);
        let (_last, generation) = Options::new().packet_generation(addr, 1).unwrap();
        assert_eq!(generation.take_over_blocking(PATIENCE).unwrap(), 0);
        old.1.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

#[test]
fn flows_stay_with_the_generation_that_has_them() {
    in_namespace("connection ids of two generations", || {
        let addr = SocketAddr::new(V4, PORT);
        let ids = Steering::ConnectionIds(ConnectionIds::at(0));
        let options = Options::new().steering(ids);
        let old = Packets::open(&options, addr, 3);
        assert_eq!(old.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        let new = Packets::open(&options, addr, 2);
        let numbers = |packets: &Packets| -> Vec<_> {
            packets.sockets.iter().map(|(number, _)| *number).collect()
        };
        assert_eq!((numbers(&old), numbers(&new)), (vec![0, 1, 2], vec![3, 4]));
        let of = |packets: &Packets, id: u8| {
            send(addr, 20, &[id]);
            packets.read()
        };
        // Before the call the old one has what is unknown too.
        assert_eq!(of(&old, 200).len(), 20);
        assert!(new.read().is_empty());
        assert_eq!(new.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        old.generation.relieved_blocking();
        for id in 0..3 {
            let read = of(&old, id);
            assert!(read.iter().all(|(number, _)| *number == usize::from(id)));
            assert_eq!((read.len(), new.read().len()), (20, 0));
        }
        for id in [3, 4, 200] {
            let read = of(&new, id);
            assert!(id == 200 || read.iter().all(|(number, _)| *number == usize::from(id)));
            assert_eq!((read.len(), old.read().len()), (20, 0));
        }
        // Its last flow has ended.
        drop(old);
        // The next one comes when nobody has flows of the one before.
        let next = Packets::open(&options, addr, 4);
        assert_eq!(numbers(&next), [0, 1, 2, 5]);
        for id in [0, 3, 4, 200] {
            assert_eq!(of(&new, id).len(), 20, "{id}");
        }
        assert_eq!(next.generation.take_over_blocking(PATIENCE).unwrap(), 0);
        drop(new);
        util::until(|| {
            send(addr, 1, &[3]);
            (next.read().len() == 1).then_some(())
        });
        for id in [0, 1, 2, 5, 200] {
            assert_eq!(of(&next, id).len(), 20, "{id}");
        }
    });
}
