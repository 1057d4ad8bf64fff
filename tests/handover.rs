//! Groups that go to another process over a UNIX stream, while connections come.

#![cfg(target_os = "linux")]

#[path = "util/load.rs"]
mod load;
#[path = "util/serve.rs"]
mod serve;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use load::{Counters, Load};
use reuseport::{
    Error, Family, Group, Instruction, Member, Options, ReusePort, Roster, Socket, Std, Steering,
    Tokio,
};
use serve::{Stop, Tally, serve_member};
use socket2::SockRef;
use util::{Runtime, addr_of, as_user, in_child, in_namespace, is_child};

const NOBODY: u32 = 65534;

const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of socket, so that one body serves TCP and UDP.
trait Kind: Socket + Sync {
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error>;
    /// Sends one request, and keeps what must live until it is taken.
    fn request(to: SocketAddr) -> OwnedFd;
    /// Takes one without waiting, if there is one.
    fn take(&self) -> bool;
}

impl Kind for TcpListener {
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error> {
        options.group(addr, n)
    }

    fn request(to: SocketAddr) -> OwnedFd {
        TcpStream::connect(to).unwrap().into()
    }

    fn take(&self) -> bool {
        self.set_nonblocking(true).unwrap();
        self.accept().is_ok()
    }
}

impl Kind for UdpSocket {
    fn open(options: &Options, addr: &str, n: usize) -> Result<Group<Self>, Error> {
        options.packet_group(addr, n)
    }

    fn request(to: SocketAddr) -> OwnedFd {
        let ip = if to.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let socket = UdpSocket::bind(ip).unwrap();
        socket.send_to(b"request", to).unwrap();
        socket.into()
    }

    fn take(&self) -> bool {
        self.set_nonblocking(true).unwrap();
        self.recv_from(&mut [0; 16]).is_ok()
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    for end in [&a, &b] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (a, b)
}

/// Hands a group over within this process.
fn pass<S: Kind>(roster: &Roster<S>) -> (Result<(), Error>, Result<Group<S>, Error>) {
    let (a, b) = pair();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = roster.hand_over(&a);
            drop(a);
            sent
        });
        let received = Group::receive(&b);
        drop(b);
        (sender.join().unwrap(), received)
    })
}

fn only(place: usize) -> Steering {
    Steering::Program(vec![Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: place as u32,
    }])
}

/// Where a client finds a group on any address.
fn to(addr: SocketAddr) -> SocketAddr {
    match addr.ip().is_unspecified() {
        true => ([127, 0, 0, 1], addr.port()).into(),
        false => addr,
    }
}

/// Each member gets what is steered to its place, and nothing else.
fn assert_steered<S: Kind>(roster: &Roster<S>, members: &[Member<S>], addr: SocketAddr) {
    let places = roster.places();
    assert_eq!(places.len(), members.len());
    for (place, number) in places.iter().enumerate() {
        roster.steer(&only(place)).unwrap();
        let _client = S::request(to(addr));
        for member in members {
            let socket = S::from(member.as_fd().try_clone_to_owned().unwrap());
            assert_eq!(
                socket.take(),
                member.index() == *number,
                "{place} of {places:?}"
            );
        }
    }
    roster.steer(&Steering::Hash).unwrap();
}

fn passes<S: Kind>(options: &Options, addr: &str, n: usize) {
    let group = S::open(options, addr, n).unwrap();
    let (roster, addr) = (group.roster(), group.local_addr());
    // What is queued before is the receiver's.
    let clients: Vec<_> = (0..20).map(|_| S::request(to(addr))).collect();
    let mut olds: Vec<_> = group.into_iter().collect();
    let mut places: Vec<_> = (0..n).collect();
    if n > 2 {
        // Out of the order of opening: the last is in the second place.
        let second = olds.remove(1);
        while S::from(second.as_fd().try_clone_to_owned().unwrap()).take() {}
        roster.close(1, second).unwrap();
        places.swap_remove(1);
    }
    let mut left = 0;
    let (sent, received) = pass(&roster);
    sent.unwrap();
    let received = received.unwrap();
    assert_eq!(
        (received.local_addr(), received.len()),
        (addr, places.len())
    );
    let news = received.roster();
    assert_eq!(news.places(), places);
    let mut numbers = places.clone();
    numbers.sort_unstable();
    assert_eq!(
        received.iter().map(Member::index).collect::<Vec<_>>(),
        numbers
    );

    let why = format!("cannot steer the group on {addr}: another process has taken it over");
    let errors = [
        roster.steer(&Steering::Hash).unwrap_err(),
        roster.join().map(drop).unwrap_err(),
        roster.leave(0).map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::InvalidInput, why.clone())
        );
    }
    let (again, _) = pass(&roster);
    assert_eq!(again.unwrap_err().to_string(), why);
    assert!(roster.places().is_empty() && roster.has_left(0));

    // Half of them by closing, half by dropping without a word.
    for (at, old) in olds.into_iter().enumerate() {
        if at % 2 == 0 {
            roster.close(old.index(), old).unwrap();
        }
    }
    let members: Vec<_> = received.into_iter().collect();
    for member in &members {
        let socket = S::from(member.as_fd().try_clone_to_owned().unwrap());
        left += std::iter::from_fn(|| socket.take().then_some(())).count();
    }
    if n <= 2 {
        assert_eq!(left, clients.len());
    }
    if n <= 8 {
        assert_steered(&news, &members, addr);
    }
    let joined = news.join().unwrap();
    assert_eq!(
        joined.index(),
        (0..).find(|number| !places.contains(number)).unwrap()
    );
    drop((joined, members));
    // Nobody has the port any more; but a child that calls exec has them an instant longer, also
    // after its parent has gone on (kernel: begin_new_exec).
    let addr = addr.to_string();
    drop(util::until(|| S::open(&Options::new(), &addr, 1).ok()));
}

#[test]
fn a_group_arrives_with_its_numbers_and_places() {
    // Where nobody else gets a port that is given back.
    in_namespace("groups that are handed over", || {
        let options = Options::new();
        for n in [1, 2, 4, 300] {
            passes::<TcpListener>(&options, "127.0.0.1:0", n);
            passes::<UdpSocket>(&options, "127.0.0.1:0", n);
        }
        for addr in ["[::1]:0", ":0", "0.0.0.0:0"] {
            passes::<TcpListener>(&options, addr, 4);
            passes::<UdpSocket>(&options, addr, 4);
        }
        let v6 = options.family(Family::V6);
        let group = v6.group(":0", 2).unwrap();
        let (sent, received) = pass(&group.roster());
        sent.unwrap();
        let joined = received.unwrap().roster().join().unwrap();
        assert!(SockRef::from(&joined).only_v6().unwrap());
    });
}

/// In a process of its own, because of the limit; as a user whom it binds.
#[test]
fn a_thousand_members_arrive() {
    const TEST: &str = "a_thousand_members_arrive";
    if !is_child(TEST) {
        return in_child(TEST);
    }
    let (_, most) = raise_limit();
    if most < 4_096 {
        return util::skip("a thousand members (RLIMIT_NOFILE)");
    }
    as_user(NOBODY, "a thousand members of another user", || {
        let before = descriptors_of_nobody();
        let group = Options::new().group("127.0.0.1:0", 1_000).unwrap();
        let (sent, received) = pass(&group.roster());
        sent.unwrap();
        let received = received.unwrap();
        assert_eq!(received.len(), 1_000);
        assert_eq!(received.roster().places(), (0..1_000).collect::<Vec<_>>());
        drop((group, received));
        assert_eq!(descriptors_of_nobody(), before);
    });
}

/// As many as a process of this user may have.
fn raise_limit() -> (u64, u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    (limit.current.unwrap_or(most), most)
}

/// How many descriptors this process has, told by the lowest that is free above the others: /proc
/// shows another user's none.
fn descriptors_of_nobody() -> usize {
    (0..5_000)
        .filter(|&number| {
            // SAFETY: F_GETFD touches no memory, and does no harm to any number.
            #[allow(unsafe_code, reason = "no safe API asks for a number")]
            let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
            flags >= 0
        })
        .count()
}

/// Serves members until each is told.
struct Servers {
    members: Vec<(Stop, Arc<Tally>, JoinHandle<()>)>,
}

impl Servers {
    fn start<R: Runtime>(group: Group<TcpListener>) -> Self {
        let members = group.into_iter().map(|member| {
            let (stop, tally) = (Stop::new(), Arc::new(Tally::default()));
            let (told, counts) = (stop.clone(), tally.clone());
            let (attached, serves) = mpsc::channel();
            let thread = thread::spawn(move || {
                R::block_on(async {
                    let listener = member.attach::<R>().unwrap();
                    attached.send(()).unwrap();
                    serve_member::<R>(listener, told.stopped(), || false, &counts).await;
                });
            });
            serves.recv().unwrap();
            (stop, tally, thread)
        });
        Self {
            members: members.collect(),
        }
    }

    fn accepted(&self) -> usize {
        self.members
            .iter()
            .map(|(_, tally, _)| tally.accepted())
            .sum()
    }

    fn stop(self) -> usize {
        self.members.iter().for_each(|(stop, ..)| stop.stop());
        let ended = self.members.into_iter().map(|(_, tally, thread)| {
            thread.join().unwrap();
            assert_eq!((tally.accept_errors(), tally.broken()), (0, 0), "{tally:?}");
            tally.accepted()
        });
        ended.sum()
    }
}

/// Both sides accept, until the sender's stop; the receiver's set the mode of both.
#[test]
fn nothing_is_lost_under_load() {
    in_namespace("a group is handed over under load", || {
        let before = Counters::read();
        let group = Options::new().group("127.0.0.1:0", 4).unwrap();
        let (mut roster, addr) = (group.roster(), group.local_addr());
        let mut servers = Servers::start::<Tokio>(group);
        let load = Load {
            to: vec![addr],
            connections: 5_000,
            per_second: 5_000,
            at_most: 50,
            timeout: PATIENCE,
        };
        let load = load.start();
        let mut accepted = 0;
        let mut passes = 0;
        while !load.finished() {
            let (sent, received) = pass(&roster);
            sent.unwrap();
            let received = received.unwrap();
            for member in &received {
                // Until it enters its own runtime, the other side's goes on.
                assert!(SockRef::from(member).nonblocking().unwrap());
            }
            let (old, ended) = (servers.accepted(), load.ended());
            util::until(|| (load.ended() > ended + 100 || load.finished()).then_some(()));
            assert!(servers.accepted() > old || load.finished());
            roster = received.roster();
            let new = Servers::start::<Tokio>(received);
            accepted += std::mem::replace(&mut servers, new).stop();
            passes += 1;
        }
        let outcomes = load.join();
        accepted += servers.stop();
        let counted = Counters::read().since(&before);
        println!("{passes} times: {outcomes}; {counted}");
        assert_eq!(
            (outcomes.lost(), counted.estab_resets),
            (0, 0),
            "{outcomes}; {counted}"
        );
        assert_eq!(accepted, outcomes.answered);
        assert!(passes > 1);
    });
}

#[test]
fn several_groups_go_over_one_stream() {
    let tcp = Options::new().group("127.0.0.1:0", 3).unwrap();
    let udp = Options::new().packet_group("[::1]:0", 2).unwrap();
    let (a, b) = pair();
    thread::scope(|scope| {
        scope.spawn(|| {
            tcp.roster().hand_over(&a).unwrap();
            udp.roster().hand_over(&a).unwrap();
        });
        let first: Group<TcpListener> = Group::receive(&b).unwrap();
        let second: Group<UdpSocket> = Group::receive(&b).unwrap();
        assert_eq!((first.local_addr(), first.len()), (tcp.local_addr(), 3));
        assert_eq!((second.local_addr(), second.len()), (udp.local_addr(), 2));
    });
}

/// What is refused changes nothing: the sender steers its group as before.
#[track_caller]
fn goes_on(group: &Group<TcpListener>) {
    group.roster().steer(&only(0)).unwrap();
    let _client = TcpStream::connect(group.local_addr()).unwrap();
    assert!(
        group
            .iter()
            .next()
            .unwrap()
            .as_fd()
            .try_clone_to_owned()
            .map(TcpListener::from)
            .unwrap()
            .take()
    );
    group.roster().steer(&Steering::Hash).unwrap();
    assert_eq!(group.roster().places().len(), group.len());
}

#[test]
fn who_dies_midway_changes_nothing() {
    let group = Options::new().group("127.0.0.1:0", 300).unwrap();
    let addr = group.local_addr();
    let roster = group.roster();
    let what = format!("cannot hand the group on {addr} over: ");
    // Gone before, and gone before it has all: the answer to the first portion never comes.
    let (a, b) = pair();
    drop(b);
    let error = roster.hand_over(&a).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().starts_with(&what)),
        (ErrorKind::BrokenPipe, true),
        "{error}"
    );
    goes_on(&group);
    let (a, mut b) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            b.read_exact(&mut [0; 8]).unwrap();
        });
        let error = roster.hand_over(&a).unwrap_err();
        let kinds = [ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof];
        assert!(kinds.contains(&error.kind()), "{error}");
    });
    goes_on(&group);
    // It never answers.
    let (a, _b) = pair();
    a.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(
        roster.hand_over(&a).unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    goes_on(&group);
    // The sender dies.
    let (a, b) = pair();
    drop(a);
    let error = Group::<TcpListener>::receive(&b).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(
        error.to_string().starts_with("cannot receive a group: "),
        "{error}"
    );
}

#[test]
fn what_is_no_group_is_refused() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let addr = group.local_addr();
    // Another kind: the sender goes on.
    let (a, b) = pair();
    let refused = thread::scope(|scope| {
        scope.spawn(|| {
            let error = group.roster().hand_over(&a).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
        });
        let b = b;
        Group::<UdpSocket>::receive(&b).unwrap_err()
    });
    assert_eq!(
        refused.to_string(),
        "cannot take the members of a group over: they are TCP sockets, and UDP was meant"
    );
    goes_on(&group);

    let frame =
        |payload: &[u8]| [&(payload.len() as u32).to_le_bytes()[..], &[0; 4], payload].concat();
    let cases: [(&[u8], &str); 5] = [
        (b"HTTP/1.1 400", "the other process speaks another language"),
        (b"reuseport", "the other process speaks another language"),
        (
            b"reuseport\x02\x01",
            "the other process speaks version 2 of the hand-over, and this one 1",
        ),
        (
            b"reuseport\x01\x00",
            "the other process said Hello, and Members was expected",
        ),
        (
            b"reuseport\x01\xff",
            "the other process said something unknown (255)",
        ),
    ];
    for (payload, why) in cases {
        let (mut a, b) = pair();
        a.write_all(&frame(payload)).unwrap();
        let error = Group::<TcpListener>::receive(&b).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(error.to_string(), format!("cannot receive a group: {why}"));
    }
    for body in [
        &b""[..],
        &[0],
        &[2, 0, 0, 0, 0],
        &[0, 1, 0, 0, 0, 9],
        &[0, 1, 0, 0, 0, 9, 0, 0, 0],
    ] {
        let (mut a, b) = pair();
        a.write_all(&frame(&[b"reuseport\x01\x01", body].concat()))
            .unwrap();
        let error = Group::<TcpListener>::receive(&b).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(
            error.to_string(),
            "cannot receive a group: the message is broken"
        );
    }
    let (mut a, b) = pair();
    a.write_all(&frame(b"reuseport\x01\x01\x00\x01\x00\x00\x00"))
        .unwrap();
    let error = Group::<TcpListener>::receive(&b).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot take the members of a group over: there is none"
    );

    let what = format!("cannot hand the group on {addr} over");
    let (a, b) = pair();
    for end in [&a, &b] {
        end.set_nonblocking(true).unwrap();
    }
    let error = group.roster().hand_over(&a).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{what}: the stream does not block")
    );
    let error = Group::<TcpListener>::receive(&b).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot receive a group: the stream does not block"
    );

    let leaving = group.roster().leave(1).unwrap();
    let (a, _b) = pair();
    let error = group.roster().hand_over(&a).unwrap_err();
    assert_eq!(error.to_string(), format!("{what}: a member is leaving"));
    drop(leaving);
    goes_on(&group);

    let joined = Options::new().join(true).group(addr, 1).unwrap();
    let error = joined.roster().hand_over(&a).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot steer the group on {addr}: it was adopted or joined others, so that nobody knows its members' places"
        )
    );
}

#[test]
fn another_user_gets_nothing() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let me = rustix::process::getuid().as_raw();
    // The credentials of a pair are those of whom has made it.
    let Some((a, b)) = as_user(NOBODY, "a pair of another user", pair) else {
        return;
    };
    let why = format!("the other process is user {NOBODY}'s, and this one user {me}'s");
    let error = group.roster().hand_over(&a).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot hand the group on {} over: {why}",
            group.local_addr()
        )
    );
    let error = Group::<TcpListener>::receive(&b).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), format!("cannot receive a group: {why}"));
    goes_on(&group);
}

/// In a process of its own, which counts its descriptors.
#[test]
fn nothing_leaks() {
    if !is_child("nothing_leaks") {
        return in_child("nothing_leaks");
    }
    let group = Options::new().group("127.0.0.1:0", 300).unwrap();
    let roster = group.roster();
    let before = util::descriptors();
    for _ in 0..10 {
        let (a, mut b) = pair();
        thread::scope(|scope| {
            scope.spawn(move || b.read_exact(&mut [0; 8]).unwrap());
            roster.hand_over(&a).unwrap_err();
        });
    }
    let (a, b) = pair();
    thread::scope(|scope| {
        scope.spawn(|| roster.hand_over(&a).unwrap_err());
        let b = b;
        Group::<UdpSocket>::receive(&b).unwrap_err();
    });
    drop(a);
    assert_eq!(util::descriptors(), before);
    let (sent, received) = pass(&roster);
    sent.unwrap();
    assert_eq!(util::descriptors(), before + 300);
    // Unclaimed members are closed with the group.
    drop(received.unwrap());
    assert_eq!(util::descriptors(), before);
    let addr = group.local_addr();
    drop(group);
    assert_eq!(
        TcpStream::connect(addr).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

/// Set in the process that receives; the stream is its standard input.
const RECEIVER: &str = "REUSEPORT_TEST_RECEIVER";

/// Not a test: the receiver of the next one, in a process of its own.
#[test]
fn receiver() {
    if std::env::var_os(RECEIVER).is_none() {
        return;
    }
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let group: Group<TcpListener> = Group::receive(&stream).unwrap();
    let places = group.roster().places();
    assert_eq!(places.len(), group.len());
    for member in group {
        thread::spawn(move || {
            let listener = member.attach::<Std>().unwrap();
            while let Ok((mut client, _)) = listener.accept() {
                let mut byte = [0];
                if client.read(&mut byte).is_ok() {
                    let _ = client.write_all(b"r");
                }
            }
        });
    }
    (&stream).write_all(b"serves").unwrap();
    // Until the sender has closed its end.
    let _ = (&stream).read(&mut [0]);
    std::process::exit(0);
}

#[test]
fn another_process_receives() {
    let group = Options::new().group("127.0.0.1:0", 4).unwrap();
    let (roster, addr) = (group.roster(), group.local_addr());
    let (mut a, b) = pair();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "receiver", "--nocapture"])
        .env(RECEIVER, "yes")
        .stdin(OwnedFd::from(b))
        .stdout(Stdio::null());
    let mut child = util::spawn(&mut command).unwrap();
    drop(command);
    roster.hand_over(&a).unwrap();
    let mut said = [0; 6];
    a.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"serves");
    // A child that has not yet called exec would have its share of the connections.
    let alone = util::no_forks();
    drop(group);
    drop(alone);
    for _ in 0..100 {
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(b"?").unwrap();
        let mut answer = [0];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"r");
    }
    drop(a);
    assert!(child.wait().unwrap().success());
    assert_eq!(
        TcpStream::connect(addr).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    let _ = addr_of(&Std::listen(addr).unwrap());
}
