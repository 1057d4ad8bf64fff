//! What Linux tells and bounds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::*;

/// Counts what each thread has allocated.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.set(NOW.get() + layout.size() as isize);
        MOST.set(MOST.get().max(NOW.get()));
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.set(NOW.get() - layout.size() as isize);
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes at one time of what `f` allocates on this thread.
fn most_allocated(f: impl FnOnce()) -> usize {
    NOW.set(0);
    MOST.set(0);
    f();
    MOST.get() as usize
}

/// What is announced and does not come costs nothing.
#[test]
fn nothing_is_made_for_what_is_only_announced() {
    alone(
        "sys::pass::tests::linux::nothing_is_made_for_what_is_only_announced",
        || {
            let limit = limit_descriptors(|most| most);
            let table = || {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let size = status
                    .lines()
                    .find(|line| line.starts_with("FDSize:"))
                    .unwrap();
                size.to_owned()
            };
            let before = table();
            // Nothing comes of it, ten bytes, and all but the descriptors; or one chunk of as many as
            // there could be room for.
            let some = u32::try_from(limit / 2).unwrap_or(u32::MAX);
            let most = MAX_FDS as u32;
            for (come, count, chunks) in [
                (0, most, 0),
                (10, most, 0),
                (MAX_BYTES, most, 0),
                (MAX_BYTES, most.min(some), 1),
            ] {
                let (a, b) = pair();
                let text = frame(MAX_BYTES as u32, count, &vec![0; come]);
                let error = thread::scope(|scope| {
                    scope.spawn(move || {
                        let stream = Stream::new(a.as_fd(), soon()).unwrap();
                        stream.put_all(&text).unwrap();
                        let one = sockets(1);
                        for _ in 0..chunks {
                            stream
                                .put(&[CHUNK_COMES], &vec![one[0].as_fd(); CHUNK])
                                .unwrap();
                        }
                    });
                    let mut error = None;
                    let cost = most_allocated(|| error = receive(b.as_fd(), soon()).err());
                    let most = 2 * come + 4096;
                    assert!(cost <= most, "{cost} of {most} for {come}");
                    error.unwrap()
                });
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
                if chunks == 0 {
                    assert_eq!(table(), before);
                }
            }
            // For one chunk there is room for a few more, and not for all that were announced.
            let size = table()
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<usize>()
                .unwrap();
            assert!(size <= 8 * CHUNK, "{size}");
        },
    );
}

/// The process that sends, and not the one that connected or made the pair.
#[test]
fn a_frame_tells_who_sent_it() {
    let test = "sys::pass::tests::linux::a_frame_tells_who_sent_it";
    match role() {
        None => {
            let (a, b) = pair();
            let stranger = Child::start(test, "before", Some(a.try_clone().unwrap().into()));
            // What is sent before tells none, whoever receives it.
            stranger.passes();
            tell_senders(b.as_fd()).unwrap();
            assert_eq!(receive(b.as_fd(), None).unwrap().pid, None);
            let child = Child::start(test, "sender", Some(a.into()));
            let pid = child.id();
            let Frame {
                bytes,
                fds,
                pid: sender,
            } = receive(b.as_fd(), None).unwrap();
            assert_eq!(
                (&bytes[..], fds.len(), sender),
                (&b"mine"[..], 1, Some(pid))
            );
            assert_eq!(peer(b.as_fd()).unwrap().pid, Some(std::process::id()));
            child.passes();
        }
        Some(_) => {
            let socket = io::stdin();
            let one = sockets(1);
            let fds = match &role().unwrap()[..] {
                "sender" => lend(&one),
                _ => vec![],
            };
            send(socket.as_fd(), b"mine", &fds, None).unwrap();
        }
    }
}

/// A caller's stream may tell of senders in another way, which brings a descriptor each time.
#[test]
fn what_else_the_kernel_sends_is_closed() {
    alone(
        "sys::pass::tests::linux::what_else_the_kernel_sends_is_closed",
        || {
            const SO_PASSPIDFD: libc::c_int = 76;
            let (a, b) = pair();
            let on: libc::c_int = 1;
            let set = crate::sys::unix::set_option(b.as_fd(), libc::SOL_SOCKET, SO_PASSPIDFD, &on);
            if let Err(error) = set {
                let _ = writeln!(io::stderr(), "not checked: SO_PASSPIDFD ({error})");
                return;
            }
            let before = descriptors();
            send(a.as_fd(), b"state", &[], None).unwrap();
            assert_eq!(receive(b.as_fd(), None).unwrap().bytes, b"state");
            assert_eq!(descriptors(), before);
        },
    );
}

/// Queues with and without descriptors.
#[test]
fn a_look_at_a_queue_takes_nothing() {
    let one = sockets(1);
    let (a, b) = pair();
    tell_senders(b.as_fd()).unwrap();
    let look = || peek(b.as_fd(), &mut [0; 100]).unwrap();
    put(a.as_fd(), b"one", &[]).unwrap();
    put(a.as_fd(), b"two", &[]).unwrap();
    assert_eq!(look(), Some(6));
    put(a.as_fd(), b"three", &lend(&one)).unwrap();
    assert_eq!(look(), None);
    let mut stream = Stream::new(b.as_fd(), soon()).unwrap();
    stream.fill(&mut [0; 6]).unwrap();
    assert!(stream.arrived.fds.is_empty());
    assert_eq!(look(), None);
    stream.fill(&mut [0; 5]).unwrap();
    assert_eq!(inodes(&stream.arrived.fds), inodes(&one));
    let error = peek(b.as_fd(), &mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

/// The first chunk fits, and the second does not.
#[test]
fn a_receiver_without_room_says_so_and_closes_what_came() {
    let test = "sys::pass::tests::linux::a_receiver_without_room_says_so_and_closes_what_came";
    match role() {
        None => {
            let (a, b) = pair();
            let child = Child::start(test, "receiver", Some(b.into()));
            let sent = sockets(300);
            let error = send(a.as_fd(), b"state", &lend(&sent), None).unwrap_err();
            assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
            child.passes();
        }
        Some(_) => {
            let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let before = descriptors();
            limit_descriptors(|_| 280);
            let error = receive(socket.as_fd(), None).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
            assert!(reason(&error).unwrap().contains("RLIMIT_NOFILE"));
            assert_eq!(descriptors(), before);
            UnixStream::from(socket).shutdown(Shutdown::Both).unwrap();
        }
    }
}

#[test]
fn nothing_stays_open() {
    alone("sys::pass::tests::linux::nothing_stays_open", || {
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

const NOBODY: u32 = 65_534;

/// This thread is nobody from here on; says whether that was allowed.
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
fn a_group_passes_without_a_privilege() {
    let test = "sys::pass::tests::linux::a_group_passes_without_a_privilege";
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
            None,
        )
        .unwrap();
    } else {
        let Frame {
            bytes: addr, fds, ..
        } = receive(socket.as_fd(), None).unwrap();
        let group = crate::Group::<std::net::TcpListener>::adopt(fds).unwrap();
        assert_eq!(group.len(), N);
        assert_eq!(group.local_addr().to_string().as_bytes(), addr);
    }
}

/// Why each chunk is answered.
#[test]
fn what_is_under_way_counts_against_a_user() {
    alone(
        "sys::pass::tests::linux::what_is_under_way_counts_against_a_user",
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
