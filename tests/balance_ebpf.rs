//! A balancer whose program in the kernel sees the loads as they are: no step is between a load and a choice.

#![cfg(all(target_os = "linux", feature = "ebpf"))]

#[path = "util/members.rs"]
mod members;
mod util;

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use members::{HERE, Open, PLACES};
use reuseport::{Balancer, Engine, Load, Options, Steering, queue};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use util::{as_user, in_namespace, until};

fn open(options: &Options, n: usize) -> Open<TcpListener> {
    Open::new(options, HERE, n)
}

/// None where the process may not, which is said.
fn balance(open: &Open<TcpListener>) -> Option<Balancer> {
    let mut balancer = open.roster.balance().unwrap().patience(Duration::ZERO);
    let engine = balancer.step().unwrap().engine;
    if engine != Engine::Ebpf {
        util::skip("balancing by an eBPF program (this process may load none)");
        return None;
    }
    Some(balancer)
}

fn loads(open: &Open<TcpListener>) -> Vec<Load> {
    let numbers = open.members.iter().map(|(number, _)| *number);
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    let load = |number| open.roster.load(number).unwrap();
    numbers.into_iter().map(load).collect()
}

/// What waits in a member's queue; a client may know of its connection before it is there.
fn waiting(open: &Open<TcpListener>, member: usize) -> u32 {
    queue(open.get(member)).unwrap().waiting
}

/// How many of so many clients each member gets, which are accepted and gone at once.
fn counts(open: &Open<TcpListener>, loads: &[Load], n: usize) -> Vec<usize> {
    let mut counts = vec![0; loads.len()];
    for _ in 0..n {
        let taker = open.taker(&[]);
        counts[taker] += 1;
        drop(loads[taker].hold());
    }
    counts
}

#[test]
fn a_load_that_is_lent_later_is_seen() {
    let open = open(&Options::new(), 2);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    // No worker has its load yet, and nothing changes from step to step.
    (0..3).for_each(|_| drop(balancer.step().unwrap()));
    open.roster.load(1).unwrap().set(1000);
    let load = Load::adopt(open.roster.lend_load(0).unwrap()).unwrap();
    balancer.step().unwrap();
    let clients: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(open.ways[0]).unwrap())
        .collect();
    until(|| (waiting(&open, 0) + waiting(&open, 1) == 40).then_some(()));
    assert!(waiting(&open, 0) > 35, "{}", waiting(&open, 0));
    drop((clients, load));
}

#[test]
fn who_is_idle_gets_what_comes_at_once() {
    for place in PLACES {
        let open = Open::<TcpListener>::new(&Options::new(), place, 4);
        let Some(_balancer) = balance(&open) else {
            return;
        };
        let loads = loads(&open);
        for idle in [2, 0, 3, 1] {
            let others = loads.iter().enumerate().filter(|(at, _)| *at != idle);
            let _busy: Vec<_> = others.map(|(_, load)| load.hold()).collect();
            let mut expected = [0; 4];
            expected[idle] = 20;
            assert_eq!(counts(&open, &loads, 20), expected, "{place:?}");
        }
    }
}

/// A worker that does not accept has what it was given.
#[test]
fn what_was_given_and_not_accepted_counts_at_once() {
    let open = open(&Options::new(), 4);
    let Some(_balancer) = balance(&open) else {
        return;
    };
    let clients: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(open.ways[0]).unwrap())
        .collect();
    let waiting = until(|| {
        let waiting = [0, 1, 2, 3].map(|member| waiting(&open, member));
        (waiting.iter().sum::<u32>() == 40).then_some(waiting)
    });
    assert!(waiting.iter().all(|n| (7..=13).contains(n)), "{waiting:?}");
    drop(clients);
}

#[test]
fn what_workers_set_counts_at_once_and_none_gets_all() {
    let open = open(&Options::new(), 4);
    let Some(_balancer) = balance(&open) else {
        return;
    };
    let loads = loads(&open);
    loads.iter().for_each(|load| load.set(1000));
    loads[1].set(0);
    let got = counts(&open, &loads, 400);
    assert!(got[1] > 150 && got[1] < 250, "{got:?}");
    assert!(got.iter().all(|got| *got > 20), "{got:?}");
    loads[1].set(2000);
    let got = counts(&open, &loads, 200);
    assert!(got[1] < 5, "{got:?}");
    for absurd in [0, 1, usize::MAX / 2, usize::MAX] {
        loads.iter().for_each(|load| load.set(absurd));
        let got = counts(&open, &loads, 200);
        assert!(got.iter().all(|got| (20..=85).contains(got)), "{got:?}");
    }
}

/// Closes it without a packet (tcp(7), TCP_REPAIR): what the client sends finds no connection.
#[allow(unsafe_code, reason = "nothing safe sets this option")]
fn vanish(stream: TcpStream) {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of `on`.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn what_comes_late_for_a_connection_does_not_count() {
    in_namespace("packets that come late", || {
        let open = open(&Options::new(), 4);
        let Some(_balancer) = balance(&open) else {
            return;
        };
        let loads = loads(&open);
        for idle in [2, 0, 3, 1] {
            let others = loads.iter().enumerate().filter(|(at, _)| *at != idle);
            let _busy: Vec<_> = others.map(|(_, load)| load.hold()).collect();
            for _ in 0..20 {
                let client = TcpStream::connect(open.ways[0]).unwrap();
                let (stream, _) = until(|| open.get(idle).accept().ok());
                drop(loads[idle].hold());
                vanish(stream);
                drop(client);
            }
        }
    });
}

#[test]
fn weights_are_kept_among_those_that_are_alike() {
    let weights = Steering::Weights(vec![1, 3, 0]);
    let open = open(&Options::new().steering(weights), 3);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    let loads = loads(&open);
    let got = counts(&open, &loads, 400);
    assert!((60..=145).contains(&got[0]) && got[2] == 0, "{got:?}");
    // Nothing for weight 0, however idle.
    let _busy = [loads[0].hold(), loads[1].hold(), loads[1].hold()];
    assert_eq!(counts(&open, &loads, 50)[2], 0);
    open.roster
        .steer(&Steering::Weights(vec![1, 0, 0]))
        .unwrap();
    assert_eq!(counts(&open, &loads, 30), [30, 0, 0]);
    assert_eq!(balancer.step().unwrap().engine, Engine::Ebpf);
    assert_eq!(counts(&open, &loads, 30), [30, 0, 0]);
    open.roster.steer(&Steering::Cpu).unwrap();
    assert_eq!(balancer.step().unwrap().engine, Engine::Classic);
    assert_eq!(counts(&open, &loads, 30).iter().sum::<usize>(), 30);
}

#[test]
fn who_is_stuck_gets_nothing_and_never_all_are_out() {
    let open = open(&Options::new(), 3);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    let waiting = |member| waiting(&open, member);
    let mut clients = vec![TcpStream::connect(open.ways[0]).unwrap()];
    let stuck = until(|| balancer.step().unwrap().stuck.first().copied());
    clients.extend((0..60).map(|_| TcpStream::connect(open.ways[0]).unwrap()));
    assert_eq!(waiting(stuck), 1);
    until(|| (balancer.step().unwrap().stuck.len() == 3).then_some(()));
    clients.extend((0..60).map(|_| TcpStream::connect(open.ways[0]).unwrap()));
    until(|| ((0..3).map(waiting).sum::<u32>() == 121).then_some(()));
    assert!(waiting(stuck) > 5);
    while open.get(stuck).accept().is_ok() {}
    let balance = balancer.step().unwrap();
    assert_eq!((balance.stuck.len(), balance.engine), (2, Engine::Ebpf));
    let before = waiting(stuck);
    clients.extend((0..20).map(|_| TcpStream::connect(open.ways[0]).unwrap()));
    until(|| (waiting(stuck) == before + 20).then_some(()));
}

/// What was given and came to nothing, as a packet that no connection is for, counts no more after a step.
#[test]
fn a_step_puts_the_accounts_right() {
    let open = open(&Options::new(), 2);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    let loads = loads(&open);
    // Accepted by a worker that does not say so.
    for _ in 0..40 {
        open.taker(&[]);
    }
    balancer.step().unwrap();
    let _busy = loads[0].hold();
    assert_eq!(counts(&open, &loads, 20), [0, 20]);
    // One that waits is still there after the step.
    let _client = TcpStream::connect(open.ways[0]).unwrap();
    until(|| (waiting(&open, 1) == 1).then_some(()));
    balancer.step().unwrap();
    drop(_busy);
    let _client = TcpStream::connect(open.ways[0]).unwrap();
    until(|| (waiting(&open, 0) == 1).then_some(()));
}

#[test]
fn it_stands_back_while_a_member_leaves() {
    let mut open = open(&Options::new(), 3);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    let all = loads(&open);
    let _busy = [all[1].hold(), all[2].hold()];
    for round in 0..5 {
        let leaving = open.roster.leave(0).unwrap();
        // Before a step as after.
        for _ in 0..2 {
            for _ in 0..20 {
                assert_ne!(open.taker(&[]), 0, "{round}");
            }
            assert_eq!(balancer.step().unwrap().engine, Engine::Classic);
        }
        util::assert_drained(leaving.wait());
        drop(open.remove(0));
        until(|| {
            let engine = balancer.step().unwrap().engine;
            (engine == Engine::Ebpf).then_some(())
        });
        for _ in 0..20 {
            assert_ne!(open.taker(&[]), 0);
        }
        assert_eq!(open.join(), 0);
        assert_eq!(balancer.step().unwrap().engine, Engine::Ebpf);
        for _ in 0..64 {
            assert_eq!(balancer.step().unwrap().engine, Engine::Ebpf);
        }
        // The others hold one each.
        let got = counts(&open, &loads(&open), 20);
        assert!(got[0] >= 19, "{round}: {got:?}");
    }
}

#[test]
fn who_closes_without_a_word_is_missed_by_nobody() {
    let mut open = open(&Options::new(), 4);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    for closed in [1, 3] {
        open.drop_plainly(closed);
        for _ in 0..30 {
            open.taker(&[]);
        }
        until(|| (balancer.step().unwrap().engine == Engine::Ebpf).then_some(()));
        for _ in 0..30 {
            open.taker(&[]);
        }
    }
    // One alone needs no choice.
    open.drop_plainly(0);
    until(|| (balancer.step().unwrap().engine == Engine::Classic).then_some(()));
    assert_eq!(open.taker(&[]), 2);
}

#[test]
fn who_joins_starts_gently() {
    let mut open = open(&Options::new(), 2);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    loads(&open).iter().for_each(|load| load.set(500));
    balancer.step().unwrap();
    open.join();
    for _ in 0..2 {
        let got = counts(&open, &loads(&open), 100);
        assert!(got[2] < 20, "{got:?}");
        balancer.step().unwrap();
    }
    for _ in 0..64 {
        balancer.step().unwrap();
    }
    let got = counts(&open, &loads(&open), 100);
    assert!(got[2] > 40, "{got:?}");
}

#[test]
fn dropping_it_leaves_the_hash_and_another_begins() {
    let open = open(&Options::new(), 2);
    let Some(balancer) = balance(&open) else {
        return;
    };
    let loads = loads(&open);
    let _busy = loads[0].hold();
    assert_eq!(counts(&open, &loads, 20), [0, 20]);
    drop(balancer);
    let got = counts(&open, &loads, 100);
    assert!(got[0] > 20, "{got:?}");
    // A load that was published before counts too.
    let _balancer = balance(&open).unwrap();
    assert_eq!(counts(&open, &loads, 20), [0, 20]);
}

#[test]
fn a_thousand_members_and_one_more() {
    let mut open = open(&Options::new(), 1024);
    let Some(mut balancer) = balance(&open) else {
        return;
    };
    let taken = |open: &Open<TcpListener>, n: usize| {
        let clients: Vec<_> = (0..n)
            .map(|_| TcpStream::connect(open.ways[0]).unwrap())
            .collect();
        let mut taken = 0;
        until(|| {
            let members = open.members.iter();
            taken += members
                .filter(|(_, socket)| socket.accept().is_ok())
                .count();
            (taken == clients.len()).then_some(())
        });
    };
    taken(&open, 300);
    // It has no room in the program's memory.
    open.join();
    assert_eq!(balancer.step().unwrap().engine, Engine::Classic);
    taken(&open, 50);
}

#[test]
fn another_takes_its_place_without_the_privilege_and_where_it_is_told_to() {
    as_user(1234, "balancing without CAP_BPF", || {
        let open = open(&Options::new(), 2);
        let mut balancer = open.roster.balance().unwrap().engine(Engine::Ebpf);
        open.roster.load(0).unwrap().set(100);
        let balance = balancer.step().unwrap();
        assert_eq!((balance.engine, balance.attaches), (Engine::Classic, 1));
    });
    let open = open(&Options::new(), 2);
    let mut balancer = open.roster.balance().unwrap().engine(Engine::Classic);
    assert_eq!(balancer.step().unwrap().engine, Engine::Classic);
    // Also in the middle.
    balancer = balancer.engine(Engine::Ebpf);
    balancer.step().unwrap();
    balancer = balancer.engine(Engine::Classic);
    assert_eq!(balancer.step().unwrap().engine, Engine::Classic);
}

/// Before it is loaded, and when a member joins.
#[test]
fn it_comes_when_there_are_descriptors_again() {
    const TEST: &str = "it_comes_when_there_are_descriptors_again";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    if balance(&open(&Options::new(), 2)).is_none() {
        return;
    }
    let mut open = open(&Options::new(), 2);
    let mut balancer = open.roster.balance().unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    for members in 2..4 {
        // One more than standard error.
        limit(Some(3));
        for _ in 0..5 {
            let engine = balancer.step().map(|balance| balance.engine);
            assert_ne!(engine.ok(), Some(Engine::Ebpf));
        }
        limit(maximum);
        assert_eq!(balancer.step().unwrap().engine, Engine::Ebpf, "{members}");
        open.join();
    }
}

#[test]
fn a_socket_of_another_process_is_not_passed_over() {
    in_namespace("a stranger in a balanced group", || {
        let open = open(&Options::new(), 2);
        let Some(mut balancer) = balance(&open) else {
            return;
        };
        let addr = open.ways[0];
        let stranger = Options::new().listen::<reuseport::Std>(addr).unwrap();
        stranger.set_nonblocking(true).unwrap();
        assert!(open.roster.places().contains(&None));
        assert_eq!(balancer.step().unwrap().engine, Engine::Classic);
        let clients: Vec<_> = (0..90).map(|_| TcpStream::connect(addr).unwrap()).collect();
        until(|| (queue(&stranger).unwrap().waiting > 5).then_some(()));
        drop(clients);
    });
}
