//! What other users can do at a rendezvous, and that it is in vain.

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType,
};
use rustix::process::{Resource, Rlimit, Uid, getrlimit, setrlimit};

use super::*;
use crate::sys::child::role;

pub(super) const OTHER: u32 = 65_534;

/// What nothing that other users do may take; far more than it does take, as machines are shared.
pub(super) const AT_ONCE: Duration = Duration::from_secs(10);

/// Runs `f` on a thread that is another user; None where that is not allowed.
pub(super) fn as_other<T: Send>(what: &str, f: impl FnOnce() -> T + Send) -> Option<T> {
    on_thread(|| become_other(what).then(f))
}

/// Makes this thread another user's.
pub(super) fn become_other(what: &str) -> bool {
    let uid = Uid::from_raw(OTHER);
    // The system call itself, which acts on one thread; libc's setresuid acts on all.
    match rustix::thread::set_thread_res_uid(uid, uid, uid) {
        Ok(()) => true,
        Err(error) => {
            skip(what, format!("cannot act as another user: {error}"));
            false
        }
    }
}

pub(super) fn measured(line: &str) {
    let _ = io::stderr().write_all(format!("measured: {line}\n").as_bytes());
}

pub(super) fn stream_socket() -> OwnedFd {
    rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()
}

pub(super) fn bind(name: &[u8]) -> OwnedFd {
    let socket = stream_socket();
    socket::bind_unix(&socket, &path(name)).unwrap();
    socket
}

/// Ends what other threads do, also where the test fails.
pub(super) struct End<'a>(pub(super) &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects, as long as that takes.
pub(super) fn call(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = stream_socket();
    socket::connect_unix(&socket, &path(name))?;
    Ok(socket)
}

pub(super) fn send_fd(to: &OwnedFd, fd: &impl AsFd, flags: SendFlags) -> rustix::io::Result<usize> {
    let fds = [fd.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    assert!(beside.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(to, &[io::IoSlice::new(b"x")], &mut beside, flags)
}

/// As on kernels on which no socket can refuse descriptors: what connects gets it from here.
pub(super) fn as_before_6_16(rendezvous: &OwnedFd) {
    let _ = set_rights(rendezvous.as_fd(), true);
}

pub(super) fn more_descriptors() {
    assert!(role().is_some(), "a limit is for all tests of a process");
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub(super) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Asks until it is so.
#[track_caller]
pub(super) fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let end = soon();
    while !ask() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// Accepts a stranger that is there.
#[track_caller]
pub(super) fn accept_stranger(rendezvous: &OwnedFd, owner: u32) -> Stranger {
    match accept(rendezvous.as_fd(), owner).unwrap() {
        Accepted::Stranger(stranger) => stranger,
        other => panic!("{other:?}"),
    }
}
