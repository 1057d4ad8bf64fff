/// What can be promised to the clients of a member that leaves.
///
/// [`Leaving::promise`](crate::Leaving::promise) says it before anything is lost, so that a program
/// can choose to wait for a quiet hour.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::{Options, Promise};
///
/// let group = Options::new().group("localhost:0", 2)?;
/// let leaving = group.roster().leave(0)?;
/// assert_eq!(leaving.promise(), Promise::Lossless);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Promise {
    /// Nothing is lost that its worker accepts or reads before the deadline.
    ///
    /// Nothing new comes to it, and the kernel counts what is under way: handshakes that are half
    /// done too. On Linux from 5.0 on, with /proc or sock_diag(7), where the group was opened new.
    /// In a group of [one queue](crate::Spread::Queue) there is nothing to lose, on every system.
    Lossless,
    /// Nothing new comes to it, but something can be lost all the same: where nobody counts the
    /// handshakes, one that takes longer than three seconds; and what arrives in the nanoseconds of
    /// the close before Linux 5.0, or without a privilege where the socket is restricted to a
    /// [device](crate::Options::device).
    Waiting,
    /// What arrives until it is closed comes to it, and is lost if it was not accepted by then.
    ///
    /// On systems that cannot steer, and for TCP in groups that were adopted or joined others.
    Nothing,
}
