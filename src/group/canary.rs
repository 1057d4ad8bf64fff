//! The part of what is new that the next process gets before it takes over: see
//! [`Generation::take_share`](crate::Generation::take_share).

use std::io;

use super::sock::{check_addr, is_in_group};
use super::state::{Stage, State};
use super::table::{Id, Role};
use crate::error::Error;
use crate::sys::{self, Kind, OwnedFd};
use crate::trace::Event;

impl State {
    /// The members of the successor, behind all others; with the numbers that stand in their datagrams, if any do.
    pub(crate) fn add_successors(
        &mut self,
        fds: Vec<OwnedFd>,
        numbers: &[usize],
    ) -> io::Result<()> {
        let broken = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        for fd in &fds {
            check_addr(fd, self.addr)?;
            if !is_in_group(self.kind, sys::borrow(fd)) {
                return broken("a socket does not listen");
            }
        }
        let is_taken = |number: &usize| {
            let mut all = self.table.iter();
            all.any(|entry| entry.number == Some(*number))
        };
        if self.keeps_flows() && numbers.iter().any(is_taken) {
            return broken("a member has the number of another");
        }
        for (at, fd) in fds.into_iter().enumerate() {
            let number = numbers.get(at).copied().filter(|_| self.keeps_flows());
            self.add_lent(number, Role::Successor, fd);
        }
        if self.is_stopping {
            // They get what is new, as nothing else does.
            self.reprogram().map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// What the successor gets of what is new.
    pub(crate) fn part(&self) -> f64 {
        match self.is_stopping {
            // Nothing else gets anything.
            true if self.has_servers() => 1.0,
            true | false => self.part.unwrap_or(0.0),
        }
    }

    /// Gives the successor that part of what is new; nothing also where the group cannot be looked at.
    pub(crate) fn give_part(&mut self, part: f64) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&part) {
            return Err(self.invalid(format!("{part} is no part between 0 and 1")));
        }
        let swept = self.sweep();
        if part > 0.0 {
            swept?;
            if !self.has_successors() {
                return Err(self.invalid("none of the next process's members is in the group"));
            }
        }
        let before = self.part.replace(part);
        let programmed = self.program_strictly();
        // It may have had it, also where that is not known.
        programmed.inspect_err(|_| self.part = before.or(Some(0.0)))?;
        self.events.push(Event::shared(self.addr, part));
        Ok(())
    }

    /// Gives nothing new to those of the successor's members, counted in the order in which they came.
    pub(crate) fn omit(&mut self, gone: &[usize]) -> Result<(), Error> {
        let ids = self.in_order(|role| role == Role::Successor);
        self.omitted = gone.iter().filter_map(|at| ids.get(*at).copied()).collect();
        self.reprogram()
    }

    /// Which members of this process its workers have closed, counted in the order in which they were opened.
    pub(crate) fn closed_own(&mut self) -> Vec<usize> {
        let own = self.in_order(Role::is_own);
        let closed = self.closed(own.iter().copied());
        let places = own.iter().enumerate();
        places
            .filter_map(|(at, id)| closed.contains(id).then_some(at))
            .collect()
    }

    /// Gives nothing new to members of this process that its workers have closed, and that stay in the group because
    /// the successor has descriptors of them.
    pub(crate) fn forgo_closed(&mut self) -> Result<(), Error> {
        let serving = self.in_order(|role| role == Role::Serves);
        let closed = self.closed(serving);
        for id in &closed {
            if let Some(entry) = self.table.get_mut(*id) {
                (entry.role, entry.number) = (Role::Empty, None);
            }
        }
        match closed.is_empty() {
            true => Ok(()),
            false => self.reprogram(),
        }
    }

    /// The sockets of these roles in the order in which they came: some may have been moved into other places since.
    fn in_order(&self, which: impl Fn(Role) -> bool) -> Vec<Id> {
        let these = self.table.iter().filter(|entry| which(entry.role));
        let mut ids: Vec<Id> = these.map(|entry| entry.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether members of a successor stand in the group.
    pub(crate) fn has_successors(&self) -> bool {
        self.table.iter().any(|entry| entry.role == Role::Successor)
    }

    /// The successor is gone, and this process decides again: what arrives finds none of its members any more, from
    /// the moment on at which no processor is still at a packet of before. Whether there were listeners.
    pub(super) fn recall(&mut self) -> Result<bool, Error> {
        self.stage = Stage::Ours;
        // It may have sockets in the group that this process was not told of.
        self.wary = true;
        self.part = None;
        self.omitted.clear();
        let reprogrammed = self.reprogram();
        let is_any = self.hide_these(|role| role == Role::Successor);
        reprogrammed.map(|()| is_any)
    }

    /// What arrives finds none of the members of this process any more; whether there are any to which that applies.
    pub(super) fn hide_own(&mut self) -> bool {
        !self.is_one_queue() && self.hide_these(Role::is_own)
    }

    /// UDP sockets are not hidden, because what is hidden cannot answer.
    fn hide_these(&mut self, which: impl Fn(Role) -> bool) -> bool {
        let ids = self.in_order(which);
        let is_any = self.kind == Kind::Tcp && !ids.is_empty();
        if is_any {
            self.hide(ids);
        }
        is_any
    }
}
