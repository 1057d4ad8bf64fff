//! How a socket is taken out of its group without a loss.
//!
//! A listener takes its accept queue and its half-open requests along when it closes (kernel:
//! inet_csk_listen_stop). So a program steers around it, and it is closed when the kernel has
//! counted the last request out.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::Kind;
use crate::sys::unix::{check, set_option, words};

cfg_if::cfg_if! {
    if #[cfg(target_os = "android")] {
        /// <asm-generic/socket.h>, which all of Android's processors have.
        const SO_BINDTOIFINDEX: libc::c_int = 62;
    } else {
        use libc::SO_BINDTOIFINDEX;
    }
}

/// The kernel does not check that there is such an interface (kernel: sock_bindtoindex).
pub(super) const NOWHERE: u32 = i32::MAX as u32;

/// Binds a socket to an interface that no machine has, so that no lookup finds it any more.
///
/// A listener that closes is out of its group some nanoseconds before it is out of the kernel's
/// chain of listeners, where a SYN that meets it first would still take it, whatever the program
/// says (kernel: inet_lhash2_lookup, inet_unhash). One that is bound elsewhere is passed over
/// (kernel: compute_score). It stays in its group; what is half-open is not disturbed.
///
/// A UDP socket is out of its group by this (kernel: udp_lib_rehash), and keeps its queue.
///
/// It takes no privilege from Linux 5.7 on, unless the socket is restricted to a device already.
pub(crate) fn hide(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &NOWHERE)
}

/// Not without a privilege where the socket is restricted to a device or before Linux 5.7, and not before
/// Linux 5.1.
pub(crate) fn can_hide(fd: BorrowedFd<'_>) -> bool {
    // kernel: sock_bindtoindex_locked asks for CAP_NET_RAW, in the user namespace that the network
    // namespace is of, before it refuses a negative number. So nothing is changed.
    let refusal = set_option(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &-1_i32);
    refusal.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

pub(crate) fn is_hidden(fd: BorrowedFd<'_>) -> bool {
    interface(fd) == Some(NOWHERE)
}

/// The number of the device that a socket is restricted to, and 0 without one; none before Linux 5.1.
pub(crate) fn interface(fd: BorrowedFd<'_>) -> Option<u32> {
    let interface = words::<1>(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX);
    interface.ok().flatten().map(|[interface]| interface)
}

/// Takes a socket out of its group at once; what is queued in a listener is lost, and who waits in
/// accept(2) gets an error. False where the socket is in its group until it is closed.
///
/// A child that was forked and has not yet called exec keeps a socket alive that was closed here.
/// shutdown(2) acts on the socket (kernel: inet_shutdown, tcp_disconnect).
pub(crate) fn remove(kind: Kind, fd: BorrowedFd<'_>) -> bool {
    match kind {
        Kind::Tcp => match shut_down(fd) {
            Ok(()) => true,
            // It has been done before (kernel: inet_shutdown).
            Err(error) => error.kind() == io::ErrorKind::NotConnected,
        },
        // Refused where it is restricted to a device, and before 5.1.
        Kind::Udp => hide(fd).is_ok(),
    }
}

fn shut_down(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: shutdown takes two ints and touches no memory.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD) }).map(drop)
}

/// Lets a listener be found without its group, and so without its group's program: the kernel asks
/// for a socket's group only where it has SO_REUSEPORT (kernel: inet_lookup_reuseport).
pub(crate) fn set_alone(fd: BorrowedFd<'_>, alone: bool) -> io::Result<()> {
    let shared = libc::c_int::from(!alone);
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &shared)
}

/// Whether something is in a socket's queue.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `entry` is one valid pollfd, and the count says one.
    check(unsafe { libc::poll(&mut entry, 1, 0) }).map(|ready| ready > 0)
}

/// Whether this kernel hands what is queued in a listener that closes to the others of its group.
pub(crate) fn migrates() -> bool {
    let switch = fs::read("/proc/sys/net/ipv4/tcp_migrate_req");
    let counters = || fs::read_to_string("/proc/thread-self/net/netstat");
    switch.is_ok_and(|switch| counters().is_ok_and(|counters| is_migrating(&switch, &counters)))
}

/// Linux 5.10 got the switch with a later fix, and not what it switches, which has two counters.
fn is_migrating(switch: &[u8], counters: &str) -> bool {
    let mut names = counters.split_ascii_whitespace();
    switch.trim_ascii() == b"1" && names.any(|name| name == "TCPMigrateReqSuccess")
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
