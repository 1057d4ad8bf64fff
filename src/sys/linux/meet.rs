//! The rendezvous of two processes: abstract UNIX addresses.
//!
//! They belong to a network namespace, as ports do, are in no file system, and are free again when
//! the last descriptor of their listener closes (unix(7)). A name belongs to no user: any user can
//! listen first, connect, fill the queue and send. So:
//!
//! - Where another has the name, a rendezvous has a name of its own behind it, and is found in the
//!   kernel's tables, which tell the user that opened it.
//! - Both sides ask the kernel which user the other is before they believe anything.
//! - Nothing is waited for that another user could delay. That includes closing: a socket in whose
//!   queue a lingering TCP connection is on its way closes when that does (see [`Stranger`]).

mod closer;
mod discard;
mod find;
mod tables;

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

pub(crate) use discard::{Stranger, end};
pub(crate) use find::{Found, find};

use crate::sys::{pass, socket, unix, wait};

/// SO_PASSRIGHTS: whether descriptors can be sent to a socket. Linux 6.16 and later.
///
/// libc has no name for it yet; the number is that of <asm-generic/socket.h>, and others have other
/// numbers (<asm/socket.h> of parisc, sparc).
const SO_PASSRIGHTS: libc::c_int = if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
    0x005c
} else {
    83
};

/// How many wait to be accepted.
///
/// Any user can fill the queue, and what waits in front is accepted first, so a long one only makes
/// the owner's processes wait longer: behind 4,096 strangers for 200 ms, measured beside a flood.
/// Where it is full they are let in in turn.
const QUEUE: i32 = 16;

/// The bytes of what a name of its own has behind the name: a slash and digits.
const SUFFIX: usize = 1 + 16;

/// Listens at a name, or where that is taken at one that begins with it.
///
/// Fails with InvalidInput past 90 bytes.
pub(crate) fn listen(name: &[u8]) -> io::Result<OwnedFd> {
    /// Of 2^64 names one is free.
    const TRIES: usize = 4;
    let rendezvous = socket::unix_stream()?;
    // What connects has both from the listener, from its first moment on (kernel:
    // unix_stream_connect).
    let _ = set_rights(rendezvous.as_fd(), false);
    pass::tell_senders(rendezvous.as_fd())?;
    let mut bound = socket::bind_unix(&rendezvous, &path(name));
    for _ in 0..TRIES {
        match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                bound = socket::bind_unix(&rendezvous, &path(&own_name(name)));
            }
            _ => break,
        }
    }
    bound?;
    socket::listen_unix(&rendezvous, QUEUE)?;
    Ok(rendezvous)
}

/// Who has connected to a rendezvous.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A process of the owner's. The stream does not block, and tells who sends.
    Line(OwnedFd),
    /// A process of another user, for [`dismiss`].
    Stranger(Stranger),
    None,
}

/// Takes the next connection, if there is one, and waits for none.
///
/// After [`close`] those that had connected before are still accepted; then it fails with
/// InvalidInput (EINVAL, as a blocking accept(2) would). It also fails where there is no room for
/// one more descriptor, and where too many strangers are still being closed: the rendezvous can be
/// read all the time then, and the caller has to pause.
///
/// Who has connected can send no descriptors before it is accepted (EPERM): it has to hear something
/// first.
pub(crate) fn accept(rendezvous: BorrowedFd<'_>, owner: u32) -> io::Result<Accepted> {
    closer::check_room()?;
    let Some(stream) = accept_any(rendezvous)? else {
        return Ok(Accepted::None);
    };
    if is_of(stream.as_fd(), owner) {
        let _ = set_rights(stream.as_fd(), true);
        return Ok(Accepted::Line(stream));
    }
    Ok(Accepted::Stranger(Stranger::new(stream)))
}

fn accept_any(rendezvous: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut is_closed = false;
    loop {
        match socket::accept(&rendezvous) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(stream) => return Ok(Some(stream)),
            Err(_) if is_closed => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
            Err(_) => {}
        }
        // A socket that does not block is told of the end by poll(2) only (kernel:
        // __skb_recv_datagram). One may have connected in between, and none can any more.
        is_closed = wait::ready(rendezvous, libc::POLLRDHUP, Some(Instant::now()))?;
        if !is_closed {
            return Ok(None);
        }
    }
}

/// Sends a stranger at most one frame and closes it, without waiting for anything.
pub(crate) fn dismiss(stranger: Stranger, frame: &[u8]) {
    // There is room for it: nothing has been sent before.
    let _ = stranger.send(frame);
}

/// Refuses all further connections, and wakes who polls, in whatever process.
///
/// The name is taken until the last descriptor of the rendezvous closes.
pub(crate) fn close(rendezvous: BorrowedFd<'_>) -> io::Result<()> {
    socket::shut_down(&rendezvous)
}

fn is_of(stream: BorrowedFd<'_>, owner: u32) -> bool {
    pass::peer(stream).is_ok_and(|peer| peer.uid == owner)
}

/// Fails where the kernel has no such option.
fn set_rights(stream: BorrowedFd<'_>, pass: bool) -> io::Result<()> {
    let value = libc::c_int::from(pass);
    unix::set_option(stream, libc::SOL_SOCKET, SO_PASSRIGHTS, &value)
}

fn path(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&[b"\0", name].concat()))
}

/// A name that no other user can have taken before: std's hasher has random keys.
fn own_name(name: &[u8]) -> Vec<u8> {
    let digits = format!("/{:016x}", RandomState::new().build_hasher().finish());
    [name, digits.as_bytes()].concat()
}

/// Whether a rendezvous of that name can have the other name.
fn is_named(candidate: &[u8], name: &[u8]) -> bool {
    match candidate.strip_prefix(name) {
        Some([]) => true,
        Some([b'/', digits @ ..]) => {
            let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            digits.len() == SUFFIX - 1 && digits.iter().all(is_digit)
        }
        _ => false,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
