//! What leaving costs, in time, threads, system calls and processors.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "nothing safe tells the processors' time")]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/strace.rs"]
mod strace;
mod util;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use engine::PATIENCE;
use futures_util::future::join_all;
use reuseport::{Options, Roster, Tokio, queue};
use util::{Runtime, in_namespace};

/// A group without workers.
fn open(n: usize) -> (SocketAddr, Roster<TcpListener>, Vec<TcpListener>) {
    let group = Options::new().group("127.0.0.1:0", n).unwrap();
    let (addr, roster) = (group.local_addr(), group.roster());
    let listeners = group.into_iter().map(|member| member.into_std());
    (addr, roster, listeners.collect())
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// What this process has used of the processors.
fn used() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it fills one timespec, which `time` is.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(got, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The share of a processor that this process uses for so long, while it waits.
fn share(time: Duration) -> f64 {
    let (begin, before) = (Instant::now(), used());
    thread::sleep(time);
    (used() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
}

/// All that have nothing, while two stay.
#[test]
fn hundreds_of_members_leave_together() {
    const TEST: &str = "hundreds_of_members_leave_together";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("hundreds of members leave", || {
        const N: usize = 512;
        let (_, roster, listeners) = open(N + 2);
        let over = AtomicBool::new(false);
        let most = AtomicUsize::new(0);
        let (took, before) = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    most.fetch_max(threads(), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let before = threads();
            let begin = Instant::now();
            let leaving = (0..N).map(|number| roster.leave(number).unwrap());
            let leaving: Vec<_> = leaving.collect();
            let drains = leaving
                .into_iter()
                .map(|leaving| engine::drain(leaving, PATIENCE));
            for drained in smol::block_on(join_all(drains)) {
                assert_eq!(engine::lost(drained).unwrap(), 0);
            }
            over.store(true, Ordering::Relaxed);
            (begin.elapsed(), before)
        });
        let more = most.into_inner() - before;
        assert_eq!(roster.places().iter().flatten().count(), 2);
        println!("measured: {N} members left in {took:.1?} by {more} threads");
        assert!(more <= 3, "{more} threads");
        // One after the other they would take a grace period each. Machines are shared.
        assert!(took < Duration::from_secs(20), "{took:.1?}");
        drop(listeners);
    });
}

/// Also where nobody closes its listener.
#[test]
fn members_that_leave_at_once_do_not_wait_for_each_other() {
    in_namespace("members that leave at once", || {
        Tokio::block_on(async {
            let group = Options::new().group("127.0.0.1:0", 5).unwrap();
            let roster = group.roster();
            let members = group.into_iter();
            let listeners: Vec<_> = members
                .map(|member| member.attach::<Tokio>().unwrap())
                .collect();
            let begin = Instant::now();
            let drains: Vec<_> = (0..4)
                .map(|number| engine::drain(roster.leave(number).unwrap(), PATIENCE))
                .collect();
            for drain in drains {
                assert_eq!(engine::lost(drain.await).unwrap(), 0);
            }
            let took = begin.elapsed();
            assert!(
                took < Duration::from_secs(1),
                "four members took {took:.1?}"
            );
            drop(listeners);
        });
    });
}

#[test]
fn leaving_takes_few_system_calls_however_many_members_there_are() {
    const TEST: &str = "leaving_takes_few_system_calls_however_many_members_there_are";
    let calls = strace::calls(TEST, || {
        let (_, roster, listeners) = open(512);
        // The first call looks at the processors and what the kernel can do.
        drop(roster.leave(3).unwrap());
        strace::mark();
        let leaving = roster.leave(7);
        strace::mark();
        drop((leaving.unwrap(), listeners));
    });
    if let Some(calls) = calls {
        let mut names = calls.clone();
        names.sort();
        names.dedup();
        assert!(calls.len() <= 30, "{} calls of {names:?}", calls.len());
    }
}

/// Members of which each has connections that nobody accepts yet.
fn drain_slowly(n: usize, leave: usize, what: &str, most: f64) {
    let (addr, roster, listeners) = open(n);
    let _clients: Vec<_> = (0..20 * n)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    let lens = listeners
        .iter()
        .map(|listener| queue(listener).unwrap().waiting);
    assert!(lens.min() > Some(0));
    let leaving: Vec<_> = (0..leave)
        .map(|number| roster.leave(number).unwrap())
        .collect();
    let drains: Vec<_> = leaving
        .into_iter()
        .map(|leaving| engine::drain(leaving, PATIENCE))
        .collect();
    let mut drains = join_all(drains);
    assert!(smol::block_on(smol::future::poll_once(&mut drains)).is_none());
    let share = share(Duration::from_secs(3));
    println!(
        "measured: {what} take {:.1} % of a processor",
        share * 100.0
    );
    assert!(smol::block_on(smol::future::poll_once(&mut drains)).is_none());
    assert!(
        share < most,
        "{what} take {:.0} % of a processor",
        share * 100.0
    );
}

#[test]
fn members_that_wait_take_no_processor() {
    const TEST: &str = "members_that_wait_take_no_processor";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("members that wait", || {
        drain_slowly(66, 64, "64 members that wait", 0.05);
    });
}

/// The kernel's tables have them all.
#[test]
fn thousands_of_other_listeners_cost_nothing() {
    const TEST: &str = "thousands_of_other_listeners_cost_nothing";
    if !util::is_child(TEST) {
        return util::in_child(TEST);
    }
    in_namespace("other listeners", || {
        let others: Vec<_> = (10_000..18_000)
            .map_while(|port| TcpListener::bind(("127.0.0.2", port)).ok())
            .collect();
        if others.len() < 4_000 {
            return util::skip(&format!(
                "thousands of other listeners (descriptors for {})",
                others.len()
            ));
        }
        let what = format!("two members beside {} listeners", others.len());
        drain_slowly(4, 2, &what, 0.05);
    });
}
