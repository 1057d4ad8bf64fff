//! Two generations, the kernel between them, and what can happen next.

use std::collections::VecDeque;
use std::time::Duration;

use crate::generation::machine::{Action, Event, Machine, Mode, Peer, State};
use crate::generation::wire::Word;

/// Whose members the kernel's program names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Named {
    Old,
    New,
}

/// A process, as far as the other and the kernel are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) machine: Machine,
    pub(super) is_alive: bool,
    /// Whether its members stand in the kernel's group.
    pub(super) is_in: bool,
    /// Whether nothing that arrives finds its members.
    pub(super) is_hidden: bool,
    /// What has been said to it and not yet heard; None: the end.
    pub(super) inbox: VecDeque<Option<Word>>,
    /// Whether it still has the connection with the other.
    pub(super) has_line: bool,
    /// Whether its takeover was asked for, and how often it was told how that went.
    pub(super) asked: bool,
    pub(super) told: u8,
    pub(super) is_relieved: bool,
    pub(super) heard_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Guest {
    NotYet,
    /// It stands behind the others, none of which may be removed now.
    There,
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) old: Process,
    pub(super) new: Process,
    pub(super) named: Named,
    /// Whether the program gives the new one a part of what the old one gets.
    pub(super) parted: bool,
    /// Whether the new one has had such a part, and accepted what came of it.
    pub(super) had_part: bool,
    pub(super) is_emptied: bool,
    /// How often the new one may still ask for a part.
    pub(super) asks: u8,
    /// Whether the old one leaves the kernel's program alone.
    pub(super) frozen: bool,
    /// How many steps the kernel may still refuse, and faults may still happen.
    pub(super) refusals: u8,
    pub(super) faults: u8,
    /// How many of the two may still be told to stop.
    pub(super) stops: u8,
    /// Whether a third process has come, which does nothing.
    pub(super) third: bool,
    /// What is with one that comes to the new one in the grace of the old one, and goes.
    pub(super) guest: Guest,
    pub(super) mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

use Side::{New, Old};

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// One hears what the other said.
    Hear(Side),
    TakeOver,
    Share,
    Drained(Side),
    Expired(Side),
    LetGo(Side),
    Stop(Side),
    /// As the others, and the kernel refuses the first step that it can refuse.
    Refused(Refusable),
    Kill(Side),
    Drop(Side),
    Third,
    GuestCame,
    GuestDied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusable {
    TakeOver,
    Hear,
    Drained,
    Expired,
    /// Of the old one.
    Share,
}

impl Process {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            is_alive: true,
            is_in: true,
            is_hidden: false,
            inbox: VecDeque::new(),
            has_line: true,
            asked: false,
            told: 0,
            is_relieved: false,
            heard_empty: false,
        }
    }
}

impl World {
    pub(super) fn new(mode: Mode) -> Self {
        let mut old = Machine::first(mode);
        assert_eq!(old.on(Event::Arrived), [Action::Lend]);
        let admitted = old.on(Event::Heard(Peer::Successor, Word::Mine));
        assert_eq!(
            admitted,
            [Action::Admit, Action::Say(Peer::Successor, Word::Accepted)]
        );
        Self {
            old: Process::new(old),
            new: Process::new(Machine::successor(mode)),
            named: Named::Old,
            parted: false,
            had_part: false,
            is_emptied: false,
            asks: 1,
            frozen: false,
            refusals: 1,
            faults: 2,
            stops: 1,
            third: false,
            guest: Guest::NotYet,
            mode,
        }
    }

    pub(super) fn process(&mut self, side: Side) -> &mut Process {
        match side {
            Old => &mut self.old,
            New => &mut self.new,
        }
    }

    /// Steps that happen by themselves, sooner or later.
    pub(super) fn due(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (side, process) in [(Old, &self.old), (New, &self.new)] {
            if !process.is_alive {
                continue;
            }
            if !process.inbox.is_empty() {
                steps.push(Step::Hear(side));
            }
            if process.machine.patience().is_some() {
                steps.push(Step::Expired(side));
            }
        }
        for (side, process) in [(Old, &self.old), (New, &self.new)] {
            if process.is_alive && process.machine.counts() {
                steps.extend([Step::Drained(side), Step::Expired(side)]);
            }
        }
        let may_let_go = self.old.machine.state() == State::Letting;
        if self.old.is_alive && may_let_go && self.old.told == 0 {
            steps.push(Step::LetGo(Old));
        }
        if self.new.is_alive && self.new.machine.state() == State::Closing {
            steps.push(Step::LetGo(New));
        }
        steps
    }

    /// What else can happen.
    pub(super) fn possible(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        // Without its handle nothing asks any more.
        let may_ask = !self.new.asked && !self.new.machine.dropped;
        if self.new.is_alive && may_ask {
            steps.push(Step::TakeOver);
        }
        if self.new.is_alive && self.asks > 0 && !self.new.machine.dropped {
            steps.push(Step::Share);
        }
        if self.refusals > 0 && self.new.is_alive {
            steps.extend(
                [
                    Refusable::TakeOver,
                    Refusable::Hear,
                    Refusable::Drained,
                    Refusable::Expired,
                    Refusable::Share,
                ]
                .into_iter()
                .filter(|refusable| match refusable {
                    Refusable::TakeOver => may_ask,
                    Refusable::Hear => !self.new.inbox.is_empty(),
                    Refusable::Drained => self.new.machine.counts(),
                    Refusable::Expired => self.new.machine.patience().is_some(),
                    Refusable::Share => {
                        self.old.is_alive && self.old.inbox.front() == Some(&Some(Word::Share))
                    }
                })
                .map(Step::Refused),
            );
        }
        if self.faults > 0 {
            for (side, process) in [(Old, &self.old), (New, &self.new)] {
                if process.is_alive {
                    steps.push(Step::Kill(side));
                    if !process.machine.dropped {
                        steps.push(Step::Drop(side));
                    }
                }
            }
        }
        if self.stops > 0 {
            for (side, process) in [(Old, &self.old), (New, &self.new)] {
                if process.is_alive && !process.machine.dropped {
                    steps.push(Step::Stop(side));
                }
            }
        }
        // The driver lets none come while it stops and has a successor.
        let stops = self.old.machine.state() == State::Stopping && self.old.has_line;
        let takes = self.old.machine.takes_arrival(Duration::MAX) && !stops;
        // It hears what has been said before it lets another come.
        if self.old.is_alive && !self.third && takes && self.old.inbox.is_empty() {
            steps.push(Step::Third);
        }
        let takes = self.new.machine.takes_arrival(Duration::ZERO);
        let may_come = self.faults > 0 && self.guest == Guest::NotYet;
        if self.new.is_alive && may_come && takes && !self.new.machine.stops() {
            steps.push(Step::GuestCame);
        }
        if self.new.is_alive && self.guest == Guest::There {
            steps.push(Step::GuestDied);
        }
        steps
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Hear(side) => self.hear(side, false),
            Step::TakeOver => self.take_over(false),
            Step::Share => {
                self.asks -= 1;
                self.on(New, Event::Share, false);
            }
            Step::Drained(side) => self.on(side, Event::Drained, false),
            Step::Stop(side) => {
                self.stops -= 1;
                self.on(side, Event::Stop, false);
            }
            Step::Expired(side) => self.on(side, Event::Expired, false),
            Step::LetGo(New) => self.on(New, Event::LetGo, false),
            Step::LetGo(Old) => {
                self.old.told = 1;
                self.on(Old, Event::LetGo, false);
            }
            Step::Refused(refusable) => match refusable {
                Refusable::TakeOver => self.take_over(true),
                Refusable::Hear => self.hear(New, true),
                Refusable::Drained => self.on(New, Event::Drained, true),
                Refusable::Expired => self.on(New, Event::Expired, true),
                Refusable::Share => self.hear(Old, true),
            },
            Step::Kill(side) => {
                self.faults -= 1;
                self.process(side).is_alive = false;
                // The other has descriptors of its members, which stay in the group.
                self.hang_up(side);
            }
            Step::Drop(side) => {
                self.faults -= 1;
                self.on(side, Event::Dropped, false);
            }
            Step::Third => {
                self.third = true;
                self.on(Old, Event::Arrived, false);
            }
            Step::GuestCame => {
                self.faults -= 1;
                self.guest = Guest::There;
                self.on(New, Event::Arrived, false);
            }
            Step::GuestDied => {
                self.on(New, Event::Ended(Peer::Successor), false);
                self.guest = Guest::Gone;
            }
        }
    }

    pub(super) fn take_over(&mut self, refused: bool) {
        self.new.asked = true;
        self.on(New, Event::TakeOver, refused);
    }

    pub(super) fn hang_up(&mut self, side: Side) {
        let other = self.process(if side == Old { New } else { Old });
        if other.has_line {
            other.inbox.push_back(None);
        }
    }

    pub(super) fn hear(&mut self, side: Side, refused: bool) {
        let peer = if side == Old {
            Peer::Successor
        } else {
            Peer::Predecessor
        };
        let process = self.process(side);
        let event = match process.inbox.pop_front() {
            // The driver looks at what follows.
            Some(Some(Word::Share)) if !process.inbox.is_empty() => return,
            Some(Some(word)) => {
                process.heard_empty |= word == Word::Empty;
                Event::Heard(peer, word)
            }
            Some(None) => {
                process.has_line = false;
                Event::Ended(peer)
            }
            None => return,
        };
        // Of what comes before it hears that the old one stops it cannot know.
        self.had_part |= event == Event::Heard(Peer::Predecessor, Word::Shared);
        self.on(side, event, refused);
    }
}
