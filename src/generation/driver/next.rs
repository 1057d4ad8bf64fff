//! What becomes of the process that this one has started to be its successor: decided by what the machine knows.
//!
//! It is asked after everything that was heard, by the same thread: so that a process which has said that it takes
//! over is never taken to hang.

use std::time::Instant;

use super::Driver;
use crate::error::Error;
use crate::generation::attempt::{Attempt, Now, Why, by};
use crate::generation::core::Core;
use crate::generation::machine::{Event, Peer, State};
use crate::generation::wire::Word;
use crate::sys;
use crate::trace;

impl Driver {
    /// Looks whether it is decided, and notes who takes over.
    pub(super) fn attend(&mut self, core: &Core) {
        match (self.machine.state(), &self.successor) {
            (State::Passing | State::Letting, Some(caller)) => {
                core.set_successor(Some(caller.pid));
            }
            (State::Passing | State::Letting | State::Relieved, _) => {}
            _ => core.set_successor(None),
        }
        let Some(attempt) = core.attempt() else {
            return;
        };
        if let Some(outcome) = self.judge(core, &attempt) {
            if let Err(error) = &outcome {
                trace::refused(error);
            }
            core.forget_attempt(&attempt);
            attempt.done.put(outcome);
        }
    }

    /// The process that has taken over; an error where it will not, and None where it still may.
    fn judge(&mut self, core: &Core, attempt: &Attempt) -> Option<Result<u32, Error>> {
        if !attempt.is_own() {
            return Some(Err(attempt.foreign()));
        }
        let now = attempt.now();
        match now {
            Now::Refused(error) | Now::Over(error) => return Some(Err(error)),
            Now::GivenUp => return None,
            Now::Starts | Now::Runs | Now::Ended(_) => {}
        }
        let state = self.machine.state();
        let passes = matches!(state, State::Passing | State::Letting | State::Relieved);
        match core.successor().filter(|_| passes) {
            Some(Some(pid)) if attempt.is(Some(pid)) => {
                attempt.is_late(false);
                // Where it dies before that, it is heard next.
                return (state != State::Passing).then_some(Ok(pid));
            }
            // Its number is known soon.
            Some(_) if state != State::Passing && matches!(now, Now::Starts) => return None,
            Some(pid) if state != State::Passing => {
                return Some(Err(attempt.too_late(&by(pid, "has taken over"))));
            }
            _ => {}
        }
        // What it has said before it ended is still to be heard.
        let is_heard = self.arrivals.iter().any(|caller| attempt.is(caller.pid));
        let is_lent = self.is_lent_to(attempt);
        if let (Now::Ended(error), false) = (now, is_heard || is_lent) {
            return Some(Err(error));
        }
        if self.machine.stops() {
            if is_lent {
                // It has what is new already.
                return Some(Err(attempt.stopped()));
            }
            attempt.give_up(Why::Stopped);
            return None;
        }
        if self.machine.is_over() {
            return Some(Err(attempt.too_late("this process serves no more")));
        }
        // It waits for this process, or is not even heard.
        let waits = matches!(
            state,
            State::Beside | State::Orphan | State::Asking | State::Passing
        );
        // It may try what it is for as long as it likes.
        let tries = is_lent && self.machine.tries();
        if attempt.is_late(!waits && !is_heard && !tries) && !(is_lent && self.has_word()) {
            if let Some(pid) = takes_another(core, attempt) {
                let what = by(pid, "has taken over other addresses, and not this one");
                return Some(Err(attempt.too_late(&what)));
            }
            self.give_up(core, attempt, Why::Hung);
        }
        None
    }

    /// Kills the process that was started, unless it is taking over, before this one lets nothing new in.
    pub(super) fn stop_next(&mut self, core: &Core) {
        let Some(attempt) = core.attempt() else {
            return;
        };
        let takes = matches!(self.machine.state(), State::Passing | State::Letting);
        let successor = self.successor.as_ref().and_then(|caller| caller.pid);
        // One that has a part has connections too, and gets everything now.
        let takes = takes || self.machine.state() == State::Lending && self.machine.tries();
        let takes = takes && attempt.is(successor) || takes_another(core, &attempt).is_some();
        if attempt.is_own() && !takes {
            self.give_up(core, &attempt, Why::Stopped);
        }
    }

    fn give_up(&mut self, core: &Core, attempt: &Attempt, why: Why) {
        // Before it is killed: then nothing shows any more what it has started.
        let is_lent = self.is_lent_to(attempt);
        self.arrivals.retain(|caller| !attempt.is(caller.pid));
        attempt.give_up(why);
        if is_lent {
            // What the child has started is not killed, and hears it.
            self.say(core, Peer::Successor, Word::Superseded);
            self.successor = None;
            self.handle(core, Event::Ended(Peer::Successor));
        }
    }

    fn is_lent_to(&self, attempt: &Attempt) -> bool {
        let successor = self.successor.as_ref();
        successor.is_some_and(|caller| attempt.is(caller.pid))
    }

    /// Whether the successor has said something that is not yet heard.
    pub(super) fn has_word(&self) -> bool {
        let Some(line) = self.line(Peer::Successor) else {
            return false;
        };
        let ready = sys::wait::poll(&[sys::borrow(&*line)], Some(Instant::now()));
        // Where it cannot be asked, the process is not killed.
        ready.map_or(true, |ready| ready.contains(&true))
    }
}

/// The number of the process, where it takes over another address of this server.
fn takes_another(core: &Core, attempt: &Attempt) -> Option<Option<u32>> {
    let (_, joint) = core.joint.get()?;
    joint.takers().into_iter().find(|pid| attempt.is(*pid))
}
