//! One sendmsg(2) or recvmsg(2) that does not wait, with the descriptors beside its bytes.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::CHUNK;
use crate::sys::socket;

/// More than any system's kernel puts beside one message, so that a peer which sends what no frame
/// has is refused and not cut: what is cut stays open on Apple's systems.
const CONTROL: usize = 4096;

cfg_if::cfg_if! {
    if #[cfg(any(
        target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "dragonfly",
        target_os = "netbsd", target_os = "openbsd",
    ))] {
        /// No fork can come between the descriptors' birth and their flag.
        const RECEIVE: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;

        fn keep(_: &OwnedFd) -> io::Result<()> {
            Ok(())
        }
    } else {
        const RECEIVE: libc::c_int = libc::MSG_DONTWAIT;

        fn keep(fd: &OwnedFd) -> io::Result<()> {
            use std::os::fd::AsFd;
            crate::sys::set_close_on_exec(fd.as_fd())
        }
    }
}

cfg_if::cfg_if! {
    if #[cfg(target_vendor = "apple")] {
        const SEND: libc::c_int = libc::MSG_DONTWAIT;

        /// Older systems know no MSG_NOSIGNAL.
        pub(super) fn no_signal(socket: BorrowedFd<'_>) -> io::Result<()> {
            let on: libc::c_int = 1;
            crate::sys::unix::set_option(socket, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, &on)
        }
    } else {
        const SEND: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

        pub(super) fn no_signal(_: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }
    }
}

/// What came beside the bytes.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    pub(super) fds: Vec<OwnedFd>,
    /// The process that sent the first byte, where the kernel told one.
    pub(super) pid: Option<u32>,
}

/// As strict in its alignment as any system's cmsghdr.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// A message of one buffer.
fn message(buffer: &mut libc::iovec, control: *mut Control, length: libc::c_uint) -> libc::msghdr {
    // SAFETY: a msghdr is plain data, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = buffer;
    message.msg_iovlen = 1;
    if length != 0 {
        message.msg_control = control.cast();
        message.msg_controllen = length as _;
    }
    message
}

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// sendmsg(2), with no more descriptors than [`CHUNK`]; tells how many bytes went.
pub(super) fn put(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    debug_assert!(fds.len() <= CHUNK);
    let mut buffer = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; CONTROL]);
    let size = mem::size_of_val(fds) as libc::c_uint;
    // SAFETY: these two only compute.
    let (length, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
    let space = if fds.is_empty() { 0 } else { space };
    let message = message(&mut buffer, &mut control, space);
    // SAFETY: the message's control is null or as long as it says.
    let cmsg = unsafe { libc::CMSG_FIRSTHDR(&message) };
    if !cmsg.is_null() {
        // SAFETY: it points to the start of `control`, which is aligned, of which all bytes are
        // set, and which has room for a header and `size` bytes of data. A BorrowedFd has the
        // representation of a descriptor, as std says.
        unsafe {
            (*cmsg).cmsg_level = libc::SOL_SOCKET;
            (*cmsg).cmsg_type = libc::SCM_RIGHTS;
            (*cmsg).cmsg_len = length as _;
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(cmsg),
                mem::size_of_val(fds),
            );
        }
    }
    socket::uninterrupted(|| {
        // SAFETY: the message and what it points to outlive the call, which only reads.
        count(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, SEND) })
    })
}

/// recvmsg(2): how many bytes came, and in `arrived` all that came beside them.
pub(super) fn take(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    arrived: &mut Arrived,
) -> io::Result<usize> {
    let mut buffer = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; CONTROL]);
    let mut message = message(&mut buffer, &mut control, CONTROL as libc::c_uint);
    let taken = socket::uninterrupted(|| {
        // SAFETY: the message and what it points to outlive the call, and the lengths are theirs.
        count(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, RECEIVE) })
    });
    let taken = taken.map_err(|error| match error.raw_os_error() {
        // The BSDs' word for a process that has no room (kernel: unp_externalize).
        Some(libc::EMSGSIZE) => io::Error::from_raw_os_error(libc::EMFILE),
        _ => error,
    })?;
    // First of all they are owned, so that no error leaves one open.
    let first = arrived.fds.len();
    // SAFETY: the kernel filled `control` and set its length.
    unsafe { own(&message, arrived) };
    arrived.fds.iter().skip(first).try_for_each(keep)?;
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(cut(socket));
    }
    Ok(taken)
}

/// How many bytes can be received, up to the first that bring a descriptor; None where those come
/// first or soon. Nothing is received.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(in crate::sys) fn peek(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    // Else the kernel would have something to put beside each message.
    let off: libc::c_int = 0;
    crate::sys::unix::set_option(socket, libc::SOL_SOCKET, libc::SO_PASSCRED, &off)?;
    let mut buffer = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // Without room for descriptors: they stay where they are, and the kernel says that there are some
    // (kernel: scm_recv).
    let mut message = message(&mut buffer, std::ptr::null_mut(), 0);
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the message and what it points to outlive the call, and the lengths are theirs.
    let seen = count(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) })?;
    Ok((message.msg_flags & libc::MSG_CTRUNC == 0).then_some(seen))
}

/// Why the kernel dropped descriptors, asked while those that did arrive are open.
///
/// The rest is dropped at the first that finds no place, or that a security module refuses (kernel:
/// scm_detach_fds), and recvmsg(2) tells neither.
fn cut(socket: BorrowedFd<'_>) -> io::Error {
    match socket.try_clone_to_owned() {
        Err(error) => error,
        Ok(_) => io::Error::other(
            "not all descriptors arrived: there was no room for them (RLIMIT_NOFILE), or this \
             process may not have them",
        ),
    }
}

/// Takes over what came beside a message.
///
/// # Safety
///
/// recvmsg(2) has filled the message, and this is called once.
#[allow(
    clippy::unnecessary_cast,
    reason = "the lengths have 32 bits on some systems"
)]
unsafe fn own(message: &libc::msghdr, arrived: &mut Arrived) {
    let end = message.msg_control as usize + message.msg_controllen as usize;
    // SAFETY: the kernel set the length of what it wrote.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !cmsg.is_null() {
        // SAFETY: the macros point only to headers that the kernel wrote.
        let (header, data) = unsafe { (cmsg.read_unaligned(), libc::CMSG_DATA(cmsg)) };
        // Apple's systems leave the length as it was where they cut.
        let data_end = end.min(cmsg as usize + header.cmsg_len as usize);
        let data = data.cast::<libc::c_int>();
        let ints = data_end.saturating_sub(data as usize) / mem::size_of::<libc::c_int>();
        // SAFETY: each is within what the kernel wrote.
        let ints = (0..ints).map(|index| unsafe { data.add(index).read_unaligned() });
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                // SAFETY: the kernel made the descriptors for this process, where nothing else
                // knows them.
                arrived
                    .fds
                    .extend(ints.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            (level, kind) => beside(level, kind, ints, arrived),
        }
        // SAFETY: as above.
        cmsg = unsafe { libc::CMSG_NXTHDR(message, cmsg) };
    }
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        /// What else the kernel puts beside a message.
        fn beside(
            level: libc::c_int,
            kind: libc::c_int,
            mut ints: impl Iterator<Item = libc::c_int>,
            arrived: &mut Arrived,
        ) {
            /// <linux/socket.h>: for a socket on which the caller set SO_PASSPIDFD.
            const SCM_PIDFD: libc::c_int = 4;
            let first = ints.next();
            match (level, kind) {
                // struct ucred. Process 0 is one of no namespace that this process sees, or nothing
                // was known when it sent.
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    let pid = first.and_then(|pid| u32::try_from(pid).ok());
                    arrived.pid = arrived.pid.or(pid.filter(|&pid| pid != 0));
                }
                // Instead of a descriptor there may be an error.
                (libc::SOL_SOCKET, SCM_PIDFD) => {
                    if let Some(fd) = first.filter(|&fd| fd >= 0) {
                        // SAFETY: the kernel made the descriptor for this process, where nothing
                        // else knows it.
                        drop(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
                _ => {}
            }
        }
    } else {
        fn beside(
            _: libc::c_int,
            _: libc::c_int,
            _: impl Iterator<Item = libc::c_int>,
            _: &mut Arrived,
        ) {}
    }
}
