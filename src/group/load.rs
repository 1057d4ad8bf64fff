//! What a worker tells of its load, without a system call.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cell::Cell;
use super::roster::Roster;
use super::socket::Socket;
use crate::error::Error;
use crate::open::adopt;
use crate::sys::{self, OwnedFd, Page};
use crate::trace;

/// The load that one member's worker publishes, for a [`Balancer`](crate::Balancer) to see.
///
/// [`Roster::load`](crate::Roster::load) hands it out to a worker of this process. Publishing is one or two
/// relaxed operations on an atomic of the member's own cache line: no lock and no system call. Clones publish the
/// same load. It is of no use to a group that no `Balancer` sees to, and may be published all the same.
///
/// A worker that publishes nothing is served too: the kernel tells what waits in its queue.
///
/// A worker in another process gets a descriptor of it, beside that of its member: [`Roster::lend_load`] gives one
/// away, before `load` was called for that member, and [`Load::adopt`] takes it. A child that was forked needs none,
/// if `lend_load` was called before: there a `Load` is the same as in its parent.
///
/// With the feature `ebpf`, and where the process may load a program, what a worker of this process publishes is in
/// memory that the kernel's program reads, two descriptors and 150 KiB for a group.
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
/// A child that was forked has a copy, and dropping that takes nothing from what its parent holds.
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
pub struct Held {
    cell: Arc<Cell>,
    era: u32,
    /// Of the process that holds it: a child that is forked meanwhile has a copy.
    age: u32,
}

impl<S: Socket> Roster<S> {
    /// By what the worker of a member publishes its load: see [`Load`].
    ///
    /// It belongs to the member, and not to its number: for one that [joins](Self::join) with the number of
    /// another, ask again.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let roster = group.roster();
    /// let load = roster.load(1)?;
    /// load.set(7);
    /// assert_eq!(roster.load(1)?.get(), 7);
    /// assert!(roster.load(2).is_err());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where the group has no such member.
    pub fn load(&self, member: usize) -> Result<Load, Error> {
        let shared = self.shared();
        let load = shared.state().load(member);
        load.inspect_err(trace::refused)
    }

    /// A descriptor of a member's load, for a worker that is another process: see [`Load::adopt`].
    ///
    /// It goes to that process as the member's socket does: the child inherits both, or gets both over a UNIX
    /// socket. Keep the member open here as long as the child serves. So what waits in its queue is not lost when
    /// the child dies, and the next child gets the same socket, and the same load by the same call. What is
    /// published there is seen at each step of a [`Balancer`](crate::Balancer), by both of its
    /// [engines](crate::Engine); what [`Engine::Ebpf`](crate::Engine::Ebpf) has given to the member counts at once.
    ///
    /// From the first call on, [`load`](Self::load) has the same memory, of one page, which takes a descriptor of this
    /// process for as long as the member is in the group. No process can make it shorter, and whatever one writes
    /// into it, it is only a load: that of this member. Dropping what this returns closes that descriptor.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use std::os::fd::AsFd;
    /// use std::process::Command;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:8881", 4)?;
    /// let roster = group.roster();
    /// for member in &group {
    ///     // The worker adopts its standard input as a listener, and its standard output, to which it prints
    ///     // nothing, as a load.
    ///     Command::new("worker")
    ///         .stdin(member.as_fd().try_clone_to_owned()?)
    ///         .stdout(roster.lend_load(member.number())?)
    ///         .spawn()?;
    /// }
    /// let _balancing = roster.balance()?.spawn(std::time::Duration::from_millis(5))?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where the group has no such member, and where a
    /// [`Load`] of it was handed out before, by which this process publishes.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) on systems other than Linux. What the system answers if the
    /// process has no descriptor left.
    pub fn lend_load(&self, member: usize) -> Result<OwnedFd, Error> {
        let shared = self.shared();
        let lent = shared.state().lend_load(member);
        lent.inspect_err(trace::refused)
    }
}

impl Load {
    /// Takes the load of a member that another process has [lent](crate::Roster::lend_load) to this one.
    ///
    /// It begins at 0: what a process published that had it before counts no more, and neither do the connections
    /// that it still holds. So a worker that was killed does not stay loaded once another serves in its place;
    /// until then its member is as loaded as it was. Only the newest process should publish. The descriptor is
    /// closed; dropping the last clone of the `Load` gives the memory back, and what was
    /// [set](Self::set) stays.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Load, Options};
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let roster = group.roster();
    /// let fd = roster.lend_load(1)?;
    /// // In the other process:
    /// let load = Load::adopt(fd)?;
    /// let held = load.hold();
    /// // In this one:
    /// assert_eq!(roster.load(1)?.get(), 1);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where it is no such memory: another file or a socket, memory
    /// that is not sealed against getting shorter, and that of another version of this crate. It is closed then.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) on systems other than Linux.
    pub fn adopt(fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        let fd = fd.into();
        let page = Page::adopt(sys::borrow(&fd)).map_err(|error| {
            let what = format!("cannot adopt {} as a load", adopt::number(&fd));
            Error::system(what, error)
        });
        let page = page.inspect_err(trace::refused)?;
        sys::fork::prepare();
        Ok(Self(Arc::new(Cell::adopt(page))))
    }

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
        Held {
            era: self.0.slot().hold(),
            age: sys::fork::age(),
            cell: Arc::clone(&self.0),
        }
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
        self.cell.release(self.era, self.age);
    }
}
