//! What a worker tells of its load, without a system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// The load that one member's worker publishes, for a [`Balancer`](crate::Balancer) to see.
///
/// [`Roster::load`](crate::Roster::load) hands it out. Publishing is one or two relaxed operations on an atomic
/// of the member's own cache line: no lock and no system call. Clones publish the same load. It is of no
/// use to a group that no `Balancer` sees to, and may be published all the same.
///
/// A worker that publishes nothing is served too: the kernel tells what waits in its queue.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::{Options, Std};
///
/// let group = Options::new().group("localhost:0", 2)?;
/// let roster = group.roster();
/// for member in group {
///     let load = roster.load(member.number())?;
///     std::thread::spawn(move || -> std::io::Result<()> {
///         let listener = member.attach::<Std>()?;
///         loop {
///             let (connection, _) = listener.accept()?;
///             // As long as this is there, the worker has one connection more.
///             let held = load.hold();
///             std::thread::spawn(move || {
///                 let _held = held;
///                 // serve the connection
///                 drop(connection);
///             });
///         }
///     });
/// }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Load(pub(super) Arc<Cell>);

/// A connection that a worker holds: its member's load is one less when this is dropped.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::Options;
///
/// let group = Options::new().group("localhost:0", 2)?;
/// let load = group.roster().load(0)?;
/// let held = load.hold();
/// assert_eq!(load.get(), 1);
/// drop(held);
/// assert_eq!(load.get(), 0);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the connection counts as long as this is there"]
pub struct Held(Arc<Cell>);

/// The atomics of one member, alone on their cache lines: two, as processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Cell {
    set: AtomicUsize,
    held: AtomicU32,
    /// How many were ever held; it wraps.
    taken: AtomicU32,
}

impl Load {
    /// Publishes a load, in connections: as much as holding so many.
    ///
    /// One relaxed store. It is added to the connections that are [held](Self::hold), and stays until
    /// another is set. Any number will do, as only the differences between the members count.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let load = group.roster().load(1)?;
    /// load.set(20);
    /// assert_eq!(load.get(), 20);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set(&self, load: usize) {
        self.0.set.store(load, Relaxed);
    }

    /// Counts a connection until what this returns is dropped, which any thread may do.
    ///
    /// It also shows that the worker accepts, so it is best called just after that.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let load = group.roster().load(0)?;
    /// let connections = [load.hold(), load.hold()];
    /// assert_eq!(load.get(), 2);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn hold(&self) -> Held {
        self.0.held.fetch_add(1, Relaxed);
        self.0.taken.fetch_add(1, Relaxed);
        Held(Arc::clone(&self.0))
    }

    /// The load that is published now: what was [set](Self::set), and the connections that are held.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert_eq!(group.roster().load(0)?.get(), 0);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.load()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

impl Cell {
    pub(super) fn load(&self) -> usize {
        let held = usize::try_from(self.held.load(Relaxed)).unwrap_or(usize::MAX);
        self.set.load(Relaxed).saturating_add(held)
    }

    /// A number that changes whenever a connection is held.
    pub(super) fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }
}
