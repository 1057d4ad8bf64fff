use crate::sys::Kind;

/// What the clients of a member that leaves, or of a process that is replaced, can count on.
///
/// [`Leaving::guarantee`](crate::Leaving::guarantee) and
/// [`Generation::guarantee`](crate::Generation::guarantee) say it before anything is lost, so that a
/// program can choose to wait for a quiet hour.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::{Guarantee, Options};
///
/// let group = Options::new().group("localhost:0", 2)?;
/// let leaving = group.roster().leave(0)?;
/// assert_eq!(leaving.guarantee(), Guarantee::Lossless);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Guarantee {
    /// Nothing is lost that the member's worker accepts or reads in time.
    ///
    /// Nothing new comes to it, and the kernel counts what is under way, handshakes that are half
    /// done too. On Linux from 5.7 on, with /proc or sock_diag(7), where the members' places are
    /// known. In a group of [one queue](crate::Spread::Queue) there is nothing to lose, on every
    /// system.
    Lossless,
    /// Nothing new comes to it, but something can be lost all the same: a handshake that takes longer
    /// than three seconds, where handshakes cannot be counted; and what arrives in the microseconds of
    /// the close, before Linux 5.1, and where the process lacks `CAP_NET_RAW`: before Linux 5.7, or
    /// where the socket is restricted to a [device](crate::Options::device); for UDP also where one member
    /// succeeds several. A UDP member of a group in which places are not known is out of it at once, and
    /// can send nothing more.
    BestEffort,
    /// What arrives until the member's owner closes it comes to it, and is lost if it was not
    /// accepted by then. Its number is free when it is closed.
    ///
    /// On systems that cannot steer, and for TCP where the members' places are not known.
    None,
}

/// What was left when a member had left, or a process had been replaced.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::Options;
///
/// let group = Options::new().group("localhost:0", 2)?;
/// let drained = group.roster().leave(0)?.wait()?;
/// assert_eq!(drained.unaccepted, 0);
/// assert!(drained.is_empty());
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Drained {
    /// The TCP connections that no worker accepted before the time was over, those included whose
    /// handshake was under way: their clients see a reset.
    ///
    /// What a worker accepted is not in it, whatever became of the requests on it.
    pub unaccepted: u32,
    /// Whether datagrams were left that no worker has read.
    pub unread: bool,
}

impl Guarantee {
    /// What holds of two groups together.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Lossless, other) => other,
            (one, Self::Lossless) => one,
            (Self::BestEffort, Self::BestEffort) => Self::BestEffort,
            _ => Self::None,
        }
    }
}

impl Drained {
    /// What was left of two groups together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            unaccepted: self.unaccepted.saturating_add(other.unaccepted),
            unread: self.unread || other.unread,
        }
    }

    /// Of a socket that had still so many requests, or datagrams.
    pub(crate) fn of(kind: Kind, left: u32) -> Self {
        Self {
            unaccepted: if kind == Kind::Tcp { left } else { 0 },
            unread: kind == Kind::Udp && left > 0,
        }
    }

    /// Whether nothing was left.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert!(group.roster().leave(0)?.wait()?.is_empty());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unaccepted == 0 && !self.unread
    }
}
