//! Who stands where in the kernel's group, and by what the group is steered.
//!
//! A newcomer goes to the end, and when a member leaves, the last one moves into its place (kernel:
//! __reuseport_add_sock, __reuseport_detach_sock). Nobody can ask the kernel who stands where.

mod leaving;
mod passing;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

pub(crate) use leaving::{Departure, Exit};

use crate::opening::{Opening, Purpose};
use crate::sys::{self, AsFd, BorrowedFd, Dispatch, Kind, OwnedFd, Weak};
use crate::{Error, Member, Options, Socket, Spread, Steering, trace};

#[derive(Debug)]
pub(crate) struct Table {
    kind: Kind,
    addr: SocketAddr,
    spread: Spread,
    /// With these another member is opened.
    options: Options,
    /// One more than the highest number that a member had.
    numbers: usize,
    /// In the kernel's order where `order` says so.
    members: Vec<Entry>,
    order: Order,
    /// Those who get nothing new.
    leaving: Vec<Exit>,
    /// Of these, those of whom it is known that nothing more comes, and who are in the group until
    /// they are taken out.
    empty: Vec<Exit>,
    /// Or until their owners close them.
    released: Vec<Exit>,
    /// How many have begun to leave.
    exits: u64,
    steering: Steering,
    phase: Phase,
    /// The processors when `Cpu` was first set: a worker that closes its member may use only one.
    cpus: Vec<usize>,
    /// Has SO_INCOMING_CPU been set on the members, where only their owners can take it back?
    pinned: bool,
}

/// Who decides on the group: see [`Generation`](crate::Generation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// This process.
    Ours,
    /// The one before it still, whose members get everything.
    Theirs,
    /// Another process, to which the members have been given.
    GivenAway,
}

/// Is the kernel's order of the members known?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Known,
    /// They were adopted or joined others.
    Foreign,
    /// Several left unseen.
    Lost,
}

#[derive(Debug)]
struct Entry {
    number: usize,
    socket: Held,
}

#[derive(Debug)]
enum Held {
    /// Nobody asked for it yet, or the system cannot tell.
    Unknown,
    /// Its owner is in this process.
    Seen(Weak),
    /// A member of the generation before, whose owner is in another process.
    Elder(OwnedFd),
}

impl Held {
    fn of(fd: BorrowedFd<'_>) -> Self {
        Weak::new(fd).map_or(Self::Unknown, Self::Seen)
    }

    fn upgrade(&self) -> Option<OwnedFd> {
        match self {
            Self::Unknown => None,
            Self::Seen(weak) => weak.upgrade(),
            Self::Elder(fd) => fd.try_clone().ok(),
        }
    }
}

impl Table {
    pub(crate) fn new(
        kind: Kind,
        addr: SocketAddr,
        members: usize,
        spread: Spread,
        new: bool,
        options: Options,
    ) -> Self {
        let entry = |number| Entry {
            number,
            socket: Held::Unknown,
        };
        Self {
            kind,
            addr,
            spread,
            options,
            numbers: members,
            members: (0..members).map(entry).collect(),
            order: match new && spread == Spread::Kernel {
                true => Order::Known,
                false => Order::Foreign,
            },
            leaving: Vec::new(),
            empty: Vec::new(),
            released: Vec::new(),
            exits: 0,
            steering: Steering::Hash,
            phase: Phase::Ours,
            cpus: Vec::new(),
            pinned: false,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Remembers which sockets the members are.
    pub(crate) fn remember<S: Socket>(&mut self, members: &[Member<S>]) {
        for member in members {
            self.remember_one(member.index(), sys::borrow(member));
        }
    }

    fn remember_one(&mut self, number: usize, fd: BorrowedFd<'_>) {
        let entry = self.members.iter_mut().find(|entry| entry.number == number);
        if let Some(Entry { socket, .. }) = entry {
            if matches!(socket, Held::Unknown) {
                *socket = Held::of(fd);
            }
        }
    }

    /// The member in each place, where that is known and all are of this generation.
    pub(crate) fn own_places(&self) -> Option<Vec<usize>> {
        self.places().filter(|_| self.elders().next().is_none())
    }

    /// The member in each place, where that is known.
    fn places(&self) -> Option<Vec<usize>> {
        self.is_ordered()
            .then(|| self.members.iter().map(|entry| entry.number).collect())
    }

    fn is_ordered(&self) -> bool {
        self.order == Order::Known
    }

    /// Of several who have gone nobody can tell who was first.
    fn lose_order(&mut self) {
        if self.is_ordered() {
            self.order = Order::Lost;
        }
    }

    fn is_leaving(&self, number: usize) -> bool {
        self.leaving.iter().any(|exit| exit.number == number)
    }

    fn cannot(&self) -> String {
        format!("cannot steer the group on {}", self.addr)
    }

    fn invalid(&self, why: impl Into<String>) -> Error {
        Error::invalid(self.cannot(), why.into()).at(self.addr)
    }

    fn refused(&self, error: io::Error) -> Error {
        let why = sys::dispatch_reason(&error);
        Error::system(self.cannot(), error).at(self.addr).why(why)
    }

    /// Who was closed without a word.
    fn gone(&self) -> Vec<usize> {
        // What was given away is closed here and lives on there; and a member that leaves is kept by
        // its departure, which takes it out.
        if self.phase == Phase::GivenAway {
            return Vec::new();
        }
        let gone = |entry: &&Entry| {
            matches!(&entry.socket, Held::Seen(weak) if !weak.is_open())
                && !self.is_kept(entry.number)
        };
        let gone = self.members.iter().filter(gone);
        gone.map(|entry| entry.number).collect()
    }

    /// Sees who was closed without a word.
    pub(crate) fn notice(&mut self) -> Result<(), Error> {
        let gone = self.gone();
        if gone.is_empty() {
            return Ok(());
        }
        // In which order, only one of them tells.
        if gone.len() > 1 && self.members.len() > gone.len() + 1 {
            self.lose_order();
        }
        for number in gone {
            self.strike(number);
        }
        self.steer_anew()
    }

    /// Changes the kernel's order, after those who went before have been noticed.
    ///
    /// Whoever goes meanwhile may have gone before or after it.
    fn reorder<T>(&mut self, member: Option<usize>, change: impl FnOnce() -> T) -> T {
        let changed = change();
        if self.gone().iter().any(|&gone| Some(gone) != member) {
            self.lose_order();
        }
        changed
    }

    /// The kernel's order after that member has left.
    fn strike(&mut self, number: usize) {
        self.leaving.retain(|exit| exit.number != number);
        self.empty.retain(|exit| exit.number != number);
        self.released.retain(|exit| exit.number != number);
        if let Some(place) = self.place_of(number) {
            self.members.swap_remove(place);
            trace::closed(self.addr, number, self.places().as_deref());
        }
    }

    fn place_of(&self, number: usize) -> Option<usize> {
        self.members.iter().position(|entry| entry.number == number)
    }

    /// Is the number somebody's?
    fn has(&self, number: usize) -> bool {
        self.place_of(number).is_some()
    }

    /// Is it out of the group, or was it never in it?
    pub(crate) fn has_left(&self, number: usize) -> bool {
        let Some(place) = self.place_of(number) else {
            return true;
        };
        let mut left = self.empty.iter().chain(&self.released);
        // The other process may have taken it out, which it says of all together.
        left.any(|exit| exit.number == number)
            || self.phase == Phase::GivenAway && !self.is_in(&self.members[place])
    }

    /// Is it one that gets what is new?
    fn stays(&self, number: usize) -> bool {
        let elders = self.elders().map(|(elder, _)| elder);
        self.stays_among(&elders.filter(|&elder| elder == number).collect(), number)
    }

    fn stays_among(&self, elders: &HashSet<usize>, number: usize) -> bool {
        let is_elder = elders.contains(&number);
        match self.phase {
            Phase::Theirs => is_elder,
            Phase::Ours | Phase::GivenAway => !is_elder && !self.is_leaving(number),
        }
    }

    fn check_ours(&self) -> Result<(), Error> {
        match self.phase {
            Phase::Ours => Ok(()),
            Phase::Theirs => Err(self.invalid("it has not taken over yet")),
            Phase::GivenAway => Err(self.invalid("another process has taken it over")),
        }
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
            .check(self.kind, self.numbers)
            .map_err(|why| self.invalid(why))
    }

    /// Any member that is open.
    fn open_member(&self) -> Option<OwnedFd> {
        self.members.iter().find_map(|entry| entry.socket.upgrade())
    }

    pub(crate) fn steer(&mut self, steering: &Steering) -> Result<(), Error> {
        self.check_ours()?;
        self.notice()?;
        self.check(steering)?;
        let via = match self.open_member() {
            Some(via) => via,
            None if !sys::support().steers => {
                // In the system's own words, where there is something to refuse.
                return match steering {
                    Steering::Hash => Ok(()),
                    _ => Err(self.refused(sys::cannot_steer())),
                };
            }
            None => return Err(self.invalid("none of its members is open")),
        };
        self.attach(sys::borrow(&via), steering)?;
        self.steering = steering.clone();
        trace::steered(self.addr, steering);
        Ok(())
    }

    /// Brings the program in line with who stands where.
    fn steer_anew(&self) -> Result<(), Error> {
        if !self.steering.needs_places() && self.leaving.is_empty() {
            return Ok(());
        }
        self.attach_current()
    }

    fn attach_current(&self) -> Result<(), Error> {
        if !sys::support().steers || self.spread == Spread::Queue {
            return Ok(());
        }
        let steering = self.steering.clone();
        // Nobody is left to be steered.
        let Some(via) = self.open_member() else {
            return Ok(());
        };
        if !self.is_ordered() && steering.needs_places() {
            return sys::dispatch(sys::borrow(&via), &Dispatch::Hash)
                .map_err(|error| self.refused(error));
        }
        if self.pinned && self.leaving.is_empty() && matches!(steering, Steering::Cpu) {
            // The pins themselves, which need no program.
            return sys::dispatch(sys::borrow(&via), &Dispatch::Hash)
                .map_err(|error| self.refused(error));
        }
        self.attach(sys::borrow(&via), &steering)
    }

    fn attach(&self, via: BorrowedFd<'_>, steering: &Steering) -> Result<(), Error> {
        // Members that are pinned stay so when no program is over them; equal weights hide that.
        let equal = Steering::Weights(vec![1; self.numbers]);
        let steering = match steering {
            Steering::Hash if self.pinned => &equal,
            steering => steering,
        };
        let places = self.places();
        if places.is_none() && steering.needs_places() {
            return Err(self.disordered());
        }
        let places = places.unwrap_or_default();
        // Collected once: a group has tens of thousands of members.
        let elders: HashSet<_> = self.elders().map(|(number, _)| number).collect();
        let stays = |number| self.stays_among(&elders, number);
        // Where nobody stays, those who leave get it.
        let nobody = !places.iter().any(|&number| stays(number));
        let stays = |number| nobody || stays(number);
        // Under the process before, more are about to come that get nothing.
        let by_hash = self.phase != Phase::Theirs && places.iter().all(|&number| stays(number));
        let dispatch = steering
            .dispatch(self.kind, &places, stays, by_hash, &self.cpus)
            .map_err(|why| self.invalid(why))?;
        sys::dispatch(via, &dispatch).map_err(|error| self.refused(error))
    }

    fn disordered(&self) -> Error {
        let why = match self.order {
            Order::Lost => "several of its members were closed at once",
            Order::Known | Order::Foreign => "it was adopted or joined others",
        };
        self.invalid(format!("{why}, so that nobody knows its members' places"))
    }

    /// Steers a group that is whole, of which every descriptor is at hand.
    pub(crate) fn steer_all<S: Socket>(
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
            match self.leaving.is_empty() {
                true => {
                    sys::dispatch(via, &Dispatch::Hash).map_err(|error| self.refused(error))?;
                }
                // The pins of those who leave would count too.
                false => self.attach(via, steering)?,
            }
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
        self.steering = steering.clone();
        trace::steered(self.addr, steering);
        Ok(())
    }

    fn pin<S: Socket>(
        &self,
        members: &[Member<S>],
        cpu: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), Error> {
        members
            .iter()
            .try_for_each(|member| self.pin_one(sys::borrow(member), cpu(member.index())))
    }

    fn pin_one(&self, fd: BorrowedFd<'_>, cpu: Option<usize>) -> Result<(), Error> {
        sys::pin(fd, cpu).map_err(|error| self.refused(error))
    }

    /// Closes a member, whatever waits in its queue.
    pub(crate) fn close(&mut self, number: usize, socket: impl AsFd) -> Result<(), Error> {
        if self.phase == Phase::GivenAway {
            return Ok(());
        }
        let noticed = self.notice();
        let own = self.own(&socket).and_then(|()| self.find(number).map(drop));
        let (kind, leaves) = (self.kind, own.is_ok() && self.spread == Spread::Kernel);
        self.reorder(Some(number), || {
            if leaves {
                let _ = sys::leave(kind, sys::borrow(&socket));
            }
            drop(socket);
        });
        own?;
        self.strike(number);
        noticed.and(self.notice())?;
        self.steer_anew()
    }

    fn find(&self, number: usize) -> Result<&Entry, Error> {
        self.place_of(number)
            .and_then(|place| self.members.get(place))
            .ok_or_else(|| self.invalid(format!("it has no member {number}")))
    }

    /// Opens another member, with the lowest number that is free.
    pub(crate) fn join<S: Socket>(&mut self) -> Result<Member<S>, Error> {
        self.check_ours()?;
        self.notice()?;
        let number = (0..)
            .find(|&number| !self.has(number))
            .unwrap_or(self.numbers);
        let socket = match self.spread {
            Spread::Queue => {
                let any = self
                    .open_member()
                    .ok_or_else(|| self.invalid("none of its members is open"))?;
                S::from(any)
            }
            _ => {
                let join = Purpose::Join(number, self.members.len() + 1);
                let options = self.options.clone();
                let opening = Opening::new(&options, self.kind, self.addr)?;
                S::from_socket(self.reorder(None, || opening.open(join, false))?)
            }
        };
        self.add(number, sys::borrow(&socket));
        if self.pinned {
            self.pin_one(sys::borrow(&socket), Steering::cpu_of(number, &self.cpus))?;
        }
        self.steer_anew()?;
        Ok(Member::new(socket, number))
    }

    /// Another member of this generation, which stands behind all others.
    pub(crate) fn add(&mut self, number: usize, fd: BorrowedFd<'_>) {
        self.numbers = self.numbers.max(number + 1);
        self.members.push(Entry {
            number,
            socket: Held::of(fd),
        });
        trace::joined(self.addr, number, self.places().as_deref());
    }

    /// Do those who leave keep the flows that they have?
    pub(crate) fn keeps_flows(&self) -> bool {
        matches!(self.steering, Steering::ConnectionIds(_))
    }
}
