//! Processes of a server that replace each other without losing a connection.

mod adopt;
mod attempt;
mod canary;
mod core;
mod driver;
mod farewell;
mod handover;
mod incoming;
mod joint;
#[cfg(feature = "tower")]
mod layer;
mod machine;
mod open;
mod options;
mod predecessor;
mod program;
mod request;
mod restart;
mod serve;
mod several;
mod shutdown;
mod wait;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use self::canary::TakeShare;
use self::core::Core;
pub use self::farewell::Farewell;
pub use self::incoming::Incoming;
#[cfg(feature = "tower")]
pub use self::layer::{FarewellFuture, FarewellService};
pub use self::predecessor::Predecessor;
pub use self::program::Program;
pub use self::restart::{Ended, Restart, Successor};
pub use self::serve::Serve;
pub use self::several::{Wanted, Wants};
pub use self::shutdown::Shutdown;
use self::wait::Wait;
pub use self::wait::{Relieved, TakeOver};
#[cfg(fuzzing)]
pub(crate) use self::wire::fuzz;
use crate::error::Error;
use crate::group::{Drained, Guarantee};
use crate::trace;

/// One process of a server that is restarted without losing a connection.
///
/// [`Options::generation`](crate::Options::generation) opens its group beside that of its *predecessor*, the
/// process that serves. When this one's workers accept, [`take_over`](Self::take_over) brings it everything
/// that is new; the predecessor accepts what is under way, until nothing more can come to it. Then the
/// predecessor's [`relieved`](Self::relieved) is ready, and it finishes its connections and ends. There is no process
/// above the two, and no privilege is needed.
///
/// [`Serve`] opens a server that is one listener. [`shutdown`](Self::shutdown) is the future by which
/// frameworks are told to end, and takes over by its first poll; [`incoming`](Self::incoming) is for loops of
/// the caller's own. [`stop`](Self::stop) ends a server without a successor. [`restart`](Self::restart) starts the
/// next process; so can a shell, a supervisor, or any other program that starts programs.
///
/// Clones are handles of the same generation, for signal handlers and workers.
///
/// The two find each other at an abstract UNIX address (unix(7)) whose name has the address of the group
/// and the number of the user that opened it: so it is in the network namespace in which the port is, in
/// no file system, and gone with the last process. Each checks that the other is the same user; a process
/// that has dropped its privileges is still that of the user who opened its sockets. Each lends the other
/// descriptors of its sockets, so that one of them decides who gets what, and wherever one of them dies,
/// what is lost is what that process held.
///
/// When the last clone is dropped before `take_over`, this process's members leave the group, and the
/// predecessor goes on: no connection is lost. The drop waits for that, some milliseconds and a second at the
/// most. With UDP the datagram can be lost that the kernel is about to give to the group at the instant at
/// which the socket leaves that was opened last.
/// Dropped later, the process goes on, and no successor can find it. A successor that does not take over
/// within five seconds is superseded by the next one that starts, unless it has [tried](Self::take_share) a share.
///
/// # One queue
///
/// Where the system cannot be told whom to choose (macOS, the BSDs, illumos, gVisor), and with
/// [`Spread::Queue`](crate::Spread::Queue) on Linux too, all processes of the server have one socket, and with it
/// one queue. The successor gets a descriptor of it. Nothing is opened, moved or closed, so that nothing in the
/// queue can be lost, whichever process dies. What is different:
///
/// - Who accepts gets. A worker of the new process that accepts before `take_over` takes connections from the old
///   one; one of the old process that goes on after `relieved` takes them from the new one. An
///   [`Incoming`] does neither, on every runtime.
/// - A framework that has the listener itself goes on accepting until [`shutdown`](Self::shutdown) is ready, and
///   what it has accepted just before may not have asked yet. hyper closes such connections: in a test that
///   restarted axum so, each restart cost 13 of 18,000 requests, and none with the few lines around an `Incoming`
///   that are in the [guide](crate::guide), 24.
/// - The socket stays as the first process has opened it: the backlog and the hook of a later one change nothing.
/// - It does not block, with [`Std`](crate::Std) either, because that is a matter of the socket, and so of all
///   processes: accept by an `Incoming`, [`Net::accept`](crate::Net::accept) or
///   [`Net::recv_from`](crate::Net::recv_from), which wait.
/// - [`stop`](Self::stop) leaves the queue to a successor that has opened it. Another process that starts while
///   this one stops waits until the listeners are closed; one that starts later, in its
///   [grace](Self::set_grace), finds the port in use.
/// - Off Linux the processes meet in a folder: see [`Options::rendezvous`](crate::Options::rendezvous). There a
///   server that stops cannot refuse new clients: it ends when its queue is empty after three seconds, and those
///   that come at the last instant are reset. And the port stays open until the generation is dropped, or
///   relieved: the crate has a descriptor of its own.
///
/// A supervisor must start the relieved process again only where it has failed (systemd:
/// `Restart=on-failure`): two that are always started again replace each other for ever.
///
/// ```no_run
/// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
/// use std::time::Duration;
/// use reuseport::{Options, Tokio};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
/// for member in group {
///     let listener = member.attach::<Tokio>()?;
///     let mut incoming = generation.incoming::<Tokio>(listener);
///     tokio::spawn(async move {
///         while let Some(accepted) = incoming.accept().await { /* serve it */ }
///     });
/// }
/// let drained = generation.take_over(Duration::from_secs(64)).await?;
/// println!("{} connections of the predecessor were lost", drained.unaccepted);
/// generation.relieved().await;
/// # Ok(())
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "dropping it gives the takeover up, and no later process can take over"]
#[derive(Clone)]
pub struct Generation(Arc<Handle>);

/// What the clones of a generation share: it is dropped with the last of them.
struct Handle {
    first: Arc<Core>,
    /// Of other addresses that are taken over together with it.
    others: Vec<Arc<Core>>,
    /// Whether another handle has them.
    is_empty: bool,
}

impl Generation {
    fn new(core: Arc<Core>) -> Self {
        Self(Arc::new(Handle {
            first: core,
            others: Vec::new(),
            is_empty: false,
        }))
    }

    /// One of several addresses, which stands for all where one has to.
    fn first(&self) -> &Arc<Core> {
        &self.0.first
    }

    fn cores(&self) -> impl Iterator<Item = &Arc<Core>> {
        std::iter::once(&self.0.first).chain(&self.0.others)
    }

    /// Of which the thread runs, unless it cannot be started.
    fn started(&self) -> impl Iterator<Item = &Arc<Core>> {
        self.cores().inspect(|core| {
            let _ = core.start().inspect_err(trace::refused);
        })
    }

    /// The process that serves until this one takes over; `None` where this is the first.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// if let Some(predecessor) = generation.predecessor() {
    ///     println!("takes over from {predecessor}");
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn predecessor(&self) -> Option<Predecessor> {
        self.cores().find_map(|core| core.predecessor.clone())
    }

    /// What its clients can count on when it takes over.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Guarantee, Options};
    ///
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// if generation.guarantee() != Guarantee::Lossless {
    ///     println!("this system may lose connections in a restart");
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn guarantee(&self) -> Guarantee {
        let all = self.cores().map(|core| core.guarantee);
        all.fold(Guarantee::Lossless, Guarantee::and)
    }

    /// Takes over everything that is new, and waits until the predecessor has nothing any more.
    ///
    /// To be called when the workers accept: from this call on connections come to them. What is
    /// returned counts what the predecessor had still to accept when the time was over or it died, which
    /// is lost. Then the next process can begin to take over this one. The first process has nothing to
    /// wait for. What is begun is carried out, also when the future is dropped; called again, or where
    /// [`shutdown`](Self::shutdown) has begun it, this waits for the same takeover.
    ///
    /// Under [connection ids](crate::Steering::ConnectionIds) the predecessor keeps its flows until it
    /// closes its sockets, and only new ones come here; so this ends soon, and the next process cannot
    /// begin before the predecessor has closed them.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// # async fn start() -> std::io::Result<()> {
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// // When the workers accept:
    /// let drained = generation.take_over(Duration::from_secs(64)).await?;
    /// println!("{} connections were lost", drained.unaccepted);
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionAborted`](std::io::ErrorKind::ConnectionAborted) where a process that came later has
    /// superseded this one, or it has been told to [stop](Self::stop). Where no thread can be started. What
    /// the kernel answers to the steering; the predecessor then goes on, and this can be called again.
    pub fn take_over(&self, timeout: Duration) -> TakeOver {
        TakeOver {
            refused: self.begin(timeout).err(),
            taken: Wait::new(self.cores(), |core| &core.taken),
        }
    }

    /// As [`take_over`](Self::take_over), and blocks.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// // When the workers accept:
    /// generation.take_over_blocking(Duration::from_secs(64))?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`take_over`](Self::take_over).
    pub fn take_over_blocking(&self, timeout: Duration) -> Result<Drained, Error> {
        self.begin(timeout)?;
        let all = self
            .cores()
            .map(|core| core.taken.wait(|taken| taken.clone()));
        all.fold(Ok(Drained::default()), both)
    }

    /// Begins to take all addresses over.
    fn begin(&self, timeout: Duration) -> Result<(), Error> {
        // Once for all, before the first of them can fail.
        let is_new = |core: &Arc<Core>| !core.asked.load(Ordering::SeqCst);
        if let Some((_, joint)) = self
            .first()
            .joint
            .get()
            .filter(|_| self.cores().all(is_new))
        {
            joint.begin();
        }
        let mut all = self.cores();
        let begun = all.try_for_each(|core| core.take_over(timeout));
        begun.inspect_err(trace::refused)
    }

    /// A future that is ready when a successor has taken over and nothing more can come to this process.
    ///
    /// A successor has taken over, or the server has [stopped](Self::stop). From then on its listeners can be
    /// dropped; [`shutdown`](Self::shutdown) is for servers that hang up on connections which have not asked
    /// yet. A worker that waits in a blocking accept(2) gets
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) some milliseconds later, and one that has not
    /// dropped its async listener ten seconds later. Every worker can have a future of its own.
    ///
    /// Under [connection ids](crate::Steering::ConnectionIds) it is the time from which no new flow
    /// comes; the sockets stay open until the flows have ended.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// # async fn serve() -> std::io::Result<()> {
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// let relieved = generation.relieved();
    /// // Beside the accepting of a worker:
    /// relieved.await;
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn relieved(&self) -> Relieved {
        Relieved(Wait::new(self.started(), |core| &core.relieved))
    }

    /// Whether [`relieved`](Self::relieved) is ready: for a loop that looks from time to time.
    ///
    /// ```no_run
    /// # #[cfg(all(target_os = "linux", feature = "std"))] {
    /// use std::time::Duration;
    /// use reuseport::{Net, Runtime, Serve, Std};
    ///
    /// # async fn serve() -> std::io::Result<()> {
    /// let (socket, generation) = Std::serve_packet("[::]:8881")?;
    /// generation.take_over(Duration::from_secs(1)).await?;
    /// let mut buf = [0; 1500];
    /// loop {
    ///     let is_last = generation.is_relieved();
    ///     match Std::within(Duration::from_millis(100), Std::recv_from(&socket, &mut buf)).await {
    ///         Ok((len, peer)) => { /* answer it */ }
    ///         // Nothing can have come since.
    ///         Err(_) if is_last => break,
    ///         Err(_) => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_relieved(&self) -> bool {
        self.started().all(|core| core.relieved.has())
    }

    /// As [`relieved`](Self::relieved), and blocks.
    ///
    /// ```no_run
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let (group, generation) = Options::new().generation("localhost:8881", 2)?;
    /// generation.relieved_blocking();
    /// println!("nothing more comes");
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn relieved_blocking(&self) {
        let started: Vec<_> = self.started().collect();
        for core in started {
            core.relieved.wait(|relieved| *relieved);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.is_empty {
            return;
        }
        // In the reverse order of their opening.
        let all = std::iter::once(&self.first).chain(&self.others);
        let all: Vec<_> = all.collect();
        all.into_iter().rev().for_each(|core| core.give_up());
    }
}

/// Of two addresses; the first error is why.
fn both(one: Result<Drained, Error>, other: Result<Drained, Error>) -> Result<Drained, Error> {
    one.and_then(|one| other.map(|other| one.and(other)))
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("addrs", &Vec::from_iter(self.cores().map(|core| core.addr)))
            .field("predecessor", &self.predecessor())
            .field("guarantee", &self.guarantee())
            .finish_non_exhaustive()
    }
}
