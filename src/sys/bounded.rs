//! Calls on sockets that block, and end at a deadline where there is one, without a trace on the socket.
//!
//! The deadlines are of one call. SO_RCVTIMEO and O_NONBLOCK would be of the socket, and so of every thread
//! and process that has it.
//!
//! A signal ends none of them, with a deadline or without one, as it ends no call of the other runtimes.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use socket2::{SockAddr, SockRef};

use super::borrow;
use super::socket::uninterrupted;
use super::unix::inode;
use super::wait::ready;

/// recv(2).
pub(crate) fn read(
    mut stream: &TcpStream,
    buf: &mut [u8],
    until: Option<Instant>,
) -> io::Result<usize> {
    let Some(until) = until else {
        return uninterrupted(|| stream.read(buf));
    };
    let socket = SockRef::from(stream);
    // SAFETY: the kernel writes bytes that are initialised, and socket2 none that are not.
    let buf = unsafe { &mut *(std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) };
    attempt(stream, libc::POLLIN, until, || {
        socket.recv_with_flags(buf, libc::MSG_DONTWAIT)
    })
}

/// send(2).
pub(crate) fn write(
    mut stream: &TcpStream,
    buf: &[u8],
    until: Option<Instant>,
) -> io::Result<usize> {
    let Some(until) = until else {
        return uninterrupted(|| stream.write(buf));
    };
    let socket = SockRef::from(stream);
    attempt(stream, libc::POLLOUT, until, || {
        socket.send_with_flags(buf, libc::MSG_DONTWAIT | NO_SIGNAL)
    })
}

/// recvfrom(2).
pub(crate) fn recv_from(
    socket: &UdpSocket,
    buf: &mut [u8],
    until: Option<Instant>,
) -> io::Result<(usize, SocketAddr)> {
    let Some(until) = until else {
        return waiting(socket, || uninterrupted(|| socket.recv_from(buf)));
    };
    let own = SockRef::from(socket);
    // SAFETY: as in `read`.
    let buf = unsafe { &mut *(std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) };
    let (len, from) = attempt(socket, libc::POLLIN, until, || {
        own.recv_from_with_flags(buf, libc::MSG_DONTWAIT)
    })?;
    let from = from.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((len, from))
}

/// sendto(2).
pub(crate) fn send_to(
    socket: &UdpSocket,
    buf: &[u8],
    to: SocketAddr,
    until: Option<Instant>,
) -> io::Result<usize> {
    let Some(until) = until else {
        return uninterrupted(|| socket.send_to(buf, to));
    };
    let own = SockRef::from(socket);
    let to = SockAddr::from(to);
    attempt(socket, libc::POLLOUT, until, || {
        own.send_to_with_flags(buf, &to, libc::MSG_DONTWAIT | NO_SIGNAL)
    })
}

/// accept(2), which has no MSG_DONTWAIT.
///
/// Those who wait with a deadline take turns at a listener, so that none finds its connection taken by
/// another, and blocks. One that accepts without a deadline, or in another process, can take it.
pub(crate) fn accept(
    listener: &TcpListener,
    until: Option<Instant>,
) -> io::Result<(TcpStream, SocketAddr)> {
    let Some(until) = until else {
        return waiting(listener, || listener.accept()).and_then(blocking);
    };
    loop {
        if !ready(borrow(listener), libc::POLLIN, Some(until))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let Some(_turn) = Turn::wait(inode(borrow(listener))?, until) else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        if ready(borrow(listener), libc::POLLIN, Some(Instant::now()))? {
            match listener.accept() {
                // It does not block, and a thread without a deadline or another process was quicker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return accepted.and_then(blocking),
            }
        }
    }
}

/// On the BSDs and Apple's systems a connection is as its listener is, blocking or not (accept(2)).
fn blocking((stream, from): (TcpStream, SocketAddr)) -> io::Result<(TcpStream, SocketAddr)> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        stream.set_nonblocking(false)?;
    }
    Ok((stream, from))
}

/// Calls what reads until it has been done, where the socket may not block: see
/// [`Spread::Queue`](crate::Spread::Queue) in a generation.
fn waiting<T>(socket: &impl super::AsFd, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        ready(borrow(socket), libc::POLLIN, None)?;
    }
}

/// Waits until a connect that is under way ends; the stream blocks from then on.
pub(crate) fn finish_connect(stream: &TcpStream, until: Option<Instant>) -> io::Result<()> {
    let Some(until) = until else {
        return super::finish_connect(stream);
    };
    if !ready(borrow(stream), libc::POLLOUT, Some(until))? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.take_error()?.map_or(Ok(()), Err)?;
    stream.set_nonblocking(false)
}

/// Calls what does not block until it has been done.
fn attempt<T>(
    socket: &impl super::AsFd,
    events: libc::c_short,
    until: Instant,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            done => return done,
        }
        if !ready(borrow(socket), events, Some(until))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Whose inodes these are, a thread is about to accept from.
static TURNS: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
static ENDED: Condvar = Condvar::new();

/// The turn of one thread at one listener.
struct Turn(u64);

fn turns() -> MutexGuard<'static, BTreeSet<u64>> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turn {
    /// None where the time is over before.
    fn wait(inode: u64, until: Instant) -> Option<Self> {
        let left = until.saturating_duration_since(Instant::now());
        let is_taken = |turns: &mut BTreeSet<u64>| turns.contains(&inode);
        let waited = ENDED.wait_timeout_while(turns(), left, is_taken);
        let mut turns = waited.unwrap_or_else(PoisonError::into_inner).0;
        // Made only where it is this thread's: to drop one ends the turn of whoever has it.
        turns.insert(inode).then(|| Self(inode))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        turns().remove(&self.0);
        ENDED.notify_all();
    }
}

cfg_if::cfg_if! {
    if #[cfg(target_vendor = "apple")] {
        // std and socket2 set SO_NOSIGPIPE at each socket.
        const NO_SIGNAL: libc::c_int = 0;
    } else {
        const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;
    }
}

#[cfg(test)]
mod tests;
