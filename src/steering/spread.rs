use crate::sys;

/// How the members of a group share the work.
///
/// | workers | choose | one of two naps 50 ms of every 100: p90 | none naps: connections a second |
/// |---|---|---|---|
/// | may be busy for long, or are few | `Queue` | 1 | std 1.02 and 1.06, tokio 1.30 and 0.97 |
/// | are always soon back, or are many | `Kernel` | std 207, tokio 224 | 1 |
/// | as before, and each pinned to a processor | `Kernel` with [`Steering::Cpu`](crate::Steering::Cpu) | as `Kernel` | std 1.42 and 1.64, tokio 1.34 and 1.44 |
///
/// The figures are ratios, with 64 and with 4 connections in flight: medians of one run of
/// `cargo bench --bench steering` on two processors, over loopback, in which differences of less
/// than a tenth say nothing. With eight workers that are mostly idle, a connection ends 1.2
/// waits of threads in a `Kernel` group of tokio's, and 8.6 in a `Queue`: all wake, and one gets it.
///
/// A third way, a queue each and idle workers that take from the others' queues, answers a napping
/// worker as `Queue` does (p90 1.09). It is not offered: with `EPOLLEXCLUSIVE` a connection ends
/// 1.2 waits, but the runtimes register their listeners without it, and then it ends 8.7.
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
    /// One socket, of which each member is a duplicate: the worker that is free takes what comes next.
    ///
    /// Works on every system. In async runtimes a connection wakes every idle worker, of which one
    /// gets it. All members are in one blocking mode, so they must enter runtimes of one kind,
    /// `Std` or async. To the port's other sockets the group is one socket, and the last member
    /// that closes takes it away. The processes of a [generation](crate::Generation#one-queue) have it
    /// together.
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
