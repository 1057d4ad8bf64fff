use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::{self, AsFd, BorrowedFd, Dispatch, Kind};
use crate::{Error, Member, Socket, Spread, Steering, trace};

/// Who stands where in the kernel's group, while its members work on threads of their own.
///
/// When a member closes, the kernel puts the last one into its place (kernel:
/// __reuseport_detach_sock), and nobody can ask it who stands where. So a group that is steered
/// keeps this table, closes its members through it, and it steers what is left anew.
///
/// It holds no descriptor: a duplicate would stay in the group after its owner closed it, and
/// swallow its share of the connections. So every call is given a member that is still open,
/// whichever.
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
/// let first = listeners.remove(0);
/// roster.close(0, first, &listeners[0])?;
/// // The kernel has the third member in the place of the first.
/// assert_eq!(roster.places(), [2, 1]);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Roster(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    kind: Kind,
    addr: SocketAddr,
    /// How many members there were at first.
    members: usize,
    /// The member in each place. None: joined or adopted, so that nobody knows.
    places: Option<Vec<usize>>,
    spread: Spread,
    /// The processors when `Cpu` was first set: a worker that closes its member may use only one.
    cpus: Vec<usize>,
    /// What is attached as a program of indices, and so anew when a member has closed.
    indexed: Option<Steering>,
    /// Has SO_INCOMING_CPU been set on the members, where only their owners can take it back?
    pinned: bool,
}

impl Roster {
    pub(crate) fn new<S: Socket>(
        addr: SocketAddr,
        members: usize,
        spread: Spread,
        new: bool,
    ) -> Self {
        Self(Arc::new(Mutex::new(Table {
            kind: S::KIND,
            addr,
            members,
            places: (new && spread == Spread::Kernel).then(|| (0..members).collect()),
            spread,
            cpus: Vec::new(),
            indexed: None,
            pinned: false,
        })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whoever panicked did so before the table changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member in each place of the kernel's group; empty where that is not known, because the
    /// group was adopted or joined others, and where all have one queue.
    #[must_use]
    pub fn places(&self) -> Vec<usize> {
        self.table().places.clone().unwrap_or_default()
    }

    /// Changes how the kernel chooses among the members that are left.
    ///
    /// `open` is any member that is still open. Here `Cpu` is always a program.
    ///
    /// # Errors
    ///
    /// As [`Group::steer`](crate::Group::steer).
    pub fn steer(&self, open: &impl AsFd, steering: &Steering) -> Result<(), Error> {
        let mut table = self.table();
        let steered = table
            .own(open)
            .and_then(|()| table.steer(sys::borrow(open), steering));
        steered.inspect_err(trace::refused)
    }

    /// Closes a member, and steers what is left.
    ///
    /// `open` is any other member that is still open. What waits in the queue of the one that
    /// closes is lost. Between its close and the new program the old one is in force, for some
    /// microseconds.
    ///
    /// A TCP listener leaves at once, whoever else has a descriptor of it. A UDP socket stays in
    /// the group as long as a child that was forked and has not yet called exec(2) has a copy of
    /// it, and may leave behind others then, which makes the table wrong: start no process while
    /// members of a packet group close.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) where no such member is in the group, or
    /// a socket is on another address; the first is closed all the same. As
    /// [`Group::steer`](crate::Group::steer).
    pub fn close(&self, member: usize, socket: impl AsFd, open: &impl AsFd) -> Result<(), Error> {
        // Under the lock, so that the table sees the members leave in the kernel's order.
        let mut table = self.table();
        let own = table.own(&socket).and_then(|()| table.own(open));
        if table.kind == Kind::Tcp && table.spread == Spread::Kernel && own.is_ok() {
            sys::leave(&socket);
        }
        drop(socket);
        own.and_then(|()| table.close(member, sys::borrow(open)))
            .inspect_err(trace::refused)
    }

    /// Steers a group that is whole, of which every descriptor is at hand.
    pub(crate) fn steer_all<S: Socket>(
        &self,
        members: &[Member<S>],
        steering: &Steering,
    ) -> Result<(), Error> {
        self.table().steer_all(members, steering)
    }
}

impl Table {
    fn cannot(&self) -> String {
        format!("cannot steer the group on {}", self.addr)
    }

    fn invalid(&self, why: impl Into<String>) -> Error {
        Error::invalid(self.cannot(), why.into()).at(self.addr)
    }

    /// Refuses a socket that cannot be of this group.
    fn own(&self, socket: &impl AsFd) -> Result<(), Error> {
        let addr = sys::local_addr(socket).map_err(|error| self.refused(error))?;
        if addr == self.addr {
            return Ok(());
        }
        Err(self.invalid(format!("a socket that was given is on {addr}")))
    }

    fn check(&mut self, steering: &Steering) -> Result<(), Error> {
        if matches!(steering, Steering::Cpu) && self.cpus.is_empty() {
            self.cpus = sys::cpus();
        }
        if self.spread == Spread::Queue && !matches!(steering, Steering::Hash) {
            return Err(self.invalid("its members have one queue together, and nothing to choose"));
        }
        steering
            .check(self.kind, self.members)
            .map_err(|why| self.invalid(why))
    }

    fn steer(&mut self, via: BorrowedFd<'_>, steering: &Steering) -> Result<(), Error> {
        self.check(steering)?;
        self.attach(via, steering)?;
        trace::steered(self.addr, steering);
        Ok(())
    }

    fn attach(&mut self, via: BorrowedFd<'_>, steering: &Steering) -> Result<(), Error> {
        // Members that are pinned stay so when no program is over them; equal weights hide that.
        let equal = Steering::Weights(vec![1; self.members]);
        let steering = match steering {
            Steering::Hash if self.pinned => &equal,
            steering => steering,
        };
        if steering.needs_places() && self.places.is_none() {
            return Err(self.invalid(
                "it was adopted or joined others, so that nobody knows its members' places",
            ));
        }
        let places = self.places.as_deref().unwrap_or_default();
        let dispatch = steering
            .dispatch(self.kind, places, &self.cpus)
            .map_err(|why| self.invalid(why))?;
        sys::dispatch(via, &dispatch).map_err(|error| self.refused(error))?;
        self.indexed = steering.needs_places().then(|| steering.clone());
        Ok(())
    }

    fn refused(&self, error: std::io::Error) -> Error {
        let why = sys::dispatch_reason(&error);
        Error::system(self.cannot(), error).at(self.addr).why(why)
    }

    fn steer_all<S: Socket>(
        &mut self,
        members: &[Member<S>],
        steering: &Steering,
    ) -> Result<(), Error> {
        let Some(first) = members.first() else {
            return Ok(());
        };
        self.check(steering)?;
        let via = sys::borrow(first);
        if matches!(steering, Steering::Cpu) && sys::pins_groups() {
            self.pinned = true;
            self.pin(members, |index| Steering::cpu_of(index, &self.cpus))?;
            sys::dispatch(via, &Dispatch::Hash).map_err(|error| self.refused(error))?;
            self.indexed = None;
        } else if self.pinned && matches!(steering, Steering::Hash) {
            self.pin(members, |_| None)?;
            self.pinned = false;
            self.attach(via, steering)?;
        } else {
            // The program first: it is over the pins.
            self.attach(via, steering)?;
            if self.pinned {
                self.pin(members, |_| None)?;
                self.pinned = false;
            }
        }
        trace::steered(self.addr, steering);
        Ok(())
    }

    fn pin<S: Socket>(
        &self,
        members: &[Member<S>],
        cpu: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), Error> {
        members.iter().try_for_each(|member| {
            sys::pin(sys::borrow(member), cpu(member.index())).map_err(|error| self.refused(error))
        })
    }

    fn close(&mut self, member: usize, via: BorrowedFd<'_>) -> Result<(), Error> {
        let Some(places) = &mut self.places else {
            return Ok(());
        };
        let Some(place) = places.iter().position(|&other| other == member) else {
            return Err(self.invalid(format!("it has no member {member}")));
        };
        places.swap_remove(place);
        trace::closed(self.addr, member, self.places.as_deref());
        match self.indexed.clone() {
            Some(steering) => self.attach(via, &steering),
            None => Ok(()),
        }
    }
}
