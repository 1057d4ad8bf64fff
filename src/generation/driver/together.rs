//! What an address has to do with the others that are taken over together with it: see [`Joint`].

use super::Driver;
use crate::generation::core::Core;
use crate::generation::joint::{Failure, Verdict};
use crate::generation::machine::{Action, Event, Peer, State};
use crate::generation::wire::Word;

impl Driver {
    /// Whether the other addresses that are taken over with this one are ready too; or this one does not wait for
    /// them, because its predecessor has died.
    pub(super) fn may_end(&self, core: &Core) -> bool {
        let Some((at, joint)) = core.joint.get() else {
            return true;
        };
        if self.machine.state() != State::Draining {
            joint.is_free(*at);
            return true;
        }
        joint.is_over(*at, self.line(Peer::Predecessor), self.left)
    }

    /// Goes on where all predecessors have been told that it is over, before anything is heard that one says to it.
    pub(super) fn conclude(&mut self, core: &Core) {
        let joint = core.joint.get();
        let is_over = joint.is_some_and(|(_, joint)| joint.has_told());
        if is_over && self.machine.state() == State::Draining {
            self.handle(core, Event::Drained);
        }
    }

    /// Goes back where another address cannot be taken over, and tells the others where this one cannot.
    pub(super) fn heed(&mut self, core: &Core) {
        let Some((at, joint)) = core.joint.get() else {
            return;
        };
        self.conclude(core);
        self.settle(core);
        match self.machine.state() {
            State::Beside
            | State::Returning
            | State::Emptying
            | State::Closing
            | State::Orphan
            | State::Asking
            | State::Draining => {}
            // Superseded, or told to end, before it has taken over.
            State::Over if !self.has_served => {
                let error = match self.outcome(core) {
                    Err(error) => error,
                    Ok(_) => core.has_ended(),
                };
                let for_good = true;
                joint.fail(*at, Failure { error, for_good });
            }
            _ => joint.is_free(*at),
        }
        let Some(Failure { error, for_good }) = joint.failed() else {
            return;
        };
        if self.machine.state() == State::Draining {
            self.error = Some(error.clone());
            self.handle(core, Event::Failed(Action::Drain));
        }
        // An address that is new serves already, and the server ends.
        let ends = !self.machine.stops() && !self.machine.is_over();
        if for_good && ends {
            core.put_outcome(Err(error));
            self.handle(core, Event::Stop);
        }
    }

    /// The successor has said that it is over, or its end is heard after that: it counts when it has said so of all
    /// addresses that it takes over.
    pub(super) fn settle(&mut self, core: &Core) {
        let joint = core.joint.get().filter(|_| self.is_held);
        let Some((at, joint)) = joint else {
            return;
        };
        let verdict = joint.verdict(*at);
        if verdict == Verdict::Wait {
            return;
        }
        self.is_held = false;
        if verdict == Verdict::Over {
            self.handle(core, Event::Heard(Peer::Successor, Word::Empty));
        }
        if verdict == Verdict::Back || self.successor.is_none() {
            self.successor = None;
            self.handle(core, Event::Ended(Peer::Successor));
        }
    }
}
