//! What a group's lock guards: the table of its members, and the steering that the kernel's program
//! follows.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::dial::Clients;
use super::seating::{Boarding, Told};
use super::sock::Sock;
use super::table::{Entry, Id, Role, Table};
use crate::error::Error;
use crate::open::{Options, addr::of_many};
use crate::steering::{Spread, Steering};
use crate::sys::{self, BorrowedFd, Kind, OwnedFd};
use crate::trace::Event;

#[derive(Debug)]
pub(crate) struct State {
    pub(super) kind: Kind,
    pub(super) addr: SocketAddr,
    pub(super) spread: Spread,
    /// The user that opened the sockets, with whom alone the port is shared.
    pub(super) owner: u32,
    /// With these another member is opened.
    pub(super) options: Options,
    pub(super) table: Table<Sock>,
    /// One more than the highest number that a member had.
    pub(super) numbers: usize,
    /// Numbers of members that are being opened.
    pub(super) reserved: Vec<usize>,
    pub(super) steering: Steering,
    /// The processors when `Cpu` was first set: a later thread may be allowed fewer.
    pub(super) cpus: Vec<usize>,
    /// What the loads leave each member of what is new, beside the others; none where they do not count.
    pub(super) loads: Option<BTreeMap<Id, u32>>,
    /// The program that chooses by the loads as they are, if there is one.
    pub(super) boarding: Boarding,
    pub(super) told: Told,
    pub(super) stage: Stage,
    /// The part of what is new that the successor gets before it takes over; none where it has never had one.
    pub(super) part: Option<f64>,
    /// Those of its members that its workers have closed.
    pub(super) omitted: HashSet<Id>,
    pub(super) clients: Clients,
    /// How often members that are leaving may have got what is new: no other was left, or one was gone
    /// without a word, and another stood in its place.
    pub(super) surprises: u64,
    /// Whether sockets may be in the group that the table does not know, and that must get nothing.
    pub(super) wary: bool,
    /// Whether no new client is let in by a member of this process.
    pub(super) is_stopping: bool,
    /// Whether nothing more comes to any member, as another process has taken over.
    is_relieved: bool,
    /// Whether the kernel's tables showed every member when they were last looked at.
    pub(super) sees_all: bool,
    /// A descriptor of the one queue, where the system does not find the workers' again.
    pub(super) queue: Option<Arc<OwnedFd>>,
    /// What has happened, to be told when the lock is free.
    pub(super) events: Vec<Event>,
}

/// Which process decides on the group: see [`Generation`](crate::Generation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// This one.
    Ours,
    /// The predecessor, whose members get everything; this process does not touch the program.
    Before,
    /// This one, and a successor's members stand behind: nothing may be removed or added.
    Lent,
    /// The successor, which is taking over.
    Passing,
    /// Another process, to which the members have been given.
    GivenAway,
}

impl State {
    pub(super) fn new(kind: Kind, addr: SocketAddr, spread: Spread, options: Options) -> Self {
        Self {
            kind,
            addr,
            spread,
            owner: sys::user(),
            options,
            table: Table::new(),
            numbers: 0,
            reserved: Vec::new(),
            steering: Steering::Hash,
            cpus: Vec::new(),
            loads: None,
            boarding: Boarding::default(),
            told: Told::Other,
            stage: Stage::Ours,
            part: None,
            omitted: HashSet::new(),
            clients: Clients::default(),
            surprises: 0,
            wary: false,
            is_stopping: false,
            is_relieved: false,
            sees_all: false,
            queue: None,
            events: Vec::new(),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    pub(crate) fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.doubt();
    }

    /// The program that sees the loads may be another one now, or not know all: the next step tells it anew.
    pub(super) fn doubt(&mut self) {
        if self.told == Told::This {
            self.told = Told::Perhaps;
        }
    }

    /// Whether all members are one socket, of which another process may have descriptors too.
    pub(crate) fn is_one_queue(&self) -> bool {
        self.spread == Spread::Queue
    }

    pub(crate) fn keeps_flows(&self) -> bool {
        self.steering.keeps_flows()
    }

    /// Nothing more comes to any member; flows that are kept do.
    pub(crate) fn relieve(&mut self) {
        self.is_relieved = !self.keeps_flows();
        self.queue = None;
    }

    /// Whether the member with that number has left, or was never there.
    pub(super) fn has_left(&self, number: usize) -> bool {
        self.is_relieved || self.table.numbered(number).is_none()
    }

    /// Another member of this process, behind all others.
    pub(crate) fn add(&mut self, number: usize, fd: BorrowedFd<'_>) -> Id {
        if self.table.len() == 0 {
            self.owner = sys::owner(fd).unwrap_or(self.owner);
        }
        self.numbers = self.numbers.max(number + 1);
        self.table.push(Some(number), Role::Serves, Sock::own(fd))
    }

    /// A socket of which another process lent a descriptor, behind all others.
    pub(crate) fn add_lent(&mut self, number: Option<usize>, role: Role, fd: OwnedFd) -> Id {
        if self.table.len() == 0 {
            self.owner = sys::owner(sys::borrow(&fd)).unwrap_or(self.owner);
        }
        self.table.push(number, role, Sock::lent(fd))
    }

    /// Nothing tells where the members stand that are there.
    pub(crate) fn scramble(&mut self) {
        self.table.scramble(|_| true);
    }

    /// Nothing tells where these stand.
    pub(crate) fn scramble_these(&mut self, unknown: &[Id]) {
        self.table.scramble(|entry| unknown.contains(&entry.id));
    }

    /// In each place the member's number, and none where no member of this group stands; nothing
    /// where that is not known.
    pub(super) fn places(&self) -> Vec<Option<usize>> {
        let is_known = self.spread == Spread::Kernel && self.table.iter().all(|entry| entry.exact);
        let number = |entry: &Entry<Sock>| entry.number.filter(|_| entry.role.is_own());
        match is_known {
            true => self.table.iter().map(number).collect(),
            false => Vec::new(),
        }
    }

    pub(super) fn gets_new(&self, role: Role) -> bool {
        match self.stage {
            Stage::Before => role == Role::Predecessor,
            _ if self.is_stopping => role == Role::Successor,
            _ => role == Role::Serves,
        }
    }

    pub(super) fn has_servers(&self) -> bool {
        self.table.iter().any(|entry| self.gets_new(entry.role))
    }

    /// As long as this is the same, members that are leaving have got nothing new; none where they get it,
    /// as no other is left.
    pub(super) fn calm(&self) -> Option<u64> {
        (self.has_servers() || self.is_stopping).then_some(self.surprises)
    }

    pub(super) fn cannot_steer(&self) -> String {
        format!("cannot steer the group on {}", self.addr)
    }

    pub(super) fn invalid(&self, why: impl Into<String>) -> Error {
        Error::invalid(self.cannot_steer(), why.into()).at(self.addr)
    }

    pub(super) fn refused(&self, error: io::Error) -> Error {
        let why = sys::dispatch_reason(&error);
        Error::system(self.cannot_steer(), error)
            .at(self.addr)
            .why(why)
    }

    pub(super) fn disordered(&self) -> Error {
        let why = "the places of its members are not known: it was adopted, it joined others, or \
                   several of its members were closed at once";
        self.invalid(why)
    }

    /// Refuses what only the process can do that decides on the group.
    pub(super) fn check_stage(&self) -> Result<(), Error> {
        let why = match self.stage {
            Stage::Ours | Stage::Lent => return Ok(()),
            Stage::Before => "it has not taken over yet",
            Stage::Passing | Stage::GivenAway => "another process has taken it over",
        };
        Err(self.invalid(why))
    }

    /// Refuses what is of no use to a group that stops.
    pub(super) fn check_goes_on(&self) -> Result<(), Error> {
        match self.is_stopping {
            false => Ok(()),
            true => Err(self.invalid("it is stopping")),
        }
    }

    /// Refuses what would move members while a successor's stand behind them.
    pub(super) fn check_order(&self) -> Result<(), Error> {
        self.check_stage()?;
        match self.stage {
            Stage::Lent => Err(self.invalid("the next process is about to take it over")),
            _ => Ok(()),
        }
    }

    pub(crate) fn check(&mut self, steering: &Steering) -> Result<(), Error> {
        if matches!(steering, Steering::Cpu) && self.cpus.is_empty() {
            self.cpus = sys::cpus();
        }
        if self.spread == Spread::Queue && !matches!(steering, Steering::Hash) {
            return Err(self.invalid("its members have one queue together, and nothing to choose"));
        }
        if self.kind == Kind::Udp && !matches!(steering, Steering::Hash) {
            if let Some(what) = of_many(self.addr.ip()) {
                return Err(self.invalid(format!("{what}, and every member gets what arrives")));
            }
        }
        steering
            .check(self.kind, self.numbers)
            .map_err(|why| self.invalid(why))
    }

    /// Steers without asking the kernel, which is told later.
    pub(crate) fn set_steering(&mut self, steering: &Steering) {
        self.steering = steering.clone();
    }

    pub(crate) fn steer(&mut self, steering: &Steering) -> Result<(), Error> {
        self.check_stage()?;
        self.check_goes_on()?;
        self.sweep()?;
        self.check(steering)?;
        self.check_balanced(steering)?;
        if !sys::support().steers {
            // In the system's own words, where there is something to refuse.
            return match steering {
                Steering::Hash => Ok(()),
                _ => Err(self.refused(sys::cannot_steer())),
            };
        }
        if self.via()?.is_none() {
            return Err(self.invalid("none of its members is open"));
        }
        let before = std::mem::replace(&mut self.steering, steering.clone());
        if let Err(error) = self.program(&[], None, true) {
            self.steering = before;
            return Err(error);
        }
        self.events.push(Event::steered(self.addr, steering));
        Ok(())
    }

    /// A descriptor by which the group's program can be changed.
    pub(super) fn via(&mut self) -> Result<Option<Arc<OwnedFd>>, Error> {
        if let Some(queue) = &self.queue {
            return Ok(Some(Arc::clone(queue)));
        }
        let mut last = Ok(None);
        for entry in self.table.iter_mut() {
            match entry.socket.open() {
                Ok(None) => {}
                Ok(fd) => return Ok(fd),
                Err(error) => last = Err(error),
            }
        }
        last.map_err(|error| {
            let why = sys::resource_reason(&error);
            Error::system(self.cannot_steer(), error)
                .at(self.addr)
                .why(why)
        })
    }

    pub(super) fn tell_removed(&mut self, number: Option<usize>) {
        if let Some(number) = number {
            let places = self.places();
            self.events.push(Event::removed(self.addr, number, &places));
        }
    }
}
