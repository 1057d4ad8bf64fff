//! A TCP listener that gets nothing new, and what it still has.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::sys::{self, BorrowedFd, OwnedFd, Requests, Weak};

/// How often the kernel is asked what is left.
pub(crate) const PAUSE: Duration = Duration::from_millis(3);

/// How long a listener of an async runtime has to be dropped before its accept fails.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Emptying {
    socket: OwnedFd,
    requests: Requests,
    /// Without a count: the time until which handshakes are waited for.
    quiet: Option<Instant>,
}

impl Emptying {
    pub(crate) fn new(socket: OwnedFd, weak: &Weak, addr: SocketAddr) -> Self {
        Self {
            socket,
            requests: Requests::of(weak, addr),
            quiet: None,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        sys::borrow(&self.socket)
    }

    /// How many requests it still has, where they are counted; else 1 until a while has passed.
    pub(crate) fn left(&mut self) -> u32 {
        let fd = sys::borrow(&self.socket);
        if self.quiet.is_none() {
            match self.requests.left(fd) {
                Ok(left) => return left,
                Err(_) => {
                    /// As long as a SYN-ACK that was lost twice.
                    const QUIET: Duration = Duration::from_secs(3);
                    self.quiet = Some(Instant::now() + QUIET);
                }
            }
        }
        let queued = sys::queue(fd).map_or(0, |queue| queue.len);
        let is_early = self.quiet.is_some_and(|quiet| Instant::now() < quiet);
        queued.max(u32::from(is_early))
    }
}
