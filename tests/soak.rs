//! Tens of thousands of connections, while the listeners that serve them come and go.

#![cfg(target_os = "linux")]

#[macro_use]
mod util;
#[path = "util/link.rs"]
mod link;
#[path = "util/load.rs"]
mod load;
#[path = "util/serve.rs"]
mod serve;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use link::Link;
use load::{Counters, Load, Outcomes};
use reuseport::{Options, Smol, Std, Tokio};
use serve::{Stop, Tally, serve_member};
use socket2::SockRef;
use util::{Runtime, addr_of, as_user, in_namespace};

const MEMBERS: usize = 4;
const CONNECTIONS: usize = 20_000;
const PER_SECOND: u32 = 10_000;
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Of no account on any system (kernel: overflowuid).
const NOBODY: u32 = 65534;

on_every_runtime!(a_group_that_stays_loses_nothing plain_closing_loses_connections);

fn a_group_that_stays_loses_nothing<R: Runtime>() {
    let _alone = alone();
    in_namespace("a load on a group that stays", || {
        let before = Counters::read();
        let (outcomes, tally) = as_user(NOBODY, "a load on a group that stays", || {
            let group = Servers::<R>::group("127.0.0.1".parse().unwrap());
            let outcomes = load(group.addr).run();
            (outcomes, group.stop())
        })?;
        let counted = Counters::read().since(&before);
        report::<R>("stays", &outcomes, counted);
        assert_nothing_lost(&outcomes, &tally, counted);
        Some(())
    });
}

#[test]
fn a_group_that_stays_loses_nothing_on_a_slow_line() {
    let _alone = alone();
    let Some(link) = Link::new("a load on a slow line", ROUND_TRIP, 0.0) else {
        return;
    };
    for addr in Link::SERVER {
        let before = [
            link.on_server(Counters::read),
            link.on_client(Counters::read),
        ];
        let group = link.on_server(|| Servers::<Tokio>::group(addr));
        let connections = CONNECTIONS / 2;
        let load = Load {
            connections,
            ..load(group.addr)
        };
        let outcomes = link.on_client(|| load.run());
        let tally = group.stop();
        let after = [
            link.on_server(Counters::read),
            link.on_client(Counters::read),
        ];
        for (after, before) in after.iter().zip(&before) {
            let counted = after.since(before);
            report::<Tokio>("stays, slow line", &outcomes, counted);
            assert_nothing_lost(&outcomes, &tally, counted);
        }
        assert_eq!(link.dropped(), 0);
    }
}

/// What the line loses is sent again.
#[test]
fn a_group_that_stays_loses_nothing_on_a_lossy_line() {
    let _alone = alone();
    let Some(link) = Link::new("a load on a lossy line", ROUND_TRIP, 1.0) else {
        return;
    };
    let group = link.on_server(|| Servers::<Smol>::group(Link::SERVER[0]));
    let (outcomes, counted) = link.on_client(|| {
        let before = Counters::read();
        let load = load(group.addr);
        (load.run(), Counters::read().since(&before))
    });
    let tally = group.stop();
    report::<Smol>("stays, line loses 1 %", &outcomes, counted);
    outcomes.assert_complete(CONNECTIONS);
    assert_eq!((outcomes.lost(), link.dropped()), (0, 0), "{outcomes}");
    assert_eq!(tally.answered(), CONNECTIONS, "{tally:?}");
}

/// If nothing were lost here, then those that lose nothing would prove nothing.
fn plain_closing_loses_connections<R: Runtime>() {
    let _alone = alone();
    in_namespace("plain closing under load", || {
        let mut group = Servers::<R>::group("127.0.0.1".parse().unwrap());
        let before = Counters::read();
        let load = load(group.addr).start();
        let closed = group.replace_until(Duration::from_millis(2), || load.finished());
        let outcomes = load.join();
        let counted = Counters::read().since(&before);
        report::<R>(&format!("{closed} closed"), &outcomes, counted);
        group.stop();
        outcomes.assert_complete(CONNECTIONS);
        assert!(outcomes.reset > 0, "{outcomes}");
    });
}

#[test]
fn plain_closing_loses_connections_on_a_slow_line() {
    let _alone = alone();
    let Some(link) = Link::new("plain closing on a slow line", ROUND_TRIP, 0.0) else {
        return;
    };
    let (mut group, before) =
        link.on_server(|| (Servers::<Tokio>::group(Link::SERVER[0]), Counters::read()));
    let load = link.on_client(|| load(group.addr).start());
    // A listener that is there for a round trip only loses all of its connections.
    let every = ROUND_TRIP * 5;
    let closed = link.on_server(|| group.replace_until(every, || load.finished()));
    let outcomes = load.join();
    let counted = link.on_server(|| Counters::read().since(&before));
    report::<Tokio>(&format!("{closed} closed, slow line"), &outcomes, counted);
    group.stop();
    assert_eq!(link.dropped(), 0);
    outcomes.assert_complete(CONNECTIONS);
    assert!(outcomes.reset > 0, "{outcomes}");
}

#[test]
fn the_line_takes_its_time_and_loses_nothing() {
    let _alone = alone();
    let descriptors = util::descriptors();
    let Some(link) = Link::new("a line that loses nothing", ROUND_TRIP, 0.0) else {
        return;
    };
    for addr in Link::SERVER {
        let listener = link.on_server(|| TcpListener::bind((addr, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        let (mut took, counted) = link.on_client(|| {
            let before = Counters::read();
            let took: Vec<_> = (0..50)
                .map(|_| {
                    let begin = Instant::now();
                    TcpStream::connect(to).unwrap();
                    begin.elapsed()
                })
                .collect();
            (took, Counters::read().since(&before))
        });
        took.sort();
        let median = took[took.len() / 2];
        println!("{to}: {:?} {median:?} {:?}", took[0], took[took.len() - 1]);
        assert!(took[0] >= ROUND_TRIP, "{took:?}");
        assert!(median < ROUND_TRIP + ROUND_TRIP / 2, "{took:?}");
        assert_eq!(counted, Counters::default(), "{counted}");
    }
    assert_eq!((link.lost(), link.dropped()), (0, 0));
    drop(link);
    assert_eq!(util::descriptors(), descriptors);
}

#[test]
fn the_line_loses_what_it_is_to_lose() {
    let _alone = alone();
    let Some(link) = Link::new("a line that loses a third", ROUND_TRIP, 30.0) else {
        return;
    };
    // The kernel alone ends the handshakes: nobody accepts, and nobody answers.
    let listener = link.on_server(|| {
        let addr = SocketAddr::new(Link::SERVER[0], 0);
        Options::new().listen::<Std>(addr).unwrap()
    });
    let (outcomes, counted) = link.on_client(|| {
        let before = Counters::read();
        let load = Load {
            connections: 1_000,
            timeout: Duration::from_millis(1_500),
            ..load(listener.local_addr().unwrap())
        };
        (load.run(), Counters::read().since(&before))
    });
    let (carried, lost) = (link.carried() as f64, link.lost() as f64);
    report::<Std>("line loses 30 %", &outcomes, counted);
    outcomes.assert_complete(1_000);
    assert_eq!(outcomes.timed_out, 1_000, "{outcomes}");
    // Of half of them the SYN or its answer was lost, and the SYN is sent again after a second.
    assert!((400..600).contains(&counted.syn_retrans), "{counted}");
    let lost = lost / (carried + lost);
    assert!((0.27..0.33).contains(&lost), "{lost}");
    assert_eq!(link.dropped(), 0);
}

#[test]
fn each_connection_is_counted_as_what_it_was() {
    let _alone = alone();
    in_namespace("what a load counts", || {
        let ends: [fn(TcpStream); 4] = [
            |mut stream| stream.write_all(&[255]).unwrap(),
            |mut stream| stream.write_all(&[0, 0]).unwrap(),
            drop,
            |stream| {
                let now = Some(Duration::ZERO);
                SockRef::from(&stream).set_linger(now).unwrap();
            },
        ];
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (nobody, silent) = (listen(), listen());
        let mut to = vec![addr_of(&nobody), addr_of(&silent)];
        drop(nobody);
        let servers = ends.map(|end| {
            let listener = listen();
            to.push(addr_of(&listener));
            thread::spawn(move || {
                for _ in 0..20 {
                    let mut stream = listener.accept().unwrap().0;
                    stream.read_exact(&mut [0]).unwrap();
                    end(stream);
                }
            })
        });
        let load = Load {
            connections: 20 * to.len(),
            timeout: Duration::from_secs(1),
            to,
            ..load(addr_of(&silent))
        };
        let outcomes = load.run();
        for server in servers {
            server.join().unwrap();
        }
        outcomes.assert_complete(120);
        let counted = [
            outcomes.refused,
            outcomes.timed_out,
            outcomes.wrong,
            outcomes.eof,
            outcomes.reset,
        ];
        assert_eq!(counted, [20, 20, 40, 20, 20], "{outcomes}");
    });
}

/// Two loads at once would be half as many connections each.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(to: SocketAddr) -> Load {
    Load {
        to: vec![to],
        connections: CONNECTIONS,
        per_second: PER_SECOND,
        at_most: 2_000,
        timeout: Duration::from_secs(10),
    }
}

/// For whoever runs them with --nocapture.
fn report<R: Runtime>(what: &str, outcomes: &Outcomes, counted: Counters) {
    println!("{}, {what}: {outcomes}; {counted}", R::NAME);
}

fn assert_nothing_lost(outcomes: &Outcomes, tally: &Tally, counted: Counters) {
    outcomes.assert_complete(outcomes.attempts);
    assert_eq!(outcomes.lost(), 0, "{outcomes}");
    assert_eq!(counted.out_rsts, 0, "{counted}");
    assert_eq!(counted.listen_drops, 0, "{counted}");
    assert_eq!(tally.accepted(), outcomes.answered, "{tally:?}");
    assert_eq!(tally.answered(), outcomes.answered, "{tally:?}");
}

/// Listeners that each serve on a thread of their own.
struct Servers<R: Runtime> {
    addr: SocketAddr,
    members: Vec<Server>,
    tally: Arc<Tally>,
    runtime: std::marker::PhantomData<R>,
}

struct Server {
    stop: Stop,
    /// Of a listener whose accept blocks, and nothing else ends.
    blocked: Option<TcpListener>,
    thread: JoinHandle<()>,
}

impl<R: Runtime> Servers<R> {
    fn group(addr: IpAddr) -> Self {
        let group = Options::new()
            .group(SocketAddr::new(addr, 0), MEMBERS)
            .unwrap();
        let addr = group.local_addr();
        let tally = Arc::new(Tally::default());
        let members = group
            .into_iter()
            .map(|member| Server::start::<R>(member.into_std(), &tally))
            .collect();
        Self {
            addr,
            members,
            tally,
            runtime: std::marker::PhantomData,
        }
    }

    /// Closes one member after the other, each when another has joined; how many there were.
    fn replace_until(&mut self, every: Duration, finished: impl Fn() -> bool) -> usize {
        let mut closed = 0;
        let mut left = VecDeque::new();
        while !finished() {
            let listener = Options::new().listen::<Std>(self.addr).unwrap();
            let new = Server::start::<R>(listener, &self.tally);
            let old = std::mem::replace(&mut self.members[closed % MEMBERS], new);
            old.close();
            left.push_back(old.thread);
            closed += 1;
            // Until then a thread that has ended has its stack.
            while left.front().is_some_and(JoinHandle::is_finished) {
                left.pop_front().unwrap().join().unwrap();
            }
            thread::sleep(every);
        }
        left.into_iter().for_each(|thread| thread.join().unwrap());
        closed
    }

    fn stop(self) -> Arc<Tally> {
        for member in &self.members {
            member.close();
        }
        for member in self.members {
            member.thread.join().unwrap();
        }
        self.tally
    }
}

impl Server {
    fn start<R: Runtime>(listener: TcpListener, tally: &Arc<Tally>) -> Self {
        let blocked = (!R::NONBLOCKING).then(|| listener.try_clone().unwrap());
        let stop = Stop::new();
        let (told, tally) = (stop.clone(), tally.clone());
        let (attached, serves) = mpsc::channel();
        let thread = thread::spawn(move || {
            R::block_on(async {
                let listener = R::adopt(listener).unwrap();
                attached.send(()).unwrap();
                serve_member::<R>(listener, told.stopped(), || told.is_stopped(), &tally).await;
            });
        });
        // Not closed before: after shutdown(2) it is no listener, which adopting would refuse.
        serves.recv().unwrap();
        Self {
            stop,
            blocked,
            thread,
        }
    }

    /// The listener is closed with all that waits in its queue.
    fn close(&self) {
        self.stop.stop();
        if let Some(listener) = &self.blocked {
            // It does with a listener what close(2) does (kernel: inet_shutdown).
            SockRef::from(listener)
                .shutdown(std::net::Shutdown::Both)
                .unwrap();
        }
    }
}
