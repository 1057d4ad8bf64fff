//! How members leave: who gets what is new meanwhile, and how sockets are taken out of the group.

use std::collections::HashSet;
use std::sync::Arc;

use super::count::is_counted;
use super::guarantee::Guarantee;
use super::sock::Sock;
use super::state::{Stage, State};
use super::table::{Entry, Id, Role};
use crate::error::Error;
use crate::steering::Spread;
use crate::sys::{self, Kind, OwnedFd};
use crate::trace::Event;

const NONE_STAYS: &str = "no other stays to take its connections";

/// A member that has begun to leave.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) id: Id,
    pub(crate) guarantee: Guarantee,
    pub(crate) how: How,
}

/// What has to happen before a member has left.
#[derive(Debug)]
pub(crate) enum How {
    /// What is queued is the others' too.
    Shared,
    /// It gets nothing new: what is under way has to be accepted or read.
    Drains(Arc<OwnedFd>),
    /// It is out of the group already, and can send nothing more: what it has has to be read.
    IsOut(Arc<OwnedFd>),
    /// It goes on getting what is new: its queue has to be empty for a moment.
    Gets(Arc<OwnedFd>),
    /// The system has no way to look at it.
    Unseen,
}

impl State {
    /// The answer to one whose time is over.
    pub(super) fn none_stays(&self, id: Id) -> Error {
        let number = self.table.get(id).and_then(|entry| entry.number);
        self.cannot_leave(number.unwrap_or_default(), NONE_STAYS)
    }

    fn cannot_leave(&self, number: usize, why: impl Into<String>) -> Error {
        let what = format!("member {number} of the group on {} cannot leave", self.addr);
        Error::invalid(what, why.into()).at(self.addr)
    }

    /// From here on a member gets nothing new. After an error all is as it was.
    pub(crate) fn leave(&mut self, number: usize) -> Result<Departure, Error> {
        self.check_stage()?;
        self.check_goes_on()?;
        self.sweep()?;
        let Some(entry) = self.table.numbered(number) else {
            return Err(self.cannot_leave(number, format!("it has no member {number}")));
        };
        if entry.role != Role::Serves {
            return Err(self.cannot_leave(number, "it is leaving already"));
        }
        let id = entry.id;
        let mut others = self.table.iter().filter(|entry| entry.id != id);
        if !others.any(|entry| entry.role == Role::Serves) {
            return Err(self.cannot_leave(number, NONE_STAYS));
        }
        let departure = |guarantee, how| Departure { id, guarantee, how };
        if self.spread == Spread::Queue {
            self.set_role(id, Role::Leaves);
            return Ok(departure(Guarantee::Lossless, How::Shared));
        }
        let fd = match self.table.get_mut(id).map(|entry| entry.socket.open()) {
            Some(Ok(Some(fd))) => fd,
            Some(Err(error)) => {
                let what = format!("member {number} of the group on {} cannot leave", self.addr);
                let why = sys::resource_reason(&error);
                return Err(Error::system(what, error).at(self.addr).why(why));
            }
            Some(Ok(None)) | None => {
                self.set_role(id, Role::Closes);
                return Ok(departure(Guarantee::None, How::Unseen));
            }
        };
        self.set_role(id, Role::Leaves);
        let steers = sys::support().steers;
        let steered = match steers {
            true => self.program_strictly(),
            false => Err(self.refused(sys::cannot_steer())),
        };
        let guarantee = match steered {
            Ok(()) => self.guarantee(&fd),
            // A UDP socket needs no program, and no known place, to get out.
            Err(_) if steers && self.kind == Kind::Udp && !self.keeps_flows() => {
                if let Err(error) = sys::hide(sys::borrow(&*fd)) {
                    self.set_role(id, Role::Serves);
                    return Err(self.refused(error));
                }
                self.strike(id);
                return Ok(departure(Guarantee::BestEffort, How::IsOut(fd)));
            }
            Err(_) if !steers || self.is_disordered() => {
                self.keep(id, &fd);
                return Ok(departure(Guarantee::None, How::Gets(fd)));
            }
            Err(error) => {
                self.set_role(id, Role::Serves);
                return Err(error);
            }
        };
        self.keep(id, &fd);
        self.events
            .push(Event::leaving(self.addr, number, &guarantee));
        Ok(departure(guarantee, How::Drains(fd)))
    }

    fn is_disordered(&self) -> bool {
        self.table.iter().any(|entry| !entry.exact)
    }

    fn guarantee(&self, fd: &Arc<OwnedFd>) -> Guarantee {
        let can_hide = sys::can_hide(sys::borrow(&**fd));
        let inode = sys::identity(sys::borrow(&**fd));
        match self.kind {
            _ if !can_hide => Guarantee::BestEffort,
            Kind::Tcp if !self.sees_all && !is_counted(&self.addr, inode) => Guarantee::BestEffort,
            Kind::Tcp | Kind::Udp => Guarantee::Lossless,
        }
    }

    fn keep(&mut self, id: Id, fd: &Arc<OwnedFd>) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.socket.kept = Some(Arc::clone(fd));
        }
    }

    fn set_role(&mut self, id: Id, role: Role) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.role = role;
        }
    }

    pub(crate) fn role(&self, id: Id) -> Option<Role> {
        self.table.get(id).map(|entry| entry.role)
    }

    /// A member that was leaving stays.
    pub(crate) fn stay(&mut self, id: Id) -> Result<(), Error> {
        let Some(entry) = self.table.get_mut(id) else {
            return Ok(());
        };
        if !matches!(entry.role, Role::Leaves | Role::Closes) || entry.socket.hidden {
            return Ok(());
        }
        entry.role = Role::Serves;
        // By its own descriptor, where the process has no room for another.
        let reprogrammed = self.reprogram();
        self.release(id);
        reprogrammed
    }

    /// A member that was leaving has left: its number is free, and it stands in its place until it is
    /// removed. Where only its owner can remove it, it has its number until then.
    ///
    /// It has not, which is false, where it may have got something since it was counted.
    pub(crate) fn left(&mut self, id: Id, guarantee: Guarantee, counted: Option<u64>) -> bool {
        if counted.is_some() {
            // The others may have been dropped without a word.
            let _ = self.sweep();
            if self.table.get(id).is_some() && self.calm() != counted {
                return false;
            }
        }
        let keeps = self.keeps_flows() || guarantee == Guarantee::None;
        let is_shared = self.spread == Spread::Queue;
        let Some(entry) = self.table.get_mut(id) else {
            return true;
        };
        if is_shared {
            self.strike(id);
        } else if keeps {
            entry.role = Role::Closes;
        } else {
            entry.role = Role::Empty;
            if let Some(number) = entry.number.take() {
                let places = self.places();
                self.events.push(Event::removed(self.addr, number, &places));
            }
        }
        true
    }

    /// Nothing that arrives finds these any more, also in the nanoseconds of their removal.
    ///
    /// It is refused where the socket is restricted to a device: then what arrives in those may be lost.
    pub(crate) fn hide(&mut self, ids: impl IntoIterator<Item = Id>) {
        for id in ids {
            if let Some(entry) = self.table.get_mut(id) {
                if let Ok(Some(fd)) = entry.socket.open() {
                    entry.socket.hidden |= sys::hide(sys::borrow(&*fd)).is_ok();
                }
            }
        }
    }

    /// Those whose owners have closed them, or that are in the table no more.
    pub(crate) fn closed(&mut self, ids: impl IntoIterator<Item = Id>) -> HashSet<Id> {
        let mut all = None;
        let mut closed = HashSet::new();
        for id in ids {
            let entry = self.table.get_mut(id);
            if entry.is_none_or(|entry| entry.socket.is_closed(&mut all)) {
                closed.insert(id);
            }
        }
        closed
    }

    /// Its descriptor is its owner's alone from here on.
    pub(crate) fn release(&mut self, id: Id) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.socket.kept = None;
        }
    }

    pub(super) fn strike(&mut self, id: Id) {
        if let Some(removed) = self.table.remove(id) {
            let own = removed.number.filter(|_| removed.role != Role::Successor);
            self.tell_removed(own);
        }
    }

    /// Takes sockets that get nothing new out of the group, so that at no instant the program names a
    /// place in which another stands; false where that has to wait for a successor, or for owners.
    pub(crate) fn remove(&mut self, ids: &[Id]) -> Result<bool, Error> {
        if matches!(self.stage, Stage::Lent | Stage::Passing) {
            return Ok(false);
        }
        self.sweep()?;
        let there = |id: &Id| self.table.place(*id).is_some();
        let there: Vec<Id> = ids.iter().copied().filter(there).collect();
        let can_go = |id: &Id| self.can_remove(*id);
        let mut doomed: HashSet<Id> = there.iter().copied().filter(can_go).collect();
        let mut all = doomed.len() == there.len();
        let any_weight = self.table.iter().any(|entry| self.share(entry) > 0);
        loop {
            let gets = |entry: &Entry<Sock>| match any_weight {
                true => self.share(entry) > 0,
                false => self.gets_new(entry.role),
            };
            let Some(batch) = self.table.batch(&doomed, gets) else {
                break;
            };
            let alone = match batch.only {
                Some((only, place)) if self.kind == Kind::Tcp => self.give_all(only, place)?,
                // A place behind the last stands for the hash among those that are left, which loses
                // no datagram; to name the hole beforehand would bring the one that goes a last one.
                Some(_) => None,
                None if batch.moved.is_empty() => None,
                None => {
                    self.program(&batch.moved, None, false)?;
                    None
                }
            };
            // After one that stays, the others would be moved into other places than these.
            for id in batch.remove {
                doomed.remove(&id);
                if self.take_out(id) {
                    self.strike(id);
                } else {
                    all = false;
                    break;
                }
            }
            if let Some(alone) = alone {
                let reprogrammed = self.reprogram();
                let _ = sys::set_alone(sys::borrow(&*alone), false);
                reprogrammed?;
            }
        }
        self.reprogram().map(|()| all)
    }

    /// False where the system refuses.
    fn take_out(&mut self, id: Id) -> bool {
        let Some(entry) = self.table.get_mut(id) else {
            return true;
        };
        if let Ok(Some(fd)) = entry.socket.open() {
            let is_out = sys::remove(self.kind, sys::borrow(&*fd));
            // What its owner has closed ends with what is kept of it.
            entry.socket.sticks =
                !is_out && entry.socket.is_own() && !entry.socket.is_closed(&mut None);
        }
        !entry.socket.sticks
    }

    /// Whether a socket may leave the group now: a UDP socket that is out of it can send nothing more, and
    /// its owner may have something to answer until it closes it.
    fn can_remove(&mut self, id: Id) -> bool {
        let kind = self.kind;
        let Some(entry) = self.table.get_mut(id) else {
            return true;
        };
        let answers = kind == Kind::Udp && entry.socket.is_own() && !entry.socket.given_up;
        let stays = entry.socket.sticks || answers;
        !stays || entry.socket.is_closed(&mut None)
    }

    fn share(&self, entry: &Entry<Sock>) -> u32 {
        match self.gets_new(entry.role) {
            true => self.steering.weight(entry.number),
            false => 0,
        }
    }

    /// Gives everything to the one member that is about to move to another place.
    ///
    /// Where all others are hidden, the kernel can do without the group, and the member is returned.
    /// Else the program names the place beforehand, in which a socket stands for one system call more
    /// that is hidden: the kernel does not answer a SYN that meets it, and the client sends it again.
    fn give_all(&mut self, only: Id, place: usize) -> Result<Option<Arc<OwnedFd>>, Error> {
        let mut others = self.table.iter().filter(|entry| entry.id != only);
        if self.kind == Kind::Tcp && others.all(|entry| entry.socket.hidden) {
            let only = self.table.get_mut(only).map(|entry| entry.socket.open());
            if let Some(Ok(Some(fd))) = only {
                if sys::set_alone(sys::borrow(&*fd), true).is_ok() {
                    return Ok(Some(fd));
                }
            }
        }
        self.program(&[], Some(place), false)?;
        Ok(None)
    }
}
