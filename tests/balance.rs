//! A balancer: whom it gives what, and what it leaves as it was.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
#[path = "util/strace.rs"]
mod strace;
mod util;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use members::{Client, HERE, Kind, Open};
use reuseport::{Balancer, ConnectionIds, Engine, Group, Options, Roster, Socket, Steering, queue};
use util::until;

/// Many steps, in all of which nothing waits for the clock.
fn steps(balancer: &mut Balancer, n: usize) -> u64 {
    let mut attaches = 0;
    for _ in 0..n {
        attaches = balancer.step().unwrap().attaches;
    }
    attaches
}

/// The second where it can be had.
const ENGINES: [Engine; 2] = [Engine::Classic, Engine::Ebpf];

/// What an eBPF program makes of loads is in `balance_ebpf`.
fn classic<S: Socket>(roster: &Roster<S>) -> Balancer {
    roster.balance().unwrap().engine(Engine::Classic)
}

fn open(options: &Options, n: usize) -> Open<TcpListener> {
    Open::new(options, HERE, n)
}

/// How many of so many clients each member gets, of whom none is accepted.
fn counts<S: Kind>(open: &Open<S>, n: usize) -> Vec<usize> {
    let mut counts = vec![0; open.members.len()];
    for _ in 0..n {
        counts[open.taker(&[0xff; 4])] += 1;
    }
    counts
}

#[test]
fn nothing_is_attached_while_nothing_changes() {
    for n in [1, 2, 16, 64] {
        let open = open(&Options::new(), n);
        let mut balancer = classic(&open.roster);
        let loads: Vec<_> = (0..n)
            .map(|member| open.roster.load(member).unwrap())
            .collect();
        assert_eq!(steps(&mut balancer, 20), 0);
        loads.iter().for_each(|load| load.set(1_000_000));
        assert_eq!(steps(&mut balancer, 20), 0);
        if n == 1 {
            loads[0].set(0);
            assert_eq!(steps(&mut balancer, 20), 0);
            continue;
        }
        loads[0].set(0);
        assert_eq!(steps(&mut balancer, 20), 1);
        loads.iter().for_each(|load| load.set(usize::MAX));
        assert_eq!(steps(&mut balancer, 20), 2);
    }
}

/// The queues of all members are asked for by one call, as long as nothing waits there.
#[test]
fn a_step_makes_few_system_calls() {
    const STEPS: usize = 100;
    let calls = strace::calls("a_step_makes_few_system_calls", || {
        let mut groups = ENGINES.map(|engine| {
            let open = open(&Options::new(), 16);
            let mut balancer = open.roster.balance().unwrap().engine(engine);
            steps(&mut balancer, 2);
            (open, balancer)
        });
        strace::mark();
        for (_, balancer) in &mut groups {
            steps(balancer, STEPS / 2);
        }
        strace::mark();
    });
    let Some(calls) = calls else {
        return;
    };
    let count = |name| calls.iter().filter(|call| *call == name).count();
    let [dumps, looks] = ["write", "poll"].map(count);
    assert!(looks + dumps >= STEPS, "{calls:?}");
    // A dump ten times a second, whether the numbers stand for the members still, and which process this is.
    assert!(dumps <= STEPS / 5, "{dumps} dumps");
    assert!(
        calls.len() <= 2 * STEPS + (3 + 16) * dumps + 10,
        "{calls:?}"
    );
}

#[test]
fn who_is_busier_gets_less_and_none_gets_all() {
    let open = open(&Options::new(), 4);
    let mut balancer = classic(&open.roster);
    let load = |member| open.roster.load(member).unwrap();
    let held: Vec<_> = (0..40).map(|_| load(1).hold()).collect();
    load(2).set(3);
    let balance = balancer.step().unwrap();
    assert_eq!((balance.engine, balance.decides), (Engine::Classic, true));
    // Of which the busiest gets about eighteen.
    let got = counts(&open, 1_200);
    assert!(got[1] * 4 < got[0] && got[1] > 0, "{got:?}");
    assert!(got[2] < got[0] && got[2] > 0, "{got:?}");
    assert!(got[0] < 900, "{got:?}");
    drop(held);
    load(2).set(0);
    balancer.step().unwrap();
    let got = counts(&open, 400);
    assert!(got.iter().all(|got| (50..=160).contains(got)), "{got:?}");
}

#[test]
fn dropping_it_leaves_the_steering_as_it_was() {
    let open = open(&Options::new().steering(Steering::Weights(vec![0, 1])), 2);
    let mut balancer = classic(&open.roster);
    open.roster.load(1).unwrap().set(1000);
    balancer.step().unwrap();
    // Who has no weight gets nothing, however busy the others are.
    assert_eq!(counts(&open, 20), [0, 20]);
    open.roster.steer(&Steering::Weights(vec![1, 1])).unwrap();
    balancer.step().unwrap();
    let got = counts(&open, 100);
    assert!(got[0] > 75, "{got:?}");
    drop(balancer);
    let got = counts(&open, 100);
    assert!(got[0] < 75, "{got:?}");
    drop(open.roster.balance().unwrap());
}

#[test]
fn a_member_that_accepts_nothing_is_out_and_never_all_are() {
    for engine in ENGINES {
        let mut open = open(&Options::new(), 3);
        let mut balancer = open
            .roster
            .balance()
            .unwrap()
            .engine(engine)
            .patience(Duration::ZERO);
        let mut clients = Vec::new();
        let waiting = |open: &Open<TcpListener>, member| queue(open.get(member)).unwrap().waiting;
        // Each in turn gets stuck: what comes goes to those that are left.
        for n in 1..=3 {
            clients.push(TcpStream::connect(open.ways[0]).unwrap());
            let stuck =
                until(|| Some(balancer.step().unwrap().stuck).filter(|stuck| stuck.len() == n));
            let waits: Vec<_> = (0..3)
                .filter(|&member| waiting(&open, member) > 0)
                .collect();
            assert_eq!(stuck, waits);
            assert!(waits.iter().all(|&member| waiting(&open, member) == 1));
        }
        // For how long each has been counts no more then.
        steps(&mut balancer, 16);
        clients.extend((0..60).map(|_| TcpStream::connect(open.ways[0]).unwrap()));
        until(|| {
            // All of them: one that comes between the two steps would hide that one was accepted.
            let waits = [0, 1, 2].map(|member| waiting(&open, member));
            let are_all = waits.iter().sum::<u32>() == clients.len() as u32;
            (are_all && waits.iter().all(|n| *n > 5)).then_some(())
        });
        // The one that accepts is back, and gets everything.
        balancer.step().unwrap();
        open.get(1).accept().unwrap();
        assert_eq!(balancer.step().unwrap().stuck, [0, 2]);
        // A client may know of its connection before it is in the queue.
        let all = |open: &Open<TcpListener>, members: &[usize], sum: u32| {
            until(|| {
                let waits = members.iter().map(|member| waiting(open, *member));
                let waits: Vec<_> = waits.collect();
                (waits.iter().sum::<u32>() == sum).then_some(waits)
            })
        };
        let before = all(&open, &[0, 1, 2], clients.len() as u32 - 1);
        clients.extend((0..20).map(|_| TcpStream::connect(open.ways[0]).unwrap()));
        let after = all(&open, &[0, 1, 2], clients.len() as u32 - 1);
        assert_eq!(after, [before[0], before[1] + 20, before[2]]);
        // Also when that one leaves, or closes without a word, another member gets what comes.
        let no_forks = util::no_forks();
        open.drop_plainly(1);
        drop(no_forks);
        balancer.step().unwrap();
        clients.push(TcpStream::connect(open.ways[0]).unwrap());
        all(&open, &[0, 2], before[0] + before[2] + 1);
    }
}

#[test]
fn a_stuck_member_is_out_under_every_steering() {
    for engine in ENGINES {
        let cpus = std::thread::available_parallelism().unwrap().get();
        for steering in [
            Steering::Hash,
            Steering::Cpu,
            Steering::Weights(vec![5; 4 * cpus]),
        ] {
            let open = open(&Options::new().steering(steering.clone()), 4 * cpus);
            let mut balancer = open
                .roster
                .balance()
                .unwrap()
                .engine(engine)
                .patience(Duration::ZERO);
            let _client = TcpStream::connect(open.ways[0]).unwrap();
            let stuck = until(|| balancer.step().unwrap().stuck.first().copied());
            for _ in 0..50 {
                let _more = TcpStream::connect(open.ways[0]).unwrap();
                let others = open.members.iter().filter(|(number, _)| *number != stuck);
                until(|| {
                    others
                        .clone()
                        .any(|(_, socket)| socket.take())
                        .then_some(())
                });
            }
            assert_eq!(queue(open.get(stuck)).unwrap().waiting, 1, "{steering:?}");
        }
    }
}

#[test]
fn who_joins_starts_gently() {
    let mut open = open(&Options::new(), 2);
    let mut balancer = classic(&open.roster);
    for member in 0..2 {
        open.roster.load(member).unwrap().set(500);
    }
    balancer.step().unwrap();
    open.join();
    // Before a step has seen it, and after.
    let got = counts(&open, 100);
    assert!(got[2] < 20, "{got:?}");
    balancer.step().unwrap();
    let got = counts(&open, 100);
    assert!(got[2] < 20, "{got:?}");
    steps(&mut balancer, 64);
    // It is the emptiest by far.
    let got = counts(&open, 100);
    assert!(got[2] > 40, "{got:?}");
}

#[test]
fn who_leaves_gets_nothing() {
    for engine in ENGINES {
        let mut open = open(&Options::new(), 3);
        let mut balancer = open.roster.balance().unwrap().engine(engine);
        open.roster.load(2).unwrap().set(70);
        balancer.step().unwrap();
        let leaving = open.roster.leave(0).unwrap();
        steps(&mut balancer, 3);
        for _ in 0..50 {
            assert_ne!(open.taker(&[]), 0);
        }
        util::assert_drained(leaving.wait());
        drop(open.remove(0));
        steps(&mut balancer, 3);
        // Its number, and not its load, is for the next one.
        assert_eq!(open.join(), 0);
        assert_eq!(open.roster.load(0).unwrap().get(), 0);
        assert_eq!(open.roster.load(2).unwrap().get(), 70);
    }
}

#[test]
fn a_thousand_members_and_absurd_loads() {
    const N: usize = 1024;
    let open = open(&Options::new(), N);
    let mut balancer = classic(&open.roster);
    let absurd = [0, 1, 3, 40, 500, usize::MAX / 2, usize::MAX];
    let loads: Vec<_> = (0..N)
        .map(|member| open.roster.load(member).unwrap())
        .collect();
    for round in 0..4 {
        for (member, load) in loads.iter().enumerate() {
            load.set(absurd[(member * 31 + round) % absurd.len()]);
        }
        let balance = balancer.step().unwrap();
        assert_eq!(
            (balance.attaches, balance.stuck.len()),
            (round as u64 + 1, 0)
        );
        let clients: Vec<_> = (0..50)
            .map(|_| TcpStream::connect(open.ways[0]).unwrap())
            .collect();
        let mut taken = 0;
        until(|| {
            taken += open
                .members
                .iter()
                .filter(|(_, socket)| socket.take())
                .count();
            (taken == clients.len()).then_some(())
        });
    }
}

/// The process that balanced them may have died, so that their kernel keeps what it was told last.
#[test]
fn what_a_balancer_of_another_process_told_the_kernel_ends_with_the_first_step() {
    let before = open(&Options::new(), 2);
    let mut balancer = classic(&before.roster);
    before.roster.load(0).unwrap().set(1_000_000);
    balancer.step().unwrap();
    let sockets = [0, 1].map(|member| before.get(member).try_clone().unwrap());
    let adopted = Group::<TcpListener>::adopt(sockets).unwrap();
    let clients = |n: usize| -> Vec<_> {
        let client = |_| TcpStream::connect(before.ways[0]).unwrap();
        (0..n).map(client).collect()
    };
    let waits = |sum: u32| {
        until(|| {
            let waits = [0, 1].map(|member| queue(before.get(member)).unwrap().waiting);
            (waits.iter().sum::<u32>() == sum).then_some(waits)
        })
    };
    let clients_before = clients(40);
    assert!(waits(40)[0] < 10);
    let mut balancer = classic(&adopted.roster());
    // It does not know who stands where, and has all get the same.
    assert!(balancer.step().is_err());
    let clients_after = clients(100);
    assert!(waits(140)[0] > 20);
    drop((clients_before, clients_after));
}

#[test]
fn datagrams_without_an_id_go_to_each_of_many_members() {
    let ids = ConnectionIds::at(0).two_bytes();
    let options = Options::new().steering(Steering::ConnectionIds(ids));
    let mut open = Open::<UdpSocket>::new(&options, HERE, 300);
    let mut balancer = classic(&open.roster);
    assert_eq!(steps(&mut balancer, 10), 1);
    for number in [0, 77, 299_u16] {
        assert_eq!(open.taker(&number.to_be_bytes()), usize::from(number));
    }
    let flows: Vec<_> = (0..20).map(|_| open.taker(&[0xff; 2])).collect();
    assert!(flows.iter().any(|taker| taker != &flows[0]));
    // Where no member is left there is nothing to tell.
    let _closing = util::no_forks();
    open.members.clear();
    assert_eq!(steps(&mut balancer, 10), 1);
}

#[test]
fn datagrams_with_an_id_stay_and_the_others_go_round_who_is_stuck() {
    let options = Options::new().steering(Steering::ConnectionIds(ConnectionIds::at(0)));
    let mut open = Open::<UdpSocket>::new(&options, HERE, 4);
    let mut balancer = classic(&open.roster).patience(Duration::ZERO);
    // Once, so that nothing of the hash is left.
    assert_eq!(steps(&mut balancer, 10), 1);
    let flows: Vec<_> = (0..100).map(|_| UdpSocket::client(open.ways[0])).collect();
    let taker = |open: &Open<UdpSocket>, flow: &Client, id: u8| {
        let one = |member: &&(usize, UdpSocket)| member.1.take();
        util::until_sent(
            || flow.send(&[id]),
            || open.members.iter().find(one).map(|one| one.0),
        )
        .0
    };
    let before: Vec<_> = flows.iter().map(|flow| taker(&open, flow, 0xff)).collect();
    for number in 0..4 {
        assert!(before.iter().filter(|taker| **taker == number).count() > 5);
    }
    // Member 2 reads nothing more.
    let two = open.remove(2);
    let stuck = util::until_sent(
        || flows[0].send(&[2]),
        || Some(balancer.step().unwrap().stuck).filter(|stuck| !stuck.is_empty()),
    );
    assert_eq!(stuck.0, [2]);
    for (flow, before) in flows.iter().zip(&before) {
        let after = taker(&open, flow, 0xff);
        assert!(after != 2 && (after == *before || *before == 2));
        for id in [0, 1, 3] {
            assert_eq!(taker(&open, flow, id), id.into());
        }
    }
    // What has its id goes on coming to it, and it is back when it has read all.
    while two.take() {}
    flows[1].send(&[2]);
    until(|| two.take().then_some(()));
    until(|| balancer.step().unwrap().stuck.is_empty().then_some(()));
    open.members.push((2, two));
    let after: Vec<_> = flows.iter().map(|flow| taker(&open, flow, 0xff)).collect();
    assert_eq!(after, before);
}
