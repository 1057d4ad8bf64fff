use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;

use super::super::steer;
use super::super::testing::{V4, V6, group, in_namespace, listener, skip, until};
use super::*;
use crate::sys::{Dispatch, Instruction};

fn interface(fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &index)
}

fn steer_to(group: &[TcpListener], place: Option<u32>) {
    let program = place.map(|k| {
        let ret = Instruction {
            code: 0x06,
            jt: 0,
            jf: 0,
            k,
        };
        Dispatch::Program(vec![ret])
    });
    steer::dispatch(group[0].as_fd(), &program.unwrap_or(Dispatch::Hash)).unwrap();
}

/// How many of so many connections each of them gets.
fn counts(listeners: &[&TcpListener], addr: SocketAddr, n: usize) -> Vec<usize> {
    let mut counts = vec![0; listeners.len()];
    let clients: Vec<_> = (0..n).map(|_| TcpStream::connect(addr).unwrap()).collect();
    until(|| {
        for (count, listener) in counts.iter_mut().zip(listeners) {
            while listener.accept().is_ok() {
                *count += 1;
            }
        }
        (counts.iter().sum::<usize>() >= n).then_some(())
    });
    drop(clients);
    counts
}

#[test]
fn with_the_others_hidden_one_that_is_alone_gets_everything() {
    for (addr, place) in [V4, V6]
        .into_iter()
        .flat_map(|addr| (0..3).map(move |n| (addr, n)))
    {
        let group = group(addr, 3);
        let addr = group[0].local_addr().unwrap();
        let all: Vec<_> = group.iter().collect();
        let one = group[place].as_fd();
        for other in (0..3).filter(|other| *other != place) {
            hide(group[other].as_fd()).unwrap();
        }
        let mut expected = [0; 3];
        expected[place] = 60;
        for program in [None, Some((place + 1) as u32 % 3), Some(place as u32)] {
            steer_to(&group, program);
            set_alone(one, true).unwrap();
            assert_eq!(
                counts(&all, addr, 60),
                expected,
                "{addr} {place} {program:?}"
            );
            set_alone(one, false).unwrap();
        }
    }
}

#[test]
fn a_switch_counts_only_where_something_is_behind_it() {
    let has = "TcpExt: SyncookiesSent TCPMigrateReqSuccess TCPMigrateReqFailure\nTcpExt: 0 0 0\n";
    let has_not = "TcpExt: SyncookiesSent TCPOrigDataSent\nTcpExt: 0 0\n";
    assert!(is_migrating(b"1\n", has));
    assert!(!is_migrating(b"1\n", has_not));
    assert!(!is_migrating(b"0\n", has));
    assert!(!is_migrating(b"", has));
}

#[test]
fn each_network_namespace_has_its_own_switch() {
    in_namespace("the switch of migration", || {
        let counters = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let Ok(()) = fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1") else {
            assert!(!migrates());
            return skip("the switch of migration (this kernel has none)");
        };
        assert_eq!(migrates(), counters.contains("TCPMigrateReqSuccess"));
        fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "0").unwrap();
        assert!(!migrates());
    });
}

#[test]
fn what_is_restricted_to_a_device_can_be_hidden_with_a_privilege_alone() {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    let (free, bound) = (listener(V4), listener(V4));
    assert!(can_hide(free.as_fd()));
    // The loopback interface is the first that a network namespace has.
    interface(bound.as_fd(), 1).unwrap();
    let capabilities = capabilities(None).unwrap().effective;
    let may = capabilities.contains(CapabilitySet::NET_RAW);
    assert_eq!(can_hide(bound.as_fd()), may);
    assert_eq!(
        words::<1>(bound.as_fd(), libc::SOL_SOCKET, SO_BINDTOIFINDEX).unwrap(),
        Some([1])
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            };
            // The uid is still 0.
            set_capabilities(None, sets).unwrap();
            assert!(can_hide(free.as_fd()));
            assert!(!can_hide(bound.as_fd()));
            hide(bound.as_fd()).unwrap_err();
            hide(free.as_fd()).unwrap();
            assert!(is_hidden(free.as_fd()));
        });
    });
}
