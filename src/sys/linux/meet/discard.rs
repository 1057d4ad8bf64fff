//! Closing a stream of another user, which may have anything in its queue.
//!
//! Descriptors that were sent and not received close with the stream, in the thread that closes it
//! (kernel: unix_release_sock, scm_destroy, task_work_add). The sender decides how long that takes:
//! the close of a TCP connection with SO_LINGER and unsent data takes as long as it says. Since
//! Linux 6.16 a socket can refuse descriptors, and ours do. Elsewhere a stream is closed at once only
//! if it holds none.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{SO_PASSRIGHTS, accept_any, close, closer, dismiss};
use crate::sys::{pass, socket, unix};

/// A stream to a process of another user, which closes without waiting.
#[derive(Debug)]
pub(crate) struct Stranger(Option<OwnedFd>);

impl Stranger {
    pub(super) fn new(stream: OwnedFd) -> Self {
        Self(Some(stream))
    }

    /// Sends a frame, if there is room for it.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        let stream = self.0.as_ref();
        stream.map_or(Ok(()), |stream| pass::send_now(stream.as_fd(), frame))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        match self.0.take() {
            Some(stream) if !is_empty(stream.as_fd()) => closer::close(stream),
            _ => {}
        }
    }
}

/// Whether nothing closes with the stream.
fn is_empty(stream: BorrowedFd<'_>) -> bool {
    takes_none(stream) || holds_none(stream).unwrap_or(false)
}

/// Whether no descriptors can be sent to the stream, which has been so from its first moment on.
fn takes_none(stream: BorrowedFd<'_>) -> bool {
    let rights = unix::words(stream, libc::SOL_SOCKET, SO_PASSRIGHTS);
    matches!(rights, Ok(Some([0])))
}

/// Whether the stream has no descriptors in its queue, and gets none any more.
fn holds_none(stream: BorrowedFd<'_>) -> io::Result<bool> {
    /// What is longer is not looked at. A sender's buffer can hold more.
    const LONGEST: usize = 64 << 10;
    // What a peer sends from here on stays with the peer (kernel: unix_stream_sendmsg).
    socket::shut_down(&stream)?;
    let len = queue_len(stream)?;
    if len == 0 || len > LONGEST {
        return Ok(len == 0);
    }
    // All bytes are seen and none brought a descriptor. Bytes out of band (MSG_OOB) are not seen.
    Ok(pass::peek(stream, &mut vec![0; len])? == Some(len))
}

/// The bytes of all messages in the queue (kernel: unix_inq_len).
fn queue_len(stream: BorrowedFd<'_>) -> io::Result<usize> {
    let mut len: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, for which there is room.
    unix::check(unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD as _, &mut len) })?;
    usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Closes a rendezvous in every process, and refuses those that have connected.
///
/// Dropping the last descriptor of one would close with it what strangers have sent.
pub(crate) fn end(rendezvous: OwnedFd, frame: &[u8]) {
    let _ = close(rendezvous.as_fd());
    loop {
        match accept_any(rendezvous.as_fd()) {
            Ok(Some(stream)) => dismiss(Stranger::new(stream), frame),
            // The queue is empty, and stays so.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            // There is no room for a descriptor, or the close was refused.
            Ok(None) | Err(_) => return closer::close(rendezvous),
        }
    }
}
