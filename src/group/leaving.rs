use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::guarantee::{Drained, Guarantee};
use super::job::{Outcome, Told};
use super::roster::Roster;
use super::shared::Shared;
use super::signal::Key;
use super::socket::Socket;
use super::table::Id;
use crate::error::Error;
use crate::trace;

/// One second more than a handshake whose client has vanished takes to end, with the kernel's default
/// of five answers (net.ipv4.tcp_synack_retries).
const TIMEOUT: Duration = Duration::from_secs(64);

/// A member of a group that gets nothing new, and is being emptied: a future that is ready when
/// nothing more can come to it.
///
/// [`Roster::leave`] begins it. The member's worker goes on accepting, in its own runtime and with its
/// own server, until this is ready; then it drops its listener, and ends when its connections have.
/// Clients notice nothing, unless the server hangs up on them: see
/// [`Generation`](crate::Generation) for the way in which axum ends.
///
/// When it is ready, the member has left: its number is free, and [`Roster::join`] gives it to the next
/// one. **Dropped before that, the member stays** in the group and gets its share again.
///
/// Where the others are dropped meanwhile, so that none is left to serve, the members that are leaving
/// get what is new again, and this waits until another [joins](Roster::join); when its time is over
/// before that, it is an error, and the member stays.
///
/// Under [connection ids](crate::Steering::ConnectionIds) it is ready when no new flow can come: the
/// member keeps its flows, and with them its number, until its socket is closed.
///
/// A worker that waits in a blocking accept(2) gets [`InvalidInput`](std::io::ErrorKind::InvalidInput)
/// some milliseconds later; see [`Roster::has_left`]. For an async listener nothing happens until it
/// is dropped: it gets no connection, and no error.
///
/// Where [weights](crate::Steering::Weights) give everything to one UDP member, and the kernel moves that into
/// the place of the one that leaves, a datagram can go to a member of weight 0 meanwhile: for the two system
/// calls that it takes. None goes to the one that has left.
///
/// On loopback it takes a grace period of the kernel (membarrier(2)), which is some ten milliseconds,
/// and besides as long as the slowest handshake that is under way. Where `net.ipv4.tcp_migrate_req` is
/// on, the kernel hands over what is left, and nothing is waited for. One thread per group does the
/// waiting for all its members, so that any runtime will do.
///
/// ```
/// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
/// use reuseport::{Options, Tokio};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let group = Options::new().group("localhost:0", 2)?;
/// let roster = group.roster();
/// let mut members = group.into_iter();
/// let (first, second) = (members.next().unwrap(), members.next().unwrap());
///
/// let listener = first.attach::<Tokio>()?;
/// let mut leaving = roster.leave(0)?;
/// let drained = loop {
///     tokio::select! {
///         biased;
///         drained = &mut leaving => break drained?,
///         connection = listener.accept() => { /* serve it as before */ }
///     }
/// };
/// drop(listener);
/// assert_eq!(drained.unaccepted, 0);
/// # Ok(())
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a member that is leaving stays when this is dropped"]
pub struct Leaving {
    shared: Arc<Shared>,
    outcome: Arc<Outcome>,
    key: Key,
    id: Id,
    number: usize,
    guarantee: Guarantee,
    is_heard: bool,
}

impl<S: Socket> Roster<S> {
    /// Takes a member out of the group without losing what comes to it.
    ///
    /// From this call on the others get what is new. What is under way still comes to this member:
    /// see [`Leaving`]. It needs no privilege.
    ///
    /// A [program](crate::Steering::Program) of the caller's is put aside meanwhile, and the rest
    /// share equally.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 3)?;
    /// let roster = group.roster();
    /// // The workers go on accepting meanwhile.
    /// let drained = roster.leave(1)?.wait()?;
    /// assert!(drained.is_empty());
    /// assert!(roster.has_left(1));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where no such member is in the group, it is
    /// leaving already, or no other would be left. Where the process has no descriptor or no thread
    /// left. What the kernel answers to the steering. The member then stays.
    pub fn leave(&self, member: usize) -> Result<Leaving, Error> {
        leave(self.shared(), member).inspect_err(trace::refused)
    }
}

fn leave(shared: Arc<Shared>, number: usize) -> Result<Leaving, Error> {
    let (kind, addr) = {
        let state = shared.state();
        (state.kind(), state.addr())
    };
    let expected = shared.drain.expect(&shared).map_err(|error| {
        let what = format!("member {number} of the group on {addr} cannot leave");
        let why = Some("no thread can be started to wait for it");
        Error::system(what, error).at(addr).why(why)
    })?;
    let departure = shared.state().leave(number)?;
    let outcome = Arc::new(Outcome::new());
    outcome.end_after(TIMEOUT);
    let (id, guarantee) = (departure.id, departure.guarantee);
    shared.drain.add(departure, kind, &outcome);
    drop(expected);
    Ok(Leaving {
        shared,
        outcome,
        key: Key::default(),
        id,
        number,
        guarantee,
        is_heard: false,
    })
}

impl Leaving {
    /// The member's number, as [`Member::number`](crate::Member::number).
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert_eq!(group.roster().leave(1)?.member(), 1);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn member(&self) -> usize {
        self.number
    }

    /// What the member's clients can count on here.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Guarantee, Options};
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert_eq!(group.roster().leave(1)?.guarantee(), Guarantee::Lossless);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn guarantee(&self) -> Guarantee {
        self.guarantee
    }

    /// Bounds the wait, from now on; without it, 64 seconds after [`Roster::leave`].
    ///
    /// When the time is over the member has left, and [`Drained`] tells what it still had, which is
    /// lost. A longer time than 64 seconds is of no use: by then the handshake of a client that has
    /// vanished has ended too (net.ipv4.tcp_synack_retries).
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let drained = group.roster().leave(0)?.timeout(Duration::from_secs(5)).wait()?;
    /// # assert!(drained.is_empty());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn timeout(self, timeout: Duration) -> Self {
        self.outcome.end_after(timeout);
        self.shared.drain.ring();
        self
    }

    /// Blocks until nothing more can come to the member, or the time is over.
    ///
    /// For another thread than the one that accepts, which must go on meanwhile.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let drained = group.roster().leave(1)?.wait()?;
    /// assert_eq!(drained.unaccepted, 0);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where the process had no descriptor left until the time was over, so that it is not known what
    /// the member still has. [`InvalidInput`](std::io::ErrorKind::InvalidInput) where no other member
    /// was left by then. The member then stays.
    pub fn wait(mut self) -> Result<Drained, Error> {
        loop {
            let told = self.outcome.drained.wait(Option::take);
            if let Some(drained) = self.hear(told) {
                return drained;
            }
        }
    }

    /// It has been heard that nothing more comes to the member: now it has left, unless that is true no
    /// more.
    fn hear(&mut self, told: Result<Told, Error>) -> Option<Result<Drained, Error>> {
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                trace::refused(&error);
                return Some(Err(error));
            }
        };
        self.is_heard = self.shared.state().left(self.id, self.guarantee, told.calm);
        if !self.is_heard {
            self.outcome.count_again();
        }
        self.shared.drain.ring();
        self.is_heard.then_some(Ok(told.drained))
    }
}

impl Future for Leaving {
    type Output = Result<Drained, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let Self { outcome, key, .. } = &mut *self;
            let told = ready!(outcome.drained.poll(key, context, Option::take));
            if let Some(drained) = self.hear(told) {
                return Poll::Ready(drained);
            }
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.outcome.drained.forget(&self.key);
        if self.is_heard {
            return;
        }
        // Before it can be leaving again.
        self.outcome.drop_job();
        let stays = self.shared.state().stay(self.id);
        // Nothing waits for an answer.
        let _ = stays.inspect_err(trace::refused);
        self.shared.drain.ring();
    }
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaving")
            .field("member", &self.number)
            .field("guarantee", &self.guarantee)
            .finish_non_exhaustive()
    }
}
