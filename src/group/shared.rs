//! What the handles of one group share: its lock, and the thread that drains its members.
//!
//! There are two locks: that of the [`State`], and that of the drain's list of jobs. Neither is taken
//! under the other. No code of the user's runs under them, and nothing waits under them: what is to be
//! told (tracing) is told when the state's lock is free again.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::drain::Drain;
use super::state::State;
use crate::error::Error;
use crate::sys;

/// A grace period of the kernel takes some milliseconds; where it takes so long, a client may have to try again.
const BARRIER: Duration = Duration::from_secs(1);

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

    /// The members of a generation that gives up leave the group, behind the predecessor's.
    pub(crate) fn withdraw(&self) {
        // What is closed leaves its group before it leaves the kernel's table of listeners, and a SYN that meets it in
        // between is its, whatever the program says: so first nothing finds them any more.
        if self.state().hide_own() {
            sys::barrier(BARRIER);
        }
        self.state().withdraw();
    }

    /// The successor has given up, or was given up: its members leave the group, and this process decides again.
    pub(crate) fn take_back(&self) -> Result<(), Error> {
        let recalled = self.state().recall();
        // Those of one that was given up go as those of one that gives up, see above.
        if !matches!(recalled, Ok(false)) {
            sys::barrier(BARRIER);
        }
        let taken_back = self.state().take_back();
        taken_back.and(recalled.map(drop))
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
