//! How a group passes from one process to the next: see [`Generation`](crate::Generation) and
//! [`Roster::hand_over`](crate::Roster::hand_over).

use super::{Entry, Held, Phase, Table};
use crate::sys::{self, Kind, OwnedFd};
use crate::{Error, Promise, Steering};

impl Table {
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

    /// Is the socket of a member that was given away still in the group?
    pub(super) fn is_in(&self, entry: &Entry) -> bool {
        let Some(fd) = entry.socket.upgrade() else {
            return false;
        };
        match self.kind {
            Kind::Tcp => sys::is_listening(sys::borrow(&fd)).unwrap_or(true),
            Kind::Udp => !sys::is_hidden(sys::borrow(&fd)),
        }
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

    /// From here on this generation gets what is new.
    pub(crate) fn take_over(&mut self) -> Result<(), Error> {
        self.phase = Phase::Ours;
        let taken = self.attach_current();
        if taken.is_err() {
            self.phase = Phase::Theirs;
        }
        taken
    }

    /// What can be promised to those who connect while the group passes on.
    pub(crate) fn promise(&self) -> Promise {
        let can_hide = |fd: OwnedFd| sys::can_hide(sys::borrow(&fd));
        match self.kind {
            _ if !self.open_member().is_some_and(can_hide) => Promise::Waiting,
            Kind::Tcp if !sys::counts(None, &self.addr) => Promise::Waiting,
            Kind::Tcp | Kind::Udp => Promise::Lossless,
        }
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

    pub(super) fn bury_one(&mut self) -> Result<bool, Error> {
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
