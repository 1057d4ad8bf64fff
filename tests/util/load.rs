//! Many short connections, of which each ends up in exactly one count.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Socket, Type};

/// Connections that each ask one byte, hear it again, and see the end of the stream.
///
/// The server is who closes first. So TIME_WAIT, which is the state of that side, is the server's:
/// a client's port is free again at once, and one address has enough of them for any number of
/// connections. And nobody sends a RST as long as nothing is lost: a client that closed first and
/// wanted its ports back would have to (SO_LINGER of 0, socket(7)).
#[derive(Clone, Debug)]
pub struct Load {
    /// In turn.
    pub to: Vec<SocketAddr>,
    pub connections: usize,
    /// A connection starts when it is its time, and not when another has ended.
    pub per_second: u32,
    /// Beyond so many open ones a connection starts late.
    pub at_most: usize,
    /// Of one connection, from its start to its end.
    pub timeout: Duration,
}

/// What became of the connections.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    pub attempts: usize,
    /// The same byte came back, and then the end of the stream.
    pub answered: usize,
    /// Nobody listened.
    pub refused: usize,
    /// A RST after the connection was there, also where it came after the answer.
    pub reset: usize,
    /// The end of the stream without an answer.
    pub eof: usize,
    pub timed_out: usize,
    /// Another byte, or more than one.
    pub wrong: usize,
    /// Any other error.
    pub other: usize,
    /// The first of those.
    pub first_other: Option<String>,
    /// The longest that an answered one took; a second or more had its SYN sent again.
    pub slowest: Duration,
    /// All of them together.
    pub took: Duration,
    /// How long each took that was answered, in microseconds.
    pub latencies: Vec<u32>,
}

impl Outcomes {
    /// How many were not answered.
    pub fn lost(&self) -> usize {
        self.attempts - self.answered
    }

    /// How many connections each second had.
    pub fn per_second(&self) -> f64 {
        self.attempts as f64 / self.took.as_secs_f64()
    }

    /// Each connection is in one count.
    #[track_caller]
    pub fn assert_complete(&self, connections: usize) {
        let ends = self.answered
            + self.refused
            + self.reset
            + self.eof
            + self.timed_out
            + self.wrong
            + self.other;
        assert_eq!((self.attempts, ends), (connections, connections), "{self}");
    }

    fn failed(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => self.refused += 1,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => self.reset += 1,
            _ => {
                self.other += 1;
                self.first_other.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} attempts: {} answered, {} refused, {} reset, {} eof, {} timed out, {} wrong, \
             {} other{}; {:.0} per second, the slowest {:.0?}",
            self.attempts,
            self.answered,
            self.refused,
            self.reset,
            self.eof,
            self.timed_out,
            self.wrong,
            self.other,
            self.first_other
                .as_ref()
                .map_or(String::new(), |error| format!(" ({error})")),
            self.per_second(),
            self.slowest,
        )
    }
}

/// A load that runs on a thread of its own.
#[must_use]
pub struct Running {
    progress: Arc<Progress>,
    thread: JoinHandle<Outcomes>,
}

#[derive(Default)]
struct Progress {
    started: AtomicUsize,
    ended: AtomicUsize,
}

impl Running {
    /// How many connections have been started.
    pub fn started(&self) -> usize {
        self.progress.started.load(Ordering::Relaxed)
    }

    /// How many connections have ended.
    pub fn ended(&self) -> usize {
        self.progress.ended.load(Ordering::Relaxed)
    }

    /// Have all of them ended?
    pub fn finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until all of them have ended.
    pub fn join(self) -> Outcomes {
        match self.thread.join() {
            Ok(outcomes) => outcomes,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Load {
    /// Runs to its end.
    pub fn run(&self) -> Outcomes {
        Driver::new(self).run(&Progress::default())
    }

    /// Runs on a thread of its own, in the namespace of the calling one.
    pub fn start(&self) -> Running {
        let progress = Arc::new(Progress::default());
        let (load, seen) = (self.clone(), progress.clone());
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || Driver::new(&load).run(&seen))
            .unwrap();
        Running { progress, thread }
    }
}

struct Driver<'a> {
    load: &'a Load,
    epoll: rustix::fd::OwnedFd,
    open: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// All have the same time, and so are over in the order in which they started.
    deadlines: VecDeque<(Instant, usize, usize)>,
    outcomes: Outcomes,
}

struct Connection {
    socket: Socket,
    /// By which it is told from others in the same slot.
    number: usize,
    started: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Connecting,
    Asked,
    Answered,
}

enum End {
    Answered,
    Eof,
    TimedOut,
    Wrong,
    Failed(io::Error),
}

impl Connection {
    fn question(&self) -> u8 {
        (self.number % 251) as u8
    }

    /// Goes on as far as it can without waiting.
    fn step(&mut self) -> Option<End> {
        if self.state == State::Connecting {
            // Before there is a connection this is EAGAIN, and the error of connect(2) where that
            // has failed.
            match (&self.socket).write(&[self.question()]) {
                Ok(_) => self.state = State::Asked,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(End::Failed(error)),
            }
        }
        loop {
            let mut answer = [0; 2];
            match ((&self.socket).read(&mut answer), self.state) {
                (Ok(1), State::Asked) if answer[0] == self.question() => {
                    self.state = State::Answered;
                }
                (Ok(0), State::Answered) => return Some(End::Answered),
                (Ok(0), _) => return Some(End::Eof),
                (Ok(_), _) => return Some(End::Wrong),
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => return None,
                (Err(error), _) => return Some(End::Failed(error)),
            }
        }
    }
}

impl<'a> Driver<'a> {
    fn new(load: &'a Load) -> Self {
        Self {
            load,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            open: Vec::new(),
            free: Vec::new(),
            deadlines: VecDeque::new(),
            outcomes: Outcomes::default(),
        }
    }

    fn run(mut self, progress: &Progress) -> Outcomes {
        let begin = Instant::now();
        let mut events = Vec::with_capacity(256);
        loop {
            let mut now = Instant::now();
            let start_of = |number: usize| {
                begin + Duration::from_secs(1) * number as u32 / self.load.per_second
            };
            // Not all that are late at once, so that the open ones have their turn.
            let mut turn = 0;
            while self.may_start() && turn < 32 && start_of(self.outcomes.attempts) <= now {
                self.start(now);
                now = Instant::now();
                turn += 1;
            }
            self.expire(now);

            let open = self.open.len() - self.free.len();
            let ended = self.outcomes.attempts - open;
            progress
                .started
                .store(self.outcomes.attempts, Ordering::Relaxed);
            progress.ended.store(ended, Ordering::Relaxed);
            if ended == self.load.connections {
                self.outcomes.took = begin.elapsed();
                return self.outcomes;
            }

            let start = self.may_start().then(|| start_of(self.outcomes.attempts));
            let deadline = self.deadlines.front().map(|&(deadline, ..)| deadline);
            let timeout = [start, deadline]
                .into_iter()
                .flatten()
                .min()
                .map(|next| Timespec::try_from(next.saturating_duration_since(now)).unwrap());
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => panic!("epoll_wait: {error}"),
            }
            for event in &events {
                self.step(event.data.u64() as usize);
            }
        }
    }

    fn may_start(&self) -> bool {
        let open = self.open.len() - self.free.len();
        self.outcomes.attempts < self.load.connections && open < self.load.at_most
    }

    fn start(&mut self, now: Instant) {
        let number = self.outcomes.attempts;
        self.outcomes.attempts += 1;
        let to = self.load.to[number % self.load.to.len()];
        let socket = match connect(to) {
            Ok(socket) => socket,
            Err(error) => return self.outcomes.failed(&error),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            self.open.len() - 1
        });
        // Each change is told once, and what is there already too (epoll(7)). A socket that is
        // closed is told no more.
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(slot as u64),
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET,
        )
        .unwrap();
        self.open[slot] = Some(Connection {
            socket,
            number,
            started: now,
            state: State::Connecting,
        });
        self.deadlines
            .push_back((now + self.load.timeout, slot, number));
    }

    fn step(&mut self, slot: usize) {
        if let Some(end) = self.open[slot].as_mut().and_then(Connection::step) {
            self.end(slot, end);
        }
    }

    fn end(&mut self, slot: usize, end: End) {
        let Some(connection) = self.open[slot].take() else {
            return;
        };
        self.free.push(slot);
        let outcomes = &mut self.outcomes;
        match end {
            End::Answered => {
                outcomes.answered += 1;
                let took = connection.started.elapsed();
                outcomes.slowest = outcomes.slowest.max(took);
                outcomes.latencies.push(took.as_micros() as u32);
            }
            End::Eof => outcomes.eof += 1,
            End::TimedOut => outcomes.timed_out += 1,
            End::Wrong => outcomes.wrong += 1,
            End::Failed(error) => outcomes.failed(&error),
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, slot, number)) = self.deadlines.front() {
            let open = self.open[slot]
                .as_ref()
                .is_some_and(|connection| connection.number == number);
            if open && deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if open {
                self.end(slot, End::TimedOut);
            }
        }
    }
}

/// Starts a connect.
fn connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

#[track_caller]
pub fn assert_nothing_lost(outcomes: &Outcomes, counted: &Counters) {
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

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// What the kernel has counted in a namespace.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counters {
            /// Those of the calling thread's namespace.
            pub fn read() -> Self {
                let tables = ["snmp", "netstat"].map(|table| {
                    std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap()
                });
                Self {
                    $($field: tables.iter().find_map(|table| counter(table, $name)).unwrap_or(0),)*
                }
            }

            /// What has been counted since then.
            pub fn since(&self, before: &Self) -> Self {
                Self {
                    $($field: self.$field - before.$field,)*
                }
            }
        }

        impl fmt::Display for Counters {
            /// Those that are not 0.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(if self.$field != 0 {
                    write!(f, "{} {}, ", $name, self.$field)?;
                })*
                f.write_str("nothing else counted")
            }
        }
    };
}

counters! {
    out_rsts = "Tcp: OutRsts",
    /// Connections that a RST ended, on this side. Not every RST does: where processors have more to
    /// do than they can, an ACK comes after the last packet of its connection, and is answered by one.
    estab_resets = "Tcp: EstabResets",
    /// Handshakes that ended without a connection.
    attempt_fails = "Tcp: AttemptFails",
    retrans_segs = "Tcp: RetransSegs",
    syn_retrans = "TcpExt: TCPSynRetrans",
    /// SYNs and last packets of a handshake that a listener had no use or no room for.
    listen_drops = "TcpExt: ListenDrops",
    listen_overflows = "TcpExt: ListenOverflows",
    req_q_full_drop = "TcpExt: TCPReqQFullDrop",
    syncookies_sent = "TcpExt: SyncookiesSent",
    abort_on_close = "TcpExt: TCPAbortOnClose",
    abort_on_data = "TcpExt: TCPAbortOnData",
    backlog_drop = "TcpExt: TCPBacklogDrop",
    time_wait_overflow = "TcpExt: TCPTimeWaitOverflow",
    migrate_req_success = "TcpExt: TCPMigrateReqSuccess",
    migrate_req_failure = "TcpExt: TCPMigrateReqFailure",
}

/// One number of a table of /proc/net, in which a line of names stands above one of numbers;
/// None where this kernel does not count it.
fn counter(table: &str, name: &str) -> Option<u64> {
    let (group, name) = name.split_once(' ')?;
    let mut lines = table
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(group));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let (_, number) = names
        .split_whitespace()
        .zip(numbers.split_whitespace())
        .find(|&(each, _)| each == name)?;
    number.parse().ok()
}
