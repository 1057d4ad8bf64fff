//! How a group passes from one process to the next, as far as the table is concerned: see
//! [`Generation`](crate::Generation) and [`Roster::hand_over`](crate::Roster::hand_over).

use std::sync::Arc;

use super::count::is_counted;
use super::guarantee::Guarantee;
use super::state::{Stage, State};
use super::table::{Id, Role};
use crate::error::Error;
use crate::open::Options;
use crate::steering::Steering;
use crate::sys::{self, Kind, OwnedFd};

/// A socket of a group that another process is to know, in the kernel's order.
#[derive(Debug)]
pub(crate) struct Lent {
    /// None where it is no member, and only keeps its place.
    pub(crate) number: Option<usize>,
    /// Whether it stands in this place, and not in any that is not exact.
    pub(crate) exact: bool,
    pub(crate) fd: Arc<OwnedFd>,
}

impl State {
    /// Every socket of the group in the kernel's order, for another process; empty where no member is
    /// open any more, and nothing of the group is left.
    ///
    /// Those that have left keep their places until their owners close them, and so do those of the process
    /// before this one.
    pub(crate) fn lend(&mut self) -> Result<Vec<Lent>, Error> {
        self.check_order()?;
        if self.is_one_queue() {
            return self.lend_queue();
        }
        self.sweep()?;
        let is_done = |role| matches!(role, Role::Empty | Role::Predecessor);
        if self.table.iter().all(|entry| is_done(entry.role)) {
            self.remove_all(is_done)?;
        }
        self.lend_these()
    }

    /// The one socket of a group that has one queue.
    fn lend_queue(&mut self) -> Result<Vec<Lent>, Error> {
        let open = self.via()?;
        let lent = open.map(|fd| Lent {
            number: Some(0),
            exact: true,
            fd,
        });
        Ok(lent.into_iter().collect())
    }

    /// Keeps a descriptor of the one queue for the next process, where the workers' are not found again.
    pub(crate) fn keep_queue(&mut self, fd: OwnedFd) {
        if self.via().is_ok_and(|via| via.is_none()) {
            self.queue = Some(Arc::new(fd));
        }
    }

    /// No other process will ask for it.
    pub(crate) fn release_queue(&mut self) {
        self.queue = None;
    }

    fn remove_all(&mut self, of: impl Fn(Role) -> bool) -> Result<(), Error> {
        let all = self.table.iter().filter(|entry| of(entry.role));
        let all: Vec<Id> = all.map(|entry| entry.id).collect();
        self.remove(&all).map(drop)
    }

    fn lend_these(&mut self) -> Result<Vec<Lent>, Error> {
        let mut lent = Vec::with_capacity(self.table.len());
        let mut problem = None;
        for entry in self.table.iter_mut() {
            let number = entry.number.unwrap_or_default();
            match entry.socket.open() {
                _ if entry.role == Role::Stranger => {
                    problem = Some(Err(
                        "a socket shares its port that it did not open".to_owned()
                    ));
                }
                Ok(Some(fd)) => lent.push(Lent {
                    number: entry.number.filter(|_| entry.role != Role::Predecessor),
                    exact: entry.exact,
                    fd,
                }),
                Ok(None) => {
                    problem = Some(Err(format!(
                        "member {number} is not open in that process, but in another one, as a child \
                         that it has forked"
                    )));
                }
                Err(error) => problem = Some(Ok(error)),
            }
        }
        match problem {
            None => Ok(lent),
            Some(Err(why)) => Err(Error::invalid(self.cannot_lend(), why).at(self.addr)),
            Some(Ok(error)) => {
                let why = sys::resource_reason(&error);
                Err(Error::system(self.cannot_lend(), error)
                    .at(self.addr)
                    .why(why))
            }
        }
    }

    /// As [`lend`](Self::lend), for a process that gets nothing but the members: there are some, and each
    /// serves. One that is leaving would get nothing there either, until that process steers.
    pub(crate) fn lend_all(&mut self) -> Result<Vec<Lent>, Error> {
        self.check_order()?;
        self.sweep()?;
        // The other process would not see by which loads its members get much or nothing.
        if let Some(loads) = &mut self.loads {
            loads.clear();
        }
        self.remove_all(|role| role == Role::Empty)?;
        let lent = self.lend_these()?;
        let why = match self.table.iter().all(|entry| entry.role == Role::Serves) {
            true if !lent.is_empty() => return Ok(lent),
            true => "none of its members is open",
            false => "a member is leaving, or has left and is not closed",
        };
        Err(Error::invalid(self.cannot_lend(), why).at(self.addr))
    }

    fn cannot_lend(&self) -> String {
        format!("cannot lend the members of the group on {}", self.addr)
    }

    /// From here on another process's members may come to stand behind these, and get nothing.
    pub(crate) fn begin_lending(&mut self) -> Result<(), Error> {
        self.stage = Stage::Lent;
        self.program_strictly()
            .inspect_err(|_| self.stage = Stage::Ours)
    }

    /// Takes the successor's members out of the group, after [`recall`](Self::recall).
    pub(super) fn take_back(&mut self) -> Result<(), Error> {
        // Of this process's members it may have hidden some, which cannot be undone.
        let mut out = Vec::new();
        for entry in self.table.iter_mut() {
            let is_hidden = !self.is_stopping
                && entry.role.is_own()
                && match entry.socket.open() {
                    Ok(Some(fd)) => sys::is_hidden(sys::borrow(&*fd)),
                    Ok(None) | Err(_) => false,
                };
            if is_hidden || entry.role == Role::Successor {
                entry.role = match entry.role {
                    Role::Serves | Role::Leaves => Role::Empty,
                    other => other,
                };
                out.push(entry.id);
            }
        }
        let removed = self.remove(&out).map(drop);
        removed.and_then(|()| self.reprogram())
    }

    /// Whether sockets are in the group that this table does not know; else all is as it was.
    pub(crate) fn is_wary(&mut self, patience_is_over: bool) -> bool {
        let _ = self.sweep();
        let is_stranger = |role| role == Role::Stranger;
        let has_stranger = self.table.iter().any(|entry| is_stranger(entry.role));
        if self.wary && (!has_stranger || patience_is_over) {
            self.wary = false;
            let _ = self.reprogram();
        }
        self.wary
    }

    /// Nothing of the group is this process's to decide on any more.
    pub(crate) fn give_away(&mut self) {
        self.stage = Stage::GivenAway;
    }

    /// As [`give_away`](Self::give_away), and no descriptor of it is kept.
    pub(crate) fn forget(&mut self) {
        self.give_away();
        self.release_queue();
        let all: Vec<Id> = self.table.iter().map(|entry| entry.id).collect();
        for id in all {
            self.table.remove(id);
        }
    }

    /// As [`forget`](Self::forget); the listeners at which workers may still wait in the kernel.
    pub(crate) fn dismiss(&mut self) -> Vec<Arc<OwnedFd>> {
        let mut waited_for = Vec::new();
        // What ends the waiting would end the queue, which is the next process's too.
        let ends = self.kind == Kind::Tcp && !self.is_one_queue();
        let own = |role: Role| ends && role.is_own();
        for entry in self.table.iter_mut().filter(|entry| own(entry.role)) {
            if let Ok(Some(fd)) = entry.socket.open() {
                let is_listening = sys::is_listening(sys::borrow(&*fd)).unwrap_or(false);
                if is_listening && sys::is_blocking(sys::borrow(&*fd)) {
                    waited_for.push(fd);
                }
            }
        }
        self.forget();
        waited_for
    }

    /// Whether a worker of this process has a member open.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut own = self.table.iter_mut().filter(|entry| entry.role.is_own());
        let mut all = None;
        own.any(|entry| !entry.socket.is_closed(&mut all))
    }

    /// Whether a worker of this process waits in the kernel for a connection.
    pub(crate) fn is_blocking(&mut self) -> bool {
        let mut own = self.table.iter_mut().filter(|entry| entry.role.is_own());
        own.any(|entry| match entry.socket.open() {
            Ok(Some(fd)) => sys::is_blocking(sys::borrow(&*fd)),
            Ok(None) | Err(_) => false,
        })
    }

    /// The members of the predecessor, in the kernel's order, which serve until this group takes over.
    ///
    /// The numbers of the members that are to be added are less than `numbers`.
    pub(crate) fn succeed(
        &mut self,
        predecessors: Vec<(Option<usize>, bool, OwnedFd)>,
        numbers: usize,
        steering: &Steering,
    ) -> Result<(), Error> {
        self.stage = Stage::Before;
        self.numbers = numbers;
        self.check(steering)?;
        self.set_steering(steering);
        self.try_program()?;
        let mut unknown = Vec::new();
        for (number, exact, fd) in predecessors {
            let id = self.add_lent(number, Role::Predecessor, fd);
            unknown.extend((!exact).then_some(id));
        }
        self.scramble_these(&unknown);
        Ok(())
    }

    /// Whether the predecessor's members get everything.
    pub(crate) fn is_beside(&self) -> bool {
        self.stage == Stage::Before
    }

    /// From here on this generation gets what is new; false where none of its members is in the group any
    /// more. After an error the predecessor goes on.
    pub(crate) fn take_over(&mut self) -> Result<bool, Error> {
        self.sweep()?;
        if !self.table.iter().any(|entry| entry.role == Role::Serves) {
            return Ok(false);
        }
        self.stage = Stage::Ours;
        let programmed = self.program_strictly();
        programmed.inspect_err(|_| self.stage = Stage::Before)?;
        Ok(true)
    }

    /// The sockets that are not this generation's, each with a descriptor.
    pub(crate) fn predecessors(&mut self) -> Vec<(Id, Arc<OwnedFd>)> {
        let predecessors = self
            .table
            .iter_mut()
            .filter(|entry| entry.role == Role::Predecessor);
        let open = |entry: &mut super::table::Entry<super::sock::Sock>| {
            Some((entry.id, entry.socket.open().ok()??))
        };
        predecessors.filter_map(open).collect()
    }

    /// Whether so many processes came after each other that the next one waits until they have closed what
    /// they had.
    pub(crate) fn is_crowded(&self) -> bool {
        /// For each socket of this process, of which there may be none.
        const MOST: usize = 16;
        let count = |of: fn(Role) -> bool| {
            let entries = self.table.iter();
            entries.filter(|entry| of(entry.role)).count()
        };
        count(|role| role == Role::Predecessor) > MOST * count(Role::is_own).max(1)
    }

    /// Whether a worker of the predecessor may wait in the kernel for a connection.
    pub(crate) fn is_waited_for(&mut self) -> bool {
        let predecessors = self.predecessors();
        let mut fds = predecessors.iter().map(|(_, fd)| sys::borrow(&**fd));
        fds.any(sys::is_blocking)
    }

    /// How many spacers are needed before the predecessors can be removed.
    ///
    /// Where several of them stand in places that are not known, each that is removed would move a
    /// member of this generation into a place that is not known either. Spacers behind all others are
    /// moved instead.
    pub(crate) fn spacers(&self) -> usize {
        let has_spacers = self.table.iter().any(|entry| entry.role == Role::Spacer);
        match has_spacers {
            true => 0,
            false => self.table.iter().filter(|entry| !entry.exact).count(),
        }
    }

    /// Sockets that are to keep places, behind all others; they get nothing, now and later.
    pub(crate) fn add_spacers(&mut self, fds: Vec<OwnedFd>) {
        let ids: Vec<Id> = fds
            .into_iter()
            .map(|fd| self.add_lent(None, Role::Spacer, fd))
            .collect();
        // A UDP socket would leave its place by that.
        if self.kind == Kind::Tcp {
            self.hide(ids);
        }
    }

    /// With what another member is opened.
    pub(crate) fn options(&self) -> Options {
        self.options.clone()
    }

    /// Sockets in the group that neither generation has opened.
    pub(crate) fn has_stranger(&mut self) -> Result<bool, Error> {
        self.sweep()?;
        Ok(self.table.iter().any(|entry| entry.role == Role::Stranger))
    }

    /// This generation gives up: its members leave the group, behind the predecessor's.
    pub(crate) fn withdraw(&mut self) {
        // The one that was opened last goes last. The kernel finds a group of IPv4 by it (udp_lib_get_port,
        // udp4_lib_lookup2), and gives it the datagram for which it is about to ask the group when it
        // leaves: so that can happen once, and not for each.
        let is_apart = !self.is_one_queue();
        let own = |role: Role| is_apart && role.is_own();
        for entry in self.table.iter_mut().filter(|entry| own(entry.role)) {
            if let Ok(Some(fd)) = entry.socket.open() {
                sys::remove(self.kind, sys::borrow(&*fd));
            }
        }
        self.forget();
    }

    /// Whether a socket can be kept from being found without being closed.
    pub(crate) fn can_hide(&mut self) -> bool {
        // Of what is hidden already the kernel says no (sock_bindtoindex_locked).
        let mut entries = self.table.iter_mut();
        let via = entries.find_map(|entry| match entry.socket.hidden {
            true => None,
            false => entry.socket.open().ok()?,
        });
        via.is_some_and(|fd| sys::can_hide(sys::borrow(&*fd)))
    }

    /// What can be guaranteed to those who connect while the group passes on.
    pub(crate) fn passing_guarantee(&mut self) -> Guarantee {
        if self.is_one_queue() {
            return Guarantee::Lossless;
        }
        let can_hide = self.can_hide();
        let count = |role| self.table.iter().filter(|entry| entry.role == role).count();
        // One that comes to stand in the place of another, while there are more, leaves a gap of a system
        // call. Listeners are hidden beforehand.
        let has_gap = count(Role::Serves) == 1 && count(Role::Predecessor) > 1;
        match self.kind {
            _ if !can_hide => Guarantee::BestEffort,
            Kind::Tcp if !self.sees_all && !is_counted(&self.addr, None) => Guarantee::BestEffort,
            Kind::Udp if has_gap && !self.keeps_flows() => Guarantee::BestEffort,
            Kind::Tcp | Kind::Udp => Guarantee::Lossless,
        }
    }
}
