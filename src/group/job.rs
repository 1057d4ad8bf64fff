//! A member that is leaving: how far it is, and what its future is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::count::Remains;
use super::guarantee::{Drained, Guarantee};
use super::signal::Signal;
use super::table::Id;
use crate::error::Error;
use crate::sys;

/// A member that is leaving.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Id,
    pub(super) guarantee: Guarantee,
    pub(super) remains: Option<Remains>,
    pub(super) step: Step,
    /// Since when it gets nothing new: see [`State::calm`](super::state::State::calm).
    pub(super) calm: Option<u64>,
    pub(super) told: Arc<Outcome>,
}

/// What was so when it was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) drained: Drained,
    /// It is still so where this is; none where nothing changes it.
    pub(super) calm: Option<u64>,
}

/// What a future that waits for a member shares with the thread.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) drained: Signal<Result<Told, Error>>,
    /// None: for ever.
    until: Mutex<Option<Instant>>,
    /// What was told was true no more when it was heard.
    is_again: AtomicBool,
    /// The member stays, and may be leaving again by now.
    is_dropped: AtomicBool,
}

impl Outcome {
    pub(super) fn new() -> Self {
        Self {
            drained: Signal::new(),
            until: Mutex::new(None),
            is_again: AtomicBool::new(false),
            is_dropped: AtomicBool::new(false),
        }
    }

    /// What is done for this one is done no more.
    pub(super) fn drop_job(&self) {
        self.is_dropped.store(true, Ordering::SeqCst);
    }

    /// What was told is not so any more.
    pub(super) fn count_again(&self) {
        self.is_again.store(true, Ordering::SeqCst);
    }

    /// Whether that was said since it was last asked.
    pub(super) fn is_counted_again(&self) -> bool {
        self.is_again.swap(false, Ordering::SeqCst)
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.is_dropped.load(Ordering::SeqCst)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        *self.until()
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time after which what is left is lost; a time that no clock reaches is none.
    pub(super) fn end_after(&self, timeout: Duration) {
        *self.until() = Instant::now().checked_add(timeout);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It gets what is new until another joins, as no other is left.
    Waits,
    /// A processor may still use a program that names it.
    Starts,
    /// What it has is counted.
    Counts,
    /// Its future is told that nothing more comes: the member has left when the future is heard, and
    /// stays when it is dropped.
    Told,
    /// It has left, and is hidden; a processor may still be at a packet for it.
    Hides,
    /// It has left, and is in the group until its owner closes it.
    Left,
    Done,
}

impl Job {
    pub(super) fn new(
        id: Id,
        guarantee: Guarantee,
        remains: Remains,
        step: Step,
        told: &Arc<Outcome>,
    ) -> Self {
        Self {
            id,
            guarantee,
            remains: Some(remains),
            step,
            calm: None,
            told: Arc::clone(told),
        }
    }

    /// How its worker has to be told that it has left.
    pub(super) fn is_blocking(&self) -> bool {
        self.remains
            .as_ref()
            .is_some_and(|remains| sys::is_blocking(remains.fd()))
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.told.deadline().is_some_and(|deadline| now >= deadline)
    }

    pub(super) fn tell(&mut self, drained: Result<Drained, Error>, calm: Option<u64>) {
        self.step = Step::Told;
        let told = drained.map(|drained| Told { drained, calm });
        self.told.drained.put(told);
    }

    /// Begins anew where it has got something new since, as no other was left.
    pub(super) fn watch(&mut self, calm: Option<u64>) {
        if calm.is_none() {
            self.step = Step::Waits;
        } else if self.step == Step::Waits || self.calm != calm {
            self.step = Step::Starts;
            let remains = self.remains.as_mut();
            remains.into_iter().for_each(Remains::restart);
        }
        self.calm = calm;
    }
}
