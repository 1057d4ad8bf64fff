//! What the tests of this folder need: listeners, namespaces of their own, and a word for what was
//! not checked.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::sys::unix::{check, inode, set_option};
use crate::sys::{Kind, Socket, restartable, share};

pub(super) const V4: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    0,
));

pub(super) const V6: SocketAddr = SocketAddr::V6(std::net::SocketAddrV6::new(
    std::net::Ipv6Addr::LOCALHOST,
    0,
    0,
    0,
));

/// A socket that shares an address.
pub(super) fn bound(kind: Kind, addr: SocketAddr) -> Socket {
    let socket = Socket::new(kind, &addr, false).unwrap();
    restartable(&socket, kind).unwrap();
    share(&socket).unwrap();
    socket.bind(&addr).unwrap();
    socket
}

/// A listener that shares an address, at which accept does not wait.
pub(super) fn listener(addr: SocketAddr) -> TcpListener {
    let socket = bound(Kind::Tcp, addr);
    socket.listen(1024).unwrap();
    let listener = socket.into_listener();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Listeners on one address, in the order in which they stand in their group.
pub(super) fn group(addr: SocketAddr, n: usize) -> Vec<TcpListener> {
    let first = listener(addr);
    let addr = first.local_addr().unwrap();
    let rest = (1..n).map(|_| listener(addr));
    [first].into_iter().chain(rest).collect()
}

pub(super) fn inode_of(fd: &impl AsFd) -> u64 {
    inode(fd.as_fd()).unwrap()
}

/// Lets a listener's handshakes end only when the client has sent something (tcp(7)).
pub(super) fn defer(listener: &TcpListener) {
    let seconds: libc::c_int = 60;
    let (tcp, defer) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
    set_option(listener.as_fd(), tcp, defer, &seconds).unwrap();
}

/// Gives a descriptor's file to another user; false where that is not allowed.
pub(super) fn give(fd: BorrowedFd<'_>, uid: u32) -> bool {
    // SAFETY: fchown takes three numbers and touches no memory.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, u32::MAX) }).is_ok()
}

/// Says in one line what was not checked, past the harness, which keeps what a test prints.
pub(super) fn skip(what: &str) {
    use std::io::Write;
    let line = format!("not checked: {what}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Asks until there is an answer.
#[track_caller]
pub(super) fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::yield_now();
    }
    panic!("no answer in 20 seconds");
}

/// Runs `f` on a thread of its own, and hands a panic on.
pub(super) fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `f` in a network namespace of its own, with only a loopback interface; None where that is
/// not allowed.
pub(super) fn in_namespace<T: Send>(what: &str, f: impl FnOnce() -> T + Send) -> Option<T> {
    on_thread(|| {
        // SAFETY: only this thread's view of the network changes, and no flag touches memory or
        // descriptors.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            skip(&format!("{what} (no network namespace: {error})"));
            return None;
        }
        loopback_up();
        Some(f())
    })
}

fn loopback_up() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: an ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }).unwrap();
}

/// Raises or lowers the number of descriptors that this process may have; for a process of its own.
pub(super) fn limit_descriptors(n: impl FnOnce(libc::rlim_t) -> libc::rlim_t) {
    let alone = crate::sys::child::role().is_some();
    assert!(alone, "a limit is for all tests of a process");
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to room for one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }).unwrap();
    limit.rlim_cur = n(limit.rlim_max);
    // SAFETY: the pointer is to one rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).unwrap();
}
