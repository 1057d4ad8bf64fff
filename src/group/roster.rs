use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use super::member::Member;
use super::shared::Shared;
use super::socket::Socket;
use super::state::State;
use super::table::Role;
use crate::error::Error;
use crate::open::{Call, Opening, Options, Purpose};
use crate::steering::{Spread, Steering};
use crate::sys;
use crate::trace;

/// The table of a group's members, for while they work on threads of their own.
///
/// When a member closes, the kernel puts the last one into its place, and nothing tells afterwards
/// which member stands in which place. So a group whose members come and go, or that is steered, keeps
/// this table: members [leave](Self::leave) through it without losing a connection,
/// [join](Self::join) and [close](Self::close), and it steers anew.
///
/// It keeps no descriptor of a member that serves: a duplicate would stay in the group after its owner
/// closed it, and swallow its share of the connections. It knows the sockets by the numbers of their
/// descriptors and their inodes. A member that is dropped without a word is noticed at the next call;
/// where several were, their places may be known no more.
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
/// roster.close(0)?;
/// drop(listeners.remove(0));
/// // The kernel has the third member in the place of the first.
/// assert_eq!(roster.places(), [Some(2), Some(1)]);
///
/// let again = roster.join()?;
/// assert_eq!(again.number(), 0);
/// assert_eq!(roster.places(), [Some(2), Some(1), Some(0)]);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Roster<S>(Arc<Shared>, PhantomData<fn() -> S>);

impl<S: Socket> Roster<S> {
    pub(crate) fn new(addr: SocketAddr, spread: Spread, options: Options) -> Self {
        let state = State::new(S::KIND, addr, spread, options);
        Self(Arc::new(Shared::new(state)), PhantomData)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    /// In each place of the kernel's group the number of the member that stands there, and `None`
    /// where none of this group does: one that has left and is not closed yet, or a socket of another
    /// process. Empty where the places are not known, and where all members have one queue.
    ///
    /// A [program](Steering::Program) of the caller's returns such places.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// assert_eq!(group.roster().places(), [Some(0), Some(1)]);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn places(&self) -> Vec<Option<usize>> {
        let mut state = self.0.state();
        let swept = state.sweep();
        let places = state.places();
        drop(state);
        let _ = swept.inspect_err(trace::refused);
        places
    }

    /// Changes how the kernel chooses among the members that are left.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::{Options, Steering};
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let roster = group.roster();
    /// roster.steer(&Steering::Weights(vec![1, 9]))?;
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Group::steer`](crate::Group::steer), and where no member is open any more.
    pub fn steer(&self, steering: &Steering) -> Result<(), Error> {
        let steered = self.0.state().steer(steering);
        steered.inspect_err(trace::refused)
    }

    /// Whether a member has left, or was never there; every one has when the next process has
    /// [relieved](crate::Generation::relieved) this one.
    ///
    /// For a worker that waits in a blocking accept(2), which fails when its listener has left. It
    /// answers for the number, which stands for another member when that has [joined](Self::join)
    /// with it.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let roster = group.roster();
    /// roster.close(1)?;
    /// assert!(roster.has_left(1) && !roster.has_left(0));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn has_left(&self, member: usize) -> bool {
        self.0.state().has_left(member)
    }

    /// Opens another member beside the ones that run, with the same options.
    ///
    /// It gets the lowest number that is free, and so the weight, processor and connection ids of a
    /// member that left. It stands in the group from this call on: what the kernel chooses it for
    /// waits in its queue until a worker comes. A number that the
    /// [weights](Steering::Weights) do not have gets nothing until others are set.
    ///
    /// In a group that was adopted or received, it gets the options that can be read from the other
    /// members.
    ///
    /// ```
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let third = group.roster().join()?;
    /// assert_eq!(third.number(), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::group`], and as [`Group::steer`](crate::Group::steer).
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) on a thread of another network namespace than
    /// the group's, and while a successor is about to take the group over.
    pub fn join(&self) -> Result<Member<S>, Error> {
        self.join_one().inspect_err(trace::refused)
    }

    fn join_one(&self) -> Result<Member<S>, Error> {
        let (number, options, addr, n) = self.0.state().reserve()?;
        let joined = match self.queue_mate() {
            Some(mate) => mate.and_then(|socket| {
                self.0
                    .state()
                    .admit(number, || Ok(socket), |socket| sys::borrow(socket))
            }),
            None => {
                let opening = Opening::new(&options, Call::Group(S::KIND), addr)?;
                // The caller's hook runs here, and the lock is free.
                let prepared = opening.prepare(Purpose::Join(number, n), false);
                prepared.and_then(|prepared| {
                    let enter = || prepared.enter().map(S::from_socket);
                    self.0
                        .state()
                        .admit(number, enter, |socket| sys::borrow(socket))
                })
            }
        };
        self.0.state().unreserve(number);
        joined.map(|socket| Member::new(socket, number))
    }

    /// Another descriptor of the one socket, in a group of one queue.
    fn queue_mate(&self) -> Option<Result<S, Error>> {
        let mut state = self.0.state();
        if state.spread != Spread::Queue {
            return None;
        }
        let open = state.via();
        let none = || state.invalid("none of its members is open");
        Some(match open {
            Ok(Some(fd)) => fd
                .try_clone()
                .map(S::from)
                .map_err(|error| state.refused(error)),
            Ok(None) => Err(none()),
            Err(error) => Err(error),
        })
    }

    /// Takes a member out of the group at once, and steers what is left.
    ///
    /// What waits in its queue is lost; [`leave`](Self::leave) loses nothing. The socket itself is
    /// closed when its owner drops it: until then a listener accepts nothing more, and a worker that
    /// waits in accept(2) gets [`InvalidInput`](std::io::ErrorKind::InvalidInput); a UDP socket sends
    /// nothing more.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let roster = group.roster();
    /// roster.close(1)?;
    /// assert_eq!(roster.places(), [Some(0)]);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where no such member is in the group. As
    /// [`Group::steer`](crate::Group::steer).
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) where only dropping the socket takes it out: on
    /// systems other than Linux.
    pub fn close(&self, member: usize) -> Result<(), Error> {
        let closed = self.0.state().close(member);
        self.0.drain.ring();
        closed.inspect_err(trace::refused)
    }
}

impl State {
    /// Keeps a number for a member that is being opened: the number, the options, the address, and of
    /// how many it will be one.
    fn reserve(&mut self) -> Result<(usize, Options, SocketAddr, usize), Error> {
        self.check_order()?;
        self.check_goes_on()?;
        self.sweep()?;
        let number = self.table.free_number(&self.reserved);
        self.reserved.push(number);
        Ok((
            number,
            self.options.clone(),
            self.addr,
            self.table.len() + 1,
        ))
    }

    fn unreserve(&mut self, number: usize) {
        self.reserved.retain(|other| *other != number);
    }

    /// Lets a socket enter the group, and the table, in one step.
    fn admit<T>(
        &mut self,
        number: usize,
        enter: impl FnOnce() -> Result<T, Error>,
        fd: impl Fn(&T) -> sys::BorrowedFd<'_>,
    ) -> Result<T, Error> {
        self.check_order()?;
        self.sweep()?;
        let before = self.table.ids();
        let socket = enter()?;
        self.add(number, fd(&socket));
        self.sweep()?;
        // Another may have come or gone at the same time, before it or after it.
        self.table.mingle(&before);
        let places = self.places();
        self.events
            .push(trace::Event::joined(self.addr, number, &places));
        self.reprogram()?;
        Ok(socket)
    }

    /// Takes a member out at once.
    fn close(&mut self, number: usize) -> Result<(), Error> {
        self.check_order()?;
        self.sweep()?;
        let Some(entry) = self.table.numbered(number) else {
            return Err(self.invalid(format!("it has no member {number}")));
        };
        let id = entry.id;
        if self.spread == Spread::Queue {
            self.strike(id);
            return Ok(());
        }
        match self.table.get_mut(id).map(|entry| entry.socket.open()) {
            Some(Ok(Some(_))) => {}
            Some(Err(error)) => return Err(self.refused(error)),
            Some(Ok(None)) | None => {
                // Its owner may have closed it since.
                self.sweep()?;
                return match self.table.get(id) {
                    None => Ok(()),
                    Some(_) => Err(self.refused(sys::cannot_steer())),
                };
            }
        }
        if let Some(entry) = self.table.get_mut(id) {
            entry.role = Role::Empty;
            entry.socket.given_up = true;
        }
        self.reprogram()?;
        if self.kind == sys::Kind::Tcp {
            self.hide([id]);
        }
        self.remove(&[id]).map(drop)
    }
}

impl<S> Clone for Roster<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl<S> fmt::Debug for Roster<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is printed is copied first: a writer is the caller's code, and may use the roster.
        let (kind, addr, places) = {
            let state = self.0.state();
            (state.kind(), state.addr(), state.places())
        };
        f.debug_struct("Roster")
            .field("protocol", &kind.name())
            .field("addr", &addr)
            .field("places", &places)
            .finish()
    }
}
