//! Counts what the predecessor has still to give, or this process when it stops.

use std::time::{Duration, Instant};

use super::{Driver, RETRY};
use crate::error::Error;
use crate::generation::core::Core;
use crate::generation::machine::{Action, Event, State};
use crate::group::{Remains, Seen, barrier, look};
use crate::sys;

/// When it is looked again whether the other addresses are ready; they ring when they are.
const OTHERS: Duration = Duration::from_secs(1);

impl Driver {
    /// Counts what the predecessor has still to accept or to read.
    pub(super) fn count(&mut self, core: &Core) {
        let now = Instant::now();
        let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
        // A processor may still use the program that names them.
        self.is_past = self.is_past || barrier(self.deadline);
        if !self.is_past && !is_late {
            self.count_at = now;
            return;
        }
        let is_ending = self.machine.state() == State::Ending;
        let begin = Instant::now();
        let mut remains: Vec<&mut Remains> =
            self.remains.iter_mut().map(|one| &mut one.1).collect();
        let seen = match look(core.kind, &core.addr, &mut remains, self.deadline) {
            Ok(seen) => seen,
            Err(error) if is_late && !is_ending => {
                let what = format!(
                    "cannot tell whether the predecessor on {} is empty",
                    core.addr
                );
                let why = sys::resource_reason(&error);
                self.error = Some(Error::system(what, error).at(core.addr).why(why));
                return self.handle(core, Event::Failed(Action::Drain));
            }
            // There may be no descriptor for it, which changes.
            Err(_) if !is_ending => {
                self.count_at = now + RETRY;
                return;
            }
            Err(_) => Seen::default(),
        };
        self.left = 0;
        self.remains.retain_mut(|(_, remains)| {
            let left = remains.left(&seen);
            self.left = self.left.saturating_add(left);
            // What is empty once stays so: nothing new comes to it.
            left > 0
        });
        self.count_at = Instant::now() + seen.pause(begin);
        let ends = matches!(self.machine.state(), State::Stopping | State::Emptying);
        // Nothing accepts any more what a process had that has died, or has closed its sockets.
        let is_abandoned = || ends && !core.shared.state().is_open();
        let is_done = self.remains.is_empty() || is_ending || is_abandoned();
        if !is_done && !is_late {
            return;
        }
        if !self.may_end(core) {
            self.count_at = Instant::now() + OTHERS;
        } else if is_done {
            self.handle(core, Event::Drained);
        } else {
            self.handle(core, Event::Expired);
        }
    }
}
