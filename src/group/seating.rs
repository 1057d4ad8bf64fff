//! A program that chooses each member by the loads as they are: which members it has, and what it is told.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use super::cell::{Cell, Lent, Seat};
use super::sock::Sock;
use super::state::{Stage, State};
use super::table::{Entry, Id, Role};
use crate::error::Error;
use crate::steering::{Spread, Steering};
use crate::sys::slot::{MOST, Slot};
use crate::sys::{self, Board, Dispatch, Kind};

/// So often is a refusal taken for one that passes.
const TRIES: u32 = 3;

/// Whether a group has such a program.
#[derive(Debug, Default)]
pub(super) enum Boarding {
    #[default]
    Untried,
    Refused,
    Open(Seating),
}

/// Which program the kernel was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Another than this one, or none.
    Other,
    This,
    /// Either, or what another process has told it.
    Perhaps,
}

#[derive(Debug)]
pub(super) struct Seating {
    board: Arc<Board>,
    /// Whose the slots are; they are free when no handle has the cell.
    cells: Vec<Weak<Cell>>,
    /// The members whose sockets the board has.
    seated: BTreeMap<Id, usize>,
    /// What each slot gets.
    shares: Vec<u32>,
    /// For each slot, what was given and taken just before the queues were read.
    marks: Vec<(u32, u32)>,
    refusals: u32,
}

impl State {
    /// Where the worker of a member publishes its load: in memory that the program sees, if it can be, or in that
    /// which another process has too.
    pub(super) fn new_cell(&mut self, lent: Option<Lent>) -> Arc<Cell> {
        self.try_boarding();
        match &mut self.boarding {
            Boarding::Open(seating) => seating.cell(lent),
            Boarding::Untried | Boarding::Refused => Arc::new(Cell::new(lent, None)),
        }
    }

    /// Loads the program if that was not tried, or there was no room for it.
    fn try_boarding(&mut self) {
        if !matches!(self.boarding, Boarding::Untried) {
            return;
        }
        let board = self.can_be_seated().then(Board::open);
        self.boarding = match board {
            Some(Ok(board)) => Boarding::Open(Seating::new(board)),
            Some(Err(error)) if sys::resource_reason(&error).is_some() => Boarding::Untried,
            Some(Err(_)) | None => Boarding::Refused,
        };
    }

    fn can_be_seated(&self) -> bool {
        self.kind == Kind::Tcp && self.spread == Spread::Kernel && sys::support().steers
    }

    /// Whether the program can choose among the members: all of the group's sockets are members that serve, and
    /// nothing but loads and weights decides.
    pub(super) fn is_settled(&mut self) -> bool {
        let is_plain = matches!(self.steering, Steering::Hash | Steering::Weights(_));
        let is_calm = self.stage == Stage::Ours && !self.wary && !self.is_stopping;
        let serves = self.table.iter().all(|entry| entry.role == Role::Serves);
        if !is_plain || !is_calm || !serves || self.table.len() < 2 {
            return false;
        }
        self.try_boarding();
        if !matches!(self.boarding, Boarding::Open(_)) {
            return false;
        }
        let without = |entry: &&Entry<Sock>| entry.socket.load.is_none();
        let without = self.table.iter().filter(without);
        let ids: Vec<Id> = without.map(|entry| entry.id).collect();
        for id in ids {
            let cell = self.new_cell(None);
            self.set_cell(id, &cell);
        }
        let mut all = self.table.iter();
        all.all(|entry| place(&entry.socket).is_some())
    }

    /// Just before the queues are read.
    pub(super) fn mark(&mut self) {
        let cells = self.table.iter().map(|entry| &entry.socket.load);
        cells.flatten().for_each(|cell| cell.copy());
        if let Boarding::Open(seating) = &mut self.boarding {
            seating.mark();
        }
    }

    /// What was given to a member and is neither taken nor waits has come to nothing.
    pub(super) fn settle_accounts(&self, queues: &HashMap<u64, u32>) {
        let Boarding::Open(seating) = &self.boarding else {
            return;
        };
        for entry in self.table.iter() {
            let place = place(&entry.socket);
            let waiting = entry.socket.inode.and_then(|inode| queues.get(&inode));
            if let (Some(place), Some(waiting)) = (place, waiting) {
                let is_new = self.told != Told::This;
                let is_copied = |cell: &Arc<Cell>| cell.is_copied();
                if is_new || entry.socket.load.as_ref().is_some_and(is_copied) {
                    seating.settle_account(place, *waiting, is_new);
                }
            }
        }
    }

    /// Has the program choose by these shares; whether it was attached for that.
    pub(super) fn seat(&mut self, shares: &BTreeMap<Id, u32>) -> Result<bool, Error> {
        let seated = self.try_seat(shares);
        // What the process or the system has no room for may be had later.
        let is_for_want = |error: &Error| sys::resource_reason(error.io_error()).is_some();
        let is_refused = seated.as_ref().is_err_and(|error| !is_for_want(error));
        if let (true, Boarding::Open(seating)) = (is_refused, &mut self.boarding) {
            seating.refusals += 1;
            if seating.refusals == TRIES {
                self.boarding = Boarding::Refused;
            }
        }
        seated
    }

    fn try_seat(&mut self, shares: &BTreeMap<Id, u32>) -> Result<bool, Error> {
        let Boarding::Open(seating) = &mut self.boarding else {
            return Err(self.disordered());
        };
        let table = &self.table;
        seating.leave(|id| table.get(id).is_some());
        let mut refused = None;
        let mut wanted = Vec::new();
        for entry in self.table.iter_mut() {
            let Some(place) = place(&entry.socket) else {
                continue;
            };
            let weight = u64::from(self.steering.weight(entry.number));
            let share = u64::from(shares.get(&entry.id).copied().unwrap_or(0));
            wanted.push((place, weight * share));
            if seating.seated.get(&entry.id) == Some(&place) {
                continue;
            }
            let seated = match entry.socket.open() {
                Ok(Some(fd)) => seating.seat(entry.id, place, sys::borrow(&*fd)),
                Ok(None) => Err(io::ErrorKind::NotConnected.into()),
                Err(error) => Err(error),
            };
            refused = refused.or(seated.err());
        }
        if let Some(error) = refused {
            return Err(self.refused(error));
        }
        seating.share(&wanted);
        seating.refusals = 0;
        if self.told == Told::This {
            return Ok(false);
        }
        let board = Arc::clone(&seating.board);
        let Some(via) = self.via()? else {
            return Err(self.disordered());
        };
        let dispatched = sys::dispatch(sys::borrow(&*via), &Dispatch::Ebpf(board.program()));
        dispatched.map_err(|error| self.refused(error))?;
        self.told = Told::This;
        Ok(true)
    }
}

impl Seating {
    fn new(board: Board) -> Self {
        Self {
            board: Arc::new(board),
            cells: Vec::new(),
            seated: BTreeMap::new(),
            shares: Vec::new(),
            marks: Vec::new(),
            refusals: 0,
        }
    }

    /// Seen by the program unless all slots are taken.
    fn cell(&mut self, lent: Option<Lent>) -> Arc<Cell> {
        let is_free = |cell: &Weak<Cell>| cell.strong_count() == 0;
        let place = self
            .cells
            .iter()
            .position(is_free)
            .unwrap_or(self.cells.len());
        if place >= Board::SLOTS {
            return Arc::new(Cell::new(lent, None));
        }
        // Who had it before must not be chosen by it.
        let before = self.seated.iter().find(|(_, at)| **at == place);
        if let Some(id) = before.map(|(id, _)| *id) {
            self.unseat(id);
        }
        let seat = Seat(Arc::clone(&self.board), place);
        let cell = Arc::new(Cell::new(lent, Some(seat)));
        let weak = Arc::downgrade(&cell);
        match self.cells.get_mut(place) {
            Some(cell) => *cell = weak,
            None => self.cells.push(weak),
        }
        cell
    }

    fn seat(&mut self, id: Id, place: usize, fd: sys::BorrowedFd<'_>) -> io::Result<()> {
        self.unseat(id);
        self.board.seat(place, fd)?;
        self.seated.insert(id, place);
        Ok(())
    }

    fn unseat(&mut self, id: Id) {
        if let Some(place) = self.seated.remove(&id) {
            self.board.unseat(place);
        }
    }

    /// Those that are in the group no more are not chosen.
    fn leave(&mut self, is_there: impl Fn(Id) -> bool) {
        let gone = self.seated.keys().copied().filter(|id| !is_there(*id));
        for id in gone.collect::<Vec<_>>() {
            self.unseat(id);
        }
    }

    /// Tells the program, where that has changed.
    fn share(&mut self, wanted: &[(usize, u64)]) {
        let most = wanted.iter().map(|(_, share)| *share).max().unwrap_or(0);
        let mut shares = vec![0; self.cells.len()];
        for &(place, share) in wanted {
            let part = u128::from(share) * u128::from(MOST) / u128::from(most.max(1));
            let is_out = share == 0 && most > 0;
            shares[place] = if is_out { 0 } else { (part as u32).max(1) };
        }
        if shares != self.shares {
            self.board.share(&shares);
            self.shares = shares;
        }
    }

    fn mark(&mut self) {
        self.marks.clear();
        let slots = (0..self.cells.len()).map(|place| self.board.slot(place));
        self.marks.extend(slots.map(counts));
    }

    fn settle_account(&self, place: usize, waiting: u32, is_new: bool) {
        let slot = self.board.slot(place);
        let (given, taken) = counts(slot);
        // If something has come or was accepted meanwhile, it is not known whether it was counted.
        if is_new || self.marks.get(place) == Some(&(given, taken)) {
            let base = given.wrapping_sub(taken).wrapping_sub(waiting);
            slot.base.store(base, Relaxed);
        }
    }
}

/// The slot in which its worker publishes.
fn place(sock: &Sock) -> Option<usize> {
    sock.load.as_ref().and_then(|cell| cell.place())
}

fn counts(slot: &Slot) -> (u32, u32) {
    (slot.given.load(Relaxed), slot.taken.load(Relaxed))
}
