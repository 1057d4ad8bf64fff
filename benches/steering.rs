//! What steering and stealing gain, beside the plain hash: `cargo bench --bench steering`.
//!
//! Workers, pinned alternately to two processors, answer 16 bytes with 80 and close; a client
//! thread is pinned to each of the two. In a round each row has its turn, in rotating order and
//! with new sockets and threads. A ratio is that of one row to its base in the same round: median
//! [10th..90th percentile]. Without `--bench` there is one short round.

#![allow(unsafe_code, reason = "tokio registers a descriptor so")]

#[cfg(target_os = "linux")]
mod figure;
#[cfg(target_os = "linux")]
#[path = "../tests/util/mod.rs"]
mod util;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("groups are steered on Linux only");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::env;
    use std::fs;
    use std::future::poll_fn;
    use std::io::{self, ErrorKind, Read, Write};
    use std::mem;
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
    use std::task::Poll;
    use std::thread;
    use std::time::{Duration, Instant};

    use reuseport::{Options, Std, Steering};
    use rustix::event::epoll::{self, EventData, EventFlags};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    use socket2::SockRef;
    use tokio::io::unix::AsyncFd;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Mutex;
    use tokio::sync::mpsc::{
        UnboundedReceiver as Receiver, UnboundedSender as Sender, unbounded_channel,
    };
    use tokio::time::{MissedTickBehavior, interval};

    use crate::figure::Figure;
    use crate::util;

    const SO_INCOMING_CPU: libc::c_int = 49;
    const QUESTION: [u8; 16] = *b"GET /index.html\n";
    const ANSWER: [u8; 80] = [b'.'; 80];

    /// Whoever waits longer waits in vain.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// How long the worker that naps does so, in twice that time.
    const NAP: Duration = Duration::from_millis(50);

    /// How often idle workers look for work elsewhere where nothing wakes them.
    const TICK: Duration = Duration::from_millis(1);

    pub(crate) fn main() {
        // Cargo says `--bench` where it means to measure.
        let measured = env::args().any(|arg| arg == "--bench");
        let run = || tables(measured);
        if util::in_namespace("ports that nobody else uses", run).is_none() {
            run();
        }
    }

    fn tables(measured: bool) {
        let allowed = sched_getaffinity(None).unwrap();
        let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| allowed.is_set(cpu))
            .collect();
        let &[first, second, ..] = cpus.as_slice() else {
            return println!("not measured: there is only one processor");
        };
        let bench = Bench {
            cpus: [first, second],
            measured,
        };
        for (name, runtime, flight, goals) in [
            ("std", Runtime::Std, 64, [1.15, 0.70]),
            ("std", Runtime::Std, 4, [1.20, 0.70]),
            ("tokio", Runtime::Tokio, 64, [1.00, 0.70]),
            ("tokio", Runtime::Tokio, 4, [1.15, 0.70]),
        ] {
            bench.locality(name, runtime, flight, goals);
        }
        bench.napping();
        bench.wakes();
    }

    struct Bench {
        cpus: [usize; 2],
        measured: bool,
    }

    impl Bench {
        fn rounds(&self, n: usize) -> usize {
            if self.measured { n } else { 1 }
        }

        fn load(&self, pace: Pace, millis: u64) -> Load {
            let millis = if self.measured { millis } else { 20 };
            let time = Duration::from_millis(millis);
            Load { pace, time }
        }

        fn run(&self, row: &Row, load: Load) -> Outcome {
            row.run(self.cpus, load)
        }

        fn locality(&self, name: &str, runtime: Runtime, flight: usize, goals: [f64; 2]) {
            let rows = [Steering::Hash, Steering::Cpu].map(|steering| Row {
                steering,
                ..Row::new("", runtime, Take::Own)
            });
            let load = self.load(Pace::Closed(flight), 250);
            let rounds = take_turns(self.rounds(31), &rows, |row| self.run(row, load));
            if !self.measured {
                return println!("{name}: one round ran, which measures nothing");
            }
            let of =
                |f: &dyn Fn(&[Outcome]) -> f64| Figure::of(rounds.iter().map(|round| f(round)));
            println!("\n{name}, {flight} in flight, {} rounds", rounds.len());
            for (at, name) in ["Hash", "Cpu"].into_iter().enumerate() {
                println!(
                    "{name:<6}{:>8.0} connections/s, {:.1} % local at the least, p99 {:.0} us",
                    of(&|round| round[at].per_second()).median,
                    100.0
                        * rounds
                            .iter()
                            .map(|round| round[at].local())
                            .fold(1.0, f64::min),
                    of(&|round| round[at].percentile(99.0)).median,
                );
            }
            let more = of(&|round| round[1].per_second() / round[0].per_second());
            let p50 = of(&|round| round[1].percentile(50.0) / round[0].percentile(50.0));
            let p99 = of(&|round| round[1].percentile(99.0) / round[0].percentile(99.0));
            println!("connections/s {more:<20} goal {}", more.at_least(goals[0]));
            println!("p50           {p50}");
            println!("p99           {p99:<20} goal {}", p99.at_most(goals[1]));
        }

        /// One of two workers naps half of the time; and what it costs when nobody does.
        fn napping(&self) {
            use Runtime::{Std, Tokio};
            let rows = [
                Row::new("std, shared queue", Std, Take::Shared),
                Row::new("std, group", Std, Take::Own),
                Row::new("std, steals, all exclusive", Std, Take::Exclusive),
                Row::new("std, steals, own plain", Std, Take::PlainAndExclusive),
                Row::new("std, steals, by the clock", Std, Take::Clock),
                Row::new("tokio, shared queue", Tokio, Take::Shared),
                Row::new("tokio, group", Tokio, Take::Own),
                Row::new("tokio, steals, all plain", Tokio, Take::Plain),
                Row::new("tokio, steals, nested epoll", Tokio, Take::Nested),
                Row::new("tokio, steals, by the clock", Tokio, Take::Clock),
                Row::new("tokio, a steward steals", Tokio, Take::Steward),
            ];
            let open = self.load(Pace::Open(4_000), 500);
            let closed = self.load(Pace::Closed(64), 250);
            let rounds = take_turns(self.rounds(15), &rows, |row| {
                let napping = Row {
                    naps: true,
                    ..row.clone()
                };
                [self.run(&napping, open), self.run(row, closed)]
            });
            if !self.measured {
                return println!("one of two naps: one round ran, which measures nothing");
            }
            println!(
                "\none of two naps {NAP:?} of every {:?}, 4000 connections/s, {} rounds; \
                 per second at 64 in flight when nobody naps",
                2 * NAP,
                rounds.len()
            );
            println!(
                "{:<30}{:>8}{:>9}{:>9}  {:<22}{:<22}{:<22}{:<20}empty wakes",
                "", "p50 us", "p90 us", "p99 us", "p50", "p90", "p99", "per second"
            );
            for (at, row) in rows.iter().enumerate() {
                // Latency beside the shared queue, throughput beside the group.
                let (shared, group) = if at < 5 { (0, 1) } else { (5, 6) };
                let of = |f: &dyn Fn(&[[Outcome; 2]]) -> f64| {
                    Figure::of(rounds.iter().map(|round| f(round)))
                };
                print!("{:<30}", row.name);
                for percent in [50.0, 90.0, 99.0] {
                    let figure = of(&|round| round[at][0].percentile(percent));
                    print!("{:>8.0} ", figure.median);
                }
                print!(" ");
                for percent in [50.0, 90.0, 99.0] {
                    let figure = of(&|round| {
                        round[at][0].percentile(percent) / round[shared][0].percentile(percent)
                    });
                    print!("{figure:<22}");
                }
                let per_second =
                    of(&|round| round[at][1].per_second() / round[group][1].per_second());
                let empty = of(&|round| round[at][1].per_connection(|served| &served.empty));
                println!("{per_second:<20}{empty}");
            }
        }

        /// Wakes for each connection, where eight workers are idle most of the time.
        fn wakes(&self) {
            use Runtime::{Std, Tokio};
            let rows = [
                Row::new("std, group", Std, Take::Own),
                Row::new("std, shared queue", Std, Take::Shared),
                Row::new("std, steals, all exclusive", Std, Take::Exclusive),
                Row::new("std, steals, own plain", Std, Take::PlainAndExclusive),
                Row::new("std, steals, by the clock", Std, Take::Clock),
                Row::new("tokio, group", Tokio, Take::Own),
                Row::new("tokio, shared queue", Tokio, Take::Shared),
                Row::new("tokio, steals, all plain", Tokio, Take::Plain),
                Row::new("tokio, steals, nested epoll", Tokio, Take::Nested),
                Row::new("tokio, steals, by the clock", Tokio, Take::Clock),
                Row::new("tokio, a steward steals", Tokio, Take::Steward),
            ]
            .map(|row| Row { workers: 8, ..row });
            let load = self.load(Pace::Open(2_000), 400);
            let rounds = take_turns(self.rounds(5), &rows, |row| self.run(row, load));
            if !self.measured {
                return println!("eight workers: one round ran, which measures nothing");
            }
            println!(
                "\neight workers, 2000 connections/s, {} rounds: for each connection",
                rounds.len()
            );
            println!(
                "{:<30}{:<20}{:<20}{:<20}{:<20}processor time beside the group's",
                "", "stolen", "wakes", "empty wakes", "waits"
            );
            for (at, row) in rows.iter().enumerate() {
                let of = |counter: fn(&Served) -> &AtomicUsize| {
                    Figure::of(rounds.iter().map(|round| round[at].per_connection(counter)))
                };
                let group = if at < 5 { 0 } else { 5 };
                let ran = |outcome: &Outcome| outcome.per_connection(|served| &served.ran);
                println!(
                    "{:<30}{:<20}{:<20}{:<20}{:<20}{}",
                    row.name,
                    of(|served| &served.stolen),
                    of(|served| &served.wakes),
                    of(|served| &served.empty),
                    of(|served| &served.waits),
                    Figure::of(
                        rounds
                            .iter()
                            .map(|round| ran(&round[at]) / ran(&round[group]))
                    )
                );
            }
        }
    }

    /// Rounds in which each row has its turn, and what comes out of it.
    fn take_turns<T>(rounds: usize, rows: &[Row], run: impl Fn(&Row) -> T) -> Vec<Vec<T>> {
        let round = |round| {
            let mut outcomes: Vec<_> = rows.iter().map(|_| None).collect();
            for turn in 0..rows.len() {
                let at = (round + turn) % rows.len();
                outcomes[at] = Some(run(&rows[at]));
            }
            outcomes.into_iter().flatten().collect()
        };
        (0..rounds).map(round).collect()
    }

    #[derive(Clone, Copy)]
    enum Runtime {
        /// No runtime: epoll(7) by hand, and blocking streams.
        Std,
        /// A runtime of one thread for each worker.
        Tokio,
    }

    /// What a worker takes connections from.
    #[derive(Clone, Copy, PartialEq)]
    enum Take {
        /// Its own member of the group.
        Own,
        /// The only listener there is, of which each worker has a duplicate.
        Shared,
        /// Every member, each registered with EPOLLEXCLUSIVE, and first by its owner: the kernel
        /// wakes the first who waits.
        Exclusive,
        /// Every member: its own registered as usual, and the others with EPOLLEXCLUSIVE.
        PlainAndExclusive,
        /// Every member, registered as the runtime does it.
        Plain,
        /// Its own; and when it is idle, on each tick, what waits at the others.
        Clock,
        /// Every member, its own as the runtime does it, and the others with EPOLLEXCLUSIVE in an
        /// epoll of their own that the runtime waits for.
        Nested,
        /// Its own; a thread beside the workers hands it what a member leaves waiting for a tick
        /// without looking.
        Steward,
    }

    #[derive(Clone)]
    struct Row {
        name: &'static str,
        runtime: Runtime,
        take: Take,
        steering: Steering,
        workers: usize,
        naps: bool,
    }

    /// What happened in one turn.
    struct Outcome {
        latencies: Vec<u32>,
        elapsed: Duration,
        served: Arc<Served>,
    }

    impl Outcome {
        fn per_second(&self) -> f64 {
            self.latencies.len() as f64 / self.elapsed.as_secs_f64()
        }

        /// In microseconds.
        fn percentile(&self, percent: f64) -> f64 {
            let at = (self.latencies.len() - 1) as f64 * percent / 100.0;
            f64::from(self.latencies[at as usize]) / 1e3
        }

        fn per_connection(&self, counter: impl Fn(&Served) -> &AtomicUsize) -> f64 {
            counter(&self.served).load(Relaxed) as f64 / self.latencies.len() as f64
        }

        fn local(&self) -> f64 {
            self.per_connection(|served| &served.local)
        }
    }

    /// What all workers of a turn count together.
    #[derive(Default)]
    struct Served {
        local: AtomicUsize,
        /// Returns of epoll_wait(2), or polls of the task that accepts.
        wakes: AtomicUsize,
        /// Those that found nothing to accept.
        empty: AtomicUsize,
        stolen: AtomicUsize,
        /// How often a worker's thread stopped to wait. In epoll_wait(2) it can be woken and find
        /// nothing without ever returning.
        waits: AtomicUsize,
        /// Nanoseconds that the workers' threads ran.
        ran: AtomicUsize,
    }

    /// What a worker does with a connection, whatever its runtime is.
    struct Worker {
        cpu: usize,
        served: Arc<Served>,
        start: Instant,
        /// The nanosecond of its next nap.
        nap: Option<AtomicU64>,
        /// How often it has looked for connections.
        looked: Arc<AtomicUsize>,
        /// What the steward hands over.
        handed: Mutex<Receiver<TcpStream>>,
    }

    impl Worker {
        /// What the kernel has counted of this thread, when it ends.
        fn account(served: &Served) {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let waits = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let schedule = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            let ran = schedule.split_whitespace().next();
            for (counter, text) in [(&served.waits, waits), (&served.ran, ran)] {
                counter.fetch_add(text.unwrap().trim().parse().unwrap(), Relaxed);
            }
        }

        fn take(&self, stream: &impl AsFd, stolen: bool) {
            let cpu = util::int_option(stream, libc::SOL_SOCKET, SO_INCOMING_CPU);
            let local = usize::try_from(cpu) == Ok(self.cpu);
            count(&self.served.local, local);
            count(&self.served.stolen, stolen);
        }

        /// When an answer has been given, as computing the next one would take its time.
        fn nap(&self) {
            if let Some(next) = &self.nap {
                if self.start.elapsed().as_nanos() as u64 >= next.load(Relaxed) {
                    thread::sleep(NAP);
                    let now = self.start.elapsed() + NAP;
                    next.store(now.as_nanos() as u64, Relaxed);
                }
            }
        }

        fn answer(&self, mut stream: TcpStream, stolen: bool) {
            self.take(&stream, stolen);
            stream.read_exact(&mut [0; QUESTION.len()]).unwrap();
            stream.write_all(&ANSWER).unwrap();
            drop(stream);
            self.nap();
        }
    }

    fn count(counter: &AtomicUsize, when: bool) {
        counter.fetch_add(usize::from(when), Relaxed);
    }

    impl Row {
        fn new(name: &'static str, runtime: Runtime, take: Take) -> Self {
            Self {
                name,
                runtime,
                take,
                steering: Steering::Hash,
                workers: 2,
                naps: false,
            }
        }

        fn run(&self, cpus: [usize; 2], load: Load) -> Outcome {
            let members = if self.take == Take::Shared {
                1
            } else {
                self.workers
            };
            // On a thread that is not pinned: it decides which processors there are.
            let options = Options::new().steering(self.steering.clone());
            let group = options.group("127.0.0.1:0", members).unwrap();
            let addr = group.local_addr();
            let own: Vec<TcpListener> = group
                .into_iter()
                .map(|member| member.attach::<Std>().unwrap())
                .collect();
            let all = |worker: usize| -> Vec<TcpListener> {
                let alone = matches!(self.take, Take::Own | Take::Shared | Take::Steward);
                (0..if alone { 1 } else { members })
                    .map(|at| own[(worker + at) % members].try_clone().unwrap())
                    .collect()
            };
            let listeners: Vec<_> = (0..self.workers).map(all).collect();
            let epolls = self.epolls(&listeners);
            let served = Arc::new(Served::default());
            let start = Instant::now();
            let mut steward = Steward::default();
            let worker = |number: usize| Worker {
                cpu: cpus[number % 2],
                served: served.clone(),
                start,
                nap: (self.naps && number == 0).then(AtomicU64::default),
                looked: steward.looked(),
                handed: Mutex::new(steward.hands_over()),
            };
            let workers: Vec<_> = (0..self.workers).map(worker).collect();

            let mut latencies: Vec<u32> = Vec::new();
            let mut elapsed = Duration::ZERO;
            thread::scope(|scope| {
                for ((worker, listeners), epoll) in workers.into_iter().zip(listeners).zip(epolls) {
                    scope.spawn(move || {
                        pin(worker.cpu);
                        match self.runtime {
                            Runtime::Std => worker.std(&listeners, &epoll, self.take),
                            Runtime::Tokio => worker.tokio(listeners, epoll, self.take),
                        }
                    });
                }
                if self.take == Take::Steward {
                    let (own, served) = (own.as_slice(), served.as_ref());
                    scope.spawn(move || steward.steal(own, served));
                }
                let clients = cpus.map(|cpu| scope.spawn(move || load.client(cpu, addr)));
                for client in clients {
                    let (own, took) = client.join().unwrap();
                    latencies.extend(own);
                    elapsed = elapsed.max(took);
                }
                for listener in &own {
                    // Whoever accepts gets an error, and ends.
                    SockRef::from(listener).shutdown(Shutdown::Both).unwrap();
                }
            });
            latencies.sort_unstable();
            Outcome {
                latencies,
                elapsed,
                served,
            }
        }

        /// For each worker, with its listeners in it, by their place.
        fn epolls(&self, listeners: &[Vec<TcpListener>]) -> Vec<OwnedFd> {
            let exclusive = EventFlags::IN | EventFlags::EXCLUSIVE;
            let own = match self.take {
                Take::Exclusive | Take::Shared => exclusive,
                _ => EventFlags::IN,
            };
            let create = || epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let epolls: Vec<_> = listeners.iter().map(|_| create()).collect();
            let add = |epoll: &OwnedFd, at: usize, listener: &TcpListener, flags| {
                listener.set_nonblocking(true).unwrap();
                epoll::add(epoll, listener, EventData::new_u64(at as u64), flags).unwrap();
            };
            for (epoll, listeners) in epolls.iter().zip(listeners) {
                if self.take != Take::Nested {
                    add(epoll, 0, &listeners[0], own);
                }
            }
            // After all owners, who stand before the others so.
            if matches!(
                self.take,
                Take::Exclusive | Take::PlainAndExclusive | Take::Nested
            ) {
                for (epoll, listeners) in epolls.iter().zip(listeners) {
                    for (at, listener) in listeners.iter().enumerate().skip(1) {
                        add(epoll, at, listener, exclusive);
                    }
                }
            }
            epolls
        }
    }

    /// The connection that waits, if one does; an error where the turn is over.
    fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
        match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => ended(error),
        }
    }

    fn ended<T>(error: io::Error) -> io::Result<T> {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        Err(error)
    }

    impl Worker {
        fn std(&self, listeners: &[TcpListener], epoll: &OwnedFd, take: Take) {
            // The turn is over when an error comes.
            let _ = self.std_loop(listeners, epoll, take);
            Self::account(&self.served);
        }

        fn std_loop(
            &self,
            listeners: &[TcpListener],
            epoll: &OwnedFd,
            take: Take,
        ) -> io::Result<()> {
            let clocked = take == Take::Clock;
            let mut look = Instant::now() + TICK;
            let mut events = Vec::with_capacity(listeners.len());
            loop {
                events.clear();
                let left = timespec(look.saturating_duration_since(Instant::now()));
                let timeout = clocked.then_some(&left);
                epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), timeout)?;
                let mut found = false;
                // What is its own comes first, and after each that is not.
                while let Some(stream) = accept(&listeners[0])? {
                    self.answer(stream, false);
                    found = true;
                }
                let ready = events.iter().map(|event| event.data.u64() as usize);
                let ready: Vec<usize> = if clocked && Instant::now() >= look {
                    look = Instant::now() + TICK;
                    (1..listeners.len()).collect()
                } else {
                    ready.filter(|&at| at > 0).collect()
                };
                for at in ready {
                    while let Some(stream) = accept(&listeners[at])? {
                        self.answer(stream, true);
                        found = true;
                        while let Some(stream) = accept(&listeners[0])? {
                            self.answer(stream, false);
                        }
                        // Where more waits, epoll says so again.
                        if !clocked {
                            break;
                        }
                    }
                }
                count(&self.served.wakes, true);
                count(&self.served.empty, !found);
            }
        }

        #[tokio::main(flavor = "current_thread")]
        async fn tokio(self, listeners: Vec<TcpListener>, epoll: OwnedFd, take: Take) {
            let worker = Arc::new(self);
            // The turn is over when an error comes.
            let _ = worker.tokio_loop(listeners, epoll, take).await;
            Self::account(&worker.served);
        }

        async fn tokio_loop(
            self: &Arc<Self>,
            mut listeners: Vec<TcpListener>,
            epoll: OwnedFd,
            take: Take,
        ) -> io::Result<()> {
            // What the runtime does not know.
            let others = match take {
                Take::Clock | Take::Nested => listeners.split_off(1),
                _ => Vec::new(),
            };
            let nested = (take == Take::Nested)
                // SAFETY: it is owned, and nobody else knows it.
                .then(|| unsafe { AsyncFd::register(epoll) })
                .transpose()?;
            let enter = tokio::net::TcpListener::from_std;
            let listeners: Vec<_> = listeners.into_iter().map(enter).collect::<Result<_, _>>()?;
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut look = false;
            let mut handed = self.handed.lock().await;
            loop {
                let mut woken = false;
                let (stream, stolen) = poll_fn(|context| {
                    count(&self.looked, true);
                    count(&self.served.wakes, woken);
                    for (at, listener) in listeners.iter().enumerate() {
                        match listener.poll_accept(context) {
                            Poll::Ready(Ok((stream, _))) => {
                                return Poll::Ready(Ok((stream, at > 0)));
                            }
                            Poll::Ready(Err(error)) => return Poll::Ready(ended(error)),
                            Poll::Pending => {}
                        }
                    }
                    loop {
                        if mem::take(&mut look) {
                            for listener in &others {
                                if let Some(stream) = accept(listener)? {
                                    // Perhaps there is more.
                                    look = true;
                                    stream.set_nonblocking(true)?;
                                    let stream = tokio::net::TcpStream::from_std(stream)?;
                                    return Poll::Ready(Ok((stream, true)));
                                }
                            }
                        }
                        if let Some(nested) = &nested {
                            if let Poll::Ready(guard) = nested.poll_read_ready(context) {
                                guard?.clear_ready();
                                look = true;
                            }
                        } else if !others.is_empty() {
                            look = tick.poll_tick(context).is_ready();
                        }
                        if !look {
                            break;
                        }
                    }
                    if let Poll::Ready(Some(stream)) = handed.poll_recv(context) {
                        stream.set_nonblocking(true)?;
                        let stream = tokio::net::TcpStream::from_std(stream)?;
                        return Poll::Ready(Ok((stream, true)));
                    }
                    count(&self.served.empty, mem::replace(&mut woken, true));
                    Poll::Pending
                })
                .await?;
                self.take(&stream, stolen);
                tokio::spawn(Self::tokio_answer(self.clone(), stream));
            }
        }

        async fn tokio_answer(worker: Arc<Self>, mut stream: tokio::net::TcpStream) {
            stream.read_exact(&mut [0; QUESTION.len()]).await.unwrap();
            stream.write_all(&ANSWER).await.unwrap();
            drop(stream);
            worker.nap();
        }
    }

    /// Looks after members whose workers do not.
    #[derive(Default)]
    struct Steward {
        looked: Vec<Arc<AtomicUsize>>,
        workers: Vec<Sender<TcpStream>>,
    }

    impl Steward {
        fn looked(&mut self) -> Arc<AtomicUsize> {
            let looked = Arc::default();
            self.looked.push(Arc::clone(&looked));
            looked
        }

        fn hands_over(&mut self) -> Receiver<TcpStream> {
            let (sender, receiver) = unbounded_channel();
            self.workers.push(sender);
            receiver
        }

        fn steal(self, members: &[TcpListener], served: &Served) {
            // The turn is over when an error comes.
            let _ = self.steal_loop(members, served);
            Worker::account(served);
        }

        fn steal_loop(&self, members: &[TcpListener], served: &Served) -> io::Result<()> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            for (at, member) in members.iter().enumerate() {
                epoll::add(
                    &epoll,
                    member,
                    EventData::new_u64(at as u64),
                    EventFlags::IN,
                )?;
            }
            let looks = || -> Vec<_> { self.looked.iter().map(|n| n.load(Relaxed)).collect() };
            let mut events = Vec::with_capacity(members.len());
            let mut next = 0;
            loop {
                // As long as nothing waits anywhere, it does not either look or cost anything.
                events.clear();
                epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
                let before = looks();
                thread::sleep(TICK);
                events.clear();
                let now = timespec(Duration::ZERO);
                epoll::wait(
                    &epoll,
                    rustix::buffer::spare_capacity(&mut events),
                    Some(&now),
                )?;
                let after = looks();
                for event in &events {
                    let from = event.data.u64() as usize;
                    if before[from] != after[from] {
                        continue;
                    }
                    while let Some(stream) = accept(&members[from])? {
                        next += 1;
                        // A worker that has looked, if there is one.
                        let others = (0..members.len()).map(|at| (next + at) % members.len());
                        let to = others
                            .clone()
                            .find(|&at| before[at] != after[at])
                            .or_else(|| others.clone().find(|&at| at != from));
                        let _ = self.workers[to.unwrap_or(from)].send(stream);
                    }
                }
                count(&served.wakes, true);
                // A listener that was shut down is ready, and says so to whoever accepts.
                for member in members {
                    if !socket2::SockRef::from(member).is_listener()? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// How the two clients go on together.
    #[derive(Clone, Copy)]
    enum Pace {
        /// So many connections at any time.
        Closed(usize),
        /// So many new ones in a second, whatever becomes of them.
        Open(u32),
    }

    #[derive(Clone, Copy)]
    struct Load {
        pace: Pace,
        time: Duration,
    }

    impl Load {
        /// How long each connection took, in nanoseconds, and how long all of them.
        fn client(self, cpu: usize, addr: SocketAddr) -> (Vec<u32>, Duration) {
            pin(cpu);
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let mut open: Vec<Option<(TcpStream, Instant)>> = Vec::new();
            let mut free: Vec<usize> = Vec::new();
            let mut latencies = Vec::new();
            let mut events = Vec::with_capacity(256);
            let start = Instant::now();
            let mut begun = 0;
            loop {
                // Of these connections each client has half.
                let due = |begun: u32| match self.pace {
                    Pace::Closed(_) => Duration::ZERO,
                    Pace::Open(rate) => Duration::from_secs(1) * begun * 2 / rate,
                };
                let busy = open.len() - free.len();
                let room = match self.pace {
                    Pace::Closed(flight) => flight / 2 - busy,
                    Pace::Open(_) => usize::MAX,
                };
                for _ in 0..room {
                    if due(begun) > start.elapsed().min(self.time) || start.elapsed() >= self.time {
                        break;
                    }
                    begun += 1;
                    let at = free.pop().unwrap_or_else(|| {
                        open.push(None);
                        open.len() - 1
                    });
                    let then = Instant::now();
                    let mut stream = TcpStream::connect(addr).unwrap();
                    stream.write_all(&QUESTION).unwrap();
                    epoll::add(
                        &epoll,
                        &stream,
                        EventData::new_u64(at as u64),
                        EventFlags::IN,
                    )
                    .unwrap();
                    open[at] = Some((stream, then));
                }
                let over = start.elapsed() >= self.time;
                if over && free.len() == open.len() {
                    return (latencies, start.elapsed());
                }
                let timeout = if over || room != usize::MAX {
                    PATIENCE
                } else {
                    due(begun).saturating_sub(start.elapsed())
                };
                // epoll_wait(2) counts in milliseconds, and this does not.
                let mut one = [PollFd::new(&epoll, PollFlags::IN)];
                let ready = poll(&mut one, Some(&timespec(timeout))).unwrap();
                assert!(ready > 0 || timeout < PATIENCE, "no answer in {PATIENCE:?}");
                events.clear();
                let now = timespec(Duration::ZERO);
                epoll::wait(
                    &epoll,
                    rustix::buffer::spare_capacity(&mut events),
                    Some(&now),
                )
                .unwrap();
                for event in &events {
                    let at = event.data.u64() as usize;
                    let (mut stream, then) = open[at].take().unwrap();
                    stream.read_exact(&mut [0; ANSWER.len()]).unwrap();
                    latencies.push(then.elapsed().as_nanos() as u32);
                    // Closing sends a reset, and leaves nothing behind in TIME_WAIT.
                    SockRef::from(&stream)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                    free.push(at);
                }
            }
        }
    }

    fn timespec(duration: Duration) -> Timespec {
        duration.try_into().unwrap()
    }

    fn pin(cpu: usize) {
        let mut cpus = CpuSet::new();
        cpus.set(cpu);
        sched_setaffinity(None, &cpus).unwrap();
    }
}
