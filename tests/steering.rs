//! Steering: every kind puts all of its traffic where it says, also after members have left.

#![cfg(target_os = "linux")]

mod util;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reuseport::{
    ConnectionIds, Error, Family, Group, Instruction, Member, Options, ReusePort, Roster, Socket,
    Std, Steering,
};

const SO_INCOMING_CPU: libc::c_int = 49;

/// A kind of socket, so that one body serves TCP and UDP.
trait Kind: Socket + Sync {
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error>;
    /// A client with a port of its own, which TCP has connected.
    fn client(to: SocketAddr) -> Client;
    /// Takes one connection or datagram, if there is one.
    fn take(&self) -> bool;
    fn stop_blocking(&self);
}

enum Client {
    Tcp(#[allow(dead_code, reason = "kept open")] TcpStream),
    Udp(UdpSocket),
}

impl Client {
    /// What TCP did when it connected.
    fn send(&self, to: SocketAddr, payload: &[u8]) {
        if let Self::Udp(socket) = self {
            socket.send_to(payload, to).unwrap();
        }
    }
}

impl Kind for TcpListener {
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error> {
        options.group(addr, n)
    }
    fn client(to: SocketAddr) -> Client {
        Client::Tcp(TcpStream::connect(to).unwrap())
    }
    fn take(&self) -> bool {
        self.accept().is_ok()
    }
    fn stop_blocking(&self) {
        self.set_nonblocking(true).unwrap();
    }
}

impl Kind for UdpSocket {
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error> {
        options.packet_group(addr, n)
    }
    fn client(to: SocketAddr) -> Client {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => [127, 0, 0, 1].into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        Client::Udp(UdpSocket::bind((any, 0)).unwrap())
    }
    fn take(&self) -> bool {
        self.recv(&mut [0; 2048]).is_ok()
    }
    fn stop_blocking(&self) {
        self.set_nonblocking(true).unwrap();
    }
}

/// A group whose members can leave: each with its number, and the table beside them.
struct Open<S> {
    to: SocketAddr,
    members: Vec<(usize, S)>,
    roster: Roster<S>,
}

impl<S: Kind> Open<S> {
    fn new(options: &Options, prefix: &str, n: usize) -> Self {
        let group = S::open(options, &format!("{prefix}0"), n).unwrap();
        let addr = group.local_addr();
        let ip = match addr.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => [127, 0, 0, 1].into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        let roster = group.roster();
        let members: Vec<_> = group
            .into_iter()
            .map(|member| (member.number(), member.into_std()))
            .collect();
        members
            .iter()
            .for_each(|(_, socket)| socket.stop_blocking());
        Self {
            to: SocketAddr::new(ip, addr.port()),
            members,
            roster,
        }
    }

    fn close(&mut self, number: usize) {
        let at = self
            .members
            .iter()
            .position(|(other, _)| *other == number)
            .unwrap();
        // Still open: closing takes it out, and not the end of its descriptor.
        self.roster.close(number).unwrap();
        assert!(self.roster.has_left(number));
        self.members.swap_remove(at);
    }

    fn steer(&self, steering: &Steering) {
        self.roster.steer(steering).unwrap();
    }

    /// The number of the member that gets what the client sends, and only that one does.
    fn taker(&self, client: &Client, payload: &[u8]) -> usize {
        let takers = || self.members.iter().filter(|(_, socket)| socket.take());
        let taker = || takers().map(|(number, _)| *number).next();
        let (taker, sent) = util::until_sent(|| client.send(self.to, payload), taker);
        // What was sent twice may come twice.
        assert!(sent > 1 || takers().count() == 0, "one member has it");
        taker
    }

    /// How many of so many each number gets.
    fn counts(&self, n: usize, payload: &[u8]) -> Vec<usize> {
        let mut counts = vec![0; 8];
        for _ in 0..n {
            let client = S::client(self.to);
            counts[self.taker(&client, payload)] += 1;
        }
        counts
    }
}

/// Who leaves, one after the other: the first, one in the middle, and the last but one.
const LEAVERS: [usize; 3] = [0, 2, 4];

const PLACES: [(Family, &str); 4] = [
    (Family::Any, "127.0.0.1:"),
    (Family::Any, "[::1]:"),
    (Family::Any, ":"),
    (Family::V4, ":"),
];

/// Before anybody has left, and after each has.
fn as_they_leave<S: Kind>(steering: &Steering, n: usize, check: impl Fn(&Open<S>)) {
    for (family, prefix) in PLACES {
        let options = Options::new().family(family).steering(steering.clone());
        let mut open = Open::<S>::new(&options, prefix, n);
        check(&open);
        for leaver in LEAVERS {
            open.close(leaver);
            check(&open);
        }
    }
}

/// All weight on one member, whichever it is: it gets everything, as long as it is there.
fn one_weight<S: Kind>() {
    for target in 0..6 {
        let mut weights = vec![0; 6];
        weights[target] = 7;
        as_they_leave::<S>(&Steering::Weights(weights), 6, |open| {
            let counts = open.counts(20, b"?");
            if open.members.iter().any(|(number, _)| *number == target) {
                assert_eq!(counts[target], 20, "{:?}", open.roster.places());
            } else {
                // The hash takes over, and nothing is lost.
                assert_eq!(counts.iter().sum::<usize>(), 20);
            }
        });
    }
}

#[test]
fn tcp_weight_on_one_member() {
    one_weight::<TcpListener>();
}

#[test]
fn udp_weight_on_one_member() {
    one_weight::<UdpSocket>();
}

/// The chi-square of counts against shares; below 1e-6 of chance beyond 35 for up to 5 degrees of
/// freedom.
fn chi_square(counts: &[usize], shares: &[u32]) -> f64 {
    let all: usize = counts.iter().sum();
    let sum: u32 = shares.iter().sum();
    counts
        .iter()
        .zip(shares)
        .filter(|(_, share)| **share > 0)
        .map(|(&count, &share)| {
            let expected = all as f64 * f64::from(share) / f64::from(sum);
            (count as f64 - expected).powi(2) / expected
        })
        .sum()
}

fn weights_are_shares<S: Kind>() {
    let weights = vec![1, 2, 5, 0];
    for (family, prefix) in PLACES {
        let options = Options::new()
            .family(family)
            .steering(Steering::Weights(weights.clone()));
        let open = Open::<S>::new(&options, prefix, 4);
        let counts = open.counts(2000, b"?");
        assert_eq!(counts[3], 0);
        let chi = chi_square(&counts[..4], &weights);
        assert!(chi < 35.0, "{prefix} {counts:?}: {chi}");
    }
}

#[test]
fn tcp_weights_are_shares() {
    weights_are_shares::<TcpListener>();
}

#[test]
fn udp_weights_are_shares() {
    weights_are_shares::<UdpSocket>();
}

#[test]
fn a_flow_of_datagrams_stays_with_its_member() {
    for (family, prefix) in PLACES {
        let options = Options::new()
            .family(family)
            .steering(Steering::Weights(vec![1, 1, 1, 1]));
        let open = Open::<UdpSocket>::new(&options, prefix, 4);
        for _ in 0..50 {
            let client = UdpSocket::client(open.to);
            let first = open.taker(&client, b"?");
            for len in 0..10 {
                assert_eq!(open.taker(&client, &[0; 10][..len]), first);
            }
        }
    }
}

/// A datagram with a short QUIC header: the id stands at byte 1.
fn short(id: &[u8]) -> Vec<u8> {
    [&[0x40], id, &[9; 20]].concat()
}

/// A long header of that first byte and version.
fn long(first: u8, version: u32, id: &[u8]) -> Vec<u8> {
    [
        &[first][..],
        &version.to_be_bytes(),
        &[id.len() as u8],
        id,
        &[9; 20],
    ]
    .concat()
}

const V1: u32 = 1;
const V2: u32 = 0x6b33_43cf;

#[test]
fn connection_ids_choose_the_member() {
    type Id = fn(u8) -> Vec<u8>;
    let cases: [(ConnectionIds, Id); 3] = [
        (ConnectionIds::quic(), |number| vec![number, 1, 2, 3]),
        (ConnectionIds::quic().two_bytes(), |number| {
            vec![0, number, 2, 3]
        }),
        (ConnectionIds::quic().skip(2), |number| {
            vec![1, 2, number, 3]
        }),
    ];
    for (ids, id) in cases {
        as_they_leave::<UdpSocket>(&Steering::ConnectionIds(ids), 6, |open| {
            for (number, _) in &open.members {
                let id = id(*number as u8);
                for payload in [short(&id), long(0xe0, V1, &id), long(0xf0, V2, &id)] {
                    assert_eq!(open.counts(5, &payload)[*number], 5, "{ids:?} {payload:x?}");
                }
            }
        });
    }
    as_they_leave::<UdpSocket>(&Steering::ConnectionIds(ConnectionIds::at(3)), 6, |open| {
        for (number, _) in &open.members {
            assert_eq!(open.counts(5, &[9, 9, 9, *number as u8])[*number], 5);
        }
    });
}

/// Whatever has no number of a member goes where the hash sends it, which is not always one member.
#[test]
fn without_a_known_number_the_hash_decides() {
    let payloads = [
        vec![],
        vec![0x40],
        short(&[77, 1, 2, 3]),
        // Initial and 0-RTT of both versions: the client chose the id.
        long(0xc0, V1, &[3, 1, 2, 3]),
        long(0xd0, V1, &[3, 1, 2, 3]),
        long(0xd0, V2, &[3, 1, 2, 3]),
        long(0xe0, V2, &[3, 1, 2, 3]),
        // Too short for its id, and an id of no length.
        vec![0xe0, 0, 0, 0, 1, 4],
        vec![0xe0, 0, 0],
        long(0xe0, V1, &[]),
    ];
    let options = Options::new().steering(Steering::ConnectionIds(ConnectionIds::quic()));
    let open = Open::<UdpSocket>::new(&options, "127.0.0.1:", 4);
    for payload in payloads {
        let counts = open.counts(64, &payload);
        // All 64 go to one of four by chance once in 2^126.
        assert!(
            counts.iter().all(|&count| count < 64),
            "{payload:x?}: {counts:?}"
        );
    }
}

/// The caller's own program, `ret 2`, and the hash again.
fn a_program_of_ones_own<S: Kind>() {
    let program = Steering::Program(vec![Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 2,
    }]);
    let open = Open::<S>::new(&Options::new().steering(program), "127.0.0.1:", 4);
    assert_eq!(open.counts(50, b"?")[2], 50);
    open.steer(&Steering::Hash);
    let counts = open.counts(200, b"?");
    assert!(counts[..4].iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn tcp_program_of_ones_own() {
    a_program_of_ones_own::<TcpListener>();
}

#[test]
fn udp_program_of_ones_own() {
    a_program_of_ones_own::<UdpSocket>();
}

/// Loads the eBPF program `return index`; None where that is not allowed.
#[allow(unsafe_code, reason = "nothing safe loads a program")]
fn load_ebpf(index: i32) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    const PROG_LOAD: libc::c_long = 5;
    const SOCKET_FILTER: u32 = 1;
    /// The beginning of bpf(2)'s attributes for BPF_PROG_LOAD.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        len: u32,
        instructions: u64,
        license: u64,
    }
    // mov r0, index; exit
    let program = [0xb7 | (index as u64) << 32, 0x95].map(u64::to_le);
    let attributes = Attributes {
        kind: SOCKET_FILTER,
        len: 2,
        instructions: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    // SAFETY: the attributes and what they point to are valid for the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if fd == -1 {
        let error = std::io::Error::last_os_error();
        util::skip(&format!(
            "steering by eBPF (cannot load a program: {error})"
        ));
        return None;
    }
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    Some(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) })
}

fn an_ebpf_program<S: Kind>() {
    let Some(program) = load_ebpf(1) else { return };
    let open = Open::<S>::new(
        &Options::new().steering(Steering::Ebpf(program.into())),
        "127.0.0.1:",
        3,
    );
    assert_eq!(open.counts(30, b"?")[1], 30);
    open.steer(&Steering::Hash);
    let counts = open.counts(200, b"?");
    assert!(counts[..3].iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn tcp_ebpf_program() {
    an_ebpf_program::<TcpListener>();
}

#[test]
fn udp_ebpf_program() {
    an_ebpf_program::<UdpSocket>();
}

/// What is no program is refused, and the group is as it was.
#[test]
fn what_is_no_ebpf_program_is_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let error = group
        .steer(&Steering::Ebpf(std::sync::Arc::new(file.into())))
        .unwrap_err();
    assert!(
        error.to_string().contains("the kernel refuses the program"),
        "{error}"
    );
}

/// From each processor, its member.
fn by_processor<S: Kind>() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| all.is_set(cpu))
        .collect();
    if cpus.len() < 2 {
        return util::skip("steering by processor (there is one)");
    }
    let check = |open: &Open<S>| {
        for (number, _) in open
            .members
            .iter()
            .filter(|(number, _)| *number < cpus.len())
        {
            let mut one = CpuSet::new();
            one.set(cpus[*number]);
            sched_setaffinity(None, &one).unwrap();
            assert_eq!(
                open.counts(20, b"?")[*number],
                20,
                "{:?}",
                open.roster.places()
            );
        }
        sched_setaffinity(None, &all).unwrap();
    };
    for (family, prefix) in PLACES {
        let options = Options::new().family(family).steering(Steering::Cpu);
        let n = cpus.len().min(8);
        let mut open = Open::<S>::new(&options, prefix, n);
        check(&open);
        open.steer(&Steering::Hash);
        let counts = open.counts(200, b"?");
        assert!(counts[..n].iter().all(|&count| count > 0), "{counts:?}");
        open.steer(&Steering::Cpu);
        check(&open);
        // The thread that closes may be pinned, as a worker is.
        let mut one = CpuSet::new();
        one.set(cpus[0]);
        sched_setaffinity(None, &one).unwrap();
        open.close(0);
        check(&open);
    }
}

/// With more members than processors, those of one processor get all of it, and each a part.
fn members_share_a_processor<S: Kind>() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| all.is_set(cpu))
        .collect();
    if cpus.len() > 3 {
        return util::skip("members that share a processor (there are more than three)");
    }
    for (family, prefix) in PLACES {
        let options = Options::new().family(family).steering(Steering::Cpu);
        let open = Open::<S>::new(&options, prefix, 6);
        for (place, &cpu) in cpus.iter().enumerate() {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one).unwrap();
            let counts = open.counts(100, b"?");
            for (number, &count) in counts[..6].iter().enumerate() {
                let mine = number % cpus.len() == place;
                assert_eq!(count > 0, mine, "{prefix} {cpu}: {counts:?}");
            }
        }
        sched_setaffinity(None, &all).unwrap();
    }
}

#[test]
fn tcp_members_share_a_processor() {
    std::thread::spawn(members_share_a_processor::<TcpListener>)
        .join()
        .unwrap();
}

#[test]
fn udp_members_share_a_processor() {
    std::thread::spawn(members_share_a_processor::<UdpSocket>)
        .join()
        .unwrap();
}

/// A worker that is pinned closes a member: the others keep the processors that they had.
#[test]
fn who_is_pinned_does_not_change_the_processors() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).unwrap();
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu));
    let (Some(first), Some(second)) = (cpus.next(), cpus.next()) else {
        return util::skip("that a pinned thread closes members (there is one processor)");
    };
    let pin = |cpu| {
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut open = Open::<UdpSocket>::new(&Options::new(), "127.0.0.1:", 3);
            open.steer(&Steering::Cpu);
            pin(first);
            // The program is made anew, by a thread that has one processor.
            open.close(2);
            assert_eq!(open.counts(40, b"?")[0], 40);
            pin(second);
            assert_eq!(open.counts(40, b"?")[1], 40);
        });
    });
}

#[test]
fn tcp_by_processor() {
    std::thread::spawn(by_processor::<TcpListener>)
        .join()
        .unwrap();
}

#[test]
fn udp_by_processor() {
    std::thread::spawn(by_processor::<UdpSocket>)
        .join()
        .unwrap();
}

/// On a whole group steering changes back and forth.
#[test]
fn a_whole_group_is_steered() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let accept = |n: usize| {
        let mut counts = [0; 2];
        for member in &group {
            socket2::SockRef::from(member)
                .set_nonblocking(true)
                .unwrap();
        }
        for _ in 0..n {
            let _client = TcpStream::connect(group.local_addr()).unwrap();
            let taker = |member: &&Member<_>| socket2::SockRef::from(*member).accept().is_ok();
            counts[util::until(|| group.iter().find(taker)).number()] += 1;
        }
        assert_eq!(counts[0] + counts[1], n);
        counts
    };
    for _ in 0..3 {
        group.steer(&Steering::Cpu).unwrap();
        accept(5);
        group.steer(&Steering::Weights(vec![0, 1])).unwrap();
        assert_eq!(accept(20), [0, 20]);
        group.steer(&Steering::Cpu).unwrap();
        group.steer(&Steering::Hash).unwrap();
        let counts = accept(100);
        assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    }
}

/// No socket has an option of a processor, which would stay with it when its group is steered anew.
#[test]
fn members_are_not_pinned() {
    let options = Options::new().steering(Steering::Cpu);
    for member in &options.group("127.0.0.1:0", 2).unwrap() {
        assert_eq!(
            util::int_option(member, libc::SOL_SOCKET, SO_INCOMING_CPU),
            -1
        );
    }
}

/// A child that has not yet called exec has copies of all sockets: a listener leaves all the same.
#[test]
fn a_copy_does_not_keep_a_listener_in_the_group() {
    let mut open = Open::<TcpListener>::new(&Options::new(), "127.0.0.1:", 3);
    let copy = open.members[1].1.try_clone().unwrap();
    open.close(1);
    assert_eq!(open.roster.places(), [Some(0), Some(2)]);
    let counts = open.counts(100, b"");
    assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}");
    drop(copy);
}

/// The table against the kernel: whoever leaves, in whatever order, a program finds each that is
/// left.
#[test]
fn the_table_is_the_kernels() {
    for seed in 0..20u64 {
        let mut open = Open::<UdpSocket>::new(&Options::new(), "127.0.0.1:", 8);
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        while open.members.len() > 1 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = random as usize % open.members.len();
            let number = open.members[at].0;
            open.close(number);
            for (place, member) in open.roster.places().into_iter().enumerate() {
                let program = vec![Instruction {
                    code: 0x06,
                    jt: 0,
                    jf: 0,
                    k: place as u32,
                }];
                open.steer(&Steering::Program(program));
                assert_eq!(
                    member,
                    Some(open.taker(&UdpSocket::client(open.to), b"?")),
                    "place {place} of {:?}",
                    open.roster.places()
                );
            }
        }
    }
}

/// 1,000 changes under load: every connection is accepted, every datagram read.
#[test]
fn nothing_is_lost_while_steering_changes() {
    let group = Options::new().group("127.0.0.1:0", 3).unwrap();
    let addr = group.local_addr();
    let done = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let kinds = [
        Steering::Weights(vec![1, 0, 3]),
        Steering::Hash,
        Steering::Cpu,
        Steering::Program(vec![Instruction {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: 2,
        }]),
        Steering::Weights(vec![0, 1, 0]),
    ];
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        // Refused, reset or out of time: all are losses.
                        let mut client = TcpStream::connect(addr).expect("a connection is taken");
                        client
                            .set_read_timeout(Some(Duration::from_secs(20)))
                            .unwrap();
                        std::io::Read::read_exact(&mut client, &mut [0]).expect("and answered");
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let workers: Vec<_> = group
            .iter()
            .map(|member| {
                let listener = socket2::SockRef::from(member);
                listener.set_nonblocking(true).unwrap();
                let done = &done;
                scope.spawn(move || {
                    let listener = socket2::SockRef::from(member);
                    let mut served = 0u64;
                    loop {
                        let last = done.load(Ordering::Relaxed);
                        match listener.accept() {
                            Ok((stream, _)) => {
                                stream.set_nonblocking(false).unwrap();
                                served += stream.send(b"!").unwrap() as u64;
                            }
                            Err(error) if error.kind() == ErrorKind::WouldBlock && last => {
                                break served;
                            }
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                                std::thread::yield_now()
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        // On a busy machine the changes would be over before the load had begun.
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut rounds = 0;
        while rounds < 1000 || sent.load(Ordering::Relaxed) < 500 {
            group.steer(&kinds[rounds % kinds.len()]).unwrap();
            std::thread::yield_now();
            rounds += 1;
            assert!(Instant::now() < deadline, "there is a load: {sent:?}");
        }
        done.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        let served: u64 = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum();
        assert_eq!(served, sent.load(Ordering::Relaxed));
    });
}

#[test]
fn what_does_not_fit_is_a_sentence() {
    let refused = |steering: Steering| {
        let error = Options::new()
            .steering(steering)
            .group("127.0.0.1:0", 3)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("cannot steer the group on 127.0.0.1:"),
            "{text}"
        );
        text.split(": ").nth(1).unwrap().to_owned()
    };
    assert_eq!(
        refused(Steering::Weights(vec![1, 2])),
        "there are 2 weights for 3 members"
    );
    assert_eq!(
        refused(Steering::Weights(vec![0, 0, 0])),
        "all weights are 0"
    );
    let ids = Steering::ConnectionIds(ConnectionIds::quic());
    assert_eq!(refused(ids), "TCP connections have no connection ids");
    let ret = Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    };
    assert_eq!(
        refused(Steering::Program(vec![])),
        "its program has 0 instructions, and the kernel takes 1 to 4096"
    );
    assert_eq!(
        refused(Steering::Program(vec![ret; 4097])),
        "its program has 4097 instructions, and the kernel takes 1 to 4096"
    );
    let bad = Instruction {
        code: 0xffff,
        jt: 0,
        jf: 0,
        k: 0,
    };
    assert_eq!(
        refused(Steering::Program(vec![bad])),
        "the kernel refuses the program, or the socket shares no port"
    );

    let held = Std::listen("127.0.0.1:0").unwrap();
    let joined = Options::new()
        .join(true)
        .group(util::addr_of(&held), 2)
        .unwrap();
    let error = joined.steer(&Steering::Weights(vec![1, 1])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(": the places of its members are not known: "),
        "{error}"
    );
    let error = joined.steer(&Steering::Cpu).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(": the places of its members are not known: "),
        "{error}"
    );
    assert!(joined.roster().places().is_empty());
    joined.steer(&Steering::Program(vec![ret])).unwrap();

    let error = Options::new()
        .steering(Steering::Cpu)
        .listen::<Std>("127.0.0.1:0")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot use Options::steering with Options::listen: it is for groups (Options::group, Options::packet_group)"
    );
    let group = Options::new().packet_group("127.0.0.1:0", 257).unwrap();
    let error = group
        .steer(&Steering::ConnectionIds(ConnectionIds::quic()))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("one byte does not number 257 members"),
        "{error}"
    );
    group
        .steer(&Steering::ConnectionIds(ConnectionIds::quic().two_bytes()))
        .unwrap();

    let roster = group.roster();
    let error = roster.close(999).unwrap_err();
    assert!(
        error.to_string().ends_with("it has no member 999"),
        "{error}"
    );
}

#[test]
fn weights_of_any_size_are_shares() {
    for weights in [vec![u32::MAX, u32::MAX], vec![1, 1], vec![u32::MAX; 2]] {
        let open = Open::<TcpListener>::new(
            &Options::new().steering(Steering::Weights(weights)),
            "127.0.0.1:",
            2,
        );
        let counts = open.counts(400, b"");
        assert!(chi_square(&counts[..2], &[1, 1]) < 35.0, "{counts:?}");
    }
    let lopsided = Steering::Weights(vec![u32::MAX, 0, u32::MAX, 1]);
    let open = Open::<UdpSocket>::new(&Options::new().steering(lopsided), "127.0.0.1:", 4);
    let counts = open.counts(400, b"");
    assert!(
        counts[0] > 100 && counts[1] == 0 && counts[2] > 100,
        "{counts:?}"
    );
}

/// A program is as long as the weights have changes, and not as the group has members.
#[test]
fn equal_weights_take_little_of_a_program() {
    const MANY: usize = 3000;
    let open = Open::<UdpSocket>::new(
        &Options::new().steering(Steering::Weights(vec![1; MANY])),
        "127.0.0.1:",
        MANY,
    );
    let mut weights = vec![0; MANY];
    weights[2500] = 1;
    open.steer(&Steering::Weights(weights));
    assert_eq!(open.taker(&UdpSocket::client(open.to), b"?"), 2500);
    let uneven = (0..MANY).map(|number| 1 + number as u32 % 2).collect();
    let error = open.roster.steer(&Steering::Weights(uneven)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(" instructions, and the kernel takes 1 to 4096"),
        "{error}"
    );
    // What was refused has changed nothing.
    assert_eq!(open.taker(&UdpSocket::client(open.to), b"?"), 2500);
}

/// MPTCP listeners share a port, and take no program.
#[test]
fn mptcp_is_not_steered() {
    use socket2::{Domain, Protocol, Type};
    let addr: SocketAddr = ([127, 0, 0, 1], 0).into();
    let Ok(socket) = socket2::Socket::new(
        Domain::IPV4,
        Type::STREAM,
        Some(Protocol::from(libc::IPPROTO_MPTCP)),
    ) else {
        return util::skip("that MPTCP is not steered (this kernel has none)");
    };
    socket.set_reuse_port(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(1).unwrap();
    let group = Group::<TcpListener>::adopt([socket]).unwrap();
    let error = group
        .steer(&Steering::Program(vec![Instruction {
            code: 6,
            jt: 0,
            jf: 0,
            k: 0,
        }]))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error
            .to_string()
            .contains("sockets of this protocol take no program, as MPTCP's"),
        "{error}"
    );
    group.steer(&Steering::Hash).unwrap();
}

/// Everything above is done without a privilege.
#[test]
fn no_privilege_is_needed() {
    util::as_user(65_534, "steering without a privilege", || {
        one_weight::<TcpListener>();
        one_weight::<UdpSocket>();
        weights_are_shares::<TcpListener>();
        weights_are_shares::<UdpSocket>();
        by_processor::<TcpListener>();
        by_processor::<UdpSocket>();
        a_program_of_ones_own::<TcpListener>();
        a_program_of_ones_own::<UdpSocket>();
        a_flow_of_datagrams_stays_with_its_member();
        connection_ids_choose_the_member();
        without_a_known_number_the_hash_decides();
        a_whole_group_is_steered();
        the_table_is_the_kernels();
        nothing_is_lost_while_steering_changes();
    });
}
