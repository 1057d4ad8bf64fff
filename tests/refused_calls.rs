//! Leaving and taking over while each one of the system calls in it is refused: nothing is lost, or it is said.

#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

#[path = "util/engine.rs"]
mod engine;
#[path = "util/load.rs"]
mod load;
#[path = "util/strace.rs"]
mod strace;
#[path = "util/traffic.rs"]
mod traffic;
mod util;
#[path = "util/worker.rs"]
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use reuseport::{Drained, Error, Generation, Guarantee, Options, Roster};
use traffic::{ADDR, Traffic};
use util::{in_namespace, is_child};

/// The calls that can fail, by the names that strace has for them.
const CALLS: &[(&str, libc::c_long)] = &[
    ("accept4", libc::SYS_accept4),
    ("bind", libc::SYS_bind),
    ("bpf", libc::SYS_bpf),
    ("clone3", libc::SYS_clone3),
    ("connect", libc::SYS_connect),
    ("dup", libc::SYS_dup),
    ("eventfd2", libc::SYS_eventfd2),
    ("fcntl", libc::SYS_fcntl),
    ("fstat", libc::SYS_fstat),
    ("getdents64", libc::SYS_getdents64),
    ("getpeername", libc::SYS_getpeername),
    ("getsockname", libc::SYS_getsockname),
    ("getsockopt", libc::SYS_getsockopt),
    ("ioctl", libc::SYS_ioctl),
    ("listen", libc::SYS_listen),
    ("lseek", libc::SYS_lseek),
    ("membarrier", libc::SYS_membarrier),
    ("newfstatat", libc::SYS_newfstatat),
    ("openat", libc::SYS_openat),
    #[cfg(target_arch = "x86_64")]
    ("poll", libc::SYS_poll),
    ("ppoll", libc::SYS_ppoll),
    ("read", libc::SYS_read),
    #[cfg(target_arch = "x86_64")]
    ("readlink", libc::SYS_readlink),
    ("readlinkat", libc::SYS_readlinkat),
    ("recvfrom", libc::SYS_recvfrom),
    ("recvmsg", libc::SYS_recvmsg),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("sendmsg", libc::SYS_sendmsg),
    ("sendto", libc::SYS_sendto),
    ("setsockopt", libc::SYS_setsockopt),
    ("shutdown", libc::SYS_shutdown),
    ("socket", libc::SYS_socket),
    ("socketpair", libc::SYS_socketpair),
    ("statx", libc::SYS_statx),
    ("write", libc::SYS_write),
];

/// What no filter and no limit refuses: memory, locks, clocks, signals and the end; and close(2), which takes
/// the descriptor away whatever it answers.
const NEVER: &[&str] = &[
    "brk",
    "clock_nanosleep",
    "close",
    "exit",
    "futex",
    "geteuid",
    "getpid",
    "getrandom",
    "gettid",
    "getuid",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "prctl",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_yield",
    "set_robust_list",
    "sigaltstack",
];

const PATIENCE: Duration = Duration::from_secs(2);

/// Whose calls are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Of a group of which a member leaves.
    Leaver,
    /// Of the process that takes over.
    Successor,
    /// Of the process that is relieved.
    Predecessor,
}

/// Answers each of `listener`'s connections, until that fails.
fn serve(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() {
            let _ = stream.write_all(&byte);
        }
    }
}

/// Threads that serve what they are sent, and whose own calls nothing refuses.
fn workers(n: usize) -> Vec<Sender<TcpListener>> {
    let worker = || {
        let (sender, listeners) = mpsc::channel::<TcpListener>();
        thread::spawn(move || listeners.iter().for_each(|listener| serve(&listener)));
        sender
    };
    std::iter::repeat_with(worker).take(n).collect()
}

fn generation(workers: &[Sender<TcpListener>]) -> Result<(Roster<TcpListener>, Generation), Error> {
    let (group, generation) = Options::new().generation(ADDR, workers.len())?;
    let roster = group.roster();
    for (member, worker) in group.into_iter().zip(workers) {
        worker.send(member.into_std()).unwrap();
    }
    Ok((roster, generation))
}

/// What came of it, and what was promised.
type Outcome = (Guarantee, Result<Drained, Error>);

fn leaves(roster: &Roster<TcpListener>) -> Outcome {
    match roster.leave(0) {
        Ok(leaving) => (leaving.guarantee(), leaving.timeout(PATIENCE).wait()),
        Err(error) => (Guarantee::Lossless, Err(error)),
    }
}

/// The outcome, and the generation if it serves.
fn takes_over(workers: &[Sender<TcpListener>]) -> (Outcome, Option<Generation>) {
    match generation(workers) {
        Ok((_, generation)) => {
            let guarantee = generation.guarantee();
            let taken = generation.take_over_blocking(PATIENCE);
            // It is given up where it has failed.
            let serves = taken.is_ok().then_some(generation);
            ((guarantee, taken), serves)
        }
        Err(error) => ((Guarantee::Lossless, Err(error)), None),
    }
}

/// Runs `f` on a thread of which a call is refused.
fn refused<T: Send>(
    refusal: Option<(libc::c_long, libc::c_int)>,
    f: impl FnOnce() -> T + Send,
) -> T {
    util::on_thread(|| {
        if let Some((call, errno)) = refusal {
            util::answer(call, &[], errno);
        }
        f()
    })
}

/// One of the sides has a call refused, under traffic; what came of it, or what was wrong.
fn case(side: Side, refusal: Option<(libc::c_long, libc::c_int)>) -> Result<String, String> {
    let (old, new) = (workers(3), workers(2));
    let (outcome, lost) = match side {
        Side::Leaver => {
            let group = Options::new().group(ADDR, 3).unwrap();
            let roster = group.roster();
            for (member, worker) in group.into_iter().zip(&old) {
                worker.send(member.into_std()).unwrap();
            }
            let traffic = Traffic::tcp(ADDR);
            traffic.go_on(50);
            let outcome = refused(refusal, || leaves(&roster));
            if roster.has_left(0) != outcome.1.is_ok() {
                return Err(format!("it has left, or not, in spite of {:?}", outcome.1));
            }
            traffic.go_on(50);
            (outcome, traffic.stop())
        }
        Side::Successor | Side::Predecessor => {
            let (first, second) = match side {
                Side::Predecessor => (refusal, None),
                _ => (None, refusal),
            };
            let served = refused(first, || generation(&old));
            let Ok(served) = served else {
                return Ok("is not opened".to_owned());
            };
            let traffic = Traffic::tcp(ADDR);
            traffic.go_on(50);
            let (outcome, serves) = refused(second, || takes_over(&new));
            traffic.go_on(50);
            let lost = traffic.stop();
            drop((served, serves));
            (outcome, lost)
        }
    };
    let (guarantee, drained) = outcome;
    let is_honest = match &drained {
        Ok(drained) => guarantee != Guarantee::Lossless || !drained.is_empty(),
        Err(_) => false,
    };
    let told = match &drained {
        Ok(drained) => format!("{guarantee:?}, {drained:?}"),
        Err(error) => error.to_string(),
    };
    match lost.lost() {
        0 => Ok(told),
        _ if is_honest => Ok(format!("{told}; {lost}")),
        _ => Err(format!("{told}; {lost}")),
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Each call of [`CALLS`] on each side, as a filter of system calls refuses it, and as a limit does.
#[test]
fn nothing_is_lost_whatever_is_refused() {
    const TEST: &str = "nothing_is_lost_whatever_is_refused";
    if !is_child(TEST) {
        return util::in_child(TEST);
    }
    let sides = [Side::Leaver, Side::Successor, Side::Predecessor];
    let refusals = CALLS.iter().flat_map(|&(name, call)| {
        [libc::EPERM, libc::EMFILE].map(|errno| (name, Some((call, errno))))
    });
    let refusals: Vec<_> = std::iter::once(("nothing", None)).chain(refusals).collect();
    let mut cases: Vec<_> = refusals
        .iter()
        .flat_map(|&(name, refusal)| sides.map(|side| (name, refusal, side)))
        .collect();
    // A predecessor that cannot answer is waited for: these take longest.
    let is_short = |side, name| {
        side != Side::Predecessor || !["accept4", "poll", "ppoll", "sendmsg"].contains(&name)
    };
    cases.sort_by_key(|&(name, _, side)| is_short(side, name));
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(&(name, refusal, side)) =
                    cases.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let begin = std::time::Instant::now();
                    let what = format!("{side} without {name}");
                    let Some(outcome) = in_namespace(&what, || case(side, refusal)) else {
                        continue;
                    };
                    let errno = refusal.map_or(0, |refusal| refusal.1);
                    let took = begin.elapsed();
                    println!("{what} ({errno}), in {took:.1?}: {outcome:?}");
                    if refusal.is_none()
                        && outcome
                            .as_ref()
                            .is_ok_and(|told| !told.contains("Lossless"))
                    {
                        wrong.lock().unwrap().insert(what.clone(), outcome.clone());
                    }
                    if outcome.is_err() {
                        wrong
                            .lock()
                            .unwrap()
                            .insert(format!("{what} ({errno})"), outcome);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// No call is forgotten.
#[test]
fn every_call_is_known() {
    const TEST: &str = "every_call_is_known";
    let calls = strace::all_calls(TEST, || {
        in_namespace("the calls of a takeover", || {
            strace::mark();
            let (old, new) = (workers(2), workers(2));
            let (roster, first) = generation(&old).unwrap();
            assert!(leaves(&roster).1.unwrap().is_empty());
            let (outcome, second) = takes_over(&new);
            assert!(outcome.1.unwrap().is_empty());
            drop((first, second));
            strace::mark();
        });
    });
    let unknown: Vec<_> = calls
        .into_iter()
        .flatten()
        .filter(|call| {
            let call = call.as_str();
            !NEVER.contains(&call) && CALLS.iter().all(|(name, _)| *name != call)
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
