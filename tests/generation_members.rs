//! A generation is a group like any other: it is steered, and its members leave and join.

#![cfg(target_os = "linux")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/generations.rs"]
mod generations;
#[path = "util/load.rs"]
mod load;
#[path = "util/process.rs"]
mod process;
#[path = "util/serve.rs"]
mod serve;
#[path = "util/server.rs"]
mod server;
#[path = "util/traffic.rs"]
mod traffic;
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use generations::{PORT, Server, V4, ask};
use reuseport::{Guarantee, Options, Roster, Std, Steering, Tokio};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use traffic::Traffic;
use util::{assert_drained, in_namespace};

/// What members of the given weights, and of processors, get.
#[test]
fn the_new_one_is_steered_as_it_was_asked() {
    // Where nobody forks, what is closed is gone.
    if !util::is_child("the_new_one_is_steered_as_it_was_asked") {
        return util::in_child("the_new_one_is_steered_as_it_was_asked");
    }
    in_namespace("steered generations", || {
        let addr = SocketAddr::new(V4, PORT);
        let plain = Server::serving::<Std>(&Options::new(), addr, 2);

        let weights = Options::new().steering(Steering::Weights(vec![0, 1, 0]));
        let new = Server::serving::<Std>(&weights, addr, 3);
        plain.relieved();
        for _ in 0..40 {
            ask(addr, 1).unwrap();
        }
        let accepted: Vec<_> = new.members.iter().map(|one| one.tally.accepted()).collect();
        assert_eq!(accepted, [0, 40, 0]);
        new.end();

        // All connections come from one processor, and so to its one member.
        let may = sched_getaffinity(None).unwrap();
        let cores: Vec<_> = (0..CpuSet::MAX_CPU)
            .filter(|&core| may.is_set(core))
            .collect();
        let cpu = Options::new().steering(Steering::Cpu);
        for n in [cores.len(), cores.len() + 1, 1] {
            let old = Server::serving::<Std>(&cpu, addr, n);
            for (at, &core) in cores.iter().enumerate().take(n) {
                let before: Vec<_> = old.members.iter().map(|m| m.tally.accepted()).collect();
                thread::spawn(move || {
                    let mut own = CpuSet::new();
                    own.set(core);
                    sched_setaffinity(None, &own).unwrap();
                    for _ in 0..20 {
                        ask(addr, 1).unwrap();
                    }
                })
                .join()
                .unwrap();
                for (one, before) in old.members.iter().zip(before) {
                    let gets = one.number % cores.len() == at || n == 1;
                    let got = one.tally.accepted() - before;
                    assert_eq!(got > 0, gets, "{} of {n}: {got}", one.number);
                }
            }
            old.end();
        }

        let wrong = Options::new().steering(Steering::Weights(vec![1, 1]));
        let error = wrong.generation(addr, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error
                .to_string()
                .contains("there are 2 weights for 3 members"),
            "{error}"
        );
    });
}

fn refusals(roster: &Roster<TcpListener>) -> [String; 4] {
    let errors = [
        roster.leave(0).map(drop).unwrap_err(),
        roster.join().map(drop).unwrap_err(),
        roster.close(0).unwrap_err(),
        roster.steer(&Steering::Hash).unwrap_err(),
    ];
    errors.map(|error| {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    })
}

#[test]
fn members_leave_and_join_a_generation() {
    in_namespace("members of a generation leave", || {
        let addr = SocketAddr::new(V4, PORT);
        let old = Server::serving::<Tokio>(&Options::new(), addr, 3);
        let mut new = Server::open::<Tokio>(&Options::new(), addr, 4);

        let cannot = format!("cannot steer the group on {addr}");
        let why = format!("{cannot}: it has not taken over yet");
        assert_eq!(refusals(&new.roster), [&why; 4].map(Clone::clone));
        // The one before is there yet.
        let own = [0, 1, 2, 3].map(Some);
        assert_eq!(new.roster.places(), [&[None; 3], &own[..]].concat());
        // Beside a successor nothing moves.
        let why = format!("{cannot}: the next process is about to take it over");
        let errors = [
            old.roster.join().map(drop).unwrap_err(),
            old.roster.close(0).unwrap_err(),
        ];
        assert_eq!(errors.map(|error| error.to_string()), [why.clone(), why]);
        old.roster.steer(&Steering::Weights(vec![0, 1, 0])).unwrap();
        let before = old.members[1].tally.accepted();
        for _ in 0..20 {
            ask(addr, 1).unwrap();
        }
        assert_eq!(old.members[1].tally.accepted(), before + 20);

        new.take_over();
        let roster = old.roster.clone();
        old.relieved();
        assert!((0..3).all(|number| roster.has_left(number)));
        new.alone();
        let why = format!("{cannot}: another process has taken it over");
        assert_eq!(refusals(&roster), [&why; 4].map(Clone::clone));

        let traffic = Traffic::tcp(addr);
        traffic.go_on(200);
        for number in [1, 3] {
            let leaving = new.roster.leave(number).unwrap();
            assert_eq!(leaving.guarantee(), Guarantee::Lossless);
            assert_drained(leaving.wait());
            let at = new.members.iter().position(|one| one.number == number);
            // Its worker is told by the test, not by the generation.
            new.stop(at.unwrap());
        }
        traffic.assert_nothing_lost("members that leave");
        util::until(|| (new.roster.places().len() == 2).then_some(()));
        new.assert_places();
        let joined = new.roster.join().unwrap();
        assert_eq!(joined.number(), 1);
        assert_eq!(new.roster.places().last(), Some(&Some(1)));

        // The next one has its own numbers, whatever became of these.
        drop(joined);
        let next = Server::serving::<Tokio>(&Options::new(), addr, 2);
        new.relieved();
        next.alone();
        next.assert_places();
        next.end();
    });
}

/// A listener that has left, and is not closed yet, accepts without an error while the next generation comes.
#[test]
fn one_that_has_left_stays_while_the_next_comes() {
    const TEST: &str = "one_that_has_left_stays_while_the_next_comes";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("one that has left", || {
        let addr = SocketAddr::new(V4, PORT);
        let open = || {
            let (group, generation) = Options::new().generation(addr, 3).unwrap();
            let roster = group.roster();
            let listeners = group.into_iter().map(|member| member.into_std());
            let listeners: Vec<TcpListener> = listeners.collect();
            for listener in &listeners {
                listener.set_nonblocking(true).unwrap();
            }
            (listeners, roster, generation)
        };
        let accepts = |listener: &TcpListener| listener.accept().unwrap_err().kind();
        let (old, roster, first) = open();
        assert_drained(roster.leave(0).unwrap().wait());
        let (new, _, second) = open();
        assert_eq!(accepts(&old[0]), ErrorKind::WouldBlock);
        assert_drained(second.take_over_blocking(util::PATIENCE));
        let client = std::net::TcpStream::connect(addr).unwrap();
        assert!(
            util::until(|| new.iter().find_map(|listener| listener.accept().ok())).1
                == client.local_addr().unwrap()
        );
        drop((old, first, second));
    });
}
