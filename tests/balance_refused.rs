//! What a balancer refuses, where it may run, its thread and its descriptors.

#![cfg(target_os = "linux")]

#[path = "util/members.rs"]
mod members;
mod util;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::Duration;

use members::{HERE, Open};
use reuseport::{
    Balancer, Engine, Group, Instruction, Options, Roster, Socket, Spread, Std, Steering,
};
use util::{as_user, descriptors, in_namespace, ours, until};

fn open() -> Open<TcpListener> {
    Open::new(&Options::new(), HERE, 2)
}

fn classic<S: Socket>(roster: &Roster<S>) -> Balancer {
    roster.balance().unwrap().engine(Engine::Classic)
}

fn refused<S: Socket>(roster: &Roster<S>, why: &str) {
    let error = roster.balance().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        ours(&error),
        format!(
            "cannot balance the group on {}: {why}",
            error.addr().unwrap()
        )
    );
}

#[test]
fn what_cannot_be_balanced_is_refused_with_a_reason() {
    let program = || {
        Steering::Program(vec![Instruction {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: 0,
        }])
    };
    let open = |options: Options| options.group("127.0.0.1:0", 2).unwrap();
    let alone = "it is steered by a program of the caller's, which alone decides";
    let udp = "a datagram does not tell whether its flow is new, so that flows would move to other \
               members; with connection ids they stay";
    refused(&open(Options::new().steering(program())).roster(), alone);
    refused(
        &open(Options::new().spread(Spread::Queue)).roster(),
        "its members have one queue together, and nothing to choose",
    );
    let packets = Options::new().packet_group("127.0.0.1:0", 2).unwrap();
    refused(&packets.roster(), udp);

    let group = open(Options::new());
    let roster = group.roster();
    let balancer = roster.balance().unwrap();
    refused(&roster, "another Balancer does");
    let error = roster.steer(&program()).unwrap_err();
    let addr = group.local_addr();
    assert_eq!(
        ours(&error),
        format!("cannot steer the group on {addr}: it is balanced by load, and {alone}")
    );
    let error = roster.load(2).unwrap_err();
    assert_eq!(
        ours(&error),
        format!("there is no load to publish in the group on {addr}: it has no member 2")
    );
    drop(balancer);
    roster.steer(&program()).unwrap();
}

#[test]
fn members_whose_places_are_not_known_are_not_weighted() {
    let sockets = {
        let first = Options::new().listen::<Std>("127.0.0.1:0").unwrap();
        let addr = first.local_addr().unwrap();
        [first, Options::new().listen::<Std>(addr).unwrap()]
    };
    let group = Group::<TcpListener>::adopt(sockets).unwrap();
    let mut balancer = classic(&group.roster());
    // As long as all are alike it does not matter; the process that had them may have told the kernel otherwise.
    assert_eq!(balancer.step().unwrap().attaches, 1);
    group.roster().load(1).unwrap().set(50);
    let error = balancer.step().unwrap_err();
    assert!(
        ours(&error).contains("the places of its members are not known"),
        "{error}"
    );
    group.roster().load(1).unwrap().set(0);
    assert_eq!(balancer.step().unwrap().attaches, 1);
}

#[test]
fn another_namespace_has_other_queues() {
    let open = open();
    in_namespace("a balancer of another network namespace", || {
        let mut balancer = classic(&open.roster);
        let error = balancer.step().unwrap_err();
        assert!(
            ours(&error).contains("none of its queues is seen"),
            "{error}"
        );
    });
    // That of the thread that began counts, and not that of the step.
    let mut balancer = classic(&open.roster);
    in_namespace("a step in another network namespace", || {
        balancer.step().unwrap()
    });
}

/// The kernel has the places of before, and is told by the next step though no load has changed.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn what_the_kernel_was_not_told_is_told_by_the_next_step() {
    let mut open = Open::<TcpListener>::new(&Options::new(), HERE, 3);
    let mut balancer = classic(&open.roster);
    open.roster.load(0).unwrap().set(1_000_000);
    assert_eq!(balancer.step().unwrap().attaches, 1);
    // The last one stands in its place from here on.
    open.drop_plainly(0);
    let refused = std::thread::scope(|scope| {
        let step = || {
            util::answer_option(libc::SO_ATTACH_REUSEPORT_CBPF, libc::ENOMEM);
            util::answer_option(libc::SO_DETACH_REUSEPORT_BPF, libc::ENOMEM);
            until(|| balancer.step().err())
        };
        scope.spawn(step).join().unwrap()
    });
    assert_eq!(refused.io_error().raw_os_error(), Some(libc::ENOMEM));
    until(|| (balancer.step().unwrap().attaches == 2).then_some(()));
    let got = open.counts(100, &[]);
    assert!(got[1] > 20 && got[2] > 20, "{got:?}");
}

#[test]
fn it_needs_no_privilege() {
    as_user(1234, "balancing without a privilege", || {
        let open = open();
        let mut balancer = classic(&open.roster);
        open.roster.load(0).unwrap().set(100);
        assert_eq!(balancer.step().unwrap().attaches, 1);
        let got = open.counts(100, &[]);
        assert!(got[0] < 25, "{got:?}");
    });
}

#[test]
fn the_thread_ends_with_its_handle() {
    let open = open();
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.flat_map(|task| std::fs::read_to_string(task.path().join("comm")));
        names
            .filter(|name| name.trim_end() == "reuseport-balan")
            .count()
    };
    let balancing = open
        .roster
        .balance()
        .unwrap()
        .spawn(Duration::from_millis(1))
        .unwrap();
    let load = open.roster.load(0).unwrap();
    load.set(100);
    until(|| (balancing.last().unwrap().attaches == 1).then_some(()));
    // It names itself when it runs.
    until(|| (threads() >= 1).then_some(()));
    let begin = std::time::Instant::now();
    drop(balancing);
    assert!(begin.elapsed() < util::PATIENCE);
    // The group is free for another.
    let long = open
        .roster
        .balance()
        .unwrap()
        .spawn(Duration::from_secs(3600))
        .unwrap();
    // It does not sleep on.
    drop(long);
    drop(open.roster.balance().unwrap());
}

/// The descriptors of bpf(2) of this process.
fn of_bpf() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let is_bpf = |entry: &std::fs::DirEntry| {
        let to = std::fs::read_link(entry.path()).unwrap_or_default();
        to.to_string_lossy().contains("bpf")
    };
    let numbers = entries.filter(is_bpf).map(|entry| entry.file_name());
    numbers
        .map(|name| name.to_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn its_descriptors_end_with_the_group_and_no_program_gets_them() {
    const TEST: &str = "its_descriptors_end_with_the_group_and_no_program_gets_them";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    drop(open());
    let before = descriptors();
    let open = open();
    let mut balancer = open.roster.balance().unwrap();
    if balancer.step().unwrap().engine != Engine::Ebpf {
        return util::skip("the descriptors of an eBPF program (this process may load none)");
    }
    let all = of_bpf();
    assert_eq!(all.len(), 2, "the map of sockets and the program");
    let is_closed_by_exec = |number: &i32| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        flags & libc::O_CLOEXEC as u32 != 0
    };
    assert!(all.iter().all(is_closed_by_exec));
    // A load outlives the group, and its memory with it.
    let load = open.roster.load(0).unwrap();
    assert!(open.get(0).as_raw_fd() > 2);
    drop((balancer, open));
    let held = load.hold();
    assert_eq!(load.get(), 1);
    drop((held, load));
    assert_eq!((descriptors(), of_bpf().len()), (before, 0));
}
