//! Descriptors that go to another process over a UNIX stream, in frames.
//!
//! A frame is the length of its payload and the number of its descriptors, 4 bytes each, little
//! endian; then the payload; then one byte for every chunk of descriptors, which brings them as
//! SCM_RIGHTS (unix(7)). The receiver answers each chunk with a byte, and only then comes the next:
//!
//! - A message takes few descriptors (kernel: SCM_MAX_FD).
//! - What is sent and not yet received counts against the sender's user, and without a privilege
//!   there may be no more of it than RLIMIT_NOFILE (kernel: too_many_unix_fds).
//! - After the last answer the receiver has them all, and the sender may close its own.
//!
//! A stream keeps no borders between messages, except that bytes which bring descriptors are never
//! read together with what comes after them, and the first of them brings all (kernel:
//! unix_stream_read_generic). So a byte that goes alone can neither lose nor repeat them.
//!
//! Only one side may send at a time. The socket has to be in blocking mode.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::socket;

/// The longest payload of a frame.
pub(crate) const MAX_BYTES: usize = 64 << 10;

/// The most descriptors of a frame.
pub(crate) const MAX_FDS: usize = 1 << 16;

/// The most descriptors of one message.
///
/// Linux takes 253 (kernel: SCM_MAX_FD). The BSDs turn each into a pointer or two within 2 KiB
/// (kernel: unp_internalize, MCLBYTES), which is 126 in OpenBSD.
const CHUNK: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    253
} else {
    64
};

/// More than any system's kernel puts beside one message, so that a peer which sends what no frame
/// has is refused and not cut: what is cut stays open on Apple's systems.
const CONTROL: usize = 4096;

const HEADER: usize = 8;

/// The byte that brings a chunk.
const CHUNK_COMES: u8 = b'+';

/// The byte that answers it.
const TAKEN: u8 = b'.';

cfg_if::cfg_if! {
    if #[cfg(any(
        target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "dragonfly",
        target_os = "netbsd", target_os = "openbsd",
    ))] {
        /// Nobody's fork can come between the descriptors' birth and their flag.
        const RECEIVE: libc::c_int = libc::MSG_CMSG_CLOEXEC;

        fn keep(_: &OwnedFd) -> io::Result<()> {
            Ok(())
        }
    } else {
        const RECEIVE: libc::c_int = 0;

        fn keep(fd: &OwnedFd) -> io::Result<()> {
            use std::os::fd::AsFd;
            super::set_close_on_exec(fd.as_fd())
        }
    }
}

cfg_if::cfg_if! {
    if #[cfg(target_vendor = "apple")] {
        const SEND: libc::c_int = 0;

        /// Older systems know no MSG_NOSIGNAL.
        fn no_signal(socket: BorrowedFd<'_>) -> io::Result<()> {
            let on: libc::c_int = 1;
            super::unix::set_option(socket, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, &on)
        }
    } else {
        const SEND: libc::c_int = libc::MSG_NOSIGNAL;

        fn no_signal(_: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }
    }
}

/// Sends a frame, and returns when the other side has all its descriptors.
///
/// Fails with TimedOut, with BrokenPipe or UnexpectedEof where the other side has gone, and with
/// InvalidInput where no frame holds so much. After an error the stream is of no more use.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let (Some(header), true) = (header(bytes.len(), fds.len()), is_frame(bytes, fds)) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "more than one frame holds",
        ));
    };
    no_signal(socket)?;
    let mut frame = Vec::with_capacity(HEADER + bytes.len());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(bytes);
    put_all(socket, &frame)?;
    for chunk in fds.chunks(CHUNK) {
        put(socket, &[CHUNK_COMES], chunk)?;
        let mut answer = [0];
        let mut strays = Vec::new();
        fill(socket, &mut answer, &mut strays)?;
        if answer != [TAKEN] || !strays.is_empty() {
            return Err(invalid(
                "the other side answered descriptors with something else",
            ));
        }
    }
    Ok(())
}

/// Receives a frame: its payload, and its descriptors in the sender's order, close-on-exec.
///
/// Fails with TimedOut, with UnexpectedEof where the other side has gone, with InvalidData where it
/// sends what is no frame, and with the system's EMFILE where this process has no room for the
/// descriptors. All that came is closed then, and the stream is of no more use.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    no_signal(socket)?;
    let mut fds = Vec::new();
    let mut header = [0; HEADER];
    fill(socket, &mut header, &mut fds)?;
    let [a, b, c, d, e, f, g, h] = header;
    let [length, count] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
    let length = limited(
        length,
        MAX_BYTES,
        "a payload that is too long was announced",
    )?;
    let count = limited(count, MAX_FDS, "too many descriptors were announced")?;
    let mut bytes = vec![0; length];
    fill(socket, &mut bytes, &mut fds)?;
    if !fds.is_empty() {
        return Err(invalid("descriptors came that were not announced"));
    }
    super::reserve(socket, count);
    while fds.len() < count {
        let expected = count.min(fds.len() + CHUNK);
        let mut byte = [0];
        fill(socket, &mut byte, &mut fds)?;
        if byte != [CHUNK_COMES] || fds.len() != expected {
            return Err(invalid("other descriptors came than were announced"));
        }
        put(socket, &[TAKEN], &[]).map_err(gone)?;
    }
    Ok((bytes, fds))
}

/// Bounds every wait of the socket in either direction; a frame that trickles in has many.
pub(crate) fn set_timeout(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    socket::set_timeout(&socket, timeout)
}

/// What an error of this module means, where the system's words leave it open.
pub(crate) fn reason(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EMFILE => "this process has no descriptor left (RLIMIT_NOFILE)",
        libc::ETOOMANYREFS => {
            "too many descriptors of this user are on their way between processes (RLIMIT_NOFILE)"
        }
        _ => return None,
    })
}

/// Who is at the other end of a UNIX stream: who connected, or who listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The effective user, as this process's user namespace numbers it.
    pub(crate) uid: u32,
    /// None where the system does not tell, or the process is in no namespace that this one sees.
    pub(crate) pid: Option<u32>,
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        /// SO_PEERCRED: as it was at connect(2), listen(2) or socketpair(2) (unix(7)).
        pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
            let words = super::unix::words(socket, libc::SOL_SOCKET, libc::SO_PEERCRED)?;
            // struct ucred: pid, uid, gid. A socket that has no peer has user -1.
            match words {
                Some([_, u32::MAX, _]) | None => Err(io::ErrorKind::NotConnected.into()),
                Some([pid, uid, _]) => Ok(Peer { uid, pid: (pid != 0).then_some(pid) }),
            }
        }
    } else if #[cfg(any(target_os = "illumos", target_os = "solaris"))] {
        /// getpeerucred(3C): as it was at connect(3SOCKET) or listen(3SOCKET).
        pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
            let mut credentials = std::ptr::null_mut();
            // SAFETY: the pointer is to room for a pointer; as that is null, the call allocates.
            super::unix::check(unsafe {
                libc::getpeerucred(socket.as_raw_fd(), &mut credentials)
            })?;
            // SAFETY: the call succeeded, so these are credentials, which are freed only below.
            let (uid, pid) = unsafe {
                (libc::ucred_geteuid(credentials), libc::ucred_getpid(credentials))
            };
            // SAFETY: the call above allocated them, and nothing refers to them any more.
            unsafe { libc::ucred_free(credentials) };
            Ok(Peer { uid, pid: u32::try_from(pid).ok() })
        }
    } else {
        /// getpeereid(3): as it was at connect(2) or listen(2).
        pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
            let (mut uid, mut gid) = (0, 0);
            // SAFETY: the pointers are to room for one number each.
            super::unix::check(unsafe {
                libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid)
            })?;
            Ok(Peer { uid, pid: None })
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn is_frame(bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
    bytes.len() <= MAX_BYTES && fds.len() <= MAX_FDS
}

fn header(length: usize, count: usize) -> Option<[u8; HEADER]> {
    let [a, b, c, d] = u32::try_from(length).ok()?.to_le_bytes();
    let [e, f, g, h] = u32::try_from(count).ok()?.to_le_bytes();
    Some([a, b, c, d, e, f, g, h])
}

fn limited(announced: u32, limit: usize, why: &'static str) -> io::Result<usize> {
    usize::try_from(announced)
        .ok()
        .filter(|&announced| announced <= limit)
        .ok_or_else(|| invalid(why))
}

fn put_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = put(socket, bytes, &[])?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Says of a peer that has gone what it is, whichever call notices.
///
/// ECONNRESET where it had not read everything (kernel: unix_release_sock), EPIPE where it cannot
/// be answered.
fn gone(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            io::ErrorKind::UnexpectedEof.into()
        }
        _ => error,
    }
}

/// Fills the buffer, and not more: what follows may bring descriptors.
fn fill(socket: BorrowedFd<'_>, mut buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    while !buffer.is_empty() {
        let taken = match socket::uninterrupted(|| take(socket, buffer, fds)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => taken.map_err(socket::timed_out).map_err(gone)?,
        };
        buffer = buffer.get_mut(taken..).unwrap_or_default();
    }
    Ok(())
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

/// sendmsg(2), with no more descriptors than [`CHUNK`].
fn put(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
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
    .map_err(socket::timed_out)
}

/// recvmsg(2): how many bytes came, and behind `fds` all descriptors that came with them.
fn take(socket: BorrowedFd<'_>, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut buffer = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; CONTROL]);
    let mut message = message(&mut buffer, &mut control, CONTROL as libc::c_uint);
    // SAFETY: the message and what it points to outlive the call, and the lengths are theirs.
    let taken = count(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, RECEIVE) });
    let taken = taken.map_err(|error| match error.raw_os_error() {
        // The BSDs' word for a process that has no room (kernel: unp_externalize).
        Some(libc::EMSGSIZE) => io::Error::from_raw_os_error(libc::EMFILE),
        _ => error,
    })?;
    // First of all they are owned, so that no error leaves one open.
    let first = fds.len();
    // SAFETY: the kernel filled `control` and set its length.
    unsafe { own(&message, fds) };
    fds.iter().skip(first).try_for_each(keep)?;
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(cut(socket));
    }
    Ok(taken)
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

/// Takes over the descriptors beside a message.
///
/// # Safety
///
/// recvmsg(2) has filled the message, and this is called once.
#[allow(
    clippy::unnecessary_cast,
    reason = "the lengths have 32 bits on some systems"
)]
unsafe fn own(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    let end = message.msg_control as usize + message.msg_controllen as usize;
    // SAFETY: the kernel set the length of what it wrote.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !cmsg.is_null() {
        // SAFETY: the macros point only to headers that the kernel wrote.
        let (header, data) = unsafe { (cmsg.read_unaligned(), libc::CMSG_DATA(cmsg)) };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // Apple's systems leave the length as it was where they cut.
            let data_end = end.min(cmsg as usize + header.cmsg_len as usize);
            let size = data_end.saturating_sub(data as usize);
            let data = data.cast::<libc::c_int>();
            for index in 0..size / mem::size_of::<libc::c_int>() {
                // SAFETY: it is within what the kernel wrote, and the kernel made the descriptor
                // for this process, where nobody else knows it.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) });
            }
        }
        // SAFETY: as above.
        cmsg = unsafe { libc::CMSG_NXTHDR(message, cmsg) };
    }
}

#[cfg(test)]
mod tests;
