//! What a generation's thread hears from other processes, and tells them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Caller, Driver, MESSAGE, Source};
use crate::error::Error;
use crate::generation::core::Core;
use crate::generation::machine::{Event, Peer, State};
use crate::generation::wire::{self, Message, Word};
use crate::sys::{self, OwnedFd, meet, pass};
use crate::trace;

impl Driver {
    /// Reads what a source has.
    pub(super) fn receive(&mut self, core: &Core, source: Source, line: &Arc<OwnedFd>) {
        match source {
            Source::Rendezvous => self.accept(core),
            Source::Arrival => self.greet(core, line),
            // It may have been replaced by what was read before.
            Source::Line(peer) if self.line(peer).is_some_and(|now| Arc::ptr_eq(&now, line)) => {
                self.hear(core, peer, line);
            }
            Source::Line(_) => {}
        }
    }

    /// Hears what a peer says.
    pub(super) fn hear(&mut self, core: &Core, peer: Peer, line: &Arc<OwnedFd>) {
        let until = Some(Instant::now() + MESSAGE);
        let heard = wire::hear(&**line, until);
        self.conclude(core);
        match heard {
            Ok(message) => {
                let word = message.word;
                if word == Word::Superseded {
                    let pid = message.body.first_chunk();
                    let pid = pid.map(|pid| u32::from_le_bytes(*pid));
                    self.superseded_by = pid.filter(|pid| *pid != 0);
                }
                if word == Word::Empty {
                    let left = message.body.first_chunk();
                    self.left = left.map_or(0, |left| u32::from_le_bytes(*left));
                }
                let is_over = peer == Peer::Successor && word == Word::Empty;
                if let Some((at, joint)) = core.joint.get().filter(|_| is_over) {
                    joint.hears_over(*at);
                    self.is_held = true;
                    return self.settle(core);
                }
                self.hear_share(core, &message);
                if word == Word::Share && self.has_word() {
                    // It says another thing by now: another part, or that it takes over or ends.
                    return self.say(core, peer, Word::Shared);
                }
                self.message = Some(message);
                self.handle(core, Event::Heard(peer, word));
            }
            Err(error) => {
                refuse(line, &error);
                match peer {
                    Peer::Predecessor => self.predecessor = None,
                    Peer::Successor => self.successor = None,
                }
                if let (Peer::Successor, Some((at, joint))) = (peer, core.joint.get()) {
                    joint.hears_end(*at);
                    if self.is_held {
                        return self.settle(core);
                    }
                }
                self.handle(core, Event::Ended(peer));
            }
        }
    }

    /// Hears the first word of a successor.
    pub(super) fn greet(&mut self, core: &Core, line: &Arc<OwnedFd>) {
        let is_it = |caller: &Caller| Arc::ptr_eq(&caller.line, line);
        let until = Some(Instant::now() + MESSAGE);
        let message = wire::hear(&**line, until).and_then(greeted);
        match (
            message,
            self.arrivals.iter_mut().find(|caller| is_it(caller)),
        ) {
            (Ok(message), Some(caller)) if !caller.is_heard => {
                caller.is_heard = true;
                caller.pid = message.pid;
                self.excuse(core, line);
            }
            // It has hung up, or says what no successor says.
            (Err(error), _) => {
                refuse(line, &error);
                self.arrivals.retain(|caller| !is_it(caller));
            }
            _ => self.arrivals.retain(|caller| !is_it(caller)),
        }
    }

    pub(super) fn line(&self, peer: Peer) -> Option<Arc<OwnedFd>> {
        match peer {
            Peer::Predecessor => self.predecessor.clone(),
            Peer::Successor => self
                .successor
                .as_ref()
                .map(|caller| Arc::clone(&caller.line)),
        }
    }

    pub(super) fn accept(&mut self, core: &Core) {
        let Some(rendezvous) = self.rendezvous.clone() else {
            return;
        };
        let why = format!(
            "it is user {}'s, and only that user may replace it",
            core.owner
        );
        let refusal = wire::frame(Word::Refused, why.as_bytes());
        match meet::accept(&rendezvous, core.owner, &refusal) {
            Ok(Some(line)) => self.arrivals.push(Caller {
                line: Arc::new(line),
                pid: None,
                since: Instant::now(),
                is_heard: false,
            }),
            Ok(None) => {}
            Err(error) => {
                let what = format!("cannot answer the next process on {}", core.addr);
                let why = sys::resource_reason(&error);
                trace::refused(&Error::system(what, error).at(core.addr).why(why));
                // There may be no descriptor for it, which changes.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Tells a successor that it has to wait, and for what.
    pub(super) fn excuse(&self, core: &Core, line: &Arc<OwnedFd>) {
        if self.takes_arrival(core) {
            return;
        }
        let pid = |pid: Option<u32>| {
            pid.map_or_else(
                || "another process".to_owned(),
                |pid| format!("process {pid}"),
            )
        };
        let why = match self.machine.state() {
            State::Lending => {
                let other = self.successor.as_ref().and_then(|caller| caller.pid);
                let other = pid(other);
                match self.machine.tries() {
                    true => format!(
                        "{other} has had a part of what is new, and has neither taken over nor ended"
                    ),
                    false => format!("{other} is about to take over"),
                }
            }
            State::Keeping => format!(
                "{} has not yet ended its flows",
                pid(core.predecessor_pid())
            ),
            State::Stopping | State::Emptying | State::Closing => "it is stopping".to_owned(),
            _ => format!("it is taking over from {}", pid(core.predecessor_pid())),
        };
        let until = Some(Instant::now() + MESSAGE);
        let _ = wire::say(&**line, Word::Wait, why.as_bytes(), until);
    }

    pub(super) fn say(&self, core: &Core, peer: Peer, word: Word) {
        let Some(line) = self.line(peer) else {
            return;
        };
        // Where a successor has not yet said which its sockets are, it has no part.
        if word == Word::Shared && !core.shared.state().has_successors() {
            return;
        }
        let joint = core.joint.get().filter(|_| word == Word::Empty);
        if joint.is_some_and(|(_, joint)| joint.has_told()) {
            return;
        }
        let body = match word {
            // All its addresses have the same.
            Word::Taking => core
                .joint
                .get()
                .map_or_else(Vec::new, |(_, joint)| joint.id().to_le_bytes().to_vec()),
            Word::Gone => wire::pairs(&self.asks.gone),
            Word::Share => self.asks.part.to_le_bytes().to_vec(),
            Word::Shared => core.shared.state().part().to_le_bytes().to_vec(),
            Word::Refused | Word::Unshared => self
                .error
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default()
                .into_bytes(),
            Word::Empty => self.left.to_le_bytes().to_vec(),
            Word::Superseded => {
                let next = self.arrivals.iter().find(|caller| caller.is_heard);
                next.and_then(|caller| caller.pid)
                    .unwrap_or_default()
                    .to_le_bytes()
                    .to_vec()
            }
            _ => Vec::new(),
        };
        // Where it does not arrive, the end of the connection is heard next.
        let _ = wire::say(&*line, word, &body, Some(Instant::now() + MESSAGE));
    }
}

/// Refuses a successor that speaks no version which this process speaks.
fn greeted(message: Message) -> io::Result<Message> {
    let checked = match message.word {
        Word::Hello => wire::check_versions(&message.body),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it did not say hello",
        )),
    };
    checked.map(|()| message)
}

/// Tells a peer why this process does not go on with it, unless it has hung up itself.
fn refuse(line: &OwnedFd, error: &io::Error) {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return;
    }
    let why = pass::reason(error).map_or_else(|| error.to_string(), str::to_owned);
    let until = Some(Instant::now() + MESSAGE);
    let _ = wire::say(line, Word::Refused, why.as_bytes(), until);
}
