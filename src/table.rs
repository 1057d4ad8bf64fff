//! Who stands where in the kernel's group, and by what the group is steered.
//!
//! A newcomer goes to the end, and when a member leaves, the last one moves into its place (kernel:
//! __reuseport_add_sock, __reuseport_detach_sock). Nobody can ask the kernel who stands where.

use std::io;
use std::net::SocketAddr;

use crate::opening::{Opening, Purpose};
use crate::sys::{self, AsFd, BorrowedFd, Dispatch, Kind, OwnedFd, Weak};
use crate::{Error, Member, Options, Promise, Socket, Spread, Steering, trace};

#[derive(Debug)]
pub(crate) struct Table {
    kind: Kind,
    addr: SocketAddr,
    spread: Spread,
    /// With these another member is opened.
    options: Options,
    /// One more than the highest number that a member had.
    numbers: usize,
    /// In the kernel's order where `ordered` says so.
    members: Vec<Entry>,
    /// False: they were adopted or joined others, or several left unseen, so that nobody knows.
    ordered: bool,
    /// Those who get nothing new.
    leaving: Vec<usize>,
    steering: Steering,
    /// The processors when `Cpu` was first set: a worker that closes its member may use only one.
    cpus: Vec<usize>,
    /// Has SO_INCOMING_CPU been set on the members, where only their owners can take it back?
    pinned: bool,
}

#[derive(Debug)]
struct Entry {
    number: usize,
    /// None where nobody asked for it yet, and where the system cannot tell.
    socket: Option<Weak>,
}

/// A member that leaves.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) number: usize,
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
            socket: None,
        };
        Self {
            kind,
            addr,
            spread,
            options,
            numbers: members,
            members: (0..members).map(entry).collect(),
            ordered: new && spread == Spread::Kernel,
            leaving: Vec::new(),
            steering: Steering::Hash,
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
        if let Some(entry @ Entry { socket: None, .. }) = entry {
            entry.socket = Weak::new(fd);
        }
    }

    /// The member in each place, where that is known.
    pub(crate) fn places(&self) -> Option<Vec<usize>> {
        self.ordered
            .then(|| self.members.iter().map(|entry| entry.number).collect())
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

    /// Sees who was closed without a word.
    pub(crate) fn notice(&mut self) -> Result<(), Error> {
        let gone = |entry: &Entry| entry.socket.is_some_and(|socket| !socket.is_open());
        let left: Vec<_> = self.members.iter().filter(|entry| gone(entry)).collect();
        // A member that leaves is kept by its departure, which takes it out.
        let left: Vec<_> = left
            .iter()
            .map(|entry| entry.number)
            .filter(|number| !self.leaving.contains(number))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        // In which order, only one of them tells.
        self.ordered &= left.len() == 1 || self.members.len() <= left.len() + 1;
        for number in left {
            self.strike(number);
        }
        self.steer_anew()
    }

    /// The kernel's order after that member has left.
    fn strike(&mut self, number: usize) {
        self.leaving.retain(|&other| other != number);
        if let Some(place) = self.place_of(number) {
            self.members.swap_remove(place);
            trace::closed(self.addr, number, self.places().as_deref());
        }
    }

    fn place_of(&self, number: usize) -> Option<usize> {
        self.members.iter().position(|entry| entry.number == number)
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        self.place_of(number).is_some()
    }

    fn stays(&self, number: usize) -> bool {
        !self.leaving.contains(&number)
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
        self.members
            .iter()
            .find_map(|entry| entry.socket?.upgrade())
    }

    pub(crate) fn steer(&mut self, steering: &Steering) -> Result<(), Error> {
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
            return Err(self.invalid(
                "it was adopted or joined others, so that nobody knows its members' places",
            ));
        }
        let places = places.unwrap_or_default();
        let dispatch = steering
            .dispatch(self.kind, &places, |number| self.stays(number), &self.cpus)
            .map_err(|why| self.invalid(why))?;
        sys::dispatch(via, &dispatch).map_err(|error| self.refused(error))
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
            sys::dispatch(via, &Dispatch::Hash).map_err(|error| self.refused(error))?;
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
        let own = self.own(&socket).and_then(|()| self.find(number));
        if own.is_ok() && self.spread == Spread::Kernel {
            sys::leave(self.kind, sys::borrow(&socket));
        }
        drop(socket);
        own?;
        self.strike(number);
        self.notice()?;
        self.steer_anew()
    }

    fn find(&self, number: usize) -> Result<&Entry, Error> {
        self.place_of(number)
            .and_then(|place| self.members.get(place))
            .ok_or_else(|| self.invalid(format!("it has no member {number}")))
    }

    /// Opens another member, with the lowest number that is free.
    pub(crate) fn join<S: Socket>(&mut self) -> Result<Member<S>, Error> {
        self.notice()?;
        let taken = |number| self.members.iter().any(|entry| entry.number == number);
        let number = (0..).find(|&number| !taken(number)).unwrap_or(self.numbers);
        let socket = match self.spread {
            Spread::Queue => {
                let any = self
                    .open_member()
                    .ok_or_else(|| self.invalid("none of its members is open"))?;
                S::from(any)
            }
            _ => {
                let join = Purpose::Join(number, self.members.len() + 1);
                S::from_socket(
                    Opening::new(&self.options, self.kind, self.addr)?.open(join, false)?,
                )
            }
        };
        self.numbers = self.numbers.max(number + 1);
        self.members.push(Entry {
            number,
            socket: Weak::new(sys::borrow(&socket)),
        });
        trace::joined(self.addr, number, self.places().as_deref());
        if self.pinned {
            self.pin_one(sys::borrow(&socket), Steering::cpu_of(number, &self.cpus))?;
        }
        self.steer_anew()?;
        Ok(Member::new(socket, number))
    }

    /// From here on a member gets nothing new.
    pub(crate) fn leave(&mut self, number: usize) -> Result<Departure, Error> {
        self.notice()?;
        let cannot = |why: String| {
            let what = format!("member {number} of the group on {} cannot leave", self.addr);
            Err(Error::invalid(what, why).at(self.addr))
        };
        let Some(weak) = self
            .place_of(number)
            .map(|place| self.members[place].socket)
        else {
            return cannot(format!("it has no member {number}"));
        };
        if !self.stays(number) {
            return cannot("it is leaving already".to_owned());
        }
        if self.members.len() - self.leaving.len() == 1 {
            return cannot("no other stays to take its connections".to_owned());
        }
        let nothing = |promise| Departure {
            number,
            promise,
            socket: None,
        };
        if self.spread == Spread::Queue {
            // What is queued is the others' too.
            self.leaving.push(number);
            return Ok(nothing(Promise::Lossless));
        }
        let socket = weak.and_then(|weak| Some((weak.upgrade()?, weak)));
        let Some((fd, weak)) = socket.filter(|_| self.ordered && sys::support().steers) else {
            self.leaving.push(number);
            return Ok(nothing(Promise::Nothing));
        };
        self.leaving.push(number);
        let keeps_flows = matches!(self.steering, Steering::ConnectionIds(_));
        let promise = match self.kind {
            Kind::Tcp if sys::counts(&self.addr) => Promise::Lossless,
            Kind::Tcp => Promise::Waiting,
            Kind::Udp => Promise::Lossless,
        };
        let steered = match self.kind {
            // It is out, and what it has is kept for it.
            Kind::Udp if !keeps_flows && sys::hide(sys::borrow(&fd)).is_ok() => {
                self.strike(number);
                self.steer_anew()
            }
            _ => self.attach(sys::borrow(&fd), &self.steering),
        };
        if let Err(error) = steered {
            self.leaving.retain(|&other| other != number);
            return Err(error);
        }
        trace::leaving(self.addr, number, promise);
        Ok(Departure {
            number,
            promise,
            socket: Some((fd, weak)),
        })
    }

    /// A member that was leaving stays.
    pub(crate) fn stay(&mut self, number: usize) -> Result<(), Error> {
        if self.stays(number) {
            return Ok(());
        }
        self.leaving.retain(|&other| other != number);
        self.notice()?;
        match self.ordered {
            true => self.attach_current(),
            false => Ok(()),
        }
    }

    /// Takes out a member that was leaving.
    pub(crate) fn depart(
        &mut self,
        number: usize,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        if let Some(fd) = fd {
            sys::leave(self.kind, fd);
        }
        let was_steered = self.ordered && !self.stays(number);
        self.strike(number);
        self.notice()?;
        match was_steered {
            true => self.attach_current(),
            false => Ok(()),
        }
    }
}
