use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::child::{Child, role};
use crate::sys::pass::{peer, receive, send};

mod flood;
mod linger;
mod squat;
mod strangers;

const PATIENCE: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

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
    let line = format!("not checked: {what} ({error})\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn me() -> u32 {
    crate::sys::user()
}

/// A stream to a rendezvous of this user.
#[track_caller]
fn connect(name: &[u8]) -> OwnedFd {
    match find(name, me(), soon()).unwrap() {
        Found::Line(line) => line,
        other => panic!("{other:?}"),
    }
}

/// The next of this user, waited for.
#[track_caller]
fn accept_line(rendezvous: &OwnedFd) -> OwnedFd {
    let until = soon();
    loop {
        match accept(rendezvous.as_fd(), me()).unwrap() {
            Accepted::Line(line) => return line,
            Accepted::Stranger(stranger) => dismiss(stranger, b"refused"),
            Accepted::None => {
                assert_eq!(
                    wait::poll(&[rendezvous.as_fd()], Some(until)).unwrap(),
                    [true]
                );
            }
        }
    }
}

/// The address that a socket is bound to, without its first zero.
fn name_of(socket: &OwnedFd) -> Vec<u8> {
    let addr = rustix::net::getsockname(socket).unwrap();
    let addr = rustix::net::SocketAddrUnix::try_from(addr).unwrap();
    addr.abstract_name().unwrap().to_vec()
}

fn is_nonblocking(fd: &OwnedFd) -> bool {
    !crate::sys::is_blocking(fd.as_fd())
}

#[test]
fn two_meet_and_pass() {
    let name = name();
    let listener = listen(&name).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let stream = connect(&name);
            assert!(is_nonblocking(&stream));
            send(stream.as_fd(), b"hello", &[], Some(soon())).unwrap();
            let frame = receive(stream.as_fd(), Some(soon())).unwrap();
            assert_eq!((&frame.bytes[..], frame.fds.len()), (&b"yours"[..], 1));
            assert_eq!(frame.pid, Some(std::process::id()));
            send(stream.as_fd(), b"mine", &[listener.as_fd()], Some(soon())).unwrap();
        });
        let stream = accept_line(&listener);
        assert!(is_nonblocking(&stream));
        let peer = peer(stream.as_fd()).unwrap();
        assert_eq!(peer.pid, Some(std::process::id()));
        let frame = receive(stream.as_fd(), Some(soon())).unwrap();
        assert_eq!((&frame.bytes[..], frame.fds.len()), (&b"hello"[..], 0));
        assert_eq!(frame.pid, Some(std::process::id()));
        send(stream.as_fd(), b"yours", &[listener.as_fd()], Some(soon())).unwrap();
        let frame = receive(stream.as_fd(), Some(soon())).unwrap();
        assert_eq!((&frame.bytes[..], frame.fds.len()), (&b"mine"[..], 1));
    });
}

#[test]
fn a_name_may_hold_any_bytes() {
    let mut long = name();
    long.resize(90, b'-');
    let mut zeros = name();
    zeros.extend([0, 255, 0, b'\n', b' ', b'@']);
    for name in [&long, &zeros] {
        let listener = listen(name).unwrap();
        let other = listen(name).unwrap();
        connect(name);
        drop(accept_line(&listener));
        drop(listener);
        connect(name);
        drop(accept_line(&other));
    }
    // A zero more is another name.
    zeros.push(0);
    assert!(matches!(find(&zeros, me(), soon()).unwrap(), Found::Nobody));
    long.resize(108, b'-');
    let error = listen(&long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = find(&long, me(), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_name_that_is_taken_is_no_obstacle() {
    let name = name();
    assert!(matches!(find(&name, me(), soon()).unwrap(), Found::Nobody));
    let first = listen(&name).unwrap();
    assert_eq!(name_of(&first), name);
    let second = listen(&name).unwrap();
    assert!(name_of(&second).starts_with(&[&name[..], b"/"].concat()));
    assert!(is_named(&name_of(&second), &name));
    // Closed, it holds the name as long as a descriptor is left.
    close(first.as_fd()).unwrap();
    connect(&name);
    drop(accept_line(&second));
    close(second.as_fd()).unwrap();
    assert!(matches!(find(&name, me(), soon()).unwrap(), Found::Refused));
    drop((first, second));
    // A process that another test starts may have them until it calls exec.
    let end = soon();
    while !matches!(find(&name, me(), soon()).unwrap(), Found::Nobody) {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
}

#[test]
fn only_names_of_its_own_are_of_a_name() {
    assert!(is_named(b"a", b"a"));
    assert!(is_named(b"a/0123456789abcdef", b"a"));
    assert!(is_named(&own_name(b"a"), b"a"));
    assert_ne!(own_name(b"a"), own_name(b"a"));
    for other in [
        &b""[..],
        b"b",
        b"a/",
        b"a/0123456789abcde",
        b"a/0123456789abcdef0",
        b"a/0123456789abcdeF",
        b"a0123456789abcdef",
        b"a/0123456789abcde/",
        b"aa",
    ] {
        assert!(!is_named(other, b"a"), "{other:?}");
    }
}

#[test]
fn close_wakes_who_polls() {
    let listener = listen(&name()).unwrap();
    let copy = listener.try_clone().unwrap();
    thread::scope(|scope| {
        let polling = scope.spawn(|| wait::poll(&[copy.as_fd()], Some(soon())));
        close(listener.as_fd()).unwrap();
        assert_eq!(polling.join().unwrap().unwrap(), [true]);
    });
    let error = accept(listener.as_fd(), me()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    // Twice is as good as once.
    close(listener.as_fd()).unwrap();
}

#[test]
fn who_connected_before_a_close_is_accepted_after_it() {
    let name = name();
    let listener = listen(&name).unwrap();
    let early = connect(&name);
    close(listener.as_fd()).unwrap();
    assert!(matches!(find(&name, me(), soon()).unwrap(), Found::Refused));
    let stream = accept_line(&listener);
    send(early.as_fd(), b"early", &[], None).unwrap();
    assert_eq!(receive(stream.as_fd(), None).unwrap().bytes, b"early");
    let error = accept(listener.as_fd(), me()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
}

#[test]
fn an_end_refuses_who_connected() {
    let name = name();
    let listener = listen(&name).unwrap();
    let early = connect(&name);
    end(listener, b"closed");
    assert_eq!(
        receive(early.as_fd(), Some(soon())).unwrap().bytes,
        b"closed"
    );
    assert!(matches!(
        find(&name, me(), soon()).unwrap(),
        Found::Nobody | Found::Refused
    ));
}

#[test]
fn accept_waits_for_nothing() {
    let listener = listen(&name()).unwrap();
    assert!(matches!(
        accept(listener.as_fd(), me()).unwrap(),
        Accepted::None
    ));
}

#[test]
fn a_full_queue_is_waited_for_and_no_longer_than_asked() {
    const SHORT: Duration = Duration::from_millis(50);
    let name = name();
    // With room for one, which listen(2) gives to two.
    let listener = listen(&name).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let _waiting = [connect(&name), connect(&name)];
    let start = Instant::now();
    let found = find(&name, me(), start + SHORT).unwrap();
    assert!(matches!(found, Found::Busy), "{found:?}");
    assert!(start.elapsed() >= SHORT);
    thread::scope(|scope| {
        let third = scope.spawn(|| connect(&name));
        thread::sleep(SHORT);
        drop(accept_line(&listener));
        third.join().unwrap();
    });
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
        assert!(matches!(find(&name, me(), soon()).unwrap(), Found::Nobody));
        // The name is free here.
        let own = listen(&name).unwrap();
        assert_eq!(name_of(&own), name);
        connect(&name);
    });
    connect(&name);
}

/// Who answers is told by what it sends: a rendezvous outlives the process that opened it.
#[test]
fn a_line_tells_who_answers_and_not_who_listened() {
    let test = "sys::linux::meet::tests::a_line_tells_who_answers_and_not_who_listened";
    match role().as_deref() {
        None => {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let opener = Child::start(test, "opener", Some(theirs.into()));
            let opened_by = opener.id();
            let frame = receive(ours.as_fd(), Some(soon())).unwrap();
            opener.passes();
            let rendezvous = frame.fds.into_iter().next().unwrap();
            let server = Child::start(test, "server", Some(rendezvous));
            let line = connect(&frame.bytes);
            assert_eq!(peer(line.as_fd()).unwrap().pid, Some(opened_by));
            send(line.as_fd(), b"hello", &[], Some(soon())).unwrap();
            let frame = receive(line.as_fd(), Some(soon())).unwrap();
            assert_eq!(&frame.bytes[..], std::process::id().to_string().as_bytes());
            assert_eq!(frame.pid, Some(server.id()));
            server.passes();
        }
        Some("opener") => {
            let name = name();
            let rendezvous = listen(&name).unwrap();
            let to = std::io::stdin();
            send(to.as_fd(), &name, &[rendezvous.as_fd()], Some(soon())).unwrap();
        }
        Some(_) => {
            let rendezvous = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let line = accept_line(&rendezvous);
            let pid = receive(line.as_fd(), Some(soon())).unwrap().pid.unwrap();
            send(line.as_fd(), pid.to_string().as_bytes(), &[], Some(soon())).unwrap();
        }
    }
}
