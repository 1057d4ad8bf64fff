//! A step of balancing, under the group's lock: what is seen of the members becomes the program's weights.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::cell::{Cell, Lent};
use super::load::Load;
use super::seating::Told;
use super::sock::Sock;
use super::state::State;
use super::table::{Entry, Id, Role};
use crate::error::Error;
use crate::steering::{Policy, Seen, Spread, Steering, is_even};
use crate::sys::{self, Kind, OwnedFd, Page, Weak};
use crate::trace::Event;

/// What a step has done.
#[derive(Debug, Default)]
pub(super) struct Stepped {
    /// The numbers of the members that are stuck.
    pub(super) stuck: Vec<usize>,
    /// Whether a program was attached.
    pub(super) attached: bool,
    /// Whether this process decides on the group.
    pub(super) decides: bool,
    /// Whether the kernel's program sees the loads as they are.
    pub(super) sees_loads: bool,
}

impl State {
    fn cannot_balance(&self, why: impl Into<String>) -> Error {
        let what = format!("cannot balance the group on {}", self.addr);
        Error::invalid(what, why.into()).at(self.addr)
    }

    /// Refuses a steering under which the loads cannot be seen to, where they are.
    pub(super) fn check_balanced(&self, steering: &Steering) -> Result<(), Error> {
        match steering.cannot_balance(self.kind) {
            Some(why) if self.loads.is_some() => {
                Err(self.invalid(format!("it is balanced by load, and {why}")))
            }
            _ => Ok(()),
        }
    }

    /// From here on the members' loads count.
    pub(super) fn begin_balancing(&mut self) -> Result<(), Error> {
        if !sys::support().steers {
            let what = format!("cannot balance the group on {}", self.addr);
            return Err(Error::system(what, sys::cannot_steer()).at(self.addr));
        }
        if self.loads.is_some() {
            return Err(self.cannot_balance("another Balancer does"));
        }
        if self.spread == Spread::Queue {
            return Err(
                self.cannot_balance("its members have one queue together, and nothing to choose")
            );
        }
        if let Some(why) = self.steering.cannot_balance(self.kind) {
            return Err(self.cannot_balance(why));
        }
        self.loads = Some(BTreeMap::new());
        Ok(())
    }

    /// The loads count no more.
    pub(super) fn end_balancing(&mut self) -> Result<(), Error> {
        let before = self.weights();
        self.loads = None;
        let is_told = self.told == Told::Other;
        match is_told && before == self.weights() && self.kind == Kind::Tcp {
            true => Ok(()),
            false => self.reprogram(),
        }
    }

    /// What the worker of a member publishes.
    pub(super) fn load(&mut self, number: usize) -> Result<Load, Error> {
        sys::fork::prepare();
        let own = self.table.numbered(number);
        match own.map(|entry| (entry.id, entry.socket.load.clone())) {
            Some((_, Some(cell))) => Ok(Load(cell)),
            Some((id, None)) => {
                let cell = self.new_cell(None);
                self.set_cell(id, &cell);
                Ok(Load(cell))
            }
            None => {
                let what = format!("there is no load to publish in the group on {}", self.addr);
                Err(Error::invalid(what, format!("it has no member {number}")).at(self.addr))
            }
        }
    }

    /// A descriptor of what the worker of a member publishes into, for another process.
    pub(super) fn lend_load(&mut self, number: usize) -> Result<OwnedFd, Error> {
        let what = format!(
            "cannot lend the load of member {number} of the group on {}",
            self.addr
        );
        let refused = |error| {
            let why = sys::resource_reason(&error);
            Error::system(what.clone(), error).at(self.addr).why(why)
        };
        let invalid = |why: &str| Err(Error::invalid(what.clone(), why.to_owned()).at(self.addr));
        let Some(entry) = self.table.numbered(number) else {
            return invalid("the group has no such member");
        };
        let (id, cell) = (entry.id, entry.socket.load.as_ref());
        if let Some(fd) = cell.and_then(|cell| cell.lent()) {
            return sys::borrow(fd).try_clone_to_owned().map_err(refused);
        }
        // One that a step has made no worker has.
        if cell.is_some_and(|cell| Arc::strong_count(cell) > 1) {
            return invalid("a Load of it was handed out, by which this process publishes");
        }
        let (page, fd) = Page::open().map_err(refused)?;
        let lent = sys::borrow(&fd).try_clone_to_owned().map_err(refused)?;
        // The slot that it had is free for it.
        if let Some(entry) = self.table.get_mut(id) {
            entry.socket.load = None;
        }
        let cell = self.new_cell(Some(Lent { page, fd }));
        self.set_cell(id, &cell);
        // The program does not know its new slot.
        self.doubt();
        Ok(lent)
    }

    pub(super) fn set_cell(&mut self, id: Id, cell: &Arc<Cell>) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.socket.load = Some(Arc::clone(cell));
        }
    }

    /// Puts the members whose queues are to be read into the list: none of them where one of them has no
    /// descriptor here that it can be read by.
    ///
    /// False where nothing is to be read, as another process decides.
    pub(super) fn watch(&mut self, members: &mut Vec<Weak>) -> bool {
        members.clear();
        for entry in self.serving() {
            let Some(weak) = entry.socket.weak() else {
                members.clear();
                break;
            };
            members.push(weak.clone());
        }
        self.mark();
        self.decides()
    }

    /// Those that get what is new by their loads.
    fn serving(&self) -> impl Iterator<Item = &Entry<Sock>> {
        let serves = |role| role == Role::Serves && self.gets_new(role);
        self.table.iter().filter(move |entry| serves(entry.role))
    }

    /// Sees to the loads: `queues` is what the kernel has for each inode on the port, or only for members.
    pub(super) fn balance(
        &mut self,
        policy: &mut Policy<Id>,
        now: Duration,
        queues: &HashMap<u64, u32>,
        are_all: bool,
        by_ebpf: bool,
    ) -> Result<Stepped, Error> {
        if !self.decides() {
            return Ok(Stepped::default());
        }
        let is_seen = |inode: Option<u64>| inode.is_some_and(|inode| queues.contains_key(&inode));
        // One that is not seen may have left without a word.
        if are_all && !self.table.iter().all(|entry| is_seen(entry.socket.inode)) {
            self.sweep()?;
        }
        let by_ebpf = by_ebpf && self.is_settled();
        self.settle_accounts(queues);
        let is_told = match by_ebpf {
            true => self.told == Told::This,
            false => self.told == Told::Other,
        };
        // They are none at first, and after members were lent.
        let is_first = self.loads.as_ref().is_some_and(BTreeMap::is_empty);
        if is_told && !is_first && policy.rests(self.seen(queues, by_ebpf)) {
            return Ok(Stepped {
                decides: true,
                sees_loads: by_ebpf,
                ..Stepped::default()
            });
        }
        let seen: Vec<_> = self.seen(queues, by_ebpf).collect();
        // Of those that were watched all may have been replaced since.
        if are_all && !seen.is_empty() && seen.iter().all(|seen| seen.queue.is_none()) {
            let why = "none of its queues is seen: this thread is in another network namespace, or \
                       the system does not tell";
            return Err(self.cannot_balance(why));
        }
        let decision = policy.step(now, &seen);
        let mut shares = decision.shares;
        for (id, waiting) in decision.stuck {
            if let Some(number) = self.number_of(id) {
                let event = Event::stuck(self.addr, number, waiting);
                self.events.push(event);
            }
        }
        for id in decision.back {
            if let Some(number) = self.number_of(id) {
                self.events.push(Event::accepts_again(self.addr, number));
            }
        }
        let stuck = policy.stuck().filter_map(|id| self.number_of(id)).collect();
        let done = |attached, sees_loads| Stepped {
            stuck,
            attached,
            decides: true,
            sees_loads,
        };
        if by_ebpf {
            if let Ok(attached) = self.seat(&shares) {
                self.loads = Some(shares);
                return Ok(done(attached, true));
            }
            // What it would have seen counts for the other.
            let seen: Vec<_> = self.seen(queues, false).collect();
            shares = policy.step(now, &seen).shares;
            policy.stir();
        }
        let before = self.weights();
        let loads = self.loads.replace(shares);
        let after = self.weights();
        let is_known = self.serving().all(|entry| entry.exact);
        if !is_even(after.iter().copied()) && !is_known {
            self.loads = loads;
            policy.stir();
            // All get the same then, and not what another process has told.
            if self.told != Told::Other {
                self.program_strictly()?;
            }
            return Err(self.disordered());
        }
        // Of UDP the hash is replaced by slots, which move no flow later but those of a member whose share
        // changes.
        let is_other = self.told != Told::Other;
        let begins = is_first && self.kind == Kind::Udp && !after.is_empty();
        if !is_other && before == after && !begins {
            return Ok(done(false, false));
        }
        self.told = Told::Perhaps;
        self.program_strictly().inspect_err(|_| {
            self.loads = loads;
            policy.stir();
        })?;
        let attached = self.told == Told::Other;
        // Where no member was left there was nothing to tell.
        self.told = Told::Other;
        Ok(done(attached, false))
    }

    /// What is seen of those that get what is new; without their loads, where the kernel's program sees those.
    fn seen(&self, queues: &HashMap<u64, u32>, by_ebpf: bool) -> impl Iterator<Item = Seen<Id>> {
        self.serving().map(move |entry| {
            let queue = entry.socket.inode.and_then(|inode| queues.get(&inode));
            let cell = &entry.socket.load;
            let held = (!by_ebpf).then(|| cell.as_deref().map_or((0, 0), Cell::held_and_set));
            Seen {
                key: entry.id,
                queue: queue.copied(),
                load: held.map_or(0, |(held, set)| set.saturating_add(held as usize)),
                held: held.map(|(held, _)| held),
                taken: cell.as_deref().map_or(0, Cell::taken),
                weight: self.steering.weight(entry.number),
            }
        })
    }

    fn number_of(&self, id: Id) -> Option<usize> {
        self.table.get(id).and_then(|entry| entry.number)
    }

    /// What the program makes of the loads; even ones are all the same to it.
    fn weights(&self) -> Vec<u32> {
        let share = |entry| self.load_share(entry);
        let mut weights: Vec<u32> = self.serving().map(share).collect();
        if is_even(weights.iter().copied()) {
            weights.fill(1);
        }
        weights
    }
}
