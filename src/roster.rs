use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::AsFd;
use crate::table::{Exit, Table};
use crate::{Error, Leaving, Member, Options, Socket, Spread, Steering, handover, trace};

/// Who stands where in the kernel's group, while its members work on threads of their own.
///
/// When a member closes, the kernel puts the last one into its place (kernel:
/// __reuseport_detach_sock), and nobody can ask it who stands where. So a group whose members come
/// and go, or that is steered, keeps this table: members [leave](Self::leave) through it without
/// losing a connection, [join](Self::join) and [close](Self::close), and it steers anew.
///
/// It holds no descriptor: a duplicate would stay in the group after its owner closed it, and
/// swallow its share of the connections. It knows the members' sockets by the numbers of their
/// descriptors, and looks whether they still stand for them. A member that is dropped without a
/// word is noticed at the next call; when several were, in whichever order, their places are known
/// no more.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use reuseport::{Options, Std, Steering};
///
/// let weights = Steering::Weights(vec![1, 1, 2]);
/// let group = Options::new().steering(weights).group("localhost:0", 3)?;
/// let roster = group.roster();
/// let mut listeners = Vec::new();
/// for member in group {
///     listeners.push(member.attach::<Std>()?);
/// }
///
/// roster.close(0, listeners.remove(0))?;
/// // The kernel has the third member in the place of the first.
/// assert_eq!(roster.places(), [2, 1]);
///
/// let again = roster.join()?;
/// assert_eq!(again.index(), 0);
/// assert_eq!(roster.places(), [2, 1, 0]);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Roster<S>(Arc<Shared>, PhantomData<fn() -> S>);

#[derive(Debug)]
pub(crate) struct Shared {
    table: Mutex<Table>,
    /// Held while a member that has been emptied is taken out.
    turn: Mutex<()>,
}

impl Shared {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        // Whoever panicked did so before the table changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stay(&self, exit: Exit) {
        let stays = self.table().stay(exit);
        // It has been given up, so that nobody is there to be told.
        let _ = stays.inspect_err(trace::refused);
    }
}

impl<S: Socket> Roster<S> {
    pub(crate) fn new(
        addr: SocketAddr,
        members: usize,
        spread: Spread,
        new: bool,
        options: Options,
    ) -> Self {
        let table = Table::new(S::KIND, addr, members, spread, new, options);
        let shared = Shared {
            table: Mutex::new(table),
            turn: Mutex::new(()),
        };
        Self(Arc::new(shared), PhantomData)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    pub(crate) fn remember(&self, members: &[Member<S>]) {
        self.0.table().remember(members);
    }

    /// The member in each place of the kernel's group; empty where that is not known, because the
    /// group was adopted or joined others, and where all have one queue.
    ///
    /// Where a member is being taken out, it waits for that, about a second at the most.
    #[must_use]
    pub fn places(&self) -> Vec<usize> {
        let _turn = self.0.turn();
        let mut table = self.0.table();
        let _ = table.notice().inspect_err(trace::refused);
        table.own_places().unwrap_or_default()
    }

    /// Changes how the kernel chooses among the members that are left.
    ///
    /// Here `Cpu` is always a program.
    ///
    /// # Errors
    ///
    /// As [`Group::steer`](crate::Group::steer), and where no member is open any more.
    pub fn steer(&self, steering: &Steering) -> Result<(), Error> {
        let mut table = self.0.table();
        table.steer(steering).inspect_err(trace::refused)
    }

    /// Takes a member out of the group without losing what comes to it.
    ///
    /// From this call on the others get what is new. What is under way still comes to this member:
    /// see [`Leaving`]. Nothing of this needs a privilege, or a thread in the runtime.
    ///
    /// A [program](Steering::Program) of the caller's is put aside meanwhile, and the rest share
    /// equally.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where no such member is in the group, it
    /// is leaving already, or no other would be left. What the kernel answers to the steering; the
    /// member then stays.
    pub fn leave(&self, member: usize) -> Result<Leaving, Error> {
        let departure = self.0.table().leave(member).inspect_err(trace::refused)?;
        Ok(Leaving::new(Arc::clone(&self.0), departure))
    }

    /// Has a member left, or was never there?
    ///
    /// For a worker that waits in a blocking accept(2), which fails when its listener has left. It
    /// answers for the number, which is somebody's again when another has [joined](Self::join)
    /// with it.
    #[must_use]
    pub fn has_left(&self, member: usize) -> bool {
        self.0.table().has_left(member)
    }

    /// Opens another member beside the ones that run, with the same options.
    ///
    /// It gets the lowest number that is free, and so the weight, processor and connection ids of a
    /// member that left. It stands in the group from this call on: what the kernel chooses it for
    /// waits in its queue until a worker comes. A number that the
    /// [weights](Steering::Weights) do not have gets nothing until others are set.
    ///
    /// # Errors
    ///
    /// As [`Options::group`], and as [`Group::steer`](crate::Group::steer).
    pub fn join(&self) -> Result<Member<S>, Error> {
        self.0.table().join().inspect_err(trace::refused)
    }

    /// Closes a member at once, and steers what is left.
    ///
    /// What waits in its queue is lost; [`leave`](Self::leave) loses nothing. Between its close and
    /// the new program the old one is in force, for some microseconds. It leaves the group whoever
    /// else has a descriptor of it; but a UDP socket that is [restricted](Options::device) to a
    /// device stays as long as a child that was forked and has not yet called exec(2) has a copy.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where no such member is in the group, or
    /// the socket is on another address; it is closed all the same. As
    /// [`Group::steer`](crate::Group::steer).
    pub fn close(&self, member: usize, socket: impl AsFd) -> Result<(), Error> {
        // Under both locks, so that the table sees the members leave in the kernel's order, and
        // nobody moves while another is being taken out.
        let _turn = self.0.turn();
        let mut table = self.0.table();
        table.close(member, socket).inspect_err(trace::refused)
    }

    /// Hands every member to another process of this user, and waits until it has them.
    ///
    /// [`Group::receive`](crate::Group::receive) is the other side. Nothing is closed, so nothing is
    /// lost: from here on both processes accept, until the workers of this one stop and drop their
    /// listeners. The other process decides on the group; here nothing can be steered, left or joined
    /// any more.
    ///
    /// `to` is a UNIX stream in blocking mode; each wait on it is bounded by its own timeouts. Several
    /// groups go over one stream one after the other. There may be any number of members: they are
    /// sent in portions.
    ///
    /// # Errors
    ///
    /// [`PermissionDenied`](std::io::ErrorKind::PermissionDenied) where the other process is another
    /// user's. [`InvalidInput`](std::io::ErrorKind::InvalidInput) where members' places are not
    /// known, one is leaving, and for a stream that does not block.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) where no descriptors can be passed. What the
    /// system answers where the other process ends. This process then goes on.
    pub fn hand_over(&self, to: &impl AsFd) -> Result<(), Error> {
        handover::hand_over(&self.0, to).inspect_err(trace::refused)
    }

    /// Steers a group that is whole, of which every descriptor is at hand.
    pub(crate) fn steer_all(
        &self,
        members: &[Member<S>],
        steering: &Steering,
    ) -> Result<(), Error> {
        self.0.table().steer_all(members, steering)
    }
}

impl<S> Clone for Roster<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl<S> fmt::Debug for Roster<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roster").field(&self.0.table()).finish()
    }
}
