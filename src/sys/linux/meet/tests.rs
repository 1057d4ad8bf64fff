use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::pass::{peer, receive, send, set_timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// A name that no other test has, in whatever process.
fn name() -> Vec<u8> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("reuseport-test-{}-{next}", std::process::id()).into_bytes()
}

/// Runs `f` on a thread of its own, which cannot be what it was before.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join().unwrap())
}

fn skip(what: &str, error: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "not checked: {what} ({error})");
}

#[test]
fn two_meet_and_pass() {
    let name = name();
    let listener = listen(&name).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let stream = connect(&name, PATIENCE).unwrap();
            send(stream.as_fd(), b"mine", &[listener.as_fd()]).unwrap();
        });
        let stream = accept(listener.as_fd()).unwrap();
        set_timeout(stream.as_fd(), PATIENCE).unwrap();
        let peer = peer(stream.as_fd()).unwrap();
        assert_eq!(peer.pid, Some(std::process::id()));
        let (payload, fds) = receive(stream.as_fd()).unwrap();
        assert_eq!((&payload[..], fds.len()), (&b"mine"[..], 1));
    });
}

#[test]
fn a_name_may_hold_any_bytes() {
    let mut long = name();
    long.resize(107, b'-');
    let mut zeros = name();
    zeros.extend([0, 255, 0]);
    for name in [&long, &zeros] {
        let listener = listen(name).unwrap();
        connect(name, PATIENCE).unwrap();
        accept(listener.as_fd()).unwrap();
    }
    // A zero more is another name.
    zeros.push(0);
    let error = connect(&zeros, PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    long.push(b'-');
    let error = listen(&long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = connect(&long, PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_name_is_one_listeners() {
    let name = name();
    let error = connect(&name, PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let first = listen(&name).unwrap();
    let error = listen(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    close(first.as_fd()).unwrap();
    // It is not free as long as somebody has the listener.
    let error = listen(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    drop(first);
    // A process that another test starts may have it until it calls exec.
    let end = Instant::now() + PATIENCE;
    while let Err(error) = listen(&name) {
        assert!(Instant::now() < end, "{error}");
        thread::yield_now();
    }
}

#[test]
fn close_wakes_who_accepts() {
    let listener = listen(&name()).unwrap();
    let copy = listener.try_clone().unwrap();
    thread::scope(|scope| {
        let accepting = scope.spawn(|| accept(copy.as_fd()));
        // Most likely it waits by then; the error is the same if not.
        thread::sleep(Duration::from_millis(50));
        close(listener.as_fd()).unwrap();
        let error = accepting.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    });
    let error = accept(listener.as_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    // Twice is as good as once.
    close(listener.as_fd()).unwrap();
}

#[test]
fn who_connected_before_a_close_is_accepted_after_it() {
    let name = name();
    let listener = listen(&name).unwrap();
    let early = connect(&name, PATIENCE).unwrap();
    close(listener.as_fd()).unwrap();
    let error = connect(&name, PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let stream = accept(listener.as_fd()).unwrap();
    send(early.as_fd(), b"early", &[]).unwrap();
    assert_eq!(receive(stream.as_fd()).unwrap().0, b"early");
    let error = accept(listener.as_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
}

#[test]
fn a_connect_waits_no_longer_than_its_timeout() {
    const SHORT: Duration = Duration::from_millis(50);
    let name = name();
    // With room for one, which listen(2) gives to two.
    let listener = listen(&name).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let mut waiting = Vec::new();
    let start = Instant::now();
    let error = loop {
        match connect(&name, SHORT) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(waiting.len(), 2);
    assert!(start.elapsed() >= SHORT);
    // And so is every later wait.
    let error = receive(waiting[0].as_fd()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[test]
fn both_learn_who_the_other_is() {
    const NOBODY: u32 = 65_534;
    let name = name();
    let listener = listen(&name).unwrap();
    let stream = on_thread(|| {
        let uid = rustix::process::Uid::from_raw(NOBODY);
        // The system call itself, which acts on one thread; libc's setresuid acts on all.
        match rustix::thread::set_thread_res_uid(uid, uid, uid) {
            Ok(()) => Some(connect(&name, PATIENCE).unwrap()),
            Err(error) => {
                skip("a peer of another user", error);
                None
            }
        }
    });
    let Some(stream) = stream else { return };
    let accepted = accept(listener.as_fd()).unwrap();
    assert_eq!(peer(accepted.as_fd()).unwrap().uid, NOBODY);
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(peer(stream.as_fd()).unwrap().uid, uid);
}

#[test]
fn two_namespaces_do_not_meet() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let name = name();
    let _listener = listen(&name).unwrap();
    on_thread(|| {
        // SAFETY: only this thread's view of the network changes, and no flag touches memory or
        // descriptors.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            skip("another network namespace", error);
            return;
        }
        let error = connect(&name, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        // The name is free here.
        let _own = listen(&name).unwrap();
        connect(&name, PATIENCE).unwrap();
    });
    connect(&name, PATIENCE).unwrap();
}
