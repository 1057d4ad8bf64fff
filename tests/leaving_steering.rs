//! A member that leaves gets nothing new, however its group is steered meanwhile.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
mod util;

use std::net::{TcpListener, TcpStream, UdpSocket};

use members::{Kind, Open, PLACES, len, program, weights};
use reuseport::{ConnectionIds, Guarantee, Options, Steering};
use util::assert_drained;

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
            assert_drained(leaving.wait());
            // Also while its owner has it still.
            let counts = open.counts(20, b"?");
            assert_eq!(counts[1], 0, "{place:?} {before:?}: {counts:?}");
            drop(open.remove(1));
            // Index 1 is the last member's when this one has left.
            assert_eq!(open.places(), [0, 3, 2]);
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

#[test]
fn no_privilege_is_needed() {
    util::as_user(
        65_534,
        "leaving without a privilege",
        each_steering_keeps_it_out::<UdpSocket>,
    );
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
    assert_drained(leaving.wait());
}

/// A datagram with a short QUIC header, with that number in its connection id.
fn short(number: u8) -> Vec<u8> {
    [&[0x40, number][..], &[9; 20]].concat()
}

/// Flows stay with the member that leaves until its owner closes it; what is new goes to the others.
#[test]
fn connection_ids_stay_while_their_member_leaves() {
    for place in PLACES {
        let ids = Steering::ConnectionIds(ConnectionIds::quic());
        let mut open = Open::<UdpSocket>::new(&Options::new().steering(ids), place, 3);
        let leaving = open.roster.leave(1).unwrap();
        assert_eq!(leaving.guarantee(), Guarantee::Lossless);
        let flows_stay = |open: &Open<UdpSocket>| {
            for number in 0..3 {
                assert_eq!(open.counts(10, &short(number))[usize::from(number)], 10);
            }
            for unknown in [&b"?"[..], &short(99)] {
                let counts = open.counts(64, unknown);
                assert_eq!(counts[1], 0, "{counts:?}");
                assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}");
            }
            assert_eq!(open.roster.places(), [Some(0), Some(1), Some(2)]);
        };
        flows_stay(&open);
        assert_drained(leaving.wait());
        // It has its number as long as it has its flows.
        flows_stay(&open);
        assert!(!open.roster.has_left(1));
        assert_eq!(open.join(), 3);
        open.leave(3);
        drop(open.remove(1));
        assert_eq!(
            util::until(|| open.roster.has_left(1).then(|| open.places())),
            [0, 2]
        );
        let counts = open.counts(64, &short(1));
        assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}");
        assert_eq!(open.counts(10, &short(2))[2], 10);
        // Whoever comes gets the number, and its ids.
        assert_eq!(open.join(), 1);
        assert_eq!(open.counts(10, &short(1))[1], 10);
    }
}

/// Where the program is the caller's, the rest share equally while a member leaves; when it stays, the
/// program is in force again.
#[test]
fn a_program_of_the_callers_comes_back() {
    for place in PLACES {
        let open = Open::<UdpSocket>::new(&Options::new().steering(program(2)), place, 3);
        assert_eq!(open.counts(20, b"?")[2], 20);
        let leaving = open.roster.leave(1).unwrap();
        let counts = open.counts(64, b"?");
        assert!(
            counts[0] > 0 && counts[1] == 0 && counts[2] > 0,
            "{counts:?}"
        );
        drop(leaving);
        assert_eq!(open.counts(20, b"?")[2], 20);
    }
}

/// A member that is not steered to is as empty as one that leaves.
#[test]
fn a_member_of_no_weight_leaves() {
    for place in PLACES {
        let mut open = Open::<TcpListener>::new(&weights(&[0, 1, 0]), place, 3);
        open.leave(0);
        assert_eq!(open.places(), [2, 1]);
        assert_eq!(open.counts(20, b"?")[1], 20);
    }
}
