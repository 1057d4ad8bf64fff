//! Members leave a group and others join it, and nothing that was sent to the group is lost.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
#[macro_use]
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use members::{
    FOREVER, HERE, Kind, Open, PLACES, deferred, half_open_handshakes_are_waited_for, len, program,
    stays_pending, weights,
};
use reuseport::{
    AsyncStd, ConnectionIds, Family, Group, Leaving, Member, Options, Promise, ReusePort, Roster,
    Settled, Smol, Spread, Std, Steering, Tokio,
};
use util::{Runtime, in_child, is_child};

#[test]
fn what_leaves_can_be_sent_to_other_threads() {
    fn check<T: Send + Sync + std::fmt::Debug + 'static>() {}
    check::<Leaving>();
    check::<Settled>();
    check::<Roster<TcpListener>>();
}

/// Of three the second leaves, with connections in its queue, and comes back.
fn one_leaves_and_another_joins<R: Runtime>() {
    R::block_on(async {
        let group = Options::new().group("127.0.0.1:0", 3).unwrap();
        let to = group.local_addr();
        let roster = group.roster();
        let mut listeners: Vec<_> = group
            .into_iter()
            .map(|member| member.attach::<R>().unwrap())
            .collect();
        let mut clients = Vec::new();
        while listeners.iter().any(|listener| len(listener) == 0) {
            clients.push(TcpStream::connect(to).unwrap());
        }
        let all = || listeners.iter().map(len).sum::<usize>();
        util::until(|| (all() == clients.len()).then_some(()));
        let waiting = len(&listeners[1]);

        let leaving = roster.leave(1).unwrap();
        assert_eq!(
            (leaving.member(), leaving.promise()),
            (1, Promise::Lossless)
        );
        assert!(!roster.has_left(1));
        clients.extend((0..100).map(|_| TcpStream::connect(to).unwrap()));
        util::until(|| (all() == clients.len()).then_some(()));
        assert_eq!(len(&listeners[1]), waiting, "nothing new comes to it");

        let mut settled = leaving.settled(FOREVER);
        for _ in 0..waiting {
            assert!(stays_pending(&mut settled), "connections wait");
            R::accept(&listeners[1]).await.unwrap();
        }
        assert_eq!(settled.await.unwrap(), 0);
        drop(listeners.remove(1));
        assert_eq!(roster.places(), [0, 2]);
        assert!(roster.has_left(1));

        let all = || listeners.iter().map(len).sum::<usize>();
        let before = all();
        clients.extend((0..100).map(|_| TcpStream::connect(to).unwrap()));
        util::until(|| (all() == before + 100).then_some(()));

        let again = roster.join().unwrap();
        assert_eq!((again.index(), roster.places()), (1, vec![0, 2, 1]));
        assert!(!roster.has_left(1));
        let again = again.attach::<R>().unwrap();
        let before: Vec<_> = listeners.iter().map(len).collect();
        clients.extend((0..300).map(|_| TcpStream::connect(to).unwrap()));
        let new = || {
            let shares = listeners.iter().map(len).zip(&before);
            let mut shares: Vec<_> = shares.map(|(now, before)| now - before).collect();
            shares.push(len(&again));
            shares
        };
        util::until(|| (new().iter().sum::<usize>() == 300).then_some(()));
        // A share of 300 is below 50 by chance once in 10^10.
        assert!(new().iter().all(|&share| share > 50), "{:?}", new());
        R::accept(&again).await.unwrap();
    });
}

on_every_runtime!(one_leaves_and_another_joins);

#[test]
fn handshakes_that_are_under_way() {
    half_open_handshakes_are_waited_for();
}

#[test]
fn at_the_deadline_half_open_handshakes_are_counted() {
    let mut open = Open::<TcpListener>::new(&deferred(weights(&[1, 0])), HERE, 2);
    let mut clients: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(open.way()).unwrap())
        .collect();
    // One of them is queued, and two are not.
    clients[1].write_all(b"!").unwrap();
    util::until(|| (len(open.get(0)) == 1).then_some(()));
    let leaving = open.roster.leave(0).unwrap();
    let left = leaving.settled_blocking(Duration::from_millis(200));
    assert_eq!(left.unwrap(), 3);
    drop(open.remove(0));
    assert_eq!(open.roster.places(), [1]);
    let error = clients[1].read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// What nobody accepts is lost at the deadline, and counted.
#[test]
fn the_deadline_tells_how_many_are_left() {
    for place in PLACES {
        for waiting in [1, 7] {
            let mut open = Open::<TcpListener>::new(&weights(&[0, 1, 0]), place, 3);
            let _clients: Vec<_> = (0..waiting)
                .map(|_| TcpStream::connect(open.way()).unwrap())
                .collect();
            util::until(|| (len(open.get(1)) == waiting).then_some(()));
            let leaving = open.roster.leave(1).unwrap();
            let left = leaving.settled_blocking(Duration::from_millis(100));
            assert_eq!(left.unwrap() as usize, waiting, "{place:?}");
            // It is kept open, and is out of the group all the same.
            let _kept = open.remove(1);
            assert_eq!(open.roster.places(), [0, 2]);
            assert_eq!(open.counts(50, b"?").iter().sum::<usize>(), 50);
        }
    }
}

/// Whoever changes his mind has a member that is as it was.
fn what_is_dropped_stays<S: Kind>(options: &Options, payload: &[u8]) {
    for place in PLACES {
        let mut open = Open::<S>::new(options, place, 3);
        let gets = |open: &Open<S>, n| open.counts(n, payload)[1] > 0;
        drop(open.roster.leave(1).unwrap());
        assert!(gets(&open, 100), "{place:?}");
        let leaving = open.roster.leave(1).unwrap();
        assert!(!gets(&open, 50), "{place:?}");
        drop(leaving);
        assert!(gets(&open, 100), "{place:?}");
        assert_eq!(open.roster.places(), [0, 1, 2]);
        open.leave(1);
        assert!(open.counts(50, payload)[1..2] == [0], "{place:?}");
        assert_eq!(open.roster.places(), [0, 2]);
    }
}

#[test]
fn a_listener_whose_leaving_is_dropped_stays() {
    what_is_dropped_stays::<TcpListener>(&Options::new(), b"?");
    what_is_dropped_stays::<TcpListener>(&weights(&[1, 2, 1]), b"?");
}

/// The thread that waits notices it, while connections wait in the queue and stay there.
#[test]
fn a_listener_whose_future_is_dropped_keeps_its_queue() {
    for place in PLACES {
        let mut open = Open::<TcpListener>::new(&weights(&[0, 1, 0]), place, 3);
        let connect = || TcpStream::connect(open.way()).unwrap();
        let mut clients = vec![connect()];
        util::until(|| (len(open.get(1)) == 1).then_some(()));
        let mut settled = open.roster.leave(1).unwrap().settled(FOREVER);
        assert!(stays_pending(&mut settled));
        drop(settled);
        util::until(|| {
            clients.push(connect());
            (len(open.get(1)) > 1).then_some(())
        });
        // Every one is there, whoever got it while the thread had not noticed.
        for _ in &clients {
            util::until(|| open.members.iter().any(|(_, own)| own.take()).then_some(()));
        }
        let settled = util::until(|| open.roster.leave(1).ok()).settled(FOREVER);
        assert_eq!(smol::block_on(settled).unwrap(), 0);
        drop(open.remove(1));
        assert_eq!(open.roster.places(), [0, 2]);
    }
}

#[test]
fn a_socket_with_connection_ids_whose_leaving_is_dropped_stays() {
    let ids = Steering::ConnectionIds(ConnectionIds::quic());
    what_is_dropped_stays::<UdpSocket>(&Options::new().steering(ids), b"?");
}

/// In every order, at every stage: nothing is held that others do not hold, and no port is lost.
#[test]
fn dropping_in_any_order_loses_nothing() {
    const NAME: &str = "dropping_in_any_order_loses_nothing";
    if !is_child(NAME) {
        // Alone in its process, whose descriptors are counted.
        return in_child(NAME);
    }
    // The reactor lives as long as the process, and is there when it has had a socket.
    drop(smol::Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap());
    for place in PLACES {
        in_any_order::<TcpListener>(place);
        in_any_order::<UdpSocket>(place);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Left,
    Settling,
    Settled,
}

fn in_any_order<S: Kind>(place: (Family, &str)) {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for stage in [Stage::Left, Stage::Settling, Stage::Settled] {
        for order in ORDERS {
            for is_kept in [false, true] {
                let mut open = Open::<S>::new(&weights(&[1, 1, 1]), place, 3);
                let roster = open.roster.clone();
                let before = util::descriptors() - 1;
                let kept = is_kept.then(|| roster.clone());
                let listener = open.remove(1);
                let leaving = roster.leave(1).unwrap();
                let (leaving, settled) = match stage {
                    Stage::Left => (Some(leaving), None),
                    _ => (None, Some(leaving.settled(FOREVER))),
                };
                let mut settled = settled;
                if stage == Stage::Settled {
                    let mut ready = settled.take().unwrap();
                    assert_eq!(smol::block_on(&mut ready).unwrap(), 0);
                    settled = Some(ready);
                }
                // The group's own table is dropped with the others.
                let Open { ways, members, .. } = open;
                let mut things: [Option<Box<dyn std::any::Any>>; 3] = [
                    Some(Box::new(roster)),
                    Some(Box::new((leaving, settled))),
                    Some(Box::new(listener)),
                ];
                for thing in order {
                    drop(things[thing].take());
                }
                util::until(|| (util::descriptors() == before).then_some(()));
                let rest = [&members[0].1, &members[1].1];
                for n in 0..100 {
                    let client = S::client(ways[n % ways.len()]);
                    let taken = || rest.iter().any(|socket| socket.take()).then_some(());
                    util::until_sent(|| client.send(b"?"), taken);
                }
                if let Some(kept) = kept {
                    assert_eq!(kept.places(), [0, 2], "{place:?} {stage:?} {order:?}");
                }
            }
        }
    }
}

/// A thread that waits in the kernel for a connection is told that none comes any more.
#[test]
fn a_blocking_worker_is_woken() {
    for (_, prefix) in PLACES {
        let group = Options::new().group(format!("{prefix}0"), 3).unwrap();
        let roster = group.roster();
        let workers: Vec<_> = group
            .into_iter()
            .map(|member| {
                let roster = roster.clone();
                std::thread::spawn(move || {
                    let number = member.index();
                    let listener = member.attach::<Std>().unwrap();
                    loop {
                        match listener.accept() {
                            Ok(_) => {}
                            Err(error) => return (error.kind(), roster.has_left(number)),
                        }
                    }
                })
            })
            .collect();
        for number in [1, 0] {
            let leaving = roster.leave(number).unwrap();
            assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
        }
        assert_eq!(roster.places(), [2]);
        assert!(!roster.has_left(2));
        for worker in workers.into_iter().take(2) {
            let ended = worker.join().unwrap();
            assert_eq!(ended, (ErrorKind::InvalidInput, true));
        }
    }
}

/// An async server that stops when its listener has settled never sees an error.
fn no_error_is_seen<R: Runtime>() {
    R::block_on(async {
        let group = Options::new().group("127.0.0.1:0", 9).unwrap();
        let to = group.local_addr();
        let roster = group.roster();
        for member in group.into_iter().take(8) {
            let number = member.index();
            let listener = member.attach::<R>().unwrap();
            let _client = TcpStream::connect(to).unwrap();
            let settled = roster.leave(number).unwrap().settled(FOREVER);
            let accept = async {
                loop {
                    R::accept(&listener).await.unwrap();
                }
            };
            // What is polled first wins, however late this thread gets its turn.
            let left = smol::future::or(settled, accept).await;
            drop(listener);
            assert_eq!(left.unwrap(), 0);
            assert!(!roster.places().contains(&number));
        }
    });
}

#[test]
fn tokio_sees_no_error() {
    no_error_is_seen::<Tokio>();
}

#[test]
fn async_std_sees_no_error() {
    no_error_is_seen::<AsyncStd>();
}

#[test]
fn smol_sees_no_error() {
    no_error_is_seen::<Smol>();
}

/// Datagrams that were queued before are read, although a forked child has the socket too.
fn datagrams_are_read_to_the_end() {
    for place in PLACES {
        let mut open = Open::<UdpSocket>::new(&weights(&[0, 1, 0]), place, 3);
        let copy = open.get(1).try_clone().unwrap();
        let client = UdpSocket::client(open.way());
        (0..5).for_each(|_| client.send(b"?"));
        util::until_sent(
            || client.send(b"?"),
            || open.get(1).peek(&mut [0]).ok().map(drop),
        );
        let leaving = open.roster.leave(1).unwrap();
        assert_eq!(leaving.promise(), Promise::Lossless);
        let after: usize = open
            .members
            .iter()
            .filter(|(number, _)| *number != 1)
            .map(|(_, socket)| {
                (0..50).for_each(|_| UdpSocket::client(open.way()).send(b"?"));
                util::until(|| socket.take().then_some(1))
            })
            .sum();
        assert_eq!(after, 2);
        let mut settled = leaving.settled(FOREVER);
        let mut read = 0;
        while open.get(1).peek(&mut [0]).is_ok() {
            assert!(stays_pending(&mut settled), "{place:?} {read}");
            assert!(open.get(1).take());
            read += 1;
        }
        assert!((1..=6).contains(&read), "none but those before: {read}");
        assert_eq!(smol::block_on(settled).unwrap(), 0);
        drop(open.remove(1));
        while open.members.iter().any(|(_, socket)| socket.take()) {}
        // The copy would have a third.
        assert_eq!(open.counts(100, b"?").iter().sum::<usize>(), 100);
        assert_eq!(
            copy.peek(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert_eq!(open.roster.places(), [0, 2]);
    }
}

#[test]
fn datagrams() {
    datagrams_are_read_to_the_end();
}

#[test]
fn at_the_deadline_unread_datagrams_count_as_one() {
    let open = Open::<UdpSocket>::new(&weights(&[0, 1]), HERE, 2);
    let client = UdpSocket::client(open.way());
    util::until_sent(
        || (0..3).for_each(|_| client.send(b"?")),
        || open.get(1).peek(&mut [0]).ok(),
    );
    let leaving = open.roster.leave(1).unwrap();
    let left = leaving.settled_blocking(Duration::from_millis(50));
    assert_eq!(left.unwrap(), 1);
}

/// A datagram with a short QUIC header, with that number in its connection id.
fn short(number: u8) -> Vec<u8> {
    [&[0x40, number][..], &[9; 20]].concat()
}

/// Flows stay with the member that leaves until it is taken out; what is new goes to the others.
#[test]
fn connection_ids_stay_while_their_member_leaves() {
    for place in PLACES {
        let ids = Steering::ConnectionIds(ConnectionIds::quic());
        let mut open = Open::<UdpSocket>::new(&Options::new().steering(ids), place, 3);
        let leaving = open.roster.leave(1).unwrap();
        for number in 0..3 {
            assert_eq!(open.counts(10, &short(number))[usize::from(number)], 10);
        }
        for unknown in [&b"?"[..], &short(99)] {
            let counts = open.counts(64, unknown);
            assert_eq!(counts[1], 0, "{counts:?}");
            assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}");
        }
        assert_eq!(open.roster.places(), [0, 1, 2]);
        assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
        // Not even dropped.
        let counts = open.counts(64, &short(1));
        assert_eq!(counts[1], 0, "{counts:?}");
        assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}");
        assert_eq!(open.counts(10, &short(2))[2], 10);
        assert_eq!(open.roster.places(), [0, 2]);
        drop(open.remove(1));
        // Whoever comes gets the number, and its ids.
        assert_eq!(open.join(), 1);
        assert_eq!(open.counts(10, &short(1))[1], 10);
    }
}

#[test]
fn refusals_are_sentences() {
    let open = Open::<TcpListener>::new(&Options::new(), HERE, 2);
    let addr = open.ways[0];
    let refused = |number| {
        let error = open.roster.leave(number).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        let cannot = format!("member {number} of the group on {addr} cannot leave: ");
        let why = text.strip_prefix(&cannot);
        why.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(refused(2), "it has no member 2");
    let leaving = open.roster.leave(0).unwrap();
    assert_eq!(refused(0), "it is leaving already");
    assert_eq!(refused(1), "no other stays to take its connections");
    assert!(!open.roster.has_left(0));
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
    assert_eq!(open.roster.places(), [1]);
    assert!(open.roster.has_left(0) && open.roster.has_left(2));
    assert_eq!(refused(0), "it has no member 0");
    assert_eq!(refused(1), "no other stays to take its connections");

    let open = Open::<UdpSocket>::new(&Options::new(), HERE, 2);
    let leaving = open.roster.leave(1).unwrap();
    assert!(open.roster.has_left(1), "a UDP socket is out at once");
    let error = open.roster.leave(1).unwrap_err();
    assert!(
        error.to_string().ends_with(": it has no member 1"),
        "{error}"
    );
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
}

/// Where nobody knows who stands where, nothing can be promised, and it is said before.
#[test]
fn an_adopted_group_promises_nothing() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let group = Group::<TcpListener>::adopt(group).unwrap();
    let roster = group.roster();
    let leaving = roster.leave(0).unwrap();
    assert_eq!(leaving.promise(), Promise::Nothing);
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
    assert!(roster.has_left(0) && !roster.has_left(1));
    assert!(roster.places().is_empty());

    let held = Std::listen("127.0.0.1:0").unwrap();
    let options = Options::new().join(true);
    let group = options.group(util::addr_of(&held), 2).unwrap();
    let leaving = group.roster().leave(1).unwrap();
    assert_eq!(leaving.promise(), Promise::Nothing);
}

/// What waits in a queue of all is the others' too.
#[test]
fn of_one_queue_a_member_leaves_at_once() {
    let options = Options::new().spread(Spread::Queue);
    let mut open = Open::<TcpListener>::new(&options, HERE, 3);
    let clients: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(open.way()).unwrap())
        .collect();
    util::until(|| (len(open.get(1)) == clients.len()).then_some(()));
    let leaving = open.roster.leave(1).unwrap();
    assert_eq!(leaving.promise(), Promise::Lossless);
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
    assert!(open.roster.has_left(1));
    drop(open.remove(1));
    for _ in clients {
        assert!(open.get(2).take());
    }
    assert_eq!(open.join(), 1);
    TcpStream::connect(open.way()).unwrap();
    util::until(|| open.get(1).take().then_some(()));
    open.leave(0);
    open.leave(2);
    assert_eq!(open.taker(b"?"), 1);
    let error = open.roster.leave(1).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(": no other stays to take its connections"),
        "{error}"
    );
}

/// Members that are restricted to an interface leave as the others do.
fn with_a_device<S: Kind>() {
    for place in PLACES {
        let mut open = Open::<S>::new(&weights(&[0, 1, 1]).device("lo"), place, 3);
        // Several in a queue, of which one is left when the deadline comes.
        let leaving = open.roster.leave(1).unwrap();
        // Without a privilege it keeps its interface, by which the kernel finds it until its end.
        let promise = match rustix::process::geteuid().is_root() {
            true => Promise::Lossless,
            false => Promise::Waiting,
        };
        assert_eq!(leaving.promise(), promise);
        let counts = open.counts(40, b"?");
        assert_eq!(counts[2], 40, "{place:?} {counts:?}");
        assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
        // It has not been dropped yet.
        let counts = open.counts(40, b"?");
        assert_eq!(counts[2], 40, "{place:?} {counts:?}");
        drop(open.remove(1));
        assert_eq!(open.roster.places(), [0, 2]);
        assert_eq!(open.counts(40, b"?")[2], 40);
        assert_eq!(open.join(), 1);
        open.leave(2);
        assert_eq!(open.counts(40, b"?")[1], 40);
    }
}

#[test]
fn listeners_of_a_device_leave() {
    with_a_device::<TcpListener>();
}

#[test]
fn sockets_of_a_device_leave() {
    with_a_device::<UdpSocket>();
}

/// Without a privilege the kernel moves no socket from its interface (kernel: sock_bindtoindex).
#[test]
fn listeners_of_a_device_leave_without_a_privilege() {
    util::as_user(
        65_534,
        "leaving without a privilege",
        with_a_device::<TcpListener>,
    );
}

#[test]
fn sockets_of_a_device_leave_without_a_privilege() {
    util::as_user(
        65_534,
        "leaving without a privilege",
        with_a_device::<UdpSocket>,
    );
}

/// Answers each connection with the byte that it sends, until the listener has left; a connection
/// that sends nothing ends it too.
fn serve(member: Member<TcpListener>, served: &Arc<AtomicUsize>) {
    let served = Arc::clone(served);
    std::thread::spawn(move || {
        let listener = member.into_std();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                break;
            }
            stream.write_all(&byte).unwrap();
            served.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Connects until it is told to stop, and fails where a single connection is not answered.
fn connect_on_and_on(ways: &[SocketAddr], done: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (ways, done) = (ways.to_vec(), Arc::clone(done));
    std::thread::spawn(move || {
        let mut sent = 0;
        while !done.load(Ordering::Relaxed) {
            let way = ways[sent % ways.len()];
            let mut stream = TcpStream::connect(way).expect("it is taken");
            let limit = Some(Duration::from_secs(20));
            stream.set_read_timeout(limit).unwrap();
            let (byte, mut answer) = ([sent as u8], [0]);
            stream.write_all(&byte).expect("it is taken");
            stream.read_exact(&mut answer).expect("and answered");
            assert_eq!(answer, byte);
            sent += 1;
        }
        sent
    })
}

/// Of eight members seven leave at once, again and again, while clients come: none of them fails.
fn seven_of_eight_leave_under_load(steering: &Steering, (family, prefix): (Family, &str)) {
    const MEMBERS: usize = 8;
    let options = Options::new().steering(steering.clone()).family(family);
    let group = options.group(format!("{prefix}0"), MEMBERS).unwrap();
    let ways = members::ways(group.local_addr(), family);
    let roster = group.roster();
    let (done, served) = (Arc::default(), Arc::default());
    group.into_iter().for_each(|member| serve(member, &served));
    let clients = [(); 2].map(|()| connect_on_and_on(&ways, &done));
    let give_up = Instant::now() + Duration::from_secs(120);
    let mut stayer = 0;
    for round in 0.. {
        let leavers = (0..MEMBERS).filter(|&number| number != stayer);
        let leaving: Vec<_> = leavers
            .map(|number| roster.leave(number).unwrap())
            .collect();
        let settling: Vec<_> = leaving
            .into_iter()
            .map(|leaving| leaving.settled(FOREVER))
            .collect();
        for settled in settling {
            assert_eq!(smol::block_on(settled).unwrap(), 0);
        }
        assert_eq!(roster.places(), [stayer]);
        if round >= 2 && served.load(Ordering::Relaxed) >= 1_000 {
            break;
        }
        assert!(Instant::now() < give_up, "there is a load: {served:?}");
        (1..MEMBERS).for_each(|_| serve(roster.join().unwrap(), &served));
        // Another stays each time: the newest and the oldest too.
        stayer = roster.places()[(round * 3 + 7) % MEMBERS];
    }
    done.store(true, Ordering::Relaxed);
    let sent: usize = clients.map(|client| client.join().unwrap()).iter().sum();
    assert!(sent >= 1_000);
    util::until(|| (served.load(Ordering::Relaxed) == sent).then_some(()));
    // The worker that is left.
    drop(TcpStream::connect(ways[0]).unwrap());
}

#[test]
fn under_load_ipv4() {
    seven_of_eight_leave_under_load(&Steering::Hash, HERE);
}

#[test]
fn under_load_ipv6() {
    seven_of_eight_leave_under_load(&Steering::Hash, (Family::Any, "[::1]:"));
}

#[test]
fn under_load_of_both() {
    seven_of_eight_leave_under_load(&Steering::Hash, (Family::Any, ":"));
}

#[test]
fn under_load_by_processor() {
    seven_of_eight_leave_under_load(&Steering::Cpu, HERE);
}

#[test]
fn under_load_by_weights() {
    let weights = Steering::Weights(vec![1, 2, 3, 4, 5, 6, 7, 8]);
    seven_of_eight_leave_under_load(&weights, (Family::Any, ":"));
}

/// However the group is steered, and whatever it is steered to meanwhile.
fn each_steering_keeps_it_out<S: Kind>() {
    let steerings = || {
        [
            Steering::Hash,
            Steering::Cpu,
            Steering::Weights(vec![1, 5, 1, 1]),
            Steering::Weights(vec![0, 5, 0, 0]),
            program(1),
        ]
    };
    for place in PLACES {
        for before in steerings() {
            let options = Options::new().steering(before.clone());
            let mut open = Open::<S>::new(&options, place, 4);
            let leaving = open.roster.leave(1).unwrap();
            let counts = open.counts(40, b"?");
            assert_eq!(counts[1], 0, "{place:?} {before:?}: {counts:?}");
            for during in steerings() {
                open.roster.steer(&during).unwrap();
                let counts = open.counts(20, b"?");
                assert_eq!(counts[1], 0, "{place:?} {before:?} {during:?}: {counts:?}");
            }
            assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
            drop(open.remove(1));
            // Index 1 is the last member's when this one has left.
            assert_eq!(open.roster.places(), [0, 3, 2]);
            let counts = open.counts(20, b"?");
            assert_eq!(counts[3], 20, "{place:?} {before:?}: {counts:?}");
            open.roster
                .steer(&Steering::Weights(vec![1, 0, 0, 0]))
                .unwrap();
            assert_eq!(open.counts(20, b"?")[0], 20);
            open.roster
                .steer(&Steering::Weights(vec![0, 0, 1, 0]))
                .unwrap();
            assert_eq!(open.counts(20, b"?")[2], 20);
        }
    }
}

#[test]
fn listeners_are_steered_while_one_leaves() {
    each_steering_keeps_it_out::<TcpListener>();
}

#[test]
fn sockets_are_steered_while_one_leaves() {
    each_steering_keeps_it_out::<UdpSocket>();
}

/// What comes of it some times on each processor, by which members that are pinned are chosen.
fn from_each_processor<T: Send>(f: impl Fn() -> T + Sync) -> Vec<T> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let all = sched_getaffinity(None).unwrap();
            let cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu));
            let on = |cpu| {
                let mut one = CpuSet::new();
                one.set(cpu);
                sched_setaffinity(None, &one).unwrap();
                (0..20).map(|_| f()).collect::<Vec<_>>()
            };
            cpus.flat_map(on).collect()
        });
        worker.join().unwrap()
    })
}

/// A group that is whole is steered by its members, pinned ones included.
#[test]
fn a_whole_group_is_steered_while_one_leaves() {
    let group = Options::new().group("127.0.0.1:0", 2).unwrap();
    let leaving = group.roster().leave(1).unwrap();
    let steerings = [
        Steering::Cpu,
        Steering::Hash,
        Steering::Weights(vec![1, 1]),
        program(1),
        Steering::Cpu,
    ];
    let mut connections = Vec::new();
    for steering in steerings {
        group.steer(&steering).unwrap();
        let addr = group.local_addr();
        connections.extend(from_each_processor(|| TcpStream::connect(addr).unwrap()));
        let lens = || group.iter().map(len).collect::<Vec<_>>();
        util::until(|| (lens().iter().sum::<usize>() == connections.len()).then_some(()));
        assert_eq!(lens()[1], 0, "{steering:?}");
    }
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
}

/// Whoever is dropped without a word is missed at the next call.
fn a_plain_drop_is_noticed<S: Kind>() {
    for place in PLACES {
        let mut open = Open::<S>::new(&weights(&[1, 0, 0, 5]), place, 4);
        open.drop_plainly(0);
        assert_eq!(open.roster.places(), [3, 1, 2]);
        assert_eq!(open.counts(30, b"?")[3], 30, "{place:?}");
        assert!(open.roster.has_left(0));
        // Noticed by steering itself.
        open.drop_plainly(3);
        open.roster
            .steer(&Steering::Weights(vec![0, 1, 0, 0]))
            .unwrap();
        assert_eq!(open.counts(30, b"?")[1], 30, "{place:?}");
        assert_eq!(open.roster.places(), [2, 1]);
        // And by joining.
        open.drop_plainly(2);
        assert_eq!(open.join(), 0);
        assert_eq!(open.roster.places(), [1, 0]);
        assert_eq!(open.counts(30, b"?")[1], 30, "{place:?}");
        // The last that was there takes all along, and any order will do.
        open.drop_plainly(1);
        open.drop_plainly(0);
        assert!(open.roster.places().is_empty());
        let error = open.roster.steer(&Steering::Hash).unwrap_err();
        assert!(
            error.to_string().ends_with("none of its members is open"),
            "{error}"
        );
    }
}

#[test]
fn a_listener_that_is_dropped_is_noticed() {
    a_plain_drop_is_noticed::<TcpListener>();
}

#[test]
fn a_socket_that_is_dropped_is_noticed() {
    a_plain_drop_is_noticed::<UdpSocket>();
}

/// Somebody gets what comes, even if all are leaving.
fn the_last_that_stays_goes<S: Kind>() {
    for by_close in [true, false] {
        // By connection ids, so that sockets too are in the group while they leave.
        let steering = match S::IS_TCP {
            true => Steering::Hash,
            false => Steering::ConnectionIds(ConnectionIds::quic()),
        };
        let options = Options::new().steering(steering.clone());
        let mut open = Open::<S>::new(&options, HERE, 3);
        let leaving = [0, 1].map(|number| open.roster.leave(number).unwrap());
        if by_close {
            let socket = open.remove(2);
            open.roster.close(2, socket).unwrap();
        } else {
            open.drop_plainly(2);
        }
        assert_eq!(open.roster.places(), [0, 1]);
        assert_eq!(open.counts(50, b"?").iter().sum::<usize>(), 50);
        open.roster.steer(&steering).unwrap();
        // Whoever joins gets everything.
        assert_eq!(open.join(), 2);
        assert_eq!(open.counts(50, b"?")[2], 50);
        for leaving in leaving {
            let number = leaving.member();
            assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
            drop(open.remove(number));
        }
        assert_eq!(open.roster.places(), [2]);
    }
}

#[test]
fn the_last_listener_that_stays_goes() {
    the_last_that_stays_goes::<TcpListener>();
}

#[test]
fn the_last_socket_that_stays_goes() {
    the_last_that_stays_goes::<UdpSocket>();
}

/// The kernel's order depends on who went first, also where the other left by this crate.
fn a_drop_before_another_leaves_is_noticed<S: Kind>() {
    for place in PLACES {
        for by_close in [true, false] {
            let mut open = Open::<S>::new(&weights(&[1; 5]), place, 5);
            let leaving = (!by_close).then(|| open.roster.leave(1).unwrap());
            open.drop_plainly(0);
            match leaving {
                Some(leaving) => assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0),
                None => {
                    let socket = open.remove(1);
                    open.roster.close(1, socket).unwrap();
                }
            }
            let places = open.roster.places();
            for (place, number) in places.iter().enumerate() {
                open.roster.steer(&program(place)).unwrap();
                assert_eq!(open.taker(b"?"), *number, "{place} of {places:?}");
            }
            assert_eq!(places.len(), 3);
        }
    }
}

#[test]
fn a_listener_that_is_dropped_before_another_leaves() {
    a_drop_before_another_leaves_is_noticed::<TcpListener>();
}

#[test]
fn a_socket_that_is_dropped_before_another_leaves() {
    a_drop_before_another_leaves_is_noticed::<UdpSocket>();
}

/// When two are dropped nobody can tell which was first.
#[test]
fn two_plain_drops_leave_no_order() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 4);
    open.drop_plainly(0);
    open.drop_plainly(1);
    assert!(open.roster.places().is_empty());
    let error = open
        .roster
        .steer(&Steering::Weights(vec![1; 4]))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(
        text.ends_with("so that nobody knows its members' places"),
        "{text}"
    );
    assert!(!text.contains("adopted"), "it was opened new: {text}");
    // Only by what needs no places.
    open.roster.steer(&program(1)).unwrap();
    open.roster.steer(&Steering::Hash).unwrap();
    let leaving = open.roster.leave(2).unwrap();
    assert_eq!(leaving.promise(), Promise::Nothing);
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
    assert!(open.roster.has_left(2));
    drop(open.remove(2));
    assert_eq!(open.join(), 0);
    let counts = open.counts(50, b"?");
    assert!(counts[0] > 0 && counts[3] > 0, "{counts:?}");
}

/// A group whose order is lost goes on, and others can join it.
#[test]
fn others_join_where_no_order_is_left() {
    let mut open = Open::<TcpListener>::new(&weights(&[1; 4]), HERE, 4);
    open.drop_plainly(0);
    open.drop_plainly(1);
    assert!(open.roster.places().is_empty());
    assert_eq!(open.join(), 0);
    assert_eq!(open.counts(50, b"?").iter().sum::<usize>(), 50);
}

/// A number is free as soon as its member is out, and the newcomer is not the one that left.
#[test]
fn a_newcomer_is_not_the_one_that_left() {
    let mut open = Open::<UdpSocket>::new(&Options::new(), HERE, 3);
    let leaving = open.roster.leave(1).unwrap();
    drop(open.remove(1));
    assert_eq!(open.join(), 1);
    assert_eq!(open.roster.places(), [0, 2, 1]);
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
    assert_eq!(open.roster.places(), [0, 2, 1]);
    assert!(!open.roster.has_left(1));

    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 3);
    let leaving = open.roster.leave(1).unwrap();
    let listener = open.remove(1);
    open.roster.close(1, listener).unwrap();
    assert_eq!(open.join(), 1);
    assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
    assert_eq!(open.roster.places(), [0, 2, 1]);

    // Nor does it stay for another.
    let leaving = open.roster.leave(1).unwrap();
    let listener = open.remove(1);
    open.roster.close(1, listener).unwrap();
    assert_eq!(open.join(), 1);
    let again = open.roster.leave(1).unwrap();
    drop(leaving);
    assert_eq!(open.counts(50, b"?")[1], 0);
    assert_eq!(again.settled_blocking(FOREVER).unwrap(), 0);
    assert_eq!(open.roster.places(), [0, 2]);
}

/// A worker that stops before it is told loses what it had, and is told so.
#[test]
fn a_listener_that_is_closed_too_early_is_counted() {
    let mut open = Open::<TcpListener>::new(&weights(&[0, 1]), HERE, 2);
    let _clients: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(open.way()).unwrap())
        .collect();
    util::until(|| (len(open.get(1)) == 3).then_some(()));
    let mut settled = open.roster.leave(1).unwrap().settled(FOREVER);
    assert!(stays_pending(&mut settled));
    drop(open.remove(1));
    assert_eq!(smol::block_on(settled).unwrap(), 3);
    assert_eq!(open.roster.places(), [0]);
    assert_eq!(open.counts(20, b"?")[0], 20);
}

/// The namespace of whoever waits need not be that of the group.
#[test]
fn a_group_of_another_namespace_leaves() {
    let made = util::in_namespace("leaving from another namespace", || {
        let mut open = Open::<TcpListener>::new(&deferred(weights(&[0, 1])), HERE, 2);
        let client = TcpStream::connect(open.way()).unwrap();
        let leaving = open.roster.leave(1).unwrap();
        open.ways.clear();
        (open, client, leaving)
    });
    let Some((open, mut client, leaving)) = made else {
        return;
    };
    let mut settled = leaving.settled(FOREVER);
    assert!(stays_pending(&mut settled), "a handshake is under way");
    client.write_all(b"!").unwrap();
    util::until(|| open.get(1).accept().ok());
    assert_eq!(smol::block_on(settled).unwrap(), 0);
}

/// With tcp_migrate_req the kernel hands over what is left, so that nobody waits.
#[test]
fn a_kernel_that_migrates_hands_over() {
    util::in_namespace("that connections migrate", || {
        std::fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1").unwrap();
        for place in PLACES {
            // A blocking listener too, whose worker is elsewhere.
            let mut open = Open::<TcpListener>::new(&weights(&[0, 1, 0]), place, 3);
            let mut clients: Vec<_> = (0..20)
                .map(|_| TcpStream::connect(open.way()).unwrap())
                .collect();
            util::until(|| (len(open.get(1)) == 20).then_some(()));
            let leaving = open.roster.leave(1).unwrap();
            assert_eq!(leaving.settled_blocking(FOREVER).unwrap(), 0);
            drop(open.remove(1));
            assert_eq!(open.roster.places(), [0, 2]);
            for _ in 0..20 {
                let accept = || open.members.iter().find_map(|(_, own)| own.accept().ok());
                let (mut stream, _) = util::until(accept);
                stream.write_all(b"!").unwrap();
            }
            for client in &mut clients {
                client.read_exact(&mut [0]).unwrap();
            }
        }
    });
}

/// Without traffic it takes two grace periods of the kernel.
#[test]
fn an_idle_member_settles_soon() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 2);
    open.members
        .iter()
        .for_each(|(_, listener)| listener.set_nonblocking(false).unwrap());
    let mut times: Vec<_> = (0..21)
        .map(|_| {
            let start = Instant::now();
            open.leave(1);
            let time = start.elapsed();
            assert_eq!(open.join(), 1);
            open.get(1).set_nonblocking(false).unwrap();
            time
        })
        .collect();
    times.sort();
    println!(
        "to settle: median {:?}, {:?} to {:?}",
        times[10], times[0], times[20]
    );
    assert!(times[10] < Duration::from_secs(1), "{times:?}");
}

/// None of this takes a privilege.
#[test]
fn no_privilege_is_needed() {
    util::as_user(65_534, "leaving without a privilege", || {
        one_leaves_and_another_joins::<Std>();
        half_open_handshakes_are_waited_for();
        datagrams_are_read_to_the_end();
        what_is_dropped_stays::<TcpListener>(&Options::new(), b"?");
        each_steering_keeps_it_out::<UdpSocket>();
        seven_of_eight_leave_under_load(&Steering::Hash, HERE);
    });
}
