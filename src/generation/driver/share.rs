//! What the program is told of the part of what is new that it has asked for.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use super::{Driver, MESSAGE};
use crate::error::Error;
use crate::generation::canary::Answer;
use crate::generation::core::Core;
use crate::generation::machine::{Event, State};
use crate::generation::wire::{self, Message, Word};
use crate::trace;

/// The parts that were asked for, which the predecessor answers in order.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// What is asked for next.
    pub(super) part: f64,
    /// Where the program waits for the answer to each, and since when; none where it was told that none comes.
    open: VecDeque<Option<(Answer, Instant)>>,
}

impl Asks {
    /// When the program is told that the predecessor does not answer.
    pub(super) fn until(&self) -> Option<Instant> {
        let first = self.open.iter().flatten().next();
        first.map(|(_, since)| *since + MESSAGE)
    }
}

impl Driver {
    /// The program asks for a part.
    pub(super) fn ask_for_share(&mut self, core: &Core, part: f64, answer: Answer) {
        if self.machine.state() != State::Beside {
            return tell(&answer, self.share(core));
        }
        self.asks.part = part;
        self.asks.open.push_back(Some((answer, Instant::now())));
        self.handle(core, Event::Share);
    }

    /// Tells the program what the predecessor has answered.
    pub(super) fn hear_share(&mut self, core: &Core, message: &Message) {
        let part = match message.word {
            Word::Shared => wire::part(&message.body),
            Word::Unshared => None,
            _ => return,
        };
        // It may tell of a part without having been asked.
        let Some(Some((answer, _))) = self.asks.open.pop_front() else {
            return;
        };
        let refused = || {
            let why = format!(
                "the process that serves refuses: {}",
                wire::text(&message.body)
            );
            core.no_share(io::ErrorKind::ConnectionRefused, why)
        };
        tell(&answer, part.ok_or_else(refused));
    }

    /// Tells the program what it waits for no more: this process gets everything, or nothing; or the predecessor
    /// does not answer.
    pub(super) fn see_to_share(&mut self, core: &Core) {
        let is_beside = self.machine.state() == State::Beside;
        let is_late = self
            .asks
            .until()
            .is_some_and(|until| Instant::now() >= until);
        if !is_beside {
            for (answer, _) in std::mem::take(&mut self.asks.open).into_iter().flatten() {
                tell(&answer, self.share(core));
            }
        } else if is_late {
            let why = "the process that serves does not answer; it may do so later";
            for (answer, _) in self.asks.open.iter_mut().filter_map(Option::take) {
                tell(&answer, Err(core.no_share(io::ErrorKind::TimedOut, why)));
            }
        }
    }

    /// What it gets where there is no predecessor to ask.
    fn share(&self, core: &Core) -> Result<f64, Error> {
        use State::{Closing, Emptying, Letting, Over, Passing, Relieved, Returning, Stopping};
        let why = match self.machine.state() {
            Returning | Emptying | Closing | Stopping => "this process has been told to end",
            Over if self.machine.is_superseded() => "another process has superseded this one",
            Over => "this process has been told to end",
            Passing | Letting | Relieved => "another process has taken over",
            _ => return Ok(1.0),
        };
        Err(core.no_share(io::ErrorKind::ConnectionAborted, why))
    }
}

fn tell(answer: &Answer, share: Result<f64, Error>) {
    answer.put(share.inspect_err(trace::refused));
}
