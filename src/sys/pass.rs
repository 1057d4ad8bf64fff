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
//! Only one side may send at a time. No call waits in the kernel's sendmsg or recvmsg, where a
//! signal starts a timeout anew: each wait is a poll(2) up to a point in time.

mod header;
mod message;
mod peer;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{socket, wait};
use header::{HEADER, Header};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use message::peek;
use message::{Arrived, no_signal, put, take};
pub(crate) use peer::peer;
pub(crate) use peer::tell_senders;

/// Whether a frame tells the process that has sent it, when [`tell_senders`] has asked for that.
pub(crate) const TELLS_SENDERS: bool = cfg!(any(target_os = "linux", target_os = "android"));

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

/// Whether MSG_DONTWAIT is for sendmsg(2) too.
///
/// Apple's systems know it for recvmsg(2) only (kernel: sosendcheck asks for MSG_NBIO). Where it is
/// not sure, a poll(2) comes before each message, which is short: there is room for as much as the
/// buffer's low-water mark then (kernel: sowriteable; 2,048 bytes).
const SEND_WAITS_NOT: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// How many bytes go at once where it is for recvmsg(2) only.
const STEP: usize = 1024;

/// The byte that brings a chunk.
const CHUNK_COMES: u8 = b'+';

/// The byte that answers it.
const TAKEN: u8 = b'.';

/// The byte that says that this process has no room for a chunk.
const NO_ROOM: u8 = b'-';

/// What one frame brought.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// In the sender's order, close-on-exec.
    pub(crate) fds: Vec<OwnedFd>,
    /// The process that sent it, as this process's namespace numbers it.
    ///
    /// `None` where it has no number there, the system does not tell, or [`tell_senders`] was not
    /// called before.
    pub(crate) pid: Option<u32>,
}

/// Sends a frame, and returns when the other side has all its descriptors.
///
/// Fails with TimedOut, with BrokenPipe or UnexpectedEof where the other side has gone, and with
/// InvalidInput where no frame holds so much. Without `until` each wait is bounded by the socket's
/// own SO_SNDTIMEO or SO_RCVTIMEO. After an error the stream is of no more use.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    until: Option<Instant>,
) -> io::Result<()> {
    let mut stream = Stream::new(socket, until)?;
    stream.put_all(&head(bytes, fds.len())?)?;
    for chunk in fds.chunks(CHUNK) {
        stream.put(&[CHUNK_COMES], chunk)?;
        let mut answer = [0];
        stream.fill(&mut answer)?;
        if answer == [NO_ROOM] {
            let why = "the other process has no descriptor left (RLIMIT_NOFILE)";
            return Err(io::Error::other(why));
        }
        if answer != [TAKEN] || !stream.arrived.fds.is_empty() {
            return Err(invalid(
                "the other side answered descriptors with something else",
            ));
        }
    }
    Ok(())
}

/// Receives a frame.
///
/// Fails with TimedOut, with UnexpectedEof where the other side has gone, with InvalidData where it
/// sends what is no frame, and with the system's EMFILE where this process has no room for the
/// descriptors. Without `until` each wait is bounded by the socket's own SO_RCVTIMEO or SO_SNDTIMEO.
/// All that came is closed after an error, and the stream is of no more use.
pub(crate) fn receive(socket: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<Frame> {
    let mut stream = Stream::new(socket, until)?;
    let mut header = [0; HEADER];
    stream.fill(&mut header)?;
    let Header { length, count } = Header::parse(header)?;
    let bytes = stream.bytes(length)?;
    if !stream.arrived.fds.is_empty() {
        return Err(invalid("descriptors came that were not announced"));
    }
    let mut reserved = 0;
    while stream.arrived.fds.len() < count {
        let expected = count.min(stream.arrived.fds.len() + CHUNK);
        let mut byte = [0];
        if let Err(error) = stream.fill(&mut byte) {
            if error.raw_os_error() == Some(libc::EMFILE) {
                // The other side can say why nothing comes of it.
                let _ = stream.put(&[NO_ROOM], &[]);
            }
            return Err(error);
        }
        let came = stream.arrived.fds.len();
        if byte != [CHUNK_COMES] || came != expected {
            return Err(invalid("other descriptors came than were announced"));
        }
        // Room for more than came, so that a large group waits seldom, and not for all that is
        // announced, which may never come.
        if came + CHUNK > reserved {
            reserved = count.min(4 * came);
            super::reserve(socket, reserved);
        }
        stream.put(&[TAKEN], &[]).map_err(gone)?;
    }
    let Arrived { fds, pid } = stream.arrived;
    Ok(Frame { bytes, fds, pid })
}

/// Sends a frame without descriptors where there is room for all of it, and waits for nothing.
pub(super) fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    no_signal(socket)?;
    put(socket, &head(bytes, 0)?, &[]).map(drop)
}

/// What an error of this module means, where the system's words leave it open.
pub(crate) fn reason(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::ETOOMANYREFS => {
            "too many descriptors of this user are on their way between processes (RLIMIT_NOFILE)"
        }
        libc::EMFILE => return super::resource_reason(error),
        _ => return None,
    })
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// What a frame begins with: all but its descriptors.
fn head(bytes: &[u8], count: usize) -> io::Result<Vec<u8>> {
    let header = Header::new(bytes.len(), count)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more than one frame holds"))?;
    Ok([&header.to_bytes(), bytes].concat())
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

/// One call's use of a socket.
struct Stream<'a> {
    socket: BorrowedFd<'a>,
    until: Option<Instant>,
    /// The socket's own bounds, of a wait to read and to write, where `until` is none.
    timeouts: [Option<Duration>; 2],
    arrived: Arrived,
}

impl<'a> Stream<'a> {
    fn new(socket: BorrowedFd<'a>, until: Option<Instant>) -> io::Result<Self> {
        no_signal(socket)?;
        let timeouts = match until {
            Some(_) => [None; 2],
            None => socket::timeouts(&socket)?,
        };
        Ok(Self {
            socket,
            until,
            timeouts,
            arrived: Arrived::default(),
        })
    }

    /// When a wait that begins now ends.
    fn end(&self, events: libc::c_short) -> Option<Instant> {
        let [read, write] = self.timeouts;
        let timeout = if events == libc::POLLIN { read } else { write };
        let end = || Instant::now().checked_add(timeout?);
        self.until.or_else(end)
    }

    /// Waits until the socket can be read or written.
    fn wait(&self, events: libc::c_short) -> io::Result<()> {
        match wait::ready(self.socket, events, self.end(events))? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn put(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let bytes = match SEND_WAITS_NOT {
            true => bytes,
            false => bytes.get(..STEP).unwrap_or(bytes),
        };
        loop {
            if !SEND_WAITS_NOT && !wait::ready(self.socket, libc::POLLOUT, self.end(libc::POLLOUT))?
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match put(self.socket, bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(libc::POLLOUT)?;
                }
                done => return done,
            }
        }
    }

    fn put_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.put(bytes, &[])?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Fills the buffer, and not more: what follows may bring descriptors.
    fn fill(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match take(self.socket, buffer, &mut self.arrived) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => buffer = buffer.get_mut(taken..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(libc::POLLIN)?;
                }
                Err(error) => return Err(gone(error)),
            }
        }
        Ok(())
    }

    /// As many bytes as were announced, with room for no more than twice what has come.
    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        const FIRST: usize = 1024;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let come = bytes.len();
            bytes.resize(length.min(come + come.max(FIRST)), 0);
            self.fill(bytes.get_mut(come..).unwrap_or_default())?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
