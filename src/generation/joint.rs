//! Addresses that are taken over together: each is ready before the first one's predecessor hears that it is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::core::{Command, Core};
use crate::error::Error;

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

    /// That one is ready; whether all are.
    pub(super) fn is_ready(&self, at: usize) -> bool {
        let mut state = self.state();
        let was_ready = state
            .ready
            .get_mut(at)
            .map(|ready| std::mem::replace(ready, true));
        let are_ready = state.failed.is_none() && state.ready.iter().all(|ready| *ready);
        drop(state);
        if was_ready == Some(false) {
            self.ring(at);
        }
        are_ready
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
