//! What every Unix has in common and socket2 does not do.

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::{Kind, Socket};

/// Turns the -1 of a system call into the error that it left in errno.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// setsockopt(2) with a value of any plain type.
#[allow(dead_code, reason = "only Linux has options that socket2 lacks")]
pub(super) fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// getsockopt(2) of an option that is on or off.
pub(super) fn flag(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<bool> {
    let mut value: libc::c_int = 0;
    let mut len = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `value`, into which the kernel writes at most
    // `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast(),
            &mut len,
        )
    };
    check(result).map(|_| value != 0)
}

/// getsockopt(2) of an option that has several 32-bit words; None where the kernel knows fewer.
#[allow(dead_code, reason = "only Linux has such options that are of use")]
pub(super) fn words<const N: usize>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<Option<[u32; N]>> {
    let mut words = [0; N];
    let mut len = mem::size_of_val(&words) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `words`, into which the kernel writes at most
    // `len` bytes, and any bytes are a valid u32.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            words.as_mut_ptr().cast(),
            &mut len,
        )
    };
    check(result)?;
    Ok((len as usize == mem::size_of_val(&words)).then_some(words))
}

/// fstat(2) of a number that may stand for nothing, or for something else by now.
#[allow(
    dead_code,
    reason = "on the BSDs what it says of a socket is of no use"
)]
pub(super) fn stat(number: RawFd) -> io::Result<libc::stat> {
    let mut stat = mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the pointer is to room for one stat, which the kernel fills.
    check(unsafe { libc::fstat(number, stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded, so the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// The inode number of an open file.
#[allow(dead_code, reason = "on the BSDs a socket's inode says nothing")]
pub(super) fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let stat = stat(fd.as_raw_fd())?;
    #[allow(clippy::unnecessary_cast, reason = "ino_t has 32 bits on some systems")]
    Ok(stat.st_ino as u64)
}

/// SO_ACCEPTCONN, which every Unix has; socket2 leaves it out on Apple's systems and NetBSD.
pub(crate) fn is_listening(fd: BorrowedFd<'_>) -> io::Result<bool> {
    flag(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN)
}

/// poll(2) until a connect has ended one way or the other.
pub(super) fn wait_writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    loop {
        // SAFETY: `entry` is one valid pollfd, and the count says one.
        match check(unsafe { libc::poll(&mut entry, 1, -1) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(drop),
        }
    }
}

pub(super) fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// Does this machine have no IPv6 at all?
pub(crate) fn is_no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

pub(crate) fn is_no_socket(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTSOCK)
}

/// Does the kernel not know an option, as WSL1 and old kernels say of SO_REUSEPORT?
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOPROTOOPT)
}

/// Whether a worker that waits for a connection at this socket waits in the kernel, in accept(2).
pub(crate) fn is_blocking(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: F_GETFL takes no argument and touches no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) });
    flags.is_ok_and(|flags| flags & libc::O_NONBLOCK == 0)
}

/// The user whose sockets this process opens.
pub(crate) fn user() -> u32 {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

/// Keeps a descriptor that came from elsewhere from this process's children.
pub(crate) fn set_close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_SETFD takes an int and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Binds to an address without sharing it, tells which it was, and leaves it.
///
/// For kernels on which a first member cannot be kept from joining. A process of the same user that
/// binds in between is not noticed.
#[allow(dead_code, reason = "for systems without a better proof")]
pub(super) fn find_free(like: &Socket, kind: Kind, addr: &SocketAddr) -> io::Result<SocketAddr> {
    let question = Socket::new(kind, addr, false)?;
    if addr.is_ipv6() {
        question.set_only_v6(like.only_v6()?)?;
    }
    super::restartable(&question, kind)?;
    question.bind(addr)?;
    question.local_addr()
}

/// Makes room for `n` more descriptors at once.
///
/// Linux doubles the table of a process with threads each time after a grace period of several
/// milliseconds (kernel: expand_fdtable), so a group of 4,096 would wait seven times.
pub(crate) fn reserve(fd: BorrowedFd<'_>, n: usize) {
    /// The table starts with 64 places and then has 256, so a smaller group waits once at the most.
    const WORTH_IT: usize = 256;
    if n < WORTH_IT {
        return;
    }
    let Some(least) = libc::c_int::try_from(n)
        .ok()
        .and_then(|n| fd.as_raw_fd().checked_add(n))
    else {
        return;
    };
    // SAFETY: F_DUPFD_CLOEXEC takes an int and touches no memory.
    let duplicate = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    // Refused past RLIMIT_NOFILE: then the member that finds no place says so itself.
    if duplicate != -1 {
        // SAFETY: the kernel just made this descriptor, and no other code knows it.
        drop(unsafe { OwnedFd::from_raw_fd(duplicate) });
    }
}

/// The index of a network interface, by its name.
pub(crate) fn zone(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// What an error of socket, setsockopt, bind or listen means for a user, where the system's words
/// leave it open.
pub(crate) fn reason(error: &io::Error, addr: &SocketAddr) -> Option<&'static str> {
    let link_local =
        matches!(addr, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0);
    Some(match error.raw_os_error()? {
        libc::EACCES if addr.port() != 0 => "this port needs a privilege that the process lacks",
        libc::EADDRNOTAVAIL => "no interface of this machine has this address",
        libc::EAFNOSUPPORT if addr.is_ipv6() => "this machine has no IPv6",
        libc::EINVAL if link_local => "a link-local address needs a zone, as in [fe80::1%eth0]:80",
        libc::ENOPROTOOPT => "this kernel cannot share a port",
        _ => return resource_reason(error),
    })
}

/// What an error means that comes of what the process or the machine has run out of.
pub(crate) fn resource_reason(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EMFILE => "this process has no descriptor left (RLIMIT_NOFILE)",
        libc::ENFILE => "this machine has no file left (fs.file-max)",
        libc::ENOMEM => "this machine has no memory left",
        _ => return None,
    })
}
