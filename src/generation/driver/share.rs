//! What the program is told of the part of what is new that it has asked for.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::{Driver, MESSAGE};
use crate::error::Error;
use crate::generation::canary::Answer;
use crate::generation::core::Core;
use crate::generation::machine::{Event, Peer, State};
use crate::generation::wire::{self, Message, Word};
use crate::trace;

/// How often it is looked whether a worker has closed its socket.
const LOOK: Duration = Duration::from_millis(100);

/// The parts that were asked for, which the predecessor answers in order.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// What is asked for next.
    pub(super) part: f64,
    /// Where the program waits for the answer to each, and since when; none where it was told that none comes.
    open: VecDeque<Option<(Answer, Instant)>>,
    /// Which of its members the predecessor has been told not to name any more, and when they are looked at next.
    pub(super) gone: Vec<usize>,
    look_at: Option<Instant>,
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
        if is_beside && !is_late {
            return;
        }
        // What is answered later is no answer to the next.
        let is_over = |(_, since): &mut (Answer, Instant)| !is_beside || since.elapsed() >= MESSAGE;
        let over = self.asks.open.iter_mut();
        let over: Vec<_> = over.filter_map(|ask| ask.take_if(is_over)).collect();
        for (answer, _) in over {
            let why = "the process that serves does not answer; it may do so later";
            let late = || core.no_share(io::ErrorKind::TimedOut, why);
            tell(
                &answer,
                match is_beside {
                    true => Err(late()),
                    false => self.share(core),
                },
            );
        }
    }

    /// When it is looked whether workers have closed their sockets: the other process has descriptors of these, and
    /// so the kernel goes on giving them what is new.
    pub(super) fn members_at(&self) -> Option<Instant> {
        let is_canary = self.machine.state() == State::Beside && self.machine.is_tried();
        let has_canary = self.machine.state() == State::Lending && self.machine.tries();
        let at = self.asks.look_at.unwrap_or_else(Instant::now);
        (is_canary || has_canary).then_some(at)
    }

    /// Has nothing given to a member that is closed, in a trial, which may last for hours.
    pub(super) fn see_to_members(&mut self, core: &Core) {
        if self.members_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.asks.look_at = Some(Instant::now() + LOOK);
        if self.machine.state() == State::Lending {
            if let Err(error) = core.shared.state().forgo_closed() {
                trace::refused(&error);
            }
            return;
        }
        let gone = core.shared.state().closed_own();
        if gone.len() > self.asks.gone.len() {
            self.asks.gone = gone;
            self.say(core, Peer::Predecessor, Word::Gone);
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
