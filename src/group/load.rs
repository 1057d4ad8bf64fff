//! What a worker tells of its load, without a system call.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::sys::Board;
use crate::sys::slot::Slot;

/// The load that one member's worker publishes, for a [`Balancer`](crate::Balancer) to see.
///
/// [`Roster::load`](crate::Roster::load) hands it out. Publishing is one or two relaxed operations on an atomic
/// of the member's own cache line: no lock and no system call. Clones publish the same load. It is of no
/// use to a group that no `Balancer` sees to, and may be published all the same.
///
/// A worker that publishes nothing is served too: the kernel tells what waits in its queue.
///
/// With the feature `ebpf`, and where the process may load a program, this is memory that the kernel's program reads,
/// two descriptors and 150 KiB for a group. Then a child that was forked publishes the same loads: it must not drop
/// what its parent [holds](Self::hold).
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

/// Where one member's worker publishes.
#[derive(Debug)]
pub(super) struct Cell(Place);

#[derive(Debug)]
enum Place {
    Own(Box<Slot>),
    /// Where the kernel's program sees it.
    Shared(Arc<Board>, usize),
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
        self.0.slot().set.store(load, Relaxed);
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
        let slot = self.0.slot();
        slot.held.fetch_add(1, Relaxed);
        slot.taken.fetch_add(1, Relaxed);
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
        self.0.slot().held.fetch_sub(1, Relaxed);
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self(Place::Own(Box::default()))
    }
}

impl Cell {
    /// In a slot of the board, which no other member has any more.
    pub(super) fn on(board: &Arc<Board>, at: usize) -> Self {
        let slot = board.slot(at);
        slot.set.store(0, Relaxed);
        for count in [&slot.held, &slot.taken, &slot.given, &slot.base] {
            count.store(0, Relaxed);
        }
        Self(Place::Shared(Arc::clone(board), at))
    }

    fn slot(&self) -> &Slot {
        match &self.0 {
            Place::Own(slot) => slot,
            Place::Shared(board, at) => board.slot(*at),
        }
    }

    /// Its slot, where it has one that the kernel's program sees.
    pub(super) fn place(&self) -> Option<usize> {
        match &self.0 {
            Place::Own(_) => None,
            Place::Shared(_, at) => Some(*at),
        }
    }

    pub(super) fn load(&self) -> usize {
        let slot = self.slot();
        // A child that was forked has dropped what its parent holds.
        let held = i32::try_from(slot.held.load(Relaxed)).unwrap_or(0);
        let held = usize::try_from(held).unwrap_or(0);
        slot.set.load(Relaxed).saturating_add(held)
    }

    /// A number that changes whenever a connection is held.
    pub(super) fn taken(&self) -> u32 {
        self.slot().taken.load(Relaxed)
    }
}
