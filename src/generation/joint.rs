//! Addresses that are taken over together: each is ready before the first one's predecessor hears that it is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::core::{Command, Core};
use super::driver::MESSAGE;
use super::wire::{self, Word};
use crate::error::Error;
use crate::sys::OwnedFd;

/// What the generations of several addresses know of each other.
#[derive(Debug)]
pub(super) struct Joint {
    cores: Vec<Weak<Core>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of each address, whether its predecessor has nothing left; or it has none any more.
    ready: Vec<bool>,
    /// Where the predecessors hear it that are still there.
    lines: Vec<Option<Arc<OwnedFd>>>,
    /// Whether all have been told.
    told: bool,
    failed: Option<Failure>,
}

/// Why the others go back too.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether one of them cannot take over any more, so that none does.
    pub(super) for_good: bool,
}

impl Joint {
    /// Of those there is more than one.
    pub(super) fn of(cores: &[Arc<Core>]) {
        let joint = Arc::new(Self {
            cores: cores.iter().map(Arc::downgrade).collect(),
            state: Mutex::new(State {
                ready: cores
                    .iter()
                    .map(|core| core.predecessor.is_none())
                    .collect(),
                lines: vec![None; cores.len()],
                told: false,
                failed: None,
            }),
        });
        for (at, core) in cores.iter().enumerate() {
            // Before any of them takes over; it is set once.
            let _ = core.joint.set((at, Arc::clone(&joint)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That one is to take over again, after a takeover that was refused.
    pub(super) fn begin(&self, at: usize) {
        let mut state = self.state();
        if state
            .failed
            .as_ref()
            .is_some_and(|failure| !failure.for_good)
        {
            state.failed = None;
            let has_none = |core: &Weak<Core>| {
                let core = core.upgrade();
                core.is_none_or(|core| core.predecessor.is_none())
            };
            state.ready = self.cores.iter().map(has_none).collect();
        }
        drop(state);
        self.ring(at);
    }

    /// That one is ready, whose predecessor hears on `line`; whether all predecessors have been told.
    ///
    /// The last one tells all, so that there is hardly a time in which some know it and others do not: in it the end
    /// of this process would leave them with a part.
    pub(super) fn is_over(&self, at: usize, line: Option<Arc<OwnedFd>>) -> bool {
        let mut state = self.state();
        if state.told {
            return true;
        }
        if let Some(its) = state.lines.get_mut(at) {
            *its = line;
        }
        if let Some(ready) = state.ready.get_mut(at) {
            *ready = true;
        }
        if state.failed.is_some() || !state.ready.iter().all(|ready| *ready) {
            return false;
        }
        state.told = true;
        let lines = std::mem::take(&mut state.lines);
        drop(state);
        let until = Some(Instant::now() + MESSAGE);
        for line in lines.into_iter().flatten() {
            // Where it does not arrive, the end of the connection is heard next.
            let _ = wire::say(&*line, Word::Empty, &0_u32.to_le_bytes(), until);
        }
        self.ring(at);
        true
    }

    /// Whether the predecessors have been told.
    pub(super) fn has_told(&self) -> bool {
        self.state().told
    }

    /// That one cannot take over, and so none does.
    pub(super) fn fail(&self, at: usize, failure: Failure) {
        let mut state = self.state();
        let is_known = state
            .failed
            .as_ref()
            .is_some_and(|known| known.for_good || !failure.for_good);
        if !is_known {
            state.failed = Some(failure);
        }
        drop(state);
        if !is_known {
            self.ring(at);
        }
    }

    pub(super) fn failed(&self) -> Option<Failure> {
        self.state().failed.clone()
    }

    /// The others look again.
    fn ring(&self, at: usize) {
        let others = self
            .cores
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        for core in others.filter_map(|(_, core)| core.upgrade()) {
            // An error where it is over.
            let _ = core.command(Command::Look);
        }
    }
}
