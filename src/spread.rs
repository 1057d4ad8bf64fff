use crate::sys;

/// How the members of a group share the work.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use reuseport::{Options, Spread};
///
/// // Whichever worker is free takes the next connection.
/// let group = Options::new().spread(Spread::Queue).group("localhost:0", 4)?;
/// assert_eq!(group.spread(), Spread::Queue);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Spread {
    /// `Kernel` where the kernel spreads the load over sockets, and `Queue` where it does not.
    #[default]
    Best,
    /// A socket for each member, with a queue of its own, and the kernel chooses one.
    ///
    /// Workers do not meet, and [`Steering`](crate::Steering) can choose. The choice does not see
    /// who is busy: what is queued for a worker that is stuck waits for it. Apple's systems, NetBSD
    /// and OpenBSD give everything to one of the sockets, and others have no such groups.
    Kernel,
    /// One socket, of which each member is a duplicate: whoever is free takes what comes next.
    ///
    /// Works on every system. In async runtimes a connection wakes every idle worker, of which one
    /// gets it. All members are in one blocking mode, so they must enter runtimes of one kind,
    /// `Std` or async. To the port's other sockets the group is one socket, and the last member
    /// that closes takes it away.
    Queue,
}

impl Spread {
    /// What the running system makes of it.
    pub(crate) fn here(self) -> Self {
        match self {
            Self::Best if sys::support().spreads => Self::Kernel,
            Self::Best => Self::Queue,
            chosen => chosen,
        }
    }
}
