//! Who stands where in the kernel's group, and by what the group is steered.
//!
//! A newcomer goes to the end, and when a member leaves, the last one moves into its place (kernel:
//! __reuseport_add_sock, __reuseport_detach_sock). Nobody can ask the kernel who stands where.

use std::io;
use std::net::SocketAddr;

use crate::opening::{Opening, Purpose};
use crate::sys::{self, AsFd, BorrowedFd, Dispatch, Kind, OwnedFd, Weak};
use crate::{Error, Member, Options, Promise, Socket, Spread, Steering, program, trace};

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

/// A member that leaves, told from one that gets its number afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) number: usize,
    nth: u64,
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

/// A member that leaves.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) exit: Exit,
    pub(crate) promise: Promise,
    /// The socket, while it still gets what is under way; None where nothing can be done with it.
    pub(crate) socket: Option<(OwnedFd, Weak)>,
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

    /// Does its departure keep it open?
    fn is_kept(&self, number: usize) -> bool {
        let mut exits = self.leaving.iter().filter(|exit| exit.number == number);
        exits.any(|exit| !self.released.contains(exit))
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

    /// Is the socket of a member that was given away still in the group?
    fn is_in(&self, entry: &Entry) -> bool {
        let Some(fd) = entry.socket.upgrade() else {
            return false;
        };
        match self.kind {
            Kind::Tcp => sys::is_listening(sys::borrow(&fd)).unwrap_or(true),
            Kind::Udp => !sys::is_hidden(sys::borrow(&fd)),
        }
    }

    /// Is it one that gets what is new?
    fn stays(&self, number: usize) -> bool {
        let is_elder = self.elders().any(|(elder, _)| elder == number);
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
        // Where nobody stays, those who leave get it.
        let nobody = !places.iter().any(|&number| self.stays(number));
        let stays = |number| nobody || self.stays(number);
        // More are about to come that get nothing.
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

    /// From here on a member gets nothing new.
    pub(crate) fn leave(&mut self, number: usize) -> Result<Departure, Error> {
        self.check_ours()?;
        self.notice()?;
        let cannot = |why: String| {
            let what = format!("member {number} of the group on {} cannot leave", self.addr);
            Err(Error::invalid(what, why).at(self.addr))
        };
        let Some(place) = self.place_of(number) else {
            return cannot(format!("it has no member {number}"));
        };
        if !self.stays(number) {
            return cannot("it is leaving already".to_owned());
        }
        let mut others = self.members.iter().filter(|entry| entry.number != number);
        if !others.any(|entry| self.stays(entry.number)) {
            return cannot("no other stays to take its connections".to_owned());
        }
        self.exits += 1;
        let exit = Exit {
            number,
            nth: self.exits,
        };
        let nothing = |promise| Departure {
            exit,
            promise,
            socket: None,
        };
        if self.spread == Spread::Queue {
            // What is queued is the others' too.
            self.leaving.push(exit);
            return Ok(nothing(Promise::Lossless));
        }
        let socket = match &self.members[place].socket {
            Held::Seen(weak) => weak.upgrade().map(|fd| (fd, *weak)),
            Held::Unknown | Held::Elder(_) => None,
        };
        self.leaving.push(exit);
        let Some((fd, weak)) = socket else {
            return Ok(nothing(Promise::Nothing));
        };
        // A UDP socket needs no program and no order to get out.
        let steers = sys::support().steers;
        let is_out = steers
            && self.kind == Kind::Udp
            && !self.keeps_flows()
            && self.reorder(None, || sys::hide(sys::borrow(&fd))).is_ok();
        let is_steered = steers && self.is_ordered();
        if !(is_out || is_steered) {
            return Ok(Departure {
                socket: Some((fd, weak)),
                ..nothing(Promise::Nothing)
            });
        }
        let promise = match self.kind {
            Kind::Tcp if sys::counts(Some(&weak), &self.addr) => Promise::Lossless,
            Kind::Tcp => Promise::Waiting,
            Kind::Udp => Promise::Lossless,
        };
        let steered = match is_out {
            // What it has is kept for it.
            true => {
                self.strike(number);
                self.steer_anew()
            }
            false => self.attach(sys::borrow(&fd), &self.steering),
        };
        if let Err(error) = steered {
            self.leaving.retain(|other| *other != exit);
            return Err(error);
        }
        trace::leaving(self.addr, number, promise);
        Ok(Departure {
            exit,
            promise,
            socket: Some((fd, weak)),
        })
    }

    /// A member that was leaving stays.
    pub(crate) fn stay(&mut self, exit: Exit) -> Result<(), Error> {
        if !self.leaving.contains(&exit) {
            return Ok(());
        }
        self.leaving.retain(|other| *other != exit);
        self.notice()?;
        self.steer_on()
    }

    /// Takes out a member that was leaving; false where it is in until its owner closes it.
    pub(crate) fn finish(&mut self, exit: Exit, fd: Option<BorrowedFd<'_>>) -> Result<bool, Error> {
        // A UDP socket is out at once, and others can be closed besides.
        match self.leaving.contains(&exit) {
            true => self.depart(exit.number, fd),
            false => self.notice().map(|()| true),
        }
    }

    /// Nothing more comes to a member, and its owner is told so before it is taken out.
    pub(crate) fn emptied(&mut self, exit: Exit) {
        if self.leaving.contains(&exit) {
            self.empty.push(exit);
        }
    }

    /// Nothing but its owner keeps a member any more, which is noticed when it has been closed.
    pub(crate) fn release(&mut self, exit: Exit) -> Result<(), Error> {
        if self.leaving.contains(&exit) {
            self.released.push(exit);
        }
        self.notice()
    }

    /// Takes out a member that gets nothing new; false where it is in until it is closed.
    fn depart(&mut self, number: usize, fd: Option<BorrowedFd<'_>>) -> Result<bool, Error> {
        let noticed = self.notice();
        let kind = self.kind;
        if let Some(fd) = fd {
            // Not for datagrams: those of a flow are for one member only.
            if kind == Kind::Tcp && self.is_ordered() {
                let _ = self.lean().inspect_err(trace::refused);
            }
            if !self.reorder(Some(number), || sys::leave(kind, fd)) {
                return noticed.map(|()| false);
            }
        }
        self.strike(number);
        noticed.and(self.notice())?;
        self.steer_on().map(|()| true)
    }

    /// Steers as if that member had never left, where somebody steered around it.
    fn steer_on(&self) -> Result<(), Error> {
        match self.order {
            Order::Known | Order::Lost => self.attach_current(),
            Order::Foreign => Ok(()),
        }
    }

    /// The members of the generation before, in the kernel's order.
    pub(crate) fn elders(&self) -> impl Iterator<Item = (usize, &OwnedFd)> {
        self.members.iter().filter_map(|entry| match &entry.socket {
            Held::Elder(fd) => Some((entry.number, fd)),
            Held::Unknown | Held::Seen(_) => None,
        })
    }

    /// Every member with its number, in the kernel's order, for another process that decides from
    /// here on; None as long as one of them is leaving.
    pub(crate) fn give_away(&mut self) -> Result<Option<Vec<(usize, OwnedFd)>>, Error> {
        self.check_ours()?;
        self.notice()?;
        if !self.leaving.is_empty() {
            return Ok(None);
        }
        if !self.is_ordered() {
            return Err(self.disordered());
        }
        let mut members = Vec::with_capacity(self.members.len());
        for Entry { number, socket } in &self.members {
            let socket = socket
                .upgrade()
                .ok_or_else(|| self.invalid(format!("member {number} is not open")))?;
            members.push((*number, socket));
        }
        self.phase = Phase::GivenAway;
        Ok(Some(members))
    }

    /// The other process has died before it had taken over, and its members with it.
    pub(crate) fn take_back(&mut self) -> Result<(), Error> {
        self.phase = Phase::Ours;
        // Of its members, that process may have taken out some.
        for entry in &self.members {
            // What is hidden stays so.
            if let Some(fd) = entry.socket.upgrade() {
                if sys::is_hidden(sys::borrow(&fd)) {
                    let _ = sys::leave(self.kind, sys::borrow(&fd));
                }
            }
        }
        let out: Vec<_> = self
            .members
            .iter()
            .filter(|entry| !self.is_in(entry))
            .map(|entry| entry.number)
            .collect();
        // One that is out went before that process's members did, which were behind all of these;
        // of several nobody knows who was first.
        if out.len() > 1 && self.members.len() > out.len() + 1 {
            self.lose_order();
        }
        for number in out {
            self.strike(number);
        }
        if !self.is_ordered() && self.steering.needs_places() {
            self.steering = Steering::Hash;
        }
        self.attach_current()
    }

    /// Nothing of the group is this process's any more; what its workers have open of it.
    pub(crate) fn forget(&mut self) -> Vec<OwnedFd> {
        self.phase = Phase::GivenAway;
        let members = self.members.drain(..);
        members.filter_map(|entry| entry.socket.upgrade()).collect()
    }

    pub(crate) fn is_open(&self) -> bool {
        let is_open = |entry: &Entry| matches!(&entry.socket, Held::Seen(weak) if weak.is_open());
        self.members.iter().any(is_open)
    }

    /// Does a worker of the group wait in accept(2)?
    pub(crate) fn is_blocking(&self) -> bool {
        let is_blocking = |fd: OwnedFd| sys::is_blocking(sys::borrow(&fd));
        self.open_member().is_some_and(is_blocking)
    }

    /// Puts the members of the generation before in front, which get everything for the time being.
    ///
    /// The numbers of those that are to be added are less than `numbers`.
    pub(crate) fn succeed(
        &mut self,
        elders: Vec<(usize, OwnedFd)>,
        numbers: usize,
        steering: &Steering,
    ) -> Result<(), Error> {
        self.numbers = numbers;
        self.check(steering)?;
        let entry = |(number, fd)| Entry {
            number,
            socket: Held::Elder(fd),
        };
        self.members.splice(..0, elders.into_iter().map(entry));
        self.phase = Phase::Theirs;
        self.steering = steering.clone();
        self.attach_current()
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

    /// From here on this generation gets what is new.
    pub(crate) fn take_over(&mut self) -> Result<(), Error> {
        self.phase = Phase::Ours;
        self.attach_current()
    }

    /// A place whose member stays and is not moved when any other leaves, as only the last one is.
    fn pillar(&self) -> Option<usize> {
        let last = self.members.len().checked_sub(1)?;
        let place = self
            .members
            .iter()
            .position(|entry| self.stays(entry.number))?;
        (place < last).then_some(place)
    }

    /// Gives everything that is new to a member that does not move while another leaves, so that at
    /// no instant the program names a place in which somebody else stands, or nobody.
    ///
    /// False where there is none: the only one that stays is the last. Then, for an instant, the hash
    /// chooses among all that are left.
    pub(crate) fn lean(&self) -> Result<bool, Error> {
        let Some(place) = self.pillar() else {
            return Ok(false);
        };
        if let Some(via) = self.open_member() {
            let program = Dispatch::Program(program::only(place));
            sys::dispatch(sys::borrow(&via), &program).map_err(|error| self.refused(error))?;
        }
        Ok(true)
    }

    /// Takes all members of the generation before out.
    pub(crate) fn bury(&mut self) -> Result<(), Error> {
        while self.bury_one()? {}
        self.attach_current()
    }

    /// Takes the first member of the generation before out.
    pub(crate) fn bury_first(&mut self) -> Result<(), Error> {
        self.bury_one()?;
        self.attach_current()
    }

    fn bury_one(&mut self) -> Result<bool, Error> {
        let is_elder = |entry: &Entry| matches!(entry.socket, Held::Elder(_));
        let Some(place) = self.members.iter().position(is_elder) else {
            return Ok(false);
        };
        // Not where a flow is one member's only; and there nobody reads what comes to the others.
        if !self.keeps_flows() {
            self.lean()?;
        }
        if let Held::Elder(fd) = &self.members[place].socket {
            let _ = sys::leave(self.kind, sys::borrow(fd));
        }
        self.members.swap_remove(place);
        Ok(true)
    }

    /// The takeover is given up: who is in the group is known no more.
    pub(crate) fn give_up(&mut self) {
        self.phase = Phase::GivenAway;
        self.members
            .retain(|entry| !matches!(entry.socket, Held::Elder(_)));
        self.lose_order();
    }
}
