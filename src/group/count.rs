//! What a socket that gets nothing new has still to give to its worker.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sys::{self, BorrowedFd, Kind, Look, OwnedFd};

/// Waits until no processor is at a packet any more that arrived before; false where that is not sure
/// at the deadline, or after a second.
///
/// A grace period of the kernel takes some milliseconds; a flood can delay its end without a bound.
pub(crate) fn barrier(deadline: Option<Instant>) -> bool {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    sys::barrier(Duration::from_secs(1).min(left.unwrap_or(Duration::MAX)))
}

/// A socket that is being drained.
#[derive(Debug)]
pub(crate) struct Remains {
    kind: Kind,
    inode: Option<u64>,
    fd: Arc<OwnedFd>,
    /// The half-open requests at the time from which no new one can be this listener's, where the
    /// kernel does not tell whose they are.
    since: Option<HashSet<u64>>,
    /// Nothing was seen, which may have been too early.
    seems_empty: bool,
    /// Without a count: the time until which handshakes are waited for.
    quiet: Option<Instant>,
}

impl Remains {
    pub(crate) fn of(kind: Kind, fd: Arc<OwnedFd>) -> Self {
        Self {
            kind,
            inode: sys::identity(sys::borrow(&*fd)),
            fd,
            since: None,
            seems_empty: false,
            quiet: None,
        }
    }

    /// From here on none is added, as none was at first.
    pub(crate) fn restart(&mut self) {
        self.since = None;
        self.quiet = None;
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        sys::borrow(&*self.fd)
    }

    /// How many requests a listener still has, handshakes that are under way included; for UDP, 1 where
    /// anything is in the queue. None may be added from the time on when it is first called.
    pub(crate) fn left(&mut self, seen: &Seen) -> u32 {
        if self.kind == Kind::Udp {
            return is_readable(self.fd());
        }
        if seen.migrates {
            // The kernel hands what is left to the others when the listener closes.
            return 0;
        }
        if let Some((left, is_sure)) = self.counted(seen) {
            return believed(left, is_sure || seen.is_again && self.seems_empty);
        }
        // It has been shut down, by which all is gone.
        if !sys::is_listening(self.fd()).unwrap_or(true) {
            return 0;
        }
        /// As long as a SYN-ACK that was lost twice.
        const QUIET: Duration = Duration::from_secs(3);
        let quiet = *self.quiet.get_or_insert_with(|| Instant::now() + QUIET);
        self.queued().max(u32::from(Instant::now() < quiet))
    }

    /// What the kernel's tables tell, and whether a 0 of theirs is sure.
    fn counted(&mut self, seen: &Seen) -> Option<(u32, bool)> {
        let (look, inode) = seen.look.as_ref().zip(self.inode)?;
        let left = look.left(inode, &mut self.since)?;
        Some((left, look.is_sure(inode)))
    }

    /// What is in its queue now.
    pub(crate) fn queued(&self) -> u32 {
        match self.kind {
            Kind::Tcp => {
                sys::queue(self.fd()).map_or(is_readable(self.fd()), |queue| queue.waiting)
            }
            Kind::Udp => is_readable(self.fd()),
        }
    }
}

/// 1 where anything is in the queue.
fn is_readable(fd: BorrowedFd<'_>) -> u32 {
    u32::from(sys::is_readable(fd).unwrap_or(false))
}

/// A listener that only seems to have nothing left may have a request.
fn believed(left: u32, is_sure: bool) -> u32 {
    left.max(u32::from(!is_sure))
}

/// What one look at the kernel tells of all that is being drained.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// None where the kernel's tables tell nothing.
    look: Option<Look>,
    migrates: bool,
    /// It was looked before, and a barrier has passed since.
    is_again: bool,
    /// How long the barrier took, in which nothing was done.
    waited: Duration,
}

/// Looks once for all, and once more after a barrier where one may seem empty too early. An error where it is only now that the tables cannot be read.
pub(crate) fn look(
    kind: Kind,
    addr: &SocketAddr,
    all: &mut [&mut Remains],
    deadline: Option<Instant>,
) -> io::Result<Seen> {
    let inodes = all.iter().filter_map(|remains| remains.inode);
    let inodes: HashSet<u64> = inodes.collect();
    let mut seen = Seen::default();
    if kind == Kind::Udp || inodes.is_empty() {
        return Ok(seen);
    }
    seen.migrates = sys::migrates();
    if seen.migrates {
        return Ok(seen);
    }
    seen.take(addr, &inodes)?;
    for remains in all.iter_mut() {
        remains.seems_empty = remains.counted(&seen) == Some((0, false));
    }
    if all.iter().any(|remains| remains.seems_empty) {
        let begin = Instant::now();
        let has_passed = barrier(deadline);
        seen.waited = begin.elapsed();
        if has_passed {
            seen.take(addr, &inodes)?;
            seen.is_again = true;
        }
    }
    Ok(seen)
}

impl Seen {
    fn take(&mut self, addr: &SocketAddr, inodes: &HashSet<u64>) -> io::Result<()> {
        self.look = match Look::take(addr, inodes) {
            Err(error) if sys::resource_reason(&error).is_some() => return Err(error),
            look => look.ok(),
        };
        Ok(())
    }

    /// How long to wait until all is done again that has begun then.
    pub(crate) fn pause(&self, begin: Instant) -> Duration {
        pause(begin.elapsed().saturating_sub(self.waited))
    }
}

/// A fortieth of the time goes into counting at the most, and a second is the longest.
fn pause(busy: Duration) -> Duration {
    (busy * 40).clamp(Duration::from_millis(5), Duration::from_secs(1))
}

/// Whether the kernel tells what a listener has; or whether it tells that of any.
pub(crate) fn is_counted(addr: &SocketAddr, inode: Option<u64>) -> bool {
    let inodes: HashSet<u64> = inode.into_iter().collect();
    let look = Look::take(addr, &inodes);
    look.is_ok_and(|look| {
        inodes
            .iter()
            .all(|inode| look.left(*inode, &mut None).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_that_may_be_too_early_is_none() {
        assert_eq!([believed(0, false), believed(0, true)], [1, 0]);
        assert_eq!([believed(2, false), believed(2, true)], [2, 2]);
    }

    #[test]
    fn what_costs_much_is_done_seldom() {
        let pause = |busy| pause(Duration::from_micros(busy)).as_millis();
        assert_eq!([pause(0), pause(500), pause(100_000)], [5, 20, 1_000]);
    }
}
