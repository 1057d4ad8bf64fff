//! Leaving where the kernel, a container or a filter of system calls refuses a part of it.
//!
//! Each in a process of its own, which cannot take back what it gave up.

#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

#[path = "util/members.rs"]
mod members;
mod util;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use members::{HERE, Kind, Open, PLACES, half_open_handshakes_are_waited_for, len, weights};
use reuseport::{Guarantee, Options};
use util::{answer, answer_option, assert_drained};

/// Makes a test of a function, which runs in a process of its own.
macro_rules! in_a_process_each {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            if util::is_child(stringify!($name)) {
                refused::$name();
            } else {
                util::in_child(stringify!($name));
            }
        })*
    };
}

in_a_process_each!(
    barriers_are_forbidden
    barriers_are_unknown
    interfaces_are_forbidden
    interfaces_are_unknown
    proc_is_not_there
    nobody_counts
    no_thread_is_left
);

/// As this user, and as one without a privilege.
fn as_anybody(what: &str, check: impl Fn() + Send + Sync) {
    check();
    util::as_user(65_534, what, &check);
}

/// With something in its queue, which is not lost.
fn one_leaves<S: Kind>(guarantee: Guarantee) {
    for place in PLACES {
        let mut open = Open::<S>::new(&weights(&[1, 0, 0, 0]), place, 4);
        let client = S::client(open.way());
        client.send(b"?");
        let leaving = open.roster.leave(0).unwrap();
        assert_eq!(leaving.guarantee(), guarantee);
        util::until(|| open.get(0).take().then_some(()));
        assert_drained(leaving.wait());
        assert!(open.roster.has_left(0));
        // Closed or not, it gets nothing, whatever the drain is at meanwhile.
        let out = open.remove(0);
        for _ in 0..6 {
            let counts = open.counts(20, b"?");
            assert_eq!(counts.iter().sum::<usize>(), 20, "{place:?}");
        }
        drop(out);
        assert_eq!(open.places(), [3, 1, 2]);
        assert_eq!(open.join(), 0);
        assert_eq!(open.roster.places(), [Some(3), Some(1), Some(2), Some(0)]);
        assert_eq!(open.counts(30, b"?")[0], 30, "{place:?}");
        open.leave(1);
        assert_eq!(open.places(), [3, 0, 2]);
        assert_eq!(open.counts(30, b"?")[0], 30, "{place:?}");
        // And whoever stays is as before.
        drop(open.roster.leave(2).unwrap());
    }
}

/// A fixed time instead of a grace period.
fn leaving_takes_a_pause() {
    let mut open = Open::<TcpListener>::new(&weights(&[0, 1]), HERE, 2);
    let _client = TcpStream::connect(open.way()).unwrap();
    util::until(|| (len(open.get(1)) == 1).then_some(()));
    let start = Instant::now();
    let leaving = open.roster.leave(1).unwrap();
    assert!(open.get(1).take());
    assert_drained(smol::block_on(leaving));
    assert!(start.elapsed() >= Duration::from_millis(100));
    drop(open.remove(1));
    assert_eq!(open.places(), [0]);
}

/// An empty file system in the place of /proc, for this thread and those that it starts.
#[allow(unsafe_code, reason = "nothing safe mounts a file system")]
fn without_proc(what: &str) -> bool {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: only this thread's view of the file systems changes, and no flag touches memory or
    // descriptors.
    if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNS) } {
        util::skip(&format!("{what} (no mount namespace of its own: {error})"));
        return false;
    }
    let mount = |kind: &std::ffi::CStr, on: &std::ffi::CStr, flags| {
        // SAFETY: the strings are NUL-terminated and outlive the call, and no data is given.
        let result = unsafe {
            libc::mount(
                kind.as_ptr(),
                on.as_ptr(),
                kind.as_ptr(),
                flags,
                std::ptr::null(),
            )
        };
        assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
    };
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE);
    mount(c"tmpfs", c"/proc", 0);
    assert!(std::fs::read("/proc/net/tcp").is_err());
    true
}

mod refused {
    use super::*;

    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

    pub(super) fn barriers_are_forbidden() {
        answer(
            libc::SYS_membarrier,
            &[(0, MEMBARRIER_CMD_GLOBAL)],
            libc::EPERM,
        );
        as_anybody("leaving without a barrier", || {
            leaving_takes_a_pause();
            one_leaves::<TcpListener>(Guarantee::Lossless);
            one_leaves::<UdpSocket>(Guarantee::Lossless);
        });
    }

    /// Linux before 4.3.
    pub(super) fn barriers_are_unknown() {
        answer(
            libc::SYS_membarrier,
            &[(0, MEMBARRIER_CMD_GLOBAL)],
            libc::ENOSYS,
        );
        leaving_takes_a_pause();
    }

    pub(super) fn interfaces_are_forbidden() {
        answer_option(libc::SO_BINDTOIFINDEX, libc::EPERM);
        as_anybody("leaving without another interface", || {
            one_leaves::<TcpListener>(Guarantee::BestEffort);
            one_leaves::<UdpSocket>(Guarantee::BestEffort);
            half_open_handshakes_are_waited_for();
        });
    }

    /// Linux before 5.1.
    pub(super) fn interfaces_are_unknown() {
        answer_option(libc::SO_BINDTOIFINDEX, libc::ENOPROTOOPT);
        one_leaves::<TcpListener>(Guarantee::BestEffort);
        one_leaves::<UdpSocket>(Guarantee::BestEffort);
    }

    /// The kernel's dump counts as well.
    pub(super) fn proc_is_not_there() {
        if without_proc("leaving without /proc") {
            as_anybody("leaving without /proc", || {
                one_leaves::<TcpListener>(Guarantee::Lossless);
                one_leaves::<UdpSocket>(Guarantee::Lossless);
                half_open_handshakes_are_waited_for();
            });
        }
    }

    pub(super) fn nobody_counts() {
        if !without_proc("leaving where nobody counts") {
            return;
        }
        answer(libc::SYS_socket, &[(0, libc::AF_NETLINK)], libc::EPERM);
        as_anybody("leaving where nobody counts", || {
            let mut open = Open::<TcpListener>::new(&weights(&[0, 1]), HERE, 2);
            let _client = TcpStream::connect(open.way()).unwrap();
            util::until(|| (len(open.get(1)) == 1).then_some(()));
            let start = Instant::now();
            let mut leaving = open.roster.leave(1).unwrap();
            assert_eq!(leaving.guarantee(), Guarantee::BestEffort);
            assert!(members::stays_pending(&mut leaving));
            assert!(open.get(1).take());
            assert_drained(smol::block_on(leaving));
            assert!(start.elapsed() >= Duration::from_secs(3));
            drop(open.remove(1));
            assert_eq!(open.places(), [0]);
        });
    }

    /// RLIMIT_NPROC, which binds whoever has no privilege.
    pub(super) fn no_thread_is_left() {
        use rustix::process::{Resource, Rlimit, setrlimit};
        util::as_user(65_534, "leaving without a thread", || {
            let open = Open::<TcpListener>::new(&Options::new(), HERE, 2);
            let none = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            setrlimit(Resource::Nproc, none).unwrap();
            let error = open.roster.leave(1).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "member 1 of the group on {} cannot leave: no thread can be started to wait \
                     for it: Resource temporarily unavailable (os error 11)",
                    open.ways[0]
                )
            );
            assert_eq!(open.roster.places(), [Some(0), Some(1)]);
            assert!(open.counts(50, b"?")[1] > 0, "it stays");
        });
    }
}
