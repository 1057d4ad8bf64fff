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

const PATIENCE: Duration = Duration::from_secs(20);

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    for end in [&a, &b] {
        set_timeout(end.as_fd(), PATIENCE).unwrap();
    }
    (a, b)
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
    let (a, b) = pair();
    let sent = sockets(n);
    let (payload, received) = thread::scope(|scope| {
        let sender = scope.spawn(|| send(a.as_fd(), bytes, &lend(&sent)));
        let received = receive(b.as_fd());
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
    let error = thread::scope(|scope| {
        scope.spawn(move || peer(&a));
        // It closes with the error, which is what some peers wait for.
        let b = b;
        receive(b.as_fd()).unwrap_err()
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
    send(a.as_fd(), b"one", &[]).unwrap();
    send(a.as_fd(), b"", &[]).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            send(a.as_fd(), b"three", &lend(&sent)).unwrap();
            send(a.as_fd(), b"four", &[]).unwrap();
        });
        assert_eq!(receive(b.as_fd()).unwrap().0, b"one");
        assert_eq!(receive(b.as_fd()).unwrap().0, b"");
        let (payload, fds) = receive(b.as_fd()).unwrap();
        assert_eq!((&payload[..], inodes(&fds)), (&b"three"[..], inodes(&sent)));
        assert_eq!(receive(b.as_fd()).unwrap().0, b"four");
    });
    // And the other way.
    send(b.as_fd(), b"back", &[]).unwrap();
    assert_eq!(receive(a.as_fd()).unwrap().0, b"back");
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
        let (payload, fds) = receive(b.as_fd()).unwrap();
        assert_eq!((&payload[..], inodes(&fds)), (&b"state"[..], inodes(&sent)));
    });
}

#[test]
fn more_than_a_frame_holds_is_not_sent() {
    let (a, mut b) = pair();
    let one = sockets(1);
    let too_many = vec![one[0].as_fd(); MAX_FDS + 1];
    for error in [
        send(a.as_fd(), &vec![0; MAX_BYTES + 1], &[]),
        send(a.as_fd(), b"", &too_many),
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
        put_all(socket.as_fd(), &bytes[sent..])
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
        let error = send(a.as_fd(), b"", &lend(&sent)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}

/// The receiver goes before the frame, and before it answers.
fn receivers_go() {
    let sent = sockets(1);
    let (a, b) = pair();
    drop(b);
    let error = send(a.as_fd(), b"state", &lend(&sent)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");

    let (a, b) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut whole = [0; HEADER + 5];
            fill(b.as_fd(), &mut whole, &mut Vec::new()).unwrap();
        });
        let error = send(a.as_fd(), b"state", &lend(&sent)).unwrap_err();
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
fn no_wait_is_longer_than_the_timeout() {
    const SHORT: Duration = Duration::from_millis(50);
    #[track_caller]
    fn times_out(f: impl FnOnce() -> io::Result<()>) {
        let start = Instant::now();
        let error = f().unwrap_err();
        let took = start.elapsed();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(took >= SHORT && took < PATIENCE, "{took:?}");
    }
    let (a, b) = pair();
    set_timeout(a.as_fd(), SHORT).unwrap();
    set_timeout(b.as_fd(), SHORT).unwrap();
    times_out(|| receive(b.as_fd()).map(drop));
    // Nobody answers.
    times_out(|| send(a.as_fd(), b"", &lend(&sockets(1))));
    // Nobody reads.
    times_out(|| {
        loop {
            send(a.as_fd(), &[0; MAX_BYTES], &[])?;
        }
    });
    // Nothing is not forever.
    let (a, _b) = pair();
    for short in [Duration::ZERO, Duration::from_nanos(1)] {
        set_timeout(a.as_fd(), short).unwrap();
        let error = receive(a.as_fd()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    // The longest is not too long.
    set_timeout(a.as_fd(), Duration::MAX).unwrap();
}

#[test]
fn a_signal_interrupts_nothing() {
    alone("sys::pass::tests::a_signal_interrupts_nothing", || {
        static CAUGHT: AtomicBool = AtomicBool::new(false);
        extern "C" fn catch(_: libc::c_int) {
            CAUGHT.store(true, Ordering::Relaxed);
        }
        // SAFETY: zeros are a valid sigaction: no flags, and so no SA_RESTART.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = catch as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing but store into an atomic.
        check(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }).unwrap();
        let (a, b) = pair();
        // SAFETY: it only tells.
        let this = unsafe { libc::pthread_self() } as usize;
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    // SAFETY: that thread waits for this one at the end of the scope.
                    unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1) };
                    thread::sleep(Duration::from_millis(1));
                }
                send(a.as_fd(), b"late", &[]).unwrap();
            });
            assert_eq!(receive(b.as_fd()).unwrap().0, b"late");
        });
        assert!(CAUGHT.load(Ordering::Relaxed));
    });
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
    let error = receive(file.as_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
}

/// The first chunk fits, and the second does not.
#[test]
#[cfg(target_os = "linux")]
fn a_receiver_without_room_says_so_and_closes_what_came() {
    let test = "sys::pass::tests::a_receiver_without_room_says_so_and_closes_what_came";
    match role() {
        None => {
            let (a, b) = pair();
            let child = Child::start(test, "receiver", Some(b.into()));
            let sent = sockets(300);
            let error = send(a.as_fd(), b"state", &lend(&sent)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
            child.passes();
        }
        Some(_) => {
            let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let before = descriptors();
            limit_descriptors(|_| 280);
            let error = receive(socket.as_fd()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
            assert!(reason(&error).unwrap().contains("RLIMIT_NOFILE"));
            assert_eq!(descriptors(), before);
            UnixStream::from(socket).shutdown(Shutdown::Both).unwrap();
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn nothing_stays_open() {
    alone("sys::pass::tests::nothing_stays_open", || {
        limit_descriptors(|most| most);
        let before = descriptors();
        for _ in 0..5 {
            wrong_peers();
            receivers_go();
            passes(b"state", CHUNK + 1);
            assert_eq!(descriptors(), before);
        }
        // What nobody takes is closed with the stream.
        let (a, b) = pair();
        let sent = sockets(1);
        let id = inodes(&sent);
        put(a.as_fd(), b"+", &lend(&sent)).unwrap();
        drop((a, b, sent));
        assert_eq!(id.len(), 1);
        assert_eq!(descriptors(), before);
    });
}

#[cfg(target_os = "linux")]
const NOBODY: u32 = 65_534;

/// This thread is nobody from here on; says whether that was allowed.
#[cfg(target_os = "linux")]
fn become_nobody() -> bool {
    let uid = rustix::process::Uid::from_raw(NOBODY);
    // The system call itself, which acts on one thread; libc's setresuid acts on all.
    let became = rustix::thread::set_thread_res_uid(uid, uid, uid);
    if let Err(error) = became {
        let _ = writeln!(
            io::stderr(),
            "not checked: what another user may pass ({error})"
        );
    }
    became.is_ok()
}

/// 700 sockets of a group go from one process of a user to another, with room for 1,024 each.
#[test]
#[cfg(target_os = "linux")]
fn a_group_passes_without_a_privilege() {
    let test = "sys::pass::tests::a_group_passes_without_a_privilege";
    const N: usize = 700;
    let Some(role) = role() else {
        let (a, b) = pair();
        let sender = Child::start(test, "sender", Some(a.into()));
        let receiver = Child::start(test, "receiver", Some(b.into()));
        receiver.passes();
        sender.passes();
        return;
    };
    limit_descriptors(|_| 1024);
    become_nobody();
    let socket = io::stdin();
    if role == "sender" {
        let group = crate::Options::new().group("127.0.0.1:0", N).unwrap();
        let fds: Vec<_> = group.iter().map(crate::sys::borrow).collect();
        send(
            socket.as_fd(),
            group.local_addr().to_string().as_bytes(),
            &fds,
        )
        .unwrap();
    } else {
        let (addr, fds) = receive(socket.as_fd()).unwrap();
        let group = crate::Group::<std::net::TcpListener>::adopt(fds).unwrap();
        assert_eq!(group.len(), N);
        assert_eq!(group.local_addr().to_string().as_bytes(), addr);
    }
}

/// Why each chunk is answered.
#[test]
#[cfg(target_os = "linux")]
fn what_is_under_way_counts_against_a_user() {
    alone(
        "sys::pass::tests::what_is_under_way_counts_against_a_user",
        || {
            limit_descriptors(|_| 1024);
            let (a, _b) = pair();
            let one = sockets(1);
            let chunk = vec![one[0].as_fd(); CHUNK];
            if !become_nobody() {
                return;
            }
            let put = || put(a.as_fd(), &[CHUNK_COMES], &chunk);
            // Past the limit a last one is let through, and other tests have some under way.
            let error = (0..6).find_map(|_| put().err()).unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::ETOOMANYREFS), "{error}");
            assert!(reason(&error).unwrap().contains("this user"));
        },
    );
}
