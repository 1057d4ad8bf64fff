//! What balancing by load gains, beside the other ways to share a port: `cargo bench --bench balance`.
//!
//! Workers answer a byte and close, each in a thread of its own; a client thread begins connections at fixed
//! times, whatever becomes of them, and gives each a second. In a round each way has its turn, in
//! rotating order and with new sockets and threads. A figure is the median of the rounds [10th..90th
//! percentile]. `-- naps` runs what has that in its name, `-- "4 workers"` what has so many, `-- long` long
//! connections, and `-- cost` what the thread costs; `-- plot docs` draws for the guide what is measured: the cases with 4
//! workers of std, and long connections with tokio. A worker that is slow sleeps, so that few processors will do. Without
//! CAP_BPF nothing is balanced by eBPF. Without `--bench` there is one short round.

#[cfg(target_os = "linux")]
mod figure;
#[cfg(target_os = "linux")]
#[path = "../tests/util/load.rs"]
mod load;
#[cfg(target_os = "linux")]
#[path = "balance/long.rs"]
mod long;
#[cfg(target_os = "linux")]
mod plot;
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
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::ops::Deref;
    use std::os::fd::AsFd;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::{self, JoinHandle};
    use std::time::{Duration, Instant};
    use std::{env, fs};

    use reuseport::{
        Balancing, Engine, Group, Load as Published, Member, Options, Spread, Steering, Tokio,
    };
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::time::{ClockId, clock_gettime};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::figure::Figure;
    use crate::load::{Load, Outcomes};
    use crate::long;
    use crate::plot::{Plot, Row};
    use crate::util;

    /// A worker naps so long, in twice that time.
    const NAP: Duration = Duration::from_millis(50);

    pub(crate) fn main() {
        // Cargo says `--bench` where it means to measure.
        let measured = env::args().any(|arg| arg == "--bench");
        let run = || tables(measured);
        if util::in_namespace("ports that nobody else uses", run).is_none() {
            run();
        }
    }

    fn tables(measured: bool) {
        for n in [4, 8] {
            for case in [
                Case::new("one naps 50 ms of every 100", Work::Naps, 3_000),
                Case::new("one is 6 times slower (1 ms)", Work::Slow, 450 * n as u32),
                // 70 % of what they can do: a sleep takes some 60 us more than it is told to.
                Case::new(
                    "Pareto 1.2, mean 2 ms, at 70 %",
                    Work::Pareto,
                    340 * n as u32,
                ),
                Case::new("all alike, 64 in flight", Work::Even, 1_000_000),
            ] {
                if !wanted(&format!("{}, {n} workers", case.name)) {
                    continue;
                }
                case.table(n, false, measured);
                if n == 4 || matches!(case.work, Work::Naps) {
                    case.table(n, true, measured);
                }
            }
        }
        if wanted("long connections") {
            long::tables(measured);
        }
        if wanted("cost") {
            cost(measured);
        }
    }

    /// Whether a word of the command line is in its name, or there is none.
    fn wanted(name: &str) -> bool {
        let (words, _) = words();
        words.is_empty() || words.iter().any(|word| name.contains(word))
    }

    /// The words of the command line, without those that say where to draw.
    fn words() -> (Vec<String>, Option<PathBuf>) {
        let words = env::args().skip(1).filter(|arg| !arg.starts_with('-'));
        let mut words: Vec<String> = words.collect();
        let plot = words.iter().position(|word| word == "plot");
        let folder = plot.filter(|at| at + 1 < words.len()).map(|at| {
            let folder = words.remove(at + 1);
            words.remove(at);
            PathBuf::from(folder)
        });
        (words, folder)
    }

    pub(crate) fn is_drawn() -> bool {
        words().1.is_some()
    }

    pub(crate) fn draw(plot: &Plot<'_>, name: &str) {
        if let Some(folder) = words().1 {
            plot.draw(&folder, name);
        }
    }

    /// How a connection comes to a worker.
    #[derive(Clone, Copy, PartialEq)]
    pub(crate) enum Way {
        Group(&'static str, Kernel, Option<(Engine, Duration)>),
        /// One thread accepts, and hands out in turn.
        Acceptor,
    }

    #[derive(Clone, Copy, PartialEq)]
    pub(crate) enum Kernel {
        Hash,
        Cpu,
        Shared,
    }

    pub(crate) const MS: Duration = Duration::from_millis(1);

    const CLASSIC: Engine = Engine::Classic;

    const ALL: [Way; 7] = [
        Way::Group("one shared listener", Kernel::Shared, None),
        Way::Group("hash", Kernel::Hash, None),
        Way::Group("Cpu", Kernel::Cpu, None),
        Way::Acceptor,
        Way::Group(
            "balanced, every 5 ms",
            Kernel::Hash,
            Some((CLASSIC, MS.saturating_mul(5))),
        ),
        Way::Group("balanced, every 1 ms", Kernel::Hash, Some((CLASSIC, MS))),
        // Every 5 ms too, which only finds out who is stuck.
        Way::Group(
            "loads by eBPF",
            Kernel::Hash,
            Some((Engine::Ebpf, MS.saturating_mul(5))),
        ),
    ];

    /// Those that this process may try.
    pub(crate) fn ways() -> Vec<Way> {
        let has_ebpf = || {
            let group = Options::new().group((Ipv4Addr::LOCALHOST, 0), 2).unwrap();
            let mut balancer = group.roster().balance().unwrap();
            balancer.step().unwrap().engine == Engine::Ebpf
        };
        let needs_it = |way: &Way| matches!(way, Way::Group(_, _, Some((Engine::Ebpf, _))));
        let may = has_ebpf();
        let ways = ALL.into_iter().filter(|way| may || !needs_it(way));
        ways.collect()
    }

    impl Way {
        pub(crate) fn name(self) -> &'static str {
            match self {
                Self::Group(name, ..) => name,
                Self::Acceptor => "one acceptor thread",
            }
        }

        pub(crate) fn balanced(self) -> Option<(Engine, Duration)> {
            match self {
                Self::Group(_, _, balanced) => balanced,
                Self::Acceptor => None,
            }
        }
    }

    /// What a worker has to do.
    #[derive(Clone, Copy)]
    enum Work {
        Naps,
        Slow,
        Pareto,
        Even,
    }

    struct Case {
        name: &'static str,
        work: Work,
        per_second: u32,
    }

    impl Case {
        fn new(name: &'static str, work: Work, per_second: u32) -> Self {
            Self {
                name,
                work,
                per_second,
            }
        }

        fn table(&self, n: usize, tokio: bool, measured: bool) {
            let ways = ways();
            let rounds = match (self.work, measured) {
                (_, false) => 1,
                // They differ by little.
                (Work::Even, true) => 21,
                (_, true) => 5,
            };
            let rounds: Vec<Vec<Turn>> = (0..rounds)
                .map(|round| {
                    let mut turns: Vec<_> = ways.iter().map(|_| Turn::default()).collect();
                    for turn in 0..ways.len() {
                        let at = (round + turn) % ways.len();
                        turns[at] = self.run(ways[at], n, tokio, measured);
                    }
                    turns
                })
                .collect();
            let runtime = if tokio { "tokio" } else { "std" };
            if !measured {
                return println!(
                    "{}, {n} workers: one round, which measures nothing",
                    self.name
                );
            }
            println!(
                "\n{}: {n} workers, {runtime}, {} rounds",
                self.name,
                rounds.len()
            );
            println!(
                "{:<22}{:<22}{:<24}{:<24}{:<24}{:<22}{:<22}lost of {}",
                "",
                "p50 ms",
                "p99 ms",
                "p99.9 ms",
                "p99 / shared",
                "per second / hash",
                "processor / hash",
                rounds.iter().map(|round| round[0].attempts).sum::<usize>(),
            );
            for (at, way) in ways.iter().enumerate() {
                let of = |f: &dyn Fn(&[Turn]) -> f64| Figure::of(rounds.iter().map(|r| f(r)));
                let lost: usize = rounds.iter().map(|round| round[at].lost()).sum();
                println!(
                    "{:<22}{:<22}{:<24}{:<24}{:<24}{:<22}{:<22}{lost}",
                    way.name(),
                    of(&|round| percentile(&round[at], 0.5)),
                    of(&|round| percentile(&round[at], 0.99)),
                    of(&|round| percentile(&round[at], 0.999)),
                    of(&|round| percentile(&round[at], 0.99) / percentile(&round[0], 0.99)),
                    of(&|round| round[at].per_second() / round[1].per_second()),
                    of(&|round| round[at].ran / round[1].ran),
                );
            }
            if n == 4 && !tokio && is_drawn() {
                self.draw(&ways, &rounds, runtime);
            }
        }

        fn draw(&self, ways: &[Way], rounds: &[Vec<Turn>], runtime: &str) {
            let is_even = matches!(self.work, Work::Even);
            let row = |(at, way): (usize, &Way)| {
                let of = |f: &dyn Fn(&[Turn]) -> f64| {
                    Figure::of(rounds.iter().map(|round| f(round))).median
                };
                let lost: usize = rounds.iter().map(|round| round[at].lost()).sum();
                let dots: Vec<f64> = match is_even {
                    true => vec![of(&|round| round[at].per_second() / 1000.0)],
                    false => [0.5, 0.99, 0.999]
                        .map(|part| of(&|round| percentile(&round[at], part)))
                        .to_vec(),
                };
                Row {
                    name: way.name().to_owned(),
                    said: match (is_even, lost) {
                        (true, _) => format!("{:.1}", dots[0]),
                        (false, 0) => String::new(),
                        (false, lost) => format!("{lost} lost"),
                    },
                    dots,
                }
            };
            let plot = Plot {
                title: &format!("{}: 4 workers, {runtime}", self.name),
                unit: match is_even {
                    true => "thousand connections per second",
                    false => "milliseconds; what is lost took 1000",
                },
                by_tens: !is_even,
                kinds: match is_even {
                    true => &[],
                    false => &["p50", "p99", "p99.9"],
                },
                rows: ways.iter().enumerate().map(row).collect(),
            };
            let name = match self.work {
                Work::Naps => "naps",
                Work::Slow => "slow",
                Work::Pareto => "pareto",
                Work::Even => "even",
            };
            draw(&plot, name);
        }

        fn run(&self, way: Way, n: usize, tokio: bool, measured: bool) -> Turn {
            let connections = match (self.work, measured) {
                (_, false) => 50,
                (Work::Even, true) => 10_000,
                (_, true) => self.per_second as usize,
            };
            let at_most = match self.work {
                Work::Even => 64,
                _ => 8_000,
            };
            let servers = Servers::start(way, n, self.work, tokio);
            let before = clock_gettime(ClockId::ProcessCPUTime);
            let outcomes = Load {
                to: vec![servers.addr],
                connections,
                per_second: self.per_second,
                at_most,
                timeout: Duration::from_secs(1),
            }
            .run();
            let ran = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime) - before).unwrap();
            servers.end();
            Turn {
                outcomes,
                ran: ran.as_secs_f64(),
            }
        }
    }

    #[derive(Default)]
    struct Turn {
        outcomes: Outcomes,
        /// The seconds of a processor that clients, workers and kernel took.
        ran: f64,
    }

    impl Deref for Turn {
        type Target = Outcomes;

        fn deref(&self) -> &Outcomes {
            &self.outcomes
        }
    }

    /// In milliseconds; what is lost took for ever, which is a second.
    fn percentile(outcomes: &Outcomes, part: f64) -> f64 {
        let mut latencies = outcomes.latencies.clone();
        latencies.sort_unstable();
        let at = ((outcomes.attempts - 1) as f64 * part) as usize;
        latencies
            .get(at)
            .map_or(1000.0, |us| f64::from(*us) / 1000.0)
    }

    pub(crate) fn open(way: Way, n: usize) -> (Group<TcpListener>, Option<Balancing>) {
        let kernel = match way {
            Way::Group(_, kernel, _) => kernel,
            Way::Acceptor => Kernel::Hash,
        };
        let options = match kernel {
            Kernel::Hash => Options::new(),
            Kernel::Cpu => Options::new().steering(Steering::Cpu),
            Kernel::Shared => Options::new().spread(Spread::Queue),
        };
        let sockets = if way == Way::Acceptor { 1 } else { n };
        let group = options.group((Ipv4Addr::LOCALHOST, 0), sockets).unwrap();
        let balancing = way.balanced().map(|(engine, pause)| {
            let balancer = group.roster().balance().unwrap().engine(engine);
            let balancing = balancer.spawn(pause).unwrap();
            assert_eq!(
                balancing.last().unwrap().engine,
                engine,
                "CAP_BPF is needed"
            );
            balancing
        });
        (group, balancing)
    }

    struct Servers {
        addr: SocketAddr,
        ends: Arc<AtomicBool>,
        threads: Vec<JoinHandle<()>>,
        _balancing: Option<Balancing>,
    }

    impl Servers {
        fn start(way: Way, n: usize, work: Work, tokio: bool) -> Self {
            let (group, balancing) = open(way, n);
            let (addr, roster) = (group.local_addr(), group.roster());
            let balanced = way.balanced();
            let ends = Arc::new(AtomicBool::new(false));
            let start = Instant::now();
            let worker = |number: usize| Worker {
                number,
                work,
                load: balanced.map(|_| roster.load(number).unwrap()),
                ends: Arc::clone(&ends),
                start,
                chance: number as u64 + 1,
            };
            let mut threads = Vec::new();
            if way == Way::Acceptor {
                let handed: Vec<_> = (0..n)
                    .map(|number| {
                        let (hand, handed) = channel();
                        let worker = worker(number);
                        threads.push(thread::spawn(move || worker.handed(&handed, tokio)));
                        hand
                    })
                    .collect();
                let (member, ends) = (group.into_iter().next().unwrap(), Arc::clone(&ends));
                let listener = member.into_std();
                listener.set_nonblocking(true).unwrap();
                threads.push(thread::spawn(move || {
                    let mut next = 0;
                    while !ends.load(Relaxed) {
                        match accept(&listener) {
                            Some(stream) => {
                                handed[next % n].send(stream).unwrap();
                                next += 1;
                            }
                            None => wait(&listener),
                        }
                    }
                }));
            } else {
                for member in group {
                    let worker = worker(member.number());
                    threads.push(thread::spawn(move || match tokio {
                        true => worker.tokio(member),
                        false => worker.std(member),
                    }));
                }
            }
            Self {
                addr,
                ends,
                threads,
                _balancing: balancing,
            }
        }

        fn end(self) {
            self.ends.store(true, Relaxed);
            self.threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        }
    }

    struct Worker {
        number: usize,
        work: Work,
        load: Option<Published>,
        ends: Arc<AtomicBool>,
        start: Instant,
        chance: u64,
    }

    impl Worker {
        /// Sleeps when it is time for that.
        fn naps(&self) {
            if matches!(self.work, Work::Naps) && self.number == 0 {
                let now = self.start.elapsed().as_nanos() % (2 * NAP).as_nanos();
                if let Some(left) = NAP.as_nanos().checked_sub(now) {
                    thread::sleep(Duration::from_nanos(left as u64));
                }
            }
        }

        /// How long a connection takes.
        fn service(&mut self) -> Duration {
            match self.work {
                Work::Naps | Work::Even => Duration::ZERO,
                Work::Slow if self.number == 0 => 6 * MS,
                Work::Slow => MS,
                Work::Pareto => {
                    self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005) + 1;
                    let chance = ((self.chance >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
                    // The least is a sixth of the mean; a fifth of a second is the most.
                    let ms = 2.0 / 6.0 * chance.powf(-1.0 / 1.2);
                    Duration::from_secs_f64(ms.min(200.0) / 1000.0)
                }
            }
        }

        fn std(mut self, member: Member<TcpListener>) {
            let listener = member.into_std();
            listener.set_nonblocking(true).unwrap();
            while !self.ends.load(Relaxed) {
                self.naps();
                match accept(&listener) {
                    Some(stream) => self.answer(stream),
                    None => wait(&listener),
                }
            }
        }

        fn answer(&mut self, mut stream: TcpStream) {
            let _held = self.load.as_ref().map(Published::hold);
            stream.set_nonblocking(false).unwrap();
            let mut byte = [0];
            let service = self.service();
            // A client may have given up.
            if stream.read_exact(&mut byte).is_ok() {
                if !service.is_zero() {
                    thread::sleep(service);
                }
                let _ = stream.write_all(&byte);
            }
        }

        fn handed(mut self, handed: &Receiver<TcpStream>, tokio: bool) {
            if tokio {
                // As std's: what naps is the thread, and there is one queue for each.
                let runtime = runtime();
                return runtime.block_on(async {
                    while let Ok(stream) = handed.recv() {
                        self.naps();
                        stream.set_nonblocking(true).unwrap();
                        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                        let service = self.service();
                        tokio::spawn(tokio_answer(stream, None, service))
                            .await
                            .unwrap();
                    }
                });
            }
            while let Ok(stream) = handed.recv() {
                self.naps();
                self.answer(stream);
            }
        }

        fn tokio(mut self, member: Member<TcpListener>) {
            runtime().block_on(async {
                let listener = member.attach::<Tokio>().unwrap();
                while !self.ends.load(Relaxed) {
                    let accepted = tokio::time::timeout(10 * MS, listener.accept()).await;
                    if let Ok(Ok((stream, _))) = accepted {
                        let held = self.load.as_ref().map(Published::hold);
                        tokio::spawn(tokio_answer(stream, held, self.service()));
                    }
                    tokio::task::yield_now().await;
                    self.naps();
                }
            });
        }
    }

    pub(crate) fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    async fn tokio_answer(
        mut stream: tokio::net::TcpStream,
        held: Option<reuseport::Held>,
        service: Duration,
    ) {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_ok() {
            // It takes the worker, and not only time.
            if !service.is_zero() {
                thread::sleep(service);
            }
            let _ = stream.write_all(&byte).await;
        }
        drop(held);
    }

    /// A little while at the most, after which the turn may be over.
    pub(crate) fn wait(listener: &impl AsFd) {
        let timeout = Timespec::try_from(10 * MS).unwrap();
        let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout));
    }

    pub(crate) fn accept(listener: &TcpListener) -> Option<TcpStream> {
        match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// What the thread takes of a processor, with 16 members.
    fn cost(measured: bool) {
        println!("\nthe balancing thread, 16 members: part of one processor, programs a second");
        for (name, per_second) in [("idle", 0), ("3,000 connections/s", 3_000)] {
            let balanced = ways().into_iter().filter_map(Way::balanced);
            for (engine, pause) in balanced {
                let time = if measured { 2 } else { 0 };
                let way = Way::Group("", Kernel::Hash, Some((engine, pause)));
                let servers = Servers::start(way, 16, Work::Naps, false);
                let balancing = servers._balancing.as_ref().unwrap();
                let (before, begin) = (ran(), Instant::now());
                let attaches = balancing.last().unwrap().attaches;
                let load = Load {
                    to: vec![servers.addr],
                    connections: per_second * time,
                    per_second: per_second.max(1) as u32,
                    at_most: 8_000,
                    timeout: Duration::from_secs(1),
                };
                match per_second {
                    0 => thread::sleep(Duration::from_secs(time as u64)),
                    _ => drop(load.run()),
                }
                let took = begin.elapsed();
                let part = (ran() - before) as f64 / took.as_nanos() as f64;
                let attaches = balancing.last().unwrap().attaches - attaches;
                println!(
                    "{name:<22}{engine:?}, every {pause:?}: {:.2} %, {:.0}",
                    part * 100.0,
                    attaches as f64 / took.as_secs_f64()
                );
                servers.end();
            }
        }
    }

    /// The nanoseconds for which the newest balancing thread ran (proc_pid_schedstat): that of another may be there
    /// yet, although it was waited for.
    fn ran() -> u64 {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let read = |task: &fs::DirEntry, file| {
            fs::read_to_string(task.path().join(file)).unwrap_or_default()
        };
        let balances = |task: &fs::DirEntry| read(task, "comm").starts_with("reuseport-balan");
        let id = |task: &fs::DirEntry| {
            task.file_name()
                .to_str()
                .and_then(|id| id.parse::<u32>().ok())
        };
        let newest = tasks.filter(balances).max_by_key(id);
        let ran = newest
            .map(|task| read(&task, "schedstat"))
            .unwrap_or_default();
        ran.split(' ')
            .next()
            .and_then(|ran| ran.parse().ok())
            .unwrap_or(0)
    }
}
