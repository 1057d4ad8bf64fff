//! Strangers that send what takes long to close.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;

use rustix::net::SendFlags;

use super::strangers::*;
use super::*;
use crate::sys::child::alone;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::sys::linux::answer::answer;

/// A connection whose close takes as long as that, unless the other end reads.
fn lingering(how_long: Duration) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 65_536]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(how_long)).unwrap();
    (stream, other)
}

fn refuses_rights() -> bool {
    set_rights(stream_socket().as_fd(), false).is_ok()
}

/// A stranger that has sent a connection, if it can be sent, and has no more descriptors of its own.
fn sends(name: &[u8], connection: TcpStream, flags: SendFlags) -> rustix::io::Result<usize> {
    let stream = call(name).unwrap();
    let result = send_fd(&stream, &connection, SendFlags::NOSIGNAL | flags);
    if result.is_err() {
        rustix::net::sockopt::set_socket_linger(&connection, None).unwrap();
    }
    result
}

const LONG: Duration = Duration::from_secs(6);

/// The trap of the next tests: without what they test the close takes as long as a stranger says.
#[test]
fn a_plain_close_takes_what_a_stranger_has_sent() {
    let name = name();
    let rendezvous = bind(&name);
    rustix::net::listen(&rendezvous, 16).unwrap();
    let (stream, _other) = lingering(Duration::from_secs(1));
    sends(&name, stream, SendFlags::empty()).unwrap();
    let start = Instant::now();
    drop(socket::accept(&rendezvous).unwrap());
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

/// A stranger sends a connection that lingers: closing what it sent would take seconds.
fn linger(rendezvous: &OwnedFd, name: &[u8], flags: SendFlags) -> Option<(TcpStream, bool)> {
    let old = !refuses_rights() || {
        let rights = unix::words(rendezvous.as_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS);
        matches!(rights, Ok(Some([1])))
    };
    let (stream, other) = lingering(LONG);
    let sent = as_other("a lingering connection on its way", || {
        sends(name, stream, flags)
    })?;
    match sent {
        Ok(_) => assert!(old, "nothing can be sent"),
        Err(error) => assert!(!old && error == rustix::io::Errno::PERM, "{error}"),
    }
    Some((other, old))
}

fn dismisses_at_once(old: bool, flags: SendFlags, close: impl Fn(Stranger)) {
    let name = name();
    let rendezvous = listen(&name).unwrap();
    if old {
        as_before_6_16(&rendezvous);
    }
    let Some(_other) = linger(&rendezvous, &name, flags) else {
        return;
    };
    let start = Instant::now();
    close(accept_stranger(&rendezvous, me()));
    let took = start.elapsed();
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn what_lingers_holds_no_one_up() {
    for old in [false, true] {
        // Out of band a look at the queue does not see it.
        for flags in [SendFlags::empty(), SendFlags::OOB] {
            dismisses_at_once(old, flags, |stranger| dismiss(stranger, b"refused"));
            dismisses_at_once(old, flags, drop);
        }
    }
}

#[test]
fn the_end_of_a_rendezvous_waits_for_no_stranger() {
    for old in [false, true] {
        let name = name();
        let rendezvous = listen(&name).unwrap();
        if old {
            as_before_6_16(&rendezvous);
        }
        let Some(_first) = linger(&rendezvous, &name, SendFlags::empty()) else {
            return;
        };
        let early = connect(&name);
        let Some(_second) = linger(&rendezvous, &name, SendFlags::empty()) else {
            return;
        };
        let start = Instant::now();
        end(rendezvous, b"closed");
        let took = start.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(
            receive(early.as_fd(), Some(soon())).unwrap().bytes,
            b"closed"
        );
    }
}

/// A squatter answers at once, with a connection that lingers.
#[test]
fn a_squatter_holds_no_one_up_who_tries_its_name() {
    let name = name();
    let (stream, _other) = lingering(LONG);
    let squat = || {
        let socket = bind(&name);
        rustix::net::listen(&socket, 16).unwrap();
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        socket
    };
    let Some(squat) = as_other("a name that another user has", squat) else {
        return;
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // In front of what the finder does after it has connected.
            while !is_over.load(Ordering::Relaxed) {
                if let Ok(line) = socket::accept(&squat) {
                    let _ = send_fd(&line, &stream, SendFlags::NOSIGNAL);
                }
                thread::yield_now();
            }
        });
        let _end = End(&is_over);
        for _ in 0..200 {
            let start = Instant::now();
            let found = find(&name, me(), soon()).unwrap();
            assert!(matches!(found, Found::Nobody), "{found:?}");
            assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        }
        // Now it is the last one.
        rustix::net::sockopt::set_socket_linger(&stream, None).unwrap();
    });
}

/// More lingering connections than there may be threads, and the owner comes behind them.
#[test]
fn many_that_linger_keep_no_one_out() {
    let test = "sys::linux::meet::tests::linger::many_that_linger_keep_no_one_out";
    alone(test, || {
        const N: usize = 30;
        more_descriptors();
        let name = name();
        let rendezvous = listen(&name).unwrap();
        as_before_6_16(&rendezvous);
        let mut others = Vec::new();
        let threads_before = threads();
        let mut worst = Duration::ZERO;
        for _ in 0..N {
            let Some((other, old)) = linger(&rendezvous, &name, SendFlags::empty()) else {
                return;
            };
            assert!(old);
            others.push(other);
            let start = Instant::now();
            dismiss(accept_stranger(&rendezvous, me()), b"refused");
            worst = worst.max(start.elapsed());
        }
        let start = Instant::now();
        let line = connect(&name);
        let accepted = accept_line(&rendezvous);
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        drop((line, accepted));
        let start = Instant::now();
        until("the threads end", || threads() == threads_before);
        let took = start.elapsed();
        assert!(took < LONG / 2, "{took:?}");
        assert!(worst < AT_ONCE, "{worst:?}");
        measured(&format!(
            "{N} lingering connections, the slowest dismissed in {worst:?}"
        ));
        // They have really been closed: the other ends read all, and the end.
        for mut other in others {
            other.set_read_timeout(Some(PATIENCE)).unwrap();
            io::copy(&mut other, &mut io::sink()).unwrap();
        }
    });
}

/// Where the kernel gives a thread no table of its own, each that lingers holds one thread, and
/// those that wait are bounded.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn without_a_table_of_its_own_a_thread_is_held_and_no_one_else() {
    let test = "sys::linux::meet::tests::linger::without_a_table_of_its_own_a_thread_is_held_and_no_one_else";
    alone(test, || {
        const THREADS: usize = 8;
        more_descriptors();
        let name = name();
        let rendezvous = listen(&name).unwrap();
        as_before_6_16(&rendezvous);
        let before = (descriptors(), threads());
        let mut others = Vec::new();
        for _ in 0..THREADS {
            let Some((other, _)) = linger(&rendezvous, &name, SendFlags::empty()) else {
                return;
            };
            others.push(other);
        }
        refuse_calls();
        let start = Instant::now();
        for n in 1..=THREADS {
            dismiss(accept_stranger(&rendezvous, me()), b"refused");
            until("a thread is held", || closers() == n);
        }
        let mut waiting = 0;
        let owner = me();
        let error = on_thread(|| {
            assert!(become_other("many strangers"));
            loop {
                let stream = call(&name).unwrap();
                send_fd(&stream, &stream_socket(), SendFlags::NOSIGNAL).unwrap();
                match accept(rendezvous.as_fd(), owner) {
                    Ok(Accepted::Stranger(stranger)) => dismiss(stranger, b"refused"),
                    other => break other.unwrap_err(),
                }
                waiting += 1;
            }
        });
        assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
        assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
        assert_eq!(waiting, 256);
        // Those that linger end, then all are closed, and the last is accepted.
        drop(others);
        until("all is closed", || threads() == before.1);
        drop(accept_stranger(&rendezvous, owner));
        until("nothing is left", || (descriptors(), threads()) == before);
    });
}

fn closers() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |thread: io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.ok()?.path().join("comm")).ok()
    };
    threads
        .filter_map(name)
        .filter(|name| name == "reuseport-close\n")
        .count()
}

/// From here on this thread and those that it starts get EPERM of unshare(2) and close_range(2).
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn refuse_calls() {
    for call in [libc::SYS_unshare, libc::SYS_close_range] {
        answer(call, &[], libc::EPERM);
    }
}
