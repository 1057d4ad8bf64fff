use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use crate::emptying::{Emptying, FAREWELL, PAUSE};
use crate::roster::Shared;
use crate::slot::Slot;
use crate::sys::{self, BorrowedFd, Kind, OwnedFd, Weak};
use crate::table::{Departure, Exit};
use crate::{Error, Promise, trace};

/// A member of a group that gets nothing new, and is being emptied.
///
/// [`Roster::leave`](crate::Roster::leave) begins it. Its worker goes on accepting, in its own
/// runtime and with its own server, until [`settled`](Self::settled) says that nothing more can
/// come; then it closes its listener, and ends when the connections have. Clients notice nothing,
/// unless the server hangs up on them: see [`Generation`](crate::Generation) for axum's way of
/// ending.
///
/// Dropped before that, alone or with the future, the TCP member stays in the group and gets
/// connections again. A UDP member that is not steered by
/// [connection ids](crate::Steering::ConnectionIds) is out at once.
///
/// ```
/// # #[cfg(all(target_os = "linux", feature = "tokio"))] {
/// use std::time::Duration;
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
/// let leaving = roster.leave(0)?;
/// let mut settled = leaving.settled(Duration::from_secs(64));
/// let lost = loop {
///     tokio::select! {
///         biased;
///         lost = &mut settled => break lost?,
///         connection = listener.accept() => { /* serve it as before */ }
///     }
/// };
/// drop(listener);
/// assert_eq!(lost, 0);
/// # Ok(())
/// # }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a member that is leaving stays when this is dropped"]
pub struct Leaving {
    roster: Arc<Shared>,
    departure: Option<Departure>,
    promise: Promise,
    exit: Exit,
}

impl Leaving {
    pub(crate) fn new(roster: Arc<Shared>, departure: Departure) -> Self {
        Self {
            roster,
            promise: departure.promise,
            exit: departure.exit,
            departure: Some(departure),
        }
    }

    /// The member's number, as [`Member::index`](crate::Member::index).
    #[must_use]
    pub fn member(&self) -> usize {
        self.exit.number
    }

    /// What its clients can count on here.
    #[must_use]
    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// Waits until nothing more can come to the member, and takes it out of its group.
    ///
    /// Returns how many requests were left, and are lost: 0 unless the deadline came first or the
    /// worker closed its listener too early. For UDP, 1 stands for any number of datagrams that
    /// nobody has read. Under [`Promise::Nothing`] it is what was queued, where the system tells;
    /// handshakes that were under way are not in it.
    ///
    /// Whoever waits in a blocking accept(2) on this listener then gets
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput); see
    /// [`has_left`](crate::Roster::has_left). A listener of an async runtime has a second to be
    /// dropped before that.
    ///
    /// On loopback it takes two grace periods of the kernel (membarrier(2)), which are some tens of
    /// milliseconds, and besides as long as the slowest handshake that is under way. One whose
    /// client has vanished ends after 63 seconds (`net.ipv4.tcp_synack_retries`), so a longer
    /// deadline serves nobody. Where `net.ipv4.tcp_migrate_req` is on, the kernel hands over what is
    /// left, and nobody waits. A thread of its own does the waiting, so that any runtime will do.
    ///
    /// # Errors
    ///
    /// Where no thread can be started; the member then stays. What the kernel answers to the
    /// steering of those that are left.
    pub fn settled(mut self, deadline: Duration) -> Settled {
        let slot = Arc::new(Slot::new());
        let given_up = Arc::new(AtomicBool::new(false));
        let settled = Settled {
            slot: Arc::clone(&slot),
            given_up: Arc::clone(&given_up),
        };
        let addr = self.roster.table().addr();
        let settling = Settling {
            until: Instant::now().checked_add(deadline),
            given_up,
            told: Arc::clone(&slot),
        };
        let started = thread::Builder::new()
            .name("reuseport-leave".to_owned())
            .spawn(move || {
                if let Some(departure) = self.departure.take() {
                    settling.run(&self.roster, departure, addr);
                }
            });
        if let Err(error) = started {
            let what = format!("cannot wait until a member of the group on {addr} has left");
            slot.put(Err(Error::system(what, error).at(addr)));
        }
        settled
    }

    /// Blocks until nothing more can come to the member, and takes it out of its group.
    ///
    /// For another thread than the one that accepts, which must go on meanwhile. As
    /// [`settled`](Self::settled).
    ///
    /// # Errors
    ///
    /// As [`settled`](Self::settled).
    pub fn settled_blocking(self, deadline: Duration) -> Result<u32, Error> {
        self.settled(deadline).slot.wait(Option::take)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.departure.take().is_some() {
            self.roster.stay(self.exit);
        }
    }
}

/// The future of [`Leaving::settled`].
#[derive(Debug)]
#[must_use = "a member that is leaving stays when this is dropped"]
pub struct Settled {
    slot: Arc<Slot<Result<u32, Error>>>,
    given_up: Arc<AtomicBool>,
}

impl Future for Settled {
    type Output = Result<u32, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.slot.poll(context, Option::take)
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// What the thread needs that waits.
struct Settling {
    /// None: for ever.
    until: Option<Instant>,
    given_up: Arc<AtomicBool>,
    told: Arc<Slot<Result<u32, Error>>>,
}

impl Settling {
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn tell(&self, outcome: Result<u32, Error>) {
        self.told.put(outcome);
    }

    fn run(&self, roster: &Shared, departure: Departure, addr: SocketAddr) {
        let exit = departure.exit;
        let Some((socket, owner)) = departure.socket else {
            let _turn = roster.turn();
            let departed = roster.table().finish(exit, None);
            return self.tell(departed.map(|_| 0));
        };
        let kind = roster.table().kind();
        match kind {
            _ if departure.promise == Promise::Nothing => {
                let left = match kind {
                    Kind::Tcp => self.accept_out(&socket, &owner),
                    Kind::Udp => self.read_out(&socket, &owner),
                };
                if kind == Kind::Tcp && sys::is_blocking(sys::borrow(&socket)) {
                    return self.take_out(roster, exit, &owner, sys::borrow(&socket), left);
                }
                // What goes on coming to it would wait for nobody in a socket that only this keeps.
                drop(socket);
                let released = roster.table().release(exit);
                self.tell(released.map(|()| left));
            }
            Kind::Tcp => {
                self.settle(roster, exit, owner, Emptying::new(socket, &owner, addr));
            }
            Kind::Udp => {
                let turn = roster.turn();
                let departed = roster.table().finish(exit, Some(sys::borrow(&socket)));
                drop(turn);
                let is_out = !matches!(departed, Ok(false));
                let left = departed.map(|_| self.read_out(&socket, &owner));
                drop(socket);
                if !is_out {
                    let released = roster.table().release(exit);
                    let _ = released.inspect_err(trace::refused);
                }
                self.tell(left);
            }
        }
    }

    /// Waits until a UDP socket that gets nothing new has been read; 1 where it was not.
    fn read_out(&self, socket: &OwnedFd, owner: &Weak) -> u32 {
        sys::barrier();
        loop {
            // Where nobody can say, nobody waits.
            let readable = sys::is_readable(sys::borrow(socket)).unwrap_or(false);
            if !readable || self.is_over() || !owner.is_open() {
                return u32::from(readable);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until a listener that goes on getting what is new has an empty queue, if only for a
    /// moment; what is in it at last.
    fn accept_out(&self, socket: &OwnedFd, owner: &Weak) -> u32 {
        loop {
            // Where nobody can say, nobody waits.
            let queued = sys::queue(sys::borrow(socket)).map_or(0, |queue| queue.len);
            if queued == 0 || self.is_over() || !owner.is_open() {
                return queued;
            }
            thread::sleep(PAUSE);
        }
    }

    fn settle(&self, roster: &Shared, exit: Exit, owner: Weak, mut listener: Emptying) {
        let migrates = sys::migrates();
        let is_over = || self.is_over() || !owner.is_open();
        let left = move |listener: &mut Emptying| if migrates { 0 } else { listener.left() };
        // From here on no processor uses an older program.
        sys::barrier();
        let mut is_hidden = false;
        loop {
            while left(&mut listener) > 0 && !is_over() {
                if self.given_up.load(Ordering::Relaxed) && !is_hidden {
                    return roster.stay(exit);
                }
                thread::sleep(PAUSE);
            }
            // One after the other, because whoever leaves moves another into its place, and until the
            // program is in line again the kernel may choose any of those that are leaving.
            let _turn = roster.turn();
            if !is_hidden {
                if self.given_up.load(Ordering::Relaxed) {
                    return roster.stay(exit);
                }
                // Refused where it is restricted to a device: then what arrives at the instant of the
                // close may be lost.
                let _ = sys::hide(listener.socket());
                is_hidden = true;
            }
            sys::barrier();
            let left = left(&mut listener);
            if left == 0 || is_over() {
                return self.take_out(roster, exit, &owner, listener.socket(), left);
            }
        }
    }

    /// Takes a listener out of its group, and tells it to whom it concerns.
    fn take_out(
        &self,
        roster: &Shared,
        exit: Exit,
        owner: &Weak,
        listener: BorrowedFd<'_>,
        left: u32,
    ) {
        if sys::is_blocking(listener) {
            // Its worker may wait in accept(2), and is woken by this only.
            let departed = roster.table().finish(exit, Some(listener));
            return self.tell(departed.map(|_| left));
        }
        // To be dropped without an error in its worker's log, which is why others wait.
        roster.table().emptied(exit);
        self.tell(Ok(left));
        let patience = Instant::now() + FAREWELL;
        while owner.is_open() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        // It has been told already, so that an error can only be traced.
        let departed = roster.table().finish(exit, Some(listener));
        let _ = departed.inspect_err(trace::refused);
    }
}
