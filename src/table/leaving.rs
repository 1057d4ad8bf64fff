//! How members leave: who gets what is new meanwhile, and when they are taken out.

use super::{Held, Order, Table};
use crate::sys::{self, BorrowedFd, Dispatch, Kind, OwnedFd, Weak};
use crate::{Error, Promise, Spread, program, trace};

/// A member that leaves, told from one that gets its number afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) number: usize,
    nth: u64,
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
            _ if !(is_out || sys::can_hide(sys::borrow(&fd))) => Promise::Waiting,
            Kind::Tcp if !sys::counts(Some(&weak), &self.addr) => Promise::Waiting,
            Kind::Tcp | Kind::Udp => Promise::Lossless,
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

    /// Nothing more comes to a member, and its owner is told so before it is taken out.
    pub(crate) fn emptied(&mut self, exit: Exit) {
        if self.leaving.contains(&exit) {
            self.empty.push(exit);
        }
    }

    /// Takes out a member that was leaving; false where it is in until its owner closes it.
    pub(crate) fn finish(&mut self, exit: Exit, fd: Option<BorrowedFd<'_>>) -> Result<bool, Error> {
        // A UDP socket is out at once, and others can be closed besides.
        match self.leaving.contains(&exit) {
            true => self.depart(exit.number, fd),
            false => self.notice().map(|()| true),
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
    pub(super) fn depart(
        &mut self,
        number: usize,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<bool, Error> {
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
    pub(super) fn steer_on(&self) -> Result<(), Error> {
        match self.order {
            Order::Known | Order::Lost => self.attach_current(),
            Order::Foreign => Ok(()),
        }
    }

    /// Does its departure keep it open?
    pub(super) fn is_kept(&self, number: usize) -> bool {
        let mut exits = self.leaving.iter().filter(|exit| exit.number == number);
        exits.any(|exit| !self.released.contains(exit))
    }

    /// A place whose member stays and is not moved when any other leaves, as only the last one is.
    pub(super) fn pillar(&self) -> Option<usize> {
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
}
