//! Where one member's worker publishes its load: in this process's memory, in memory that the kernel's program sees,
//! or in memory that another process has too.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::sys::slot::Slot;
use crate::sys::{self, Board, OwnedFd, Page};

#[derive(Debug)]
pub(super) struct Cell(Place);

#[derive(Debug)]
enum Place {
    Own(Box<Slot>),
    /// Where the kernel's program sees it.
    Seen(Seat),
    /// Where another process publishes. What the kernel's program sees is a copy.
    Lent(Lent, Option<Seat>),
    /// The other end of that.
    Adopted(Page),
}

/// A slot of a board, which no other member has.
#[derive(Debug)]
pub(super) struct Seat(pub(super) Arc<Board>, pub(super) usize);

/// Memory that another process can have, and the descriptor by which it gets it.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) page: Page,
    pub(super) fd: OwnedFd,
}

impl Seat {
    fn slot(&self) -> &Slot {
        self.0.slot(self.1)
    }
}

impl Cell {
    pub(super) fn new(lent: Option<Lent>, seat: Option<Seat>) -> Self {
        if let Some(seat) = &seat {
            let slot = seat.slot();
            slot.set.store(0, Relaxed);
            for count in [&slot.held, &slot.taken, &slot.given, &slot.base] {
                count.store(0, Relaxed);
            }
        }
        Self(match (lent, seat) {
            (Some(lent), seat) => Place::Lent(lent, seat),
            (None, Some(seat)) => Place::Seen(seat),
            (None, None) => Place::Own(Box::default()),
        })
    }

    /// Begins anew: what a process published that had it before counts no more.
    pub(super) fn adopt(page: Page) -> Self {
        page.slot().clear();
        Self(Place::Adopted(page))
    }

    pub(super) fn slot(&self) -> &Slot {
        match &self.0 {
            Place::Own(slot) => slot,
            Place::Seen(seat) => seat.slot(),
            Place::Lent(Lent { page, .. }, _) | Place::Adopted(page) => page.slot(),
        }
    }

    /// One less is held, if it was held in that era and by this process.
    pub(super) fn release(&self, era: u32, age: u32) {
        // This memory was copied when the process was forked, and the others were not.
        let is_copied = matches!(self.0, Place::Own(_));
        if is_copied || age == sys::fork::age() {
            self.slot().release(era);
        }
    }

    fn seat(&self) -> Option<&Seat> {
        match &self.0 {
            Place::Seen(seat) => Some(seat),
            Place::Lent(_, seat) => seat.as_ref(),
            Place::Own(_) | Place::Adopted(_) => None,
        }
    }

    /// The number of its slot, where it has one that the kernel's program sees.
    pub(super) fn place(&self) -> Option<usize> {
        self.seat().map(|seat| seat.1)
    }

    /// By what another process gets it, if it is lent.
    pub(super) fn lent(&self) -> Option<&OwnedFd> {
        match &self.0 {
            Place::Lent(lent, _) => Some(&lent.fd),
            Place::Own(_) | Place::Seen(_) | Place::Adopted(_) => None,
        }
    }

    /// Shows the kernel's program what another process has published.
    pub(super) fn copy(&self) {
        let Place::Lent(lent, Some(seat)) = &self.0 else {
            return;
        };
        let (from, to) = (lent.page.slot(), seat.slot());
        to.set.store(from.set.load(Relaxed), Relaxed);
        to.held.store(from.held(), Relaxed);
        to.taken.store(from.taken.load(Relaxed), Relaxed);
    }

    /// Whether nothing was accepted since it was [copied](Self::copy).
    pub(super) fn is_copied(&self) -> bool {
        let seen = self.seat().map(|seat| seat.slot().taken.load(Relaxed));
        seen.is_none_or(|seen| seen == self.taken())
    }

    pub(super) fn load(&self) -> usize {
        let (held, set) = self.held_and_set();
        set.saturating_add(held as usize)
    }

    /// How many connections are held, and what is set besides.
    pub(super) fn held_and_set(&self) -> (u32, usize) {
        let slot = self.slot();
        (slot.held(), slot.set.load(Relaxed))
    }

    /// A number that changes whenever a connection is held.
    pub(super) fn taken(&self) -> u32 {
        self.slot().taken.load(Relaxed)
    }
}
