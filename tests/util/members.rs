//! Groups whose members come and go, for each kind of socket and of address.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use reuseport::{
    Error, Family, Group, Instruction, Member, Options, Roster, Socket, Steering, queue,
};

use crate::util;

/// A kind of socket, so that one body serves TCP and UDP.
pub trait Kind: Socket + Sync + 'static {
    const IS_TCP: bool;
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error>;
    /// A client with a port of its own, which TCP has connected.
    fn client(to: SocketAddr) -> Client;
    /// Takes one connection or datagram, if there is one.
    fn take(&self) -> bool;
    fn stop_blocking(&self);
}

#[derive(Debug)]
pub enum Client {
    Tcp(TcpStream),
    Udp(UdpSocket, SocketAddr),
}

impl Client {
    /// What TCP did when it connected.
    pub fn send(&self, payload: &[u8]) {
        if let Self::Udp(socket, to) = self {
            socket.send_to(payload, to).unwrap();
        }
    }
}

impl Kind for TcpListener {
    const IS_TCP: bool = true;
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
    const IS_TCP: bool = false;
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error> {
        options.packet_group(addr, n)
    }
    fn client(to: SocketAddr) -> Client {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Client::Udp(UdpSocket::bind((any, 0)).unwrap(), to)
    }
    fn take(&self) -> bool {
        self.recv(&mut [0; 2048]).is_ok()
    }
    fn stop_blocking(&self) {
        self.set_nonblocking(true).unwrap();
    }
}

/// Every kind of address that a group has.
pub const PLACES: [(Family, &str); 4] = [
    (Family::Any, "127.0.0.1:"),
    (Family::Any, "[::1]:"),
    (Family::Any, ":"),
    (Family::V4, ":"),
];

/// Where clients reach it: a group of both IP versions has two ways.
pub fn ways(addr: SocketAddr, family: Family) -> Vec<SocketAddr> {
    let ips: &[IpAddr] = match addr.ip() {
        ip if !ip.is_unspecified() => &[ip],
        IpAddr::V4(_) => &[Ipv4Addr::LOCALHOST.into()],
        IpAddr::V6(_) if family == Family::V6 => &[Ipv6Addr::LOCALHOST.into()],
        IpAddr::V6(_) => &[Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
    };
    ips.iter()
        .map(|&ip| SocketAddr::new(ip, addr.port()))
        .collect()
}

/// A group whose members can leave: each with its number, and the table beside them.
#[derive(Debug)]
pub struct Open<S: Socket> {
    pub ways: Vec<SocketAddr>,
    sent: Cell<usize>,
    pub members: Vec<(usize, S)>,
    pub roster: Roster<S>,
}

impl<S: Kind> Open<S> {
    pub fn new(options: &Options, (family, prefix): (Family, &str), n: usize) -> Self {
        let options = options.clone().family(family);
        let group = S::open(&options, &format!("{prefix}0"), n).unwrap();
        let mut open = Self {
            ways: ways(group.local_addr(), family),
            sent: Cell::new(0),
            members: Vec::new(),
            roster: group.roster(),
        };
        group.into_iter().for_each(|member| open.add(member));
        open
    }

    pub fn add(&mut self, member: Member<S>) {
        let number = member.number();
        let socket = member.into_std();
        socket.stop_blocking();
        self.members.push((number, socket));
    }

    pub fn join(&mut self) -> usize {
        let member = self.roster.join().unwrap();
        let number = member.number();
        self.add(member);
        number
    }

    pub fn get(&self, number: usize) -> &S {
        let member = self.members.iter().find(|(other, _)| *other == number);
        &member.unwrap().1
    }

    pub fn remove(&mut self, number: usize) -> S {
        let mut members = self.members.iter();
        let at = members.position(|(other, _)| *other == number).unwrap();
        self.members.swap_remove(at).1
    }

    /// Closes it as its owner would, and really: no child has a copy of it.
    pub fn drop_plainly(&mut self, number: usize) {
        let _closing = util::no_forks();
        drop(self.remove(number));
    }

    /// With an empty queue, and closed.
    pub fn leave(&mut self, number: usize) {
        util::assert_drained(self.roster.leave(number).unwrap().wait());
        drop(self.remove(number));
        util::until(|| self.roster.has_left(number).then_some(()));
        assert!(!self.places().contains(&number));
    }

    #[track_caller]
    pub fn places(&self) -> Vec<usize> {
        places(&self.roster)
    }

    /// Waits until the members stand so: one that has left is taken out some milliseconds after its
    /// owner has closed it.
    #[track_caller]
    pub fn wait_for_places(&self, expected: &[Option<usize>]) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let places = self.roster.places();
            if places == expected {
                return;
            }
            assert!(Instant::now() < limit, "{places:?}, and not {expected:?}");
            std::thread::yield_now();
        }
    }

    /// The ways to it in turn.
    pub fn way(&self) -> SocketAddr {
        let sent = self.sent.replace(self.sent.get() + 1);
        self.ways[sent % self.ways.len()]
    }

    /// The number of the member that gets what a new client sends, and only that one does.
    #[track_caller]
    pub fn taker(&self, payload: &[u8]) -> usize {
        let client = S::client(self.way());
        let takers = || self.members.iter().filter(|(_, socket)| socket.take());
        let taker = || takers().map(|(number, _)| *number).next();
        let (taker, sent) = util::until_sent(|| client.send(payload), taker);
        // What was sent twice may come twice.
        assert!(sent > 1 || takers().count() == 0, "one member has it");
        taker
    }

    /// How many of so many each number gets.
    #[track_caller]
    pub fn counts(&self, n: usize, payload: &[u8]) -> [usize; 16] {
        let mut counts = [0; 16];
        for _ in 0..n {
            counts[self.taker(payload)] += 1;
        }
        counts
    }
}

/// Who stands where, when none stands there any more that has left: each is taken out some
/// milliseconds after its owner has closed it.
#[track_caller]
pub fn places<S: Socket>(roster: &Roster<S>) -> Vec<usize> {
    util::until(|| roster.places().into_iter().collect())
}

/// `ret index`.
pub fn ret(index: usize) -> Vec<Instruction> {
    vec![Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: index as u32,
    }]
}

pub fn program(index: usize) -> Steering {
    Steering::Program(ret(index))
}

/// A grace period of the kernel, after which each processor has done with what it was at.
#[allow(unsafe_code, reason = "nothing safe calls membarrier(2)")]
pub fn grace_period() {
    // SAFETY: MEMBARRIER_CMD_GLOBAL takes three ints and touches no memory.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Is it undecided, for some grace periods? Two of them and an empty socket would decide it.
pub fn stays_pending(future: &mut (impl Future + Unpin)) -> bool {
    (0..6).all(|_| {
        grace_period();
        smol::block_on(smol::future::poll_once(&mut *future)).is_none()
    })
}

/// One kind of address, where any will do.
pub const HERE: (Family, &str) = (Family::Any, "127.0.0.1:");

/// How many connections wait in a listener.
pub fn len(listener: &impl std::os::fd::AsFd) -> usize {
    queue(listener).unwrap().waiting as usize
}

/// A group whose members have these weights.
pub fn weights(weights: &[u32]) -> Options {
    Options::new().steering(Steering::Weights(weights.to_vec()))
}

/// Listeners that get a connection only with its first byte: until then it is a half-open request,
/// which no queue shows (tcp(7), TCP_DEFER_ACCEPT).
pub fn deferred(options: Options) -> Options {
    options.before_bind(|fd| {
        let seconds: libc::c_int = 60;
        #[allow(
            unsafe_code,
            reason = "nothing safe sets this option on every listener"
        )]
        // SAFETY: the pointer and the length are those of `seconds`.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                (&raw const seconds).cast(),
                size_of_val(&seconds) as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    })
}

/// Each is waited for until it is done and accepted.
pub fn half_open_handshakes_are_waited_for() {
    for place in PLACES {
        let mut open = Open::<TcpListener>::new(&deferred(weights(&[0, 1])), place, 2);
        let mut clients: Vec<_> = (0..4)
            .map(|_| TcpStream::connect(open.way()).unwrap())
            .collect();
        assert_eq!(len(open.get(1)), 0, "{place:?}");
        let mut leaving = open.roster.leave(1).unwrap();
        assert!(stays_pending(&mut leaving), "{place:?}");
        for client in &mut clients {
            client.write_all(b"!").unwrap();
            util::until(|| (len(open.get(1)) == 1).then_some(()));
            assert!(stays_pending(&mut leaving), "{place:?}");
            let (mut server, _) = open.get(1).accept().unwrap();
            server.write_all(b"?").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        util::assert_drained(smol::block_on(leaving));
        drop(open.remove(1));
        assert_eq!(open.places(), [0]);
    }
}
