//! What opening costs, beside the same system calls made by hand: `cargo bench --bench open`.
//!
//! Every table comes from rounds in which each row has its turn, in rotating order. A ratio is that
//! of one row to its base, the nearest "raw" above it that compares with nothing, in the same round:
//! median [10th..90th percentile]. Without `--bench` there is one short round.

#![allow(unsafe_code, reason = "the yardstick is made of bare system calls")]

#[cfg(target_os = "linux")]
mod figure;
#[cfg(target_os = "linux")]
#[path = "../tests/util/mod.rs"]
mod util;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the system calls to compare with are written for Linux only");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::env;
    use std::io;
    use std::mem;
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::process::Command;
    use std::ptr;
    use std::thread;
    use std::time::{Duration, Instant};

    use reuseport::{AsyncStd, Options, ReusePort, Smol, Std, Tokio};
    use rustix::process::{Resource, getrlimit, setrlimit};
    use smol::Async;
    use socket2::{Domain, Protocol, Socket, Type};

    use crate::figure::Figure;
    use crate::util;

    /// How many sockets one row opens and closes in a round, one after the other.
    const BATCH: usize = 64;

    /// No table takes longer, however busy the machine is, so that all six take less than a minute.
    const BUDGET: Duration = Duration::from_secs(9);

    /// In the environment of a fresh process: what it is to open.
    const FRESH: &str = "REUSEPORT_BENCH_FRESH";

    const TCP: libc::c_int = libc::SOCK_STREAM;
    const UDP: libc::c_int = libc::SOCK_DGRAM;
    const NONBLOCK: libc::c_int = libc::SOCK_NONBLOCK;

    pub(crate) fn main() {
        if let Ok(what) = env::var(FRESH) {
            return fresh(&what);
        }
        // Cargo says `--bench` where it means to measure.
        let measured = env::args().any(|arg| arg == "--bench");
        let limit = raise_limit();
        let run = || tables(measured, limit);
        if util::in_namespace("a port range that nobody else uses", run).is_none() {
            run();
        }
    }

    fn tables(measured: bool, limit: usize) {
        let rounds = |n| if measured { n } else { 1 };
        single_tcp(rounds(1_000));
        single_udp(rounds(1_000));
        for (n, times) in [(64, 600), (1_024, 200), (16_384, 15)] {
            if n + 100 > limit {
                println!("\ngroups of {n}: not measured, RLIMIT_NOFILE is {limit}");
            } else if measured || n == 64 {
                groups(n, rounds(times));
            }
        }
        grown(rounds(30));
    }

    fn single_tcp(rounds: usize) {
        let addr = free_addr();
        let tokio = runtime();
        let blocking = move || raw(TCP, addr);
        let nonblocking = move || TcpListener::from(raw(TCP | NONBLOCK, addr));
        let rows = [
            Row::base("raw, blocking", move || one_by_one(blocking)),
            Row::of(0, "Std::listen", 1.10, move || {
                one_by_one(|| Std::listen(addr).unwrap())
            }),
            Row::base("raw, nonblocking", move || one_by_one(nonblocking)),
            Row::of(2, "socket2 by hand", None, move || {
                one_by_one(|| by_hand(addr, Type::STREAM))
            }),
            Row::of(
                2,
                "tokio's TcpSocket",
                None,
                in_tokio(&tokio, move || tokio_socket(addr)),
            ),
            Row::of(
                2,
                "raw, tokio's from_std",
                None,
                in_tokio(&tokio, move || {
                    tokio::net::TcpListener::from_std(nonblocking()).unwrap()
                }),
            ),
            Row::of(
                2,
                "Tokio::listen",
                1.35,
                in_tokio(&tokio, move || Tokio::listen(addr).unwrap()),
            ),
            Row::of(2, "raw, Async::new_nonblocking", None, move || {
                one_by_one(|| Async::new_nonblocking(nonblocking()).unwrap())
            }),
            Row::of(2, "Smol::listen", 1.35, move || {
                one_by_one(|| Smol::listen(addr).unwrap())
            }),
            Row::of(2, "raw, async-std's from", None, move || {
                one_by_one(|| async_std::net::TcpListener::from(nonblocking()))
            }),
            Row::of(2, "AsyncStd::listen", 1.35, move || {
                one_by_one(|| AsyncStd::listen(addr).unwrap())
            }),
        ];
        compare("one TCP listener", rounds, &rows);
    }

    fn single_udp(rounds: usize) {
        let addr = free_addr();
        let tokio = runtime();
        let blocking = move || raw(UDP, addr);
        let nonblocking = move || UdpSocket::from(raw(UDP | NONBLOCK, addr));
        let rows = [
            Row::base("raw, blocking", move || one_by_one(blocking)),
            Row::of(0, "Std::listen_packet", 1.10, move || {
                one_by_one(|| Std::listen_packet(addr).unwrap())
            }),
            Row::base("raw, nonblocking", move || one_by_one(nonblocking)),
            Row::of(2, "socket2 by hand", None, move || {
                one_by_one(|| by_hand(addr, Type::DGRAM))
            }),
            Row::of(
                2,
                "raw, tokio's from_std",
                None,
                in_tokio(&tokio, move || {
                    tokio::net::UdpSocket::from_std(nonblocking()).unwrap()
                }),
            ),
            Row::of(
                2,
                "Tokio::listen_packet",
                1.35,
                in_tokio(&tokio, move || Tokio::listen_packet(addr).unwrap()),
            ),
            Row::of(2, "raw, Async::new_nonblocking", None, move || {
                one_by_one(|| Async::new_nonblocking(nonblocking()).unwrap())
            }),
            Row::of(2, "Smol::listen_packet", 1.35, move || {
                one_by_one(|| Smol::listen_packet(addr).unwrap())
            }),
            Row::of(2, "raw, async-std's from", None, move || {
                one_by_one(|| async_std::net::UdpSocket::from(nonblocking()))
            }),
            Row::of(2, "AsyncStd::listen_packet", 1.35, move || {
                one_by_one(|| AsyncStd::listen_packet(addr).unwrap())
            }),
        ];
        compare("one UDP socket", rounds, &rows);
    }

    /// The table of descriptors is large enough after the first round, so sockets are measured.
    fn groups(n: usize, rounds: usize) {
        let addr = free_addr();
        let options = Options::new();
        let rows = [
            Row::base("raw TCP", move || spent(n, || raw_loop(TCP, addr, n))),
            Row::of(0, "Options::group", 1.10, {
                let options = options.clone();
                move || spent(n, || options.group(addr, n).unwrap())
            }),
            Row::base("raw UDP", move || spent(n, || raw_loop(UDP, addr, n))),
            Row::of(2, "Options::packet_group", 1.10, move || {
                spent(n, || options.packet_group(addr, n).unwrap())
            }),
        ];
        for row in &rows {
            (row.run)();
        }
        compare(&format!("a group of {n}"), rounds, &rows);
    }

    /// Fresh processes with a second thread, in which the table of descriptors has yet to grow.
    fn grown(rounds: usize) {
        let rows = [
            Row::base("raw TCP", || elsewhere("raw")),
            Row::of(0, "Options::group", 0.60, || elsewhere("group")),
        ];
        compare(
            "a group of 1024 in a new process with threads",
            rounds,
            &rows,
        );
    }

    fn elsewhere(what: &str) -> Spent {
        let program = env::current_exe().unwrap();
        let output = Command::new(program).env(FRESH, what).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut nanos = text.split_whitespace().map(|word| word.parse().unwrap());
        let mut next = || Duration::from_nanos(nanos.next().unwrap());
        Spent {
            sockets: 1_024,
            open: next(),
            close: next(),
        }
    }

    fn fresh(what: &str) {
        thread::spawn(thread::park);
        let addr = free_addr();
        // What happens once in a process is not what the table costs.
        drop(Options::new().group(addr, 1).unwrap());
        let n = 1_024;
        let spent = match what {
            "raw" => spent(n, || raw_loop(TCP, addr, n)),
            _ => spent(n, || Options::new().group(addr, n).unwrap()),
        };
        println!("{} {}", spent.open.as_nanos(), spent.close.as_nanos());
    }

    /// One line of a table.
    struct Row<'a> {
        name: &'static str,
        /// The row that it is compared with.
        base: Option<usize>,
        /// The most that its ratio should be.
        goal: Option<f64>,
        run: Box<dyn Fn() -> Spent + 'a>,
    }

    impl<'a> Row<'a> {
        fn base(name: &'static str, run: impl Fn() -> Spent + 'a) -> Self {
            let run = Box::new(run);
            Self {
                name,
                base: None,
                goal: None,
                run,
            }
        }

        fn of(
            base: usize,
            name: &'static str,
            goal: impl Into<Option<f64>>,
            run: impl Fn() -> Spent + 'a,
        ) -> Self {
            Self {
                base: Some(base),
                goal: goal.into(),
                ..Self::base(name, run)
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Spent {
        sockets: usize,
        open: Duration,
        close: Duration,
    }

    impl Spent {
        fn open(&self) -> f64 {
            self.open.as_nanos() as f64 / self.sockets as f64
        }

        fn both(&self) -> f64 {
            (self.open + self.close).as_nanos() as f64 / self.sockets as f64
        }
    }

    fn spent<T>(sockets: usize, open: impl FnOnce() -> T) -> Spent {
        let start = Instant::now();
        let opened = open();
        let middle = Instant::now();
        drop(opened);
        Spent {
            sockets,
            open: middle - start,
            close: middle.elapsed(),
        }
    }

    fn one_by_one<T>(open: impl Fn() -> T) -> Spent {
        let none = Spent {
            sockets: 0,
            open: Duration::ZERO,
            close: Duration::ZERO,
        };
        (0..BATCH).fold(none, |sum, _| {
            let one = spent(1, &open);
            Spent {
                sockets: sum.sockets + 1,
                open: sum.open + one.open,
                close: sum.close + one.close,
            }
        })
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    fn in_tokio<T>(runtime: &tokio::runtime::Runtime, open: impl Fn() -> T) -> impl Fn() -> Spent {
        move || {
            runtime.block_on(async {
                // Lets the driver free what the batch before has closed.
                tokio::task::yield_now().await;
                one_by_one(&open)
            })
        }
    }

    fn compare(title: &str, rounds: usize, rows: &[Row<'_>]) {
        let mut spent = vec![Vec::with_capacity(rounds); rows.len()];
        let start = Instant::now();
        for round in 0..rounds {
            if start.elapsed() > BUDGET {
                break;
            }
            for turn in 0..rows.len() {
                let at = (round + turn) % rows.len();
                spent[at].push((rows[at].run)());
            }
        }

        if rounds == 1 {
            println!("{title}: one round ran, which measures nothing");
            return;
        }
        println!("\n{title}, {} rounds", spent[0].len());
        println!(
            "{:<30}{:>9}  {:<20}{:<20}goal for open",
            "", "ns/open", "open", "open and close"
        );
        for (row, own) in rows.iter().zip(&spent) {
            let nanos = Figure::of(own.iter().map(Spent::open)).median;
            print!("{:<30}{nanos:>9.0}  ", row.name);
            let Some(base) = row.base else {
                println!("1");
                continue;
            };
            let ratios = |figure: fn(&Spent) -> f64| {
                let pairs = own.iter().zip(&spent[base]);
                Figure::of(pairs.map(|(own, base)| figure(own) / figure(base)))
            };
            let open = ratios(Spent::open);
            print!("{open:<20}");
            print!("{:<20}", ratios(Spent::both));
            println!(
                "{}",
                row.goal.map_or(String::new(), |goal| open.at_most(goal))
            );
        }
    }

    /// An address that nobody has at the moment.
    fn free_addr() -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    /// As many descriptors as this process may have.
    fn raise_limit() -> usize {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        limit.current.map_or(usize::MAX, |n| n as usize)
    }

    fn by_hand(addr: SocketAddrV4, r#type: Type) -> Socket {
        let (protocol, is_tcp) = match r#type {
            Type::STREAM => (Protocol::TCP, true),
            _ => (Protocol::UDP, false),
        };
        let socket = Socket::new(Domain::IPV4, r#type, Some(protocol)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&addr.into()).unwrap();
        if is_tcp {
            socket.listen(1_024).unwrap();
        }
        socket
    }

    fn tokio_socket(addr: SocketAddrV4) -> tokio::net::TcpListener {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(addr.into()).unwrap();
        socket.listen(1_024).unwrap()
    }

    fn raw_loop(r#type: libc::c_int, addr: SocketAddrV4, n: usize) -> Vec<OwnedFd> {
        let mut sockets = Vec::with_capacity(n);
        for _ in 0..n {
            sockets.push(raw(r#type, addr));
        }
        sockets
    }

    /// The fewest system calls that open the socket that this crate opens.
    fn raw(r#type: libc::c_int, addr: SocketAddrV4) -> OwnedFd {
        let addr = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: addr.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from(*addr.ip()).to_be(),
            },
            sin_zero: [0; 8],
        };
        let len = mem::size_of_val(&addr) as libc::socklen_t;
        // SAFETY: socket takes no pointer.
        let fd = check(unsafe { libc::socket(libc::AF_INET, r#type | libc::SOCK_CLOEXEC, 0) });
        // SAFETY: the kernel just made this descriptor, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let is_tcp = r#type & 0xf == TCP;
        if is_tcp {
            switch_on(&socket, libc::SO_REUSEADDR);
        }
        switch_on(&socket, libc::SO_REUSEPORT);
        // SAFETY: the pointer and the length are those of `addr`.
        check(unsafe { libc::bind(fd, ptr::from_ref(&addr).cast(), len) });
        if is_tcp {
            // SAFETY: listen takes no pointer.
            check(unsafe { libc::listen(fd, libc::c_int::MAX) });
        }
        socket
    }

    fn switch_on(socket: &OwnedFd, option: libc::c_int) {
        let on: libc::c_int = 1;
        let len = mem::size_of_val(&on) as libc::socklen_t;
        let value = ptr::from_ref(&on).cast();
        let fd = socket.as_raw_fd();
        // SAFETY: the pointer and the length are those of `on`.
        check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, len) });
    }

    fn check(result: libc::c_int) -> libc::c_int {
        assert_ne!(result, -1, "{}", io::Error::last_os_error());
        result
    }
}
