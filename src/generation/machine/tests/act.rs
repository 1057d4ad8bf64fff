//! What the processes do in a world, and what must hold when they do it.

use super::world::{Guest, Named, Side, World};
use crate::generation::machine::{Action, Event, Mode, Peer, State};
use crate::generation::wire::Word;

use Side::{New, Old};

impl World {
    pub(super) fn on(&mut self, side: Side, event: Event, mut refused: bool) {
        let mut next = Some(event);
        let is_empty = matches!(event, Event::Drained | Event::Expired);
        if is_empty && side == New && self.new.machine.state() == State::Emptying {
            self.is_emptied = true;
        }
        while let Some(event) = next.take() {
            let actions = self.process(side).machine.on(event);
            for action in actions {
                let can_be_refused =
                    matches!(action, Action::Program | Action::Remove | Action::Share);
                if refused && can_be_refused {
                    self.refusals -= 1;
                    refused = false;
                    next = Some(Event::Failed(action));
                    break;
                }
                if let Some(event) = self.act(side, action) {
                    next = Some(event);
                    break;
                }
            }
        }
        if self.process(side).machine.is_over() {
            self.hang_up(side);
            self.process(side).has_line = false;
            self.process(side).inbox.clear();
        }
    }

    pub(super) fn act(&mut self, side: Side, action: Action) -> Option<Event> {
        match action {
            Action::Say(peer, word) => {
                // To the third: nothing hears it.
                if side == Old && self.third && word != Word::Superseded {
                    return None;
                }
                if side == New && peer == Peer::Successor {
                    return None;
                }
                let has_line = self.process(side).has_line;
                let other = self.process(if side == Old { New } else { Old });
                if has_line && other.has_line && other.is_alive {
                    other.inbox.push_back(Some(word));
                }
            }
            Action::Program => {
                assert_eq!(side, New);
                if !self.new.is_in {
                    return Some(Event::Nothing);
                }
                self.named = Named::New;
                self.had_part = true;
            }
            Action::Hide => {
                self.check_that_old_is_done();
                self.old.is_hidden = true;
            }
            Action::Remove => {
                self.check_that_old_is_done();
                if self.guest == Guest::There {
                    assert!(self.new.machine.stops(), "members are moved");
                    return None;
                }
                assert_eq!(
                    self.named,
                    Named::New,
                    "the program names those that are removed"
                );
                self.old.is_in = false;
            }
            Action::TakeBack if side == New => {
                assert_eq!(self.guest, Guest::There);
                self.guest = Guest::Gone;
            }
            Action::TakeBack => {
                self.parted = false;
                self.frozen = false;
                self.new.is_in = false;
                let is_gone = !self.old.is_in || self.old.is_hidden;
                if is_gone && !self.old.machine.stops() {
                    return Some(Event::Nothing);
                }
                self.named = Named::Old;
                if !self.third {
                    // What it said before is not heard any more.
                    self.old.inbox.clear();
                    self.old.has_line = false;
                    self.hang_up(Old);
                }
            }
            Action::Freeze => self.frozen = true,
            Action::Thaw => {
                self.frozen = false;
                self.named = Named::Old;
            }
            Action::Share => {
                assert_eq!((side, self.named), (Old, Named::Old));
                self.parted = true;
                self.had_part = true;
            }
            Action::Unshare => {
                assert_eq!((side, self.named), (Old, Named::Old));
                self.parted = false;
            }
            Action::Withdraw => {
                self.check_that_new_is_done();
                self.new.is_in = false;
            }
            Action::Taken => self.new.told += 1,
            Action::Relieve => {
                let named = if side == Old { Named::Old } else { Named::New };
                if side == New && self.named == Named::Old {
                    self.check_that_new_is_done();
                }
                let gets_new = self.named == named;
                let process = self.process(side);
                // Datagrams come until the sockets are closed.
                let ends = process.machine.stops() || process.machine.is_dropped();
                let may_get = ends && process.machine.mode != Mode::Connections;
                assert!(
                    !gets_new || !process.is_in || process.is_hidden || may_get,
                    "it is relieved while it gets what is new"
                );
                process.is_relieved = true;
            }
            Action::Stop => {
                if self.mode == Mode::Connections {
                    self.process(side).is_hidden = true;
                }
                let is_behind = self.old.has_line && self.new.is_in && !self.frozen;
                if side == Old && is_behind && !self.third {
                    self.named = Named::New;
                }
            }
            Action::Lend => {
                if self.third {
                    // From here on the third is the successor, and what the second says is not heard.
                    self.old.inbox.clear();
                    self.old.has_line = false;
                    self.hang_up(Old);
                }
            }
            Action::Drain
            | Action::Omit
            | Action::Admit
            | Action::Retreat
            | Action::Close
            | Action::Forget => {}
        }
        None
    }
}
