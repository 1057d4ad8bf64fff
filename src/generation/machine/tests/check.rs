//! What holds in every world, and what holds where nothing more happens by itself.

use super::world::{Guest, Named, Process, World};
use crate::generation::machine::{Mode, State};
use crate::generation::wire::Word;

impl World {
    /// What cannot be undone is done to a process only when it was told, or has died.
    pub(super) fn check_that_old_is_done(&self) {
        let told = self.old.heard_empty || self.old.inbox.contains(&Some(Word::Empty));
        let is_third = self.third;
        let has_stopped = self.old.machine.stops();
        assert!(
            !self.old.is_alive || told || is_third || has_stopped,
            "{self:#?}"
        );
    }

    /// The new one gives up only when it has accepted what has come of its part, and gets nothing new; unless the
    /// old one hangs, and has not yet heard that.
    pub(super) fn check_that_new_is_done(&self) {
        let has_said = self.old.inbox.contains(&Some(Word::Return));
        let is_parted = self.parted
            && self.named == Named::Old
            && self.old.is_alive
            && !self.third
            && !has_said;
        assert!(!is_parted, "it leaves while it gets a part: {self:#?}");
        // Another takes its place only seconds after it went back.
        assert!(!self.had_part || self.is_emptied || self.third, "{self:#?}");
    }

    /// Holds whenever anything is looked at.
    pub(super) fn check(&self) {
        let may_program = self.old.is_alive && self.old.machine.state() == State::Lending;
        if self.named == Named::New && may_program && self.new.is_in && !self.old.machine.stops() {
            // Unless it hangs, it has been told to leave the kernel's program alone.
            let is_about_to_hear = self.old.inbox.contains(&Some(Word::Taking));
            assert!(self.frozen || is_about_to_hear, "{self:#?}");
        }
        assert!(self.new.told <= 2);
    }

    /// Holds when nothing more happens by itself.
    pub(super) fn check_end(&self) {
        let old = self.old.machine.state();
        let new = self.new.machine.state();
        if self.new.is_alive && self.new.asked {
            // Where it was refused, it was told so, and is beside the old one again.
            assert!(self.new.told > 0, "it waits for ever: {self:#?}");
        }
        for process in [&self.old, &self.new] {
            let stops = process.is_alive && process.machine.stops();
            assert!(!stops || process.is_relieved, "it does not end: {self:#?}");
        }
        let is_served = self.new.is_alive && new == State::Beside || !self.old.is_alive;
        let parted = self.parted && self.named == Named::Old && !self.old.machine.stops();
        assert!(!parted || is_served, "its part goes to nothing: {self:#?}");
        if self.new.is_alive {
            match new {
                State::Beside => assert!(self.old.is_alive && self.old.is_in, "{self:#?}"),
                State::Serving => {
                    assert_eq!(self.named, Named::New, "{self:#?}");
                    assert!(!self.old.is_in, "{self:#?}");
                }
                State::Keeping => assert!(self.old.is_alive, "{self:#?}"),
                State::Lending => assert_eq!(self.guest, Guest::There, "{self:#?}"),
                State::Over => {}
                other => panic!("it stops while {other:?}: {self:#?}"),
            }
        }
        if self.old.is_alive {
            match old {
                State::Serving | State::Lending => {
                    assert!(self.old.is_in && !self.old.is_hidden, "{self:#?}");
                    assert_eq!(self.named, Named::Old, "{self:#?}");
                }
                // It keeps its flows until it closes its sockets.
                State::Letting => assert_eq!(self.mode, Mode::Flows, "{self:#?}"),
                State::Relieved => assert!(self.old.is_relieved),
                State::Over => {
                    let ends = self.old.machine.stops() && self.old.is_relieved;
                    assert!(self.old.machine.dropped || ends, "{self:#?}");
                }
                // The third does nothing.
                State::Passing => assert!(!self.new.is_alive || self.third, "{self:#?}"),
                other => panic!("it stops while {other:?}: {self:#?}"),
            }
        }
        // One of them serves, unless all have died or were dropped.
        let serves = |process: &Process| {
            process.is_alive
                && (process.machine.dropped
                    || process.machine.stops()
                    || process.machine.is_superseded()
                    || matches!(
                        process.machine.state(),
                        State::Serving | State::Lending | State::Keeping
                    ))
        };
        let anyone = self.old.is_alive || self.new.is_alive;
        let relieved_for_nothing = self.old.is_relieved && !self.new.is_alive;
        assert!(
            !anyone || serves(&self.old) || serves(&self.new) || relieved_for_nothing,
            "none of them serves: {self:#?}"
        );
    }
}
