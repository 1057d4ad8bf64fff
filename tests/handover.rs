//! Groups that go to another process over a UNIX stream, while connections come.

#![cfg(target_os = "linux")]

#[path = "util/handover.rs"]
mod handover;
#[path = "util/load.rs"]
mod load;
#[path = "util/members.rs"]
mod members;
#[path = "util/serve.rs"]
mod serve;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use handover::{assert_steered, pair, pass, take};
use load::{Counters, Load};
use members::{Kind, ways};
use reuseport::{Family, Group, Member, Options, ReusePort, Std, Steering, Tokio};
use serve::{Stop, Tally, serve_member};
use socket2::SockRef;
use util::{PATIENCE, Runtime, addr_of, as_user, in_child, in_namespace, is_child};

const NOBODY: u32 = 65534;

fn passes<S: Kind>(options: &Options, addr: &str, n: usize) {
    let group = S::open(options, addr, n).unwrap();
    let (roster, addr) = (group.roster(), group.local_addr());
    let to = ways(addr, Family::Any)[0];
    // What is queued before is the receiver's.
    let clients: Vec<_> = (0..20).map(|_| S::client(to)).collect();
    clients.iter().for_each(|client| client.send(b"?"));
    let mut olds: Vec<_> = group.into_iter().collect();
    let mut places: Vec<_> = (0..n).collect();
    if n > 2 {
        // Out of the order of opening: the last is in the second place.
        roster.close(1).unwrap();
        drop(olds.remove(1));
        places.swap_remove(1);
    }
    let (sent, received) = pass::<S, S>(&roster);
    sent.unwrap();
    let received = received.unwrap();
    assert_eq!(
        (received.local_addr(), received.len()),
        (addr, places.len())
    );
    let news = received.roster();
    assert_eq!(members::places(&news), places);
    let mut numbers = places.clone();
    numbers.sort_unstable();
    assert_eq!(
        received.iter().map(Member::number).collect::<Vec<_>>(),
        numbers
    );

    let why = format!("cannot steer the group on {addr}: another process has taken it over");
    let errors = [
        roster.steer(&Steering::Hash).unwrap_err(),
        roster.join().map(drop).unwrap_err(),
        roster.close(0).unwrap_err(),
        roster.leave(0).map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::InvalidInput, why.clone())
        );
    }
    let (again, refused) = pass::<S, S>(&roster);
    assert_eq!(again.unwrap_err().to_string(), why);
    // The other side is told why nothing comes.
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.to_string()),
        (
            ErrorKind::ConnectionRefused,
            format!("cannot receive a group: the other process refuses: {why}")
        )
    );
    assert!(roster.places().is_empty() && roster.has_left(0));

    drop(olds);
    let members: Vec<_> = received.into_iter().collect();
    if n <= 2 {
        let mut left = 0;
        util::until(|| {
            left += members.iter().filter(|member| take(member)).count();
            (left == clients.len()).then_some(())
        });
    } else {
        for member in &members {
            while take(member) {}
        }
    }
    if n <= 8 {
        assert_steered(&news, &members, to);
    }
    let joined = news.join().unwrap();
    assert_eq!(
        joined.number(),
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
        let (sent, received) = pass::<_, TcpListener>(&group.roster());
        sent.unwrap();
        let joined = received.unwrap().roster().join().unwrap();
        assert!(SockRef::from(&joined).only_v6().unwrap());
    });
}

/// Nothing tells the receiver more than the sender knew.
#[test]
fn a_group_whose_places_are_not_known_arrives_without() {
    let group = Options::new().group("127.0.0.1:0", 3).unwrap();
    let group = Group::<TcpListener>::adopt(group).unwrap();
    let (sent, received) = pass::<_, TcpListener>(&group.roster());
    sent.unwrap();
    let received = received.unwrap();
    assert_eq!(received.len(), 3);
    assert!(received.roster().places().is_empty());
    let weights = Steering::Weights(vec![1; 3]);
    let error = received.steer(&weights).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the places of its members are not known"),
        "{error}"
    );
}

/// In a process of its own, because of the limit; as a user whom it binds.
#[test]
fn a_thousand_members_arrive() {
    const TEST: &str = "a_thousand_members_arrive";
    if !is_child(TEST) {
        return in_child(TEST);
    }
    if raise_limit() < 4_096 {
        return util::skip("a thousand members (RLIMIT_NOFILE)");
    }
    as_user(NOBODY, "a thousand members of another user", || {
        let before = descriptors_of_nobody();
        let group = Options::new().group("127.0.0.1:0", 1_000).unwrap();
        let (sent, received) = pass::<_, TcpListener>(&group.roster());
        sent.unwrap();
        let received = received.unwrap();
        assert_eq!(received.len(), 1_000);
        assert!(
            received
                .roster()
                .places()
                .into_iter()
                .eq((0..1_000).map(Some))
        );
        drop((group, received));
        assert_eq!(descriptors_of_nobody(), before);
    });
}

/// As many as a process of this user may have.
fn raise_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    most
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
            let (sent, received) = pass::<_, TcpListener>(&roster);
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

/// The process that receives could not know why a member gets nothing.
#[test]
fn loads_do_not_go_along() {
    for balances in [false, true] {
        let group = Options::new().group("127.0.0.1:0", 2).unwrap();
        let (roster, addr) = (group.roster(), group.local_addr());
        let classic = reuseport::Engine::Classic;
        let mut balancer = roster.balance().unwrap().engine(classic);
        let load = roster.load(0).unwrap();
        load.set(1_000_000);
        assert_eq!(balancer.step().unwrap().attaches, 1);
        let (a, b) = pair();
        let received: Group<TcpListener> = thread::scope(|scope| {
            scope.spawn(|| roster.hand_over(&a).unwrap());
            Group::receive(&b).unwrap()
        });
        drop((balancer, load, group));
        let _balancing = balances.then(|| {
            let mut balancer = received.roster().balance().unwrap().engine(classic);
            balancer.step().unwrap();
            balancer
        });
        let _clients: Vec<_> = (0..100)
            .map(|_| TcpStream::connect(addr).unwrap())
            .collect();
        let members: Vec<_> = received.into_iter().collect();
        let waits = |member| reuseport::queue(member).unwrap().waiting;
        util::until(|| (members.iter().map(waits).sum::<u32>() == 100).then_some(()));
        members
            .iter()
            .for_each(|member| assert!(waits(member) > 20));
    }
}

/// Also where nothing else changes meanwhile.
#[test]
fn loads_count_again_after_a_hand_over_that_is_refused() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let (roster, addr) = (group.roster(), group.local_addr());
    let mut balancer = roster.balance().unwrap().engine(reuseport::Engine::Classic);
    let load = roster.load(0).unwrap();
    load.set(1_000_000);
    (0..3).for_each(|_| drop(balancer.step().unwrap()));
    let (a, b) = pair();
    drop(b);
    roster.hand_over(&a).unwrap_err();
    assert_eq!(balancer.step().unwrap().attaches, 2);
    let _clients: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    let members: Vec<_> = group.into_iter().collect();
    let waits = |at: usize| reuseport::queue(&members[at]).unwrap().waiting;
    util::until(|| (waits(0) + waits(1) == 100).then_some(()));
    assert!(waits(0) < 15, "{}", waits(0));
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
