//! What the handles of one group share: its lock, and the thread that drains its members.
//!
//! There are two locks: that of the [`State`], and that of the drain's list of jobs. Neither is taken
//! under the other. No code of the user's runs under them, and nothing waits under them: what is to be
//! told (tracing) is told when the state's lock is free again.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::drain::Drain;
use super::state::State;

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(super) drain: Drain,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            drain: Drain::new(),
        }
    }

    pub(crate) fn state(&self) -> Locked<'_> {
        // After a panic the table is as the kernel was when it was last seen.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked(Some(state))
    }
}

/// The state of a group, as long as this thread has its lock.
#[derive(Debug)]
pub(crate) struct Locked<'a>(Option<MutexGuard<'a, State>>);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match &self.0 {
            Some(state) => state,
            None => unreachable!("it is taken only when this is dropped"),
        }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        match &mut self.0 {
            Some(state) => state,
            None => unreachable!("it is taken only when this is dropped"),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut state) = self.0.take() else {
            return;
        };
        let events = std::mem::take(&mut state.events);
        drop(state);
        for event in events {
            event.tell();
        }
    }
}
