//! The kernel's program follows the table: it names those that get what is new, in their places.

use std::collections::HashSet;

use super::seating::Told;
use super::sock::Sock;
use super::state::{Stage, State};
use super::table::{Entry, Id, Role};
use crate::error::Error;
use crate::steering::{EVEN, NEWCOMER, Seat, Spread, Steering};
use crate::sys::{self, Dispatch};

impl State {
    /// Brings the kernel's program in line with the table.
    pub(crate) fn reprogram(&mut self) -> Result<(), Error> {
        self.program(&[], None, false)
    }

    /// As [`reprogram`](Self::reprogram), and an error where the steering cannot be had.
    pub(crate) fn program_strictly(&mut self) -> Result<(), Error> {
        self.program(&[], None, true)
    }

    /// Whether the kernel takes the caller's program, which is to be in force only later: it is tried on a socket that
    /// nothing reaches.
    pub(super) fn try_program(&self) -> Result<(), Error> {
        if self.steering.is_ours() {
            return Ok(());
        }
        let whole = true;
        let dispatch = self
            .steering
            .dispatch(self.kind, &[], whole, &[], false, 0.0)
            .map_err(|why| self.invalid(why))?;
        let tried = sys::try_dispatch(self.kind, &self.addr, &dispatch);
        tried.map_err(|error| self.refused(error))
    }

    /// Whether this process tells the kernel how to choose.
    pub(super) fn decides(&self) -> bool {
        let decides = matches!(self.stage, Stage::Ours | Stage::Lent);
        decides && (!self.is_stopping || self.has_servers())
    }

    /// What the loads leave a member of what is new; the same for all where they do not count.
    pub(super) fn load_share(&self, entry: &Entry<Sock>) -> u32 {
        match &self.loads {
            None => EVEN,
            Some(loads) => loads.get(&entry.id).copied().unwrap_or(NEWCOMER),
        }
    }

    /// Tells the kernel how to choose, without naming those that are `moved`; or only one, by the place
    /// in which it will stand.
    pub(super) fn program(
        &mut self,
        moved: &[Id],
        only: Option<usize>,
        strictly: bool,
    ) -> Result<(), Error> {
        let told = self.tell(moved, only, strictly);
        told.inspect_err(|_| self.told = Told::Perhaps)
    }

    fn tell(&mut self, moved: &[Id], only: Option<usize>, strictly: bool) -> Result<(), Error> {
        if !self.decides() || self.spread == Spread::Queue || !sys::support().steers {
            return Ok(());
        }
        // Without a member there is nothing to steer.
        let Some(via) = self.via()? else {
            return Ok(());
        };
        let via = sys::borrow(&*via);
        self.surprises += u64::from(!self.has_servers());
        let dispatched = match self.dispatch(moved, only) {
            Ok(dispatch) => sys::dispatch(via, &dispatch),
            Err(error) if strictly => return Err(error),
            // The hash would choose among the successor's members too.
            Err(_) if self.has_successors() && !self.is_stopping => return Ok(()),
            Err(_) => sys::dispatch(via, &Dispatch::Hash),
        };
        dispatched.map_err(|error| self.refused(error))?;
        self.told = Told::Other;
        Ok(())
    }

    pub(super) fn dispatch(
        &self,
        moved: &[Id],
        only: Option<usize>,
    ) -> Result<Dispatch<'_>, Error> {
        let invalid = |why| self.invalid(why);
        if let Some(place) = only {
            let seat = Seat {
                place,
                number: None,
                gets_new: true,
                apart: false,
                share: 1,
            };
            return Steering::Hash
                .dispatch(self.kind, &[seat], false, &[], false, 0.0)
                .map_err(invalid);
        }
        // Where all are leaving, they get what is new until the last has left.
        let has_servers = self.has_servers();
        let gets = |entry: &Entry<Sock>| match has_servers {
            true => self.gets_new(entry.role),
            false => entry.role == Role::Leaves,
        };
        let is_whole = |entry: &Entry<Sock>| gets(entry) || entry.role == Role::Stranger;
        let whole = self.stage == Stage::Ours
            && !self.wary
            && !(self.clients.are_apart && self.steering.is_ours())
            && moved.is_empty()
            && self.table.iter().all(is_whole);
        let unknown = || self.table.iter().filter(|entry| !entry.exact);
        // Members that stand anywhere in certain places can be named together, if they are alike.
        let needs_numbers = self.steering.needs_numbers();
        let together = !needs_numbers && unknown().all(gets);
        let apart = |entry: &Entry<Sock>| {
            let is_open = !self.omitted.contains(&entry.id);
            entry.role == Role::Successor && is_open && !gets(entry) && self.part() > 0.0
        };
        // A successor has flows only when it has had a part.
        let number = |entry: &Entry<Sock>| {
            let is_tried = entry.role != Role::Successor || self.part.is_some();
            entry.number.filter(|_| is_tried)
        };
        let named = |entry: &Entry<Sock>| {
            gets(entry) || apart(entry) || self.steering.keeps_flows() && number(entry).is_some()
        };
        if !whole && !together && unknown().any(named) || needs_numbers && unknown().any(named) {
            return Err(self.disordered());
        }
        // Where it is not known who stands where, all get the same.
        let by_load = self.loads.is_some() && !unknown().any(gets);
        let moved: HashSet<Id> = moved.iter().copied().collect();
        let seat = |(place, entry): (usize, &Entry<Sock>)| {
            let stands = !moved.contains(&entry.id);
            Seat {
                place,
                number: number(entry).filter(|_| entry.exact && stands),
                gets_new: stands && gets(entry),
                apart: stands && apart(entry),
                share: match by_load {
                    true => self.load_share(entry),
                    false => EVEN,
                },
            }
        };
        let seats: Vec<_> = self.table.iter().enumerate().map(seat).collect();
        self.steering
            .dispatch(
                self.kind,
                &seats,
                whole,
                &self.cpus,
                self.loads.is_some(),
                self.part(),
            )
            .map_err(invalid)
    }
}
