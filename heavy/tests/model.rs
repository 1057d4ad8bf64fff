//! The table against the kernel, whatever happens to a group in whatever order.

#![cfg(target_os = "linux")]

#[path = "../../tests/util/members.rs"]
mod members;
#[path = "../../tests/util/mod.rs"]
mod util;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use members::{HERE, Kind, Open, ret};
use proptest::prelude::*;
use proptest::sample::Index;
use reuseport::{ConnectionIds, Family, Leaving, Member, Options, Roster, Steering};

const MOST: usize = 8;

/// What can happen to a group; whom it happens to is one of those to whom it can.
#[derive(Clone, Debug)]
enum Event {
    Join,
    /// By the roster, whatever its state.
    Close(Index),
    /// By its owner, without a word.
    Drop(Index),
    LeaveAndSettle(Index),
    LeaveAndStay(Index),
    BeginToLeave(Index),
    /// One that has begun, and that its owner closes later.
    Hear(Index),
    /// One that has begun.
    Stay(Index),
    /// One that has begun, by its owner; and whether it is waited for all the same.
    Abandon(Index, bool),
    /// One that has left.
    DropLeft(Index),
}

fn event() -> impl Strategy<Value = Event> {
    let who = any::<Index>;
    prop_oneof![
        4 => Just(Event::Join),
        2 => who().prop_map(Event::Close),
        2 => who().prop_map(Event::Drop),
        2 => who().prop_map(Event::LeaveAndSettle),
        1 => who().prop_map(Event::LeaveAndStay),
        3 => who().prop_map(Event::BeginToLeave),
        2 => who().prop_map(Event::Hear),
        1 => who().prop_map(Event::Stay),
        1 => (who(), any::<bool>()).prop_map(|(who, waits)| Event::Abandon(who, waits)),
        2 => who().prop_map(Event::DropLeft),
    ]
}

/// `ret index` for the group of a socket, whoever is leaving.
#[allow(unsafe_code, reason = "nothing safe attaches a program")]
fn attach(fd: impl AsFd, index: usize) {
    let program = ret(index);
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: an Instruction has the fields of a sock_filter in its order, the kernel only reads
    // them, and the length is that of `program`.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// What the crate should know of a group.
struct Model<S: Kind> {
    open: Open<S>,
    steering: Steering,
    places: Vec<Place>,
    leaving: Vec<(usize, Leaving)>,
    /// Those that have left, while their owners have them open.
    left: Vec<(Place, S)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Of(usize),
    /// Of one that has left: each is another.
    Left(RawFd),
}

impl<S: Kind> Model<S> {
    fn new(steering: Steering, place: (Family, &str), n: usize) -> Self {
        let options = Options::new().steering(steering.clone());
        Self {
            open: Open::new(&options, place, n),
            steering,
            places: (0..n).map(Place::Of).collect(),
            leaving: Vec::new(),
            left: Vec::new(),
        }
    }

    fn is_leaving(&self, number: usize) -> bool {
        self.leaving.iter().any(|(other, _)| *other == number)
    }

    /// Whether a member keeps its number until its owner closes it, because flows are bound to it.
    fn keeps_flows(&self) -> bool {
        matches!(self.steering, Steering::ConnectionIds(_))
    }

    fn has_left(&self, number: usize) -> bool {
        self.left
            .iter()
            .any(|(place, _)| *place == Place::Of(number))
    }

    fn numbers(&self) -> Vec<usize> {
        let number = |place: &Place| match place {
            Place::Of(number) => Some(*number),
            Place::Left(_) => None,
        };
        self.places.iter().filter_map(number).collect()
    }

    fn stayers(&self) -> Vec<usize> {
        let mut numbers = self.numbers();
        numbers.retain(|&number| !self.is_leaving(number) && !self.has_left(number));
        numbers
    }

    /// kernel: __reuseport_detach_sock puts the last one into the place.
    fn strike(&mut self, place: Place) {
        let at = self.places.iter().position(|&other| other == place);
        self.places.swap_remove(at.unwrap());
    }

    fn happens(&mut self, event: &Event) {
        let stayers = self.stayers();
        // There are two, so that one of them can go.
        let stayer = |who: &Index| (stayers.len() > 1).then(|| *who.get(&stayers));
        match event {
            Event::Join if self.places.len() < MOST => {
                let numbers = self.numbers();
                let free = (0..).find(|number| !numbers.contains(number)).unwrap();
                assert_eq!(self.open.join(), free);
                self.places.push(Place::Of(free));
            }
            Event::Join => {}
            Event::Close(who) => {
                let number = *who.get(&self.numbers());
                if stayers != [number] {
                    self.open.roster.close(number).unwrap();
                    assert!(self.open.roster.has_left(number));
                    self.strike(Place::Of(number));
                    match self
                        .left
                        .iter()
                        .position(|(place, _)| *place == Place::Of(number))
                    {
                        Some(left) => drop(self.left.swap_remove(left)),
                        None => drop(self.open.remove(number)),
                    }
                    let closed = self.leaving.iter().position(|(other, _)| *other == number);
                    if let Some(closed) = closed {
                        let (_, leaving) = self.leaving.swap_remove(closed);
                        assert!(leaving.wait().unwrap().is_empty());
                    }
                }
            }
            Event::Drop(who) => {
                if let Some(number) = stayer(who) {
                    self.open.drop_plainly(number);
                    self.strike(Place::Of(number));
                }
            }
            Event::LeaveAndSettle(who) => {
                if let Some(number) = stayer(who) {
                    let leaving = self.open.roster.leave(number).unwrap();
                    assert!(leaving.wait().unwrap().is_empty());
                    drop(self.open.remove(number));
                    self.strike(Place::Of(number));
                }
            }
            Event::LeaveAndStay(who) => {
                if let Some(number) = stayer(who) {
                    drop(self.open.roster.leave(number).unwrap());
                }
            }
            Event::BeginToLeave(who) => {
                if let Some(number) = stayer(who) {
                    let leaving = self.open.roster.leave(number).unwrap();
                    self.leaving.push((number, leaving));
                }
            }
            Event::Hear(who) if !self.leaving.is_empty() => {
                let at = who.index(self.leaving.len());
                let (number, leaving) = self.leaving.swap_remove(at);
                assert!(leaving.wait().unwrap().is_empty());
                let socket = self.open.remove(number);
                if self.keeps_flows() {
                    self.left.push((Place::Of(number), socket));
                } else {
                    let left = Place::Left(socket.as_fd().as_raw_fd());
                    let at = self
                        .places
                        .iter()
                        .position(|place| *place == Place::Of(number));
                    self.places[at.unwrap()] = left;
                    self.left.push((left, socket));
                }
            }
            Event::Stay(who) if !self.leaving.is_empty() => {
                let at = who.index(self.leaving.len());
                drop(self.leaving.swap_remove(at));
            }
            Event::Abandon(who, waits) if !self.leaving.is_empty() => {
                let at = who.index(self.leaving.len());
                let (number, leaving) = self.leaving.swap_remove(at);
                self.open.drop_plainly(number);
                match waits {
                    true => assert!(leaving.wait().unwrap().is_empty()),
                    false => drop(leaving),
                }
                self.strike(Place::Of(number));
            }
            Event::DropLeft(who) if !self.left.is_empty() => {
                let (left, socket) = self.left.swap_remove(who.index(self.left.len()));
                let _closing = util::no_forks();
                drop(socket);
                self.strike(left);
            }
            Event::Hear(_) | Event::Stay(_) | Event::Abandon(..) | Event::DropLeft(_) => {}
        }
    }

    fn check_places(&self) {
        let number = |place: &Place| match place {
            Place::Of(number) => Some(*number),
            Place::Left(_) => None,
        };
        let places: Vec<_> = self.places.iter().map(number).collect();
        self.open.wait_for_places(&places);
    }

    /// Asks the roster, and then the kernel, with one connection or datagram for each place.
    fn check(&self) {
        self.check_places();
        let any = &self.open.members[0].1;
        for (place, what) in self.places.iter().enumerate() {
            // One that has left hears nothing, also when a program names it.
            let Place::Of(number) = *what else { continue };
            assert!(!self.open.roster.has_left(number), "{number} is there");
            attach(any, place);
            match self.left.iter().find(|(left, _)| left == what) {
                Some((_, socket)) => {
                    let client = S::client(self.open.way());
                    let take = || socket.take().then_some(());
                    util::until_sent(|| client.send(b"?"), take);
                }
                None => assert_eq!(
                    self.open.taker(b"?"),
                    number,
                    "place {place} of {:?}",
                    self.places
                ),
            }
        }
        self.open.roster.steer(&self.steering).unwrap();
        for _ in 0..2 * self.places.len() {
            let taker = self.open.taker(b"?");
            assert!(!self.is_leaving(taker), "{taker} of {:?}", self.places);
        }
        assert!(self.left.iter().all(|(_, socket)| !socket.take()));
    }
}

fn whatever_happens<S: Kind>(steering: &Steering, place: (Family, &str)) {
    let config = ProptestConfig {
        cases: 32,
        failure_persistence: None,
        max_shrink_iters: 64,
        ..ProptestConfig::default()
    };
    let events = (1..6_usize, prop::collection::vec(event(), 4..=12));
    let result = proptest::test_runner::TestRunner::new(config).run(&events, |(n, events)| {
        let mut model = Model::<S>::new(steering.clone(), place, n);
        model.check();
        for event in &events {
            model.happens(event);
            model.check();
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn ids() -> Steering {
    Steering::ConnectionIds(ConnectionIds::at(0))
}

#[test]
fn tcp_ipv4() {
    whatever_happens::<TcpListener>(&Steering::Hash, HERE);
}

#[test]
fn tcp_ipv6() {
    whatever_happens::<TcpListener>(&Steering::Hash, (Family::Any, "[::1]:"));
}

#[test]
fn tcp_both() {
    whatever_happens::<TcpListener>(&Steering::Hash, (Family::Any, ":"));
}

#[test]
fn udp_ipv4() {
    whatever_happens::<UdpSocket>(&Steering::Hash, HERE);
}

#[test]
fn udp_ipv6() {
    whatever_happens::<UdpSocket>(&Steering::Hash, (Family::Any, "[::1]:"));
}

#[test]
fn udp_both() {
    whatever_happens::<UdpSocket>(&Steering::Hash, (Family::Any, ":"));
}

#[test]
fn udp_with_connection_ids() {
    whatever_happens::<UdpSocket>(&ids(), HERE);
}

/// What was kept open for the first departure does not look as if its owner had it open.
#[test]
fn who_stayed_leaves_later() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 1);
    for _ in 0..20 {
        let number = open.join();
        drop(open.roster.leave(number).unwrap());
        drop(open.roster.leave(number).unwrap());
        open.leave(number);
        open.wait_for_places(&[Some(0)]);
    }
}

/// A value of one of the tables in /proc/net, of two lines for each protocol: names and values.
fn counter(table: &str, protocol: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    let mut lines = text
        .lines()
        .filter(|line| line.split(':').next() == Some(protocol));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|other| other == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// A listener that closes is out of its group before it is out of the kernel's chain of listeners,
/// where a SYN meets the newest of IPv4 first, and of IPv6 the oldest (kernel: __inet_hash): the one
/// that leaves here each time.
fn the_first_of_the_chain_leaves(place: (Family, &str)) {
    const ROUNDS: usize = 200;
    util::in_namespace("that the first of a chain leaves", || {
        let retransmitted = || {
            counter("snmp", "Tcp", "RetransSegs") + counter("netstat", "TcpExt", "TCPSynRetrans")
        };
        let (family, prefix) = place;
        let options = Options::new().family(family);
        let group = options.group(format!("{prefix}0"), 2).unwrap();
        let to = members::ways(group.local_addr(), family)[0];
        let roster: Roster<TcpListener> = group.roster();
        group.into_iter().for_each(serve);
        let done = Arc::new(AtomicBool::new(false));
        let client = connect_on_and_on(to, &done);
        let mut oldest = vec![0, 1];
        for _ in 0..ROUNDS {
            let member = roster.join().unwrap();
            oldest.push(member.number());
            serve(member);
            let first = match to {
                SocketAddr::V4(_) => oldest.pop().unwrap(),
                SocketAddr::V6(_) => oldest.remove(0),
            };
            let leaving = roster.leave(first).unwrap();
            assert!(leaving.wait().unwrap().is_empty());
        }
        done.store(true, Ordering::Relaxed);
        let connections = client.join().unwrap();
        assert!(connections > ROUNDS, "there is a load: {connections}");
        assert_eq!(retransmitted(), 0, "of {connections} connections");
    });
}

/// Sends a byte to whoever comes, until the listener has left.
fn serve(member: Member<TcpListener>) {
    std::thread::spawn(move || {
        let listener = member.into_std();
        while let Ok((mut stream, _)) = listener.accept() {
            stream.write_all(b"!").unwrap();
        }
    });
}

fn connect_on_and_on(to: SocketAddr, done: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let done = Arc::clone(done);
    std::thread::spawn(move || {
        let mut connections = 0;
        while !done.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(to).expect("it is taken");
            let limit = Some(Duration::from_secs(20));
            stream.set_read_timeout(limit).unwrap();
            stream.read_exact(&mut [0]).expect("and answered");
            // So that no port is used up by a connection that has ended.
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            connections += 1;
        }
        connections
    })
}

#[test]
fn the_newest_of_ipv4_leaves() {
    the_first_of_the_chain_leaves(HERE);
}

#[test]
fn the_oldest_of_ipv6_leaves() {
    the_first_of_the_chain_leaves((Family::Any, "[::1]:"));
}
