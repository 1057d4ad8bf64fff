use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::child::{Child, alone, role};
use crate::sys::unix::{check, inode};

mod deadlines;
#[cfg(target_os = "linux")]
mod linux;

const PATIENCE: Duration = Duration::from_secs(20);

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    for end in [&a, &b] {
        set_timeout(end.as_fd(), PATIENCE).unwrap();
    }
    (a, b)
}

/// The same in the other mode.
fn nonblocking((a, b): (UnixStream, UnixStream)) -> (UnixStream, UnixStream) {
    for end in [&a, &b] {
        end.set_nonblocking(true).unwrap();
    }
    (a, b)
}

/// Bounds every wait for which no point in time is given.
fn set_timeout(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(&socket);
    // Less than a microsecond would be 0, which is for ever (socket(7)).
    let timeout = Some(timeout.max(Duration::from_micros(1)));
    socket.set_read_timeout(timeout)?;
    socket.set_write_timeout(timeout)
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

fn sockets(n: usize) -> Vec<OwnedFd> {
    (0..n)
        .map(|_| UnixDatagram::unbound().unwrap().into())
        .collect()
}

fn lend(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

fn inodes(fds: &[OwnedFd]) -> Vec<u64> {
    fds.iter().map(|fd| inode(fd.as_fd()).unwrap()).collect()
}

fn is_close_on_exec(fd: &OwnedFd) -> bool {
    // SAFETY: F_GETFD touches no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }).unwrap();
    flags & libc::FD_CLOEXEC != 0
}

/// The limit of this process, and so only in one of its own; tells what it is now.
fn limit_descriptors(n: impl FnOnce(libc::rlim_t) -> libc::rlim_t) -> libc::rlim_t {
    assert!(role().is_some(), "a limit is for all tests of a process");
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to room for one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }).unwrap();
    limit.rlim_cur = n(limit.rlim_max);
    // SAFETY: the pointer is to one rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).unwrap();
    limit.rlim_cur
}

/// How many descriptors this process has.
#[cfg(target_os = "linux")]
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Passes `n` sockets, and compares all there is to compare.
#[track_caller]
fn passes(bytes: &[u8], n: usize) {
    passes_over(pair(), bytes, n);
    passes_over(nonblocking(pair()), bytes, n);
}

#[track_caller]
fn passes_over((a, b): (UnixStream, UnixStream), bytes: &[u8], n: usize) {
    let sent = sockets(n);
    let Frame {
        bytes: payload,
        fds: received,
        ..
    } = thread::scope(|scope| {
        let sender = scope.spawn(|| send(a.as_fd(), bytes, &lend(&sent), None));
        let received = receive(b.as_fd(), None);
        sender.join().unwrap().unwrap();
        received.unwrap()
    });
    assert!(payload == bytes);
    assert_eq!(inodes(&received), inodes(&sent));
    assert!(received.iter().all(is_close_on_exec));
    // Nothing is left in either direction.
    for end in [&a, &b] {
        end.shutdown(Shutdown::Write).unwrap();
    }
    for mut end in [&a, &b] {
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }
}

/// What `receive` says of a peer that does only this.
#[track_caller]
fn refuses(kind: ErrorKind, peer: impl FnOnce(&UnixStream) + Send) {
    let (a, b) = pair();
    b.set_nonblocking(true).unwrap();
    let error = thread::scope(|scope| {
        scope.spawn(move || peer(&a));
        // It closes with the error, which is what some peers wait for.
        let b = b;
        receive(b.as_fd(), None).unwrap_err()
    });
    assert_eq!(error.kind(), kind, "{error}");
}

fn frame(length: u32, count: u32, payload: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), &count.to_le_bytes(), payload].concat()
}

#[test]
fn any_number_passes() {
    alone("sys::pass::tests::any_number_passes", || {
        let limit = limit_descriptors(|most| most);
        for n in [
            0,
            1,
            2,
            CHUNK - 1,
            CHUNK,
            CHUNK + 1,
            253,
            254,
            2 * CHUNK,
            1000,
        ] {
            // Both ends are in this process.
            if limit < 2 * n as libc::rlim_t + 64 {
                let _ = writeln!(
                    io::stderr(),
                    "not checked: {n} descriptors (RLIMIT_NOFILE: {limit})"
                );
                continue;
            }
            passes(b"state", n);
        }
        passes(b"", 3);
        passes(b"", 0);
        passes(&vec![7; MAX_BYTES], CHUNK + 1);
        passes(&vec![7; MAX_BYTES], 0);
    });
}

#[test]
fn frames_do_not_run_into_each_other() {
    let (a, b) = pair();
    let sent = sockets(2);
    send(a.as_fd(), b"one", &[], None).unwrap();
    send(a.as_fd(), b"", &[], None).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            send(a.as_fd(), b"three", &lend(&sent), None).unwrap();
            send(a.as_fd(), b"four", &[], None).unwrap();
        });
        assert_eq!(receive(b.as_fd(), None).unwrap().bytes, b"one");
        assert_eq!(receive(b.as_fd(), None).unwrap().bytes, b"");
        let Frame {
            bytes: payload,
            fds,
            ..
        } = receive(b.as_fd(), None).unwrap();
        assert_eq!((&payload[..], inodes(&fds)), (&b"three"[..], inodes(&sent)));
        assert_eq!(receive(b.as_fd(), None).unwrap().bytes, b"four");
    });
    // And the other way.
    send(b.as_fd(), b"back", &[], None).unwrap();
    assert_eq!(receive(a.as_fd(), None).unwrap().bytes, b"back");
}

#[test]
fn a_frame_may_trickle_in() {
    let (a, b) = pair();
    let sent = sockets(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in frame(5, 1, b"state") {
                put(a.as_fd(), &[byte], &[]).unwrap();
                thread::yield_now();
            }
            put(a.as_fd(), &[CHUNK_COMES], &lend(&sent)).unwrap();
        });
        let Frame {
            bytes: payload,
            fds,
            ..
        } = receive(b.as_fd(), None).unwrap();
        assert_eq!((&payload[..], inodes(&fds)), (&b"state"[..], inodes(&sent)));
    });
}

#[test]
fn more_than_a_frame_holds_is_not_sent() {
    let (a, mut b) = pair();
    let one = sockets(1);
    let too_many = vec![one[0].as_fd(); MAX_FDS + 1];
    for error in [
        send(a.as_fd(), &vec![0; MAX_BYTES + 1], &[], None),
        send(a.as_fd(), b"", &too_many, None),
    ] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    drop(a);
    assert_eq!(b.read(&mut [0]).unwrap(), 0, "nothing was sent");
}

/// All that a peer can do wrong, with the error that it gets.
fn wrong_peers() {
    use ErrorKind::{InvalidData, UnexpectedEof};
    fn say(socket: &UnixStream, bytes: &[u8], fds: usize) {
        let fds = sockets(fds);
        // The other side may have gone already.
        let _ = put_all_with(socket, bytes, &lend(&fds));
    }
    fn put_all_with(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = put(socket.as_fd(), bytes, fds)?;
        Stream::new(socket.as_fd(), None)?.put_all(&bytes[sent..])
    }
    let whole = frame(5, 3, b"state");
    // It dies before, in the header, in the payload, before the chunk, before the second chunk.
    for cut in [0, 1, 4, 8, 10, whole.len()] {
        refuses(UnexpectedEof, |peer| say(peer, &whole[..cut], 0));
    }
    refuses(UnexpectedEof, |peer| {
        say(peer, &frame(0, CHUNK as u32 + 1, b""), 0);
        say(peer, &[CHUNK_COMES], CHUNK);
    });
    // It announces too much, and what came is refused before anything is waited for.
    for (length, count) in [
        (MAX_BYTES as u32 + 1, 0),
        (u32::MAX, 0),
        (0, MAX_FDS as u32 + 1),
        (0, u32::MAX),
    ] {
        refuses(InvalidData, |peer| {
            say(peer, &frame(length, count, b""), 0);
            // Until the receiver has gone.
            let _ = { peer }.read(&mut [0]);
        });
    }
    // Fewer, more and no descriptors, too few in the first of two chunks, and another byte.
    for (announced, came, byte) in [
        (3, 2, CHUNK_COMES),
        (3, 4, CHUNK_COMES),
        (1, 0, CHUNK_COMES),
        (CHUNK as u32 + 1, CHUNK - 1, CHUNK_COMES),
        (3, 3, b'?'),
    ] {
        refuses(InvalidData, |peer| {
            say(peer, &frame(5, announced, b"state"), 0);
            say(peer, &[byte], came);
            let _ = { peer }.read(&mut [0]);
        });
    }
    // Descriptors with the header, with the payload, and in a frame that has none.
    refuses(InvalidData, |peer| say(peer, &whole, 3));
    refuses(InvalidData, |peer| {
        say(peer, &whole[..9], 0);
        say(peer, &whole[9..], 3);
    });
    refuses(InvalidData, |peer| say(peer, &frame(5, 0, b"state"), 1));
}

#[test]
fn a_peer_that_does_wrong_is_refused() {
    wrong_peers();
}

#[test]
fn an_answer_has_to_be_the_right_one() {
    for (byte, stray) in [(b'!', 0), (TAKEN, 1)] {
        let (a, b) = pair();
        let sent = sockets(1);
        put(b.as_fd(), &[byte], &lend(&sockets(stray))).unwrap();
        let error = send(a.as_fd(), b"", &lend(&sent), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}

/// The receiver goes before the frame, and before it answers.
fn receivers_go() {
    let sent = sockets(1);
    let (a, b) = pair();
    drop(b);
    let error = send(a.as_fd(), b"state", &lend(&sent), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");

    let (a, b) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut whole = [0; HEADER + 5];
            Stream::new(b.as_fd(), None)
                .unwrap()
                .fill(&mut whole)
                .unwrap();
        });
        let error = send(a.as_fd(), b"state", &lend(&sent), None).unwrap_err();
        // As it closes before the chunk comes, or with that unread.
        let kinds = [ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof];
        assert!(kinds.contains(&error.kind()), "{error}");
    });
}

#[test]
fn a_receiver_that_goes_is_an_error_and_no_signal() {
    alone(
        "sys::pass::tests::a_receiver_that_goes_is_an_error_and_no_signal",
        || {
            // SAFETY: the default is no handler, so nothing of this process would run.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            receivers_go();
        },
    );
}

#[test]
fn the_other_side_is_this_process() {
    let (a, _b) = pair();
    let peer = peer(a.as_fd()).unwrap();
    // SAFETY: it only tells.
    assert_eq!(peer.uid, unsafe { libc::geteuid() });
    if cfg!(target_os = "linux") {
        assert_eq!(peer.pid, Some(std::process::id()));
    }
}

#[test]
fn what_has_no_peer_is_refused() {
    let error = peer(UnixDatagram::unbound().unwrap().as_fd()).unwrap_err();
    assert!(error.kind() == ErrorKind::NotConnected || !cfg!(target_os = "linux"));
    let file = File::open("/dev/null").unwrap();
    let error = peer(file.as_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    let error = receive(file.as_fd(), None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
}
