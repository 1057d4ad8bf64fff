//! How a generation's thread carries out what its machine answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Driver, MESSAGE, RETRY, WAKE, WARY};
use crate::error::Error;
use crate::generation::core::{Core, STOP};
use crate::generation::machine::{Action, Event, State};
use crate::generation::wire::{self, Word};
use crate::group::{Drained, Id, Remains, Stage};
use crate::open::{Call, Opening, Purpose};
use crate::sys::{self, Kind, OwnedFd, meet};
use crate::trace;

/// How long one attempt to remove hidden sockets waits for a grace period of the kernel, which takes some
/// milliseconds where there is no flood.
const LONGEST: Duration = Duration::from_secs(10);

impl Driver {
    pub(super) fn act(&mut self, core: &Core, action: Action) -> Result<(), Event> {
        let failed = Event::Failed(action);
        let done = match action {
            Action::Say(peer, word) => {
                self.say(core, peer, word);
                Ok(())
            }
            Action::Program => match core.shared.state().take_over() {
                Ok(true) => {
                    self.has_served = true;
                    Ok(())
                }
                Ok(false) => return Err(Event::Nothing),
                Err(error) => Err(error),
            },
            Action::Drain => {
                self.drain(core);
                Ok(())
            }
            Action::Hide => {
                if core.kind == Kind::Tcp {
                    let mut state = core.shared.state();
                    let ids: Vec<Id> = state.predecessors().into_iter().map(|(id, _)| id).collect();
                    state.hide(ids);
                }
                Ok(())
            }
            Action::Remove => self.remove(core),
            Action::Lend => match self.lend(core) {
                Ok(true) => Ok(()),
                Ok(false) => return Err(Event::Nothing),
                Err(error) => Err(error),
            },
            Action::Admit => {
                let message = self.message.take();
                let (fds, numbers) = message
                    .map(|message| (message.fds, wire::numbers(&message.body)))
                    .unwrap_or_default();
                let admitted = core.shared.state().add_successors(fds, &numbers);
                admitted.map_err(|error| cannot_lend(core, error))
            }
            Action::Share => {
                let message = self.message.as_ref();
                let part = message.and_then(|message| wire::part(&message.body));
                core.shared.state().give_part(part.unwrap_or(f64::NAN))
            }
            Action::Unshare => unshare(core),
            Action::Omit => {
                let message = self.message.as_ref();
                let gone = message.map(|message| wire::numbers(&message.body));
                core.shared.state().omit(&gone.unwrap_or_default())
            }
            Action::Freeze => {
                core.is_ending.store(true, Ordering::SeqCst);
                core.shared.state().set_stage(Stage::Passing);
                if let Some((at, joint)) = core.joint.get() {
                    let pid = self.successor.as_ref().and_then(|caller| caller.pid);
                    let message = self.message.as_ref();
                    let id = message.and_then(|message| message.body.first_chunk());
                    joint.passes(*at, Some((pid, id.map(|id| u64::from_le_bytes(*id)))));
                }
                // The successor answers those that come from here on.
                let until = Some(Instant::now() + MESSAGE);
                for caller in self.arrivals.drain(..) {
                    let _ = wire::say(&*caller.line, Word::Again, &[], until);
                }
                Ok(())
            }
            Action::Thaw => {
                if let Some((at, joint)) = core.joint.get() {
                    joint.passes(*at, None);
                }
                core.is_ending.store(self.machine.stops(), Ordering::SeqCst);
                let mut state = core.shared.state();
                state.set_stage(Stage::Lent);
                state.reprogram()
            }
            Action::Retreat => {
                core.shared.state().set_stage(Stage::Before);
                if let Some(error) = &self.error {
                    core.fail_jointly(error);
                }
                Ok(())
            }
            Action::TakeBack => {
                core.is_ending.store(self.machine.stops(), Ordering::SeqCst);
                self.successor = None;
                let message = self.message.as_ref();
                let gave_up = message.is_some_and(|message| message.word == Word::GivingUp);
                let taken_back = core.shared.take_back();
                let mut state = core.shared.state();
                // It has said that its sockets are out of the group.
                let is_wary = !gave_up || state.is_wary(false);
                let is_left = state.is_open();
                drop(state);
                self.wary_until = is_wary.then(|| Instant::now() + WARY);
                if !is_left {
                    return Err(Event::Nothing);
                }
                taken_back
            }
            Action::Withdraw => {
                core.shared.withdraw();
                Ok(())
            }
            Action::Taken => {
                let again = self.machine.state() == State::Beside;
                core.tell(self.outcome(core), again);
                Ok(())
            }
            Action::Relieve => {
                core.shared.state().relieve();
                let superseded = self.machine.is_superseded();
                let outcome = match superseded {
                    true => self.outcome(core),
                    false => Ok(Drained::of(core.kind, self.left)),
                };
                core.put_outcome(outcome);
                core.is_ending.store(true, Ordering::SeqCst);
                core.tell_relieved();
                let grace = match self.has_served || self.machine.is_tried() {
                    true => core.settings().grace,
                    false => Duration::ZERO,
                };
                // What no clock reaches is as long as a program runs.
                self.shutdown_at = Instant::now().checked_add(grace);
                Ok(())
            }
            Action::Stop => {
                core.is_ending.store(true, Ordering::SeqCst);
                if self.machine.state() == State::Emptying && core.kind == Kind::Tcp {
                    // Before its listeners are hidden: then none is chosen any more.
                    sys::barrier(MESSAGE);
                }
                if core.is_one_queue() && self.successor.is_some() {
                    // It has the queue, with all that is in it.
                    return Err(Event::Nothing);
                }
                let own = core.shared.state().stop();
                if own.is_empty() {
                    return Err(Event::Nothing);
                }
                self.empty(core, own);
                let timeout = core.settings().timeout.unwrap_or(STOP);
                self.deadline = Instant::now().checked_add(timeout);
                Ok(())
            }
            Action::Close => {
                self.close(core);
                Ok(())
            }
            Action::Forget => {
                self.rendezvous = None;
                self.waited_for = core.shared.state().dismiss();
                match self.successor {
                    // It removes them one after the other, and knows who stands where after each: so it goes
                    // first.
                    Some(_) => self.wake_at = Some(Instant::now() + WAKE),
                    None => self.wake(),
                }
                Ok(())
            }
        };
        done.map_err(|error| {
            trace::refused(&error);
            self.error = Some(error);
            failed
        })
    }

    pub(super) fn drain(&mut self, core: &Core) {
        let predecessors = core.shared.state().predecessors();
        self.empty(core, predecessors);
    }

    /// From here on these are counted.
    fn empty(&mut self, core: &Core, sockets: Vec<(Id, Arc<OwnedFd>)>) {
        let remains = |(id, fd)| (id, Remains::of(core.kind, fd));
        self.remains = sockets.into_iter().map(remains).collect();
        self.is_past = false;
        self.count_at = Instant::now();
    }

    pub(super) fn remove(&mut self, core: &Core) -> Result<(), Error> {
        // From their hiding on: no processor still sees one of them.
        if core.kind == Kind::Tcp && !sys::barrier(LONGEST) {
            let what = format!(
                "cannot yet remove the predecessor's listeners on {}",
                core.addr
            );
            let why = "the kernel's processors are still at packets of before";
            return Err(Error::refused(io::ErrorKind::TimedOut, what, why).at(core.addr));
        }
        self.space(core)?;
        let mut state = core.shared.state();
        // No descriptor is kept: where a UDP socket cannot be hidden, it is in its group until its last one
        // is closed.
        let ids = state.predecessors().into_iter().map(|(id, _)| id);
        let ids: Vec<Id> = ids.collect();
        state.remove(&ids).map(drop)
    }

    /// Ends the waiting of workers that nothing else has ended.
    pub(super) fn wake(&mut self) {
        self.wake_at = None;
        for fd in self.waited_for.drain(..) {
            sys::remove(Kind::Tcp, sys::borrow(&*fd));
        }
    }

    /// Lets no other successor come.
    fn close(&mut self, core: &Core) {
        let callers = self.arrivals.drain(..);
        let rendezvous = self.rendezvous.take();
        // A predecessor or a successor still answers there.
        let is_shared = self.predecessor.is_some() || self.successor.is_some();
        if !self.machine.is_dropped() || is_shared {
            return;
        }
        core.shared.state().release_queue();
        // They find that there is no rendezvous, and a group that has the port.
        let until = Some(Instant::now() + MESSAGE);
        for caller in callers {
            let _ = wire::say(&*caller.line, Word::Again, &[], until);
        }
        if let Some(rendezvous) = rendezvous {
            meet::end(rendezvous, &wire::frame(Word::Again, &[]));
        }
    }

    /// Opens the spacers that the removal of the predecessor's sockets needs.
    fn space(&self, core: &Core) -> Result<(), Error> {
        let (n, options) = {
            let state = core.shared.state();
            (state.spacers(), state.options())
        };
        let mut spacers = Vec::new();
        for at in 0..n {
            let opening = Opening::new(&options, Call::Group(core.kind), core.addr)?;
            let socket = opening.open(Purpose::Join(at, n), true)?;
            spacers.push(match core.kind {
                Kind::Tcp => socket.into_listener().into(),
                Kind::Udp => socket.into_udp().into(),
            });
        }
        core.shared.state().add_spacers(spacers);
        Ok(())
    }

    /// Lends the members to the successor that has waited longest; false where there is none.
    pub(super) fn lend(&mut self, core: &Core) -> Result<bool, Error> {
        let Some(at) = self.arrivals.iter().position(|caller| caller.is_heard) else {
            return Ok(true);
        };
        self.successor = Some(self.arrivals.remove(at));
        let mut state = core.shared.state();
        let lent = state.lend()?;
        if lent.is_empty() {
            return Ok(false);
        }
        state.begin_lending()?;
        drop(state);
        let (Some(caller), Some(rendezvous)) = (&self.successor, &self.rendezvous) else {
            return Ok(true);
        };
        let until = Some(Instant::now() + MESSAGE);
        let (line, one_queue) = (&*caller.line, core.is_one_queue());
        wire::send_members(line, core.kind, one_queue, &lent, &rendezvous.fds(), until)
            .map_err(|error| cannot_lend(core, error))?;
        Ok(true)
    }

    pub(super) fn outcome(&mut self, core: &Core) -> Result<Drained, Error> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.machine.is_superseded() {
            let by = self
                .superseded_by
                .map_or_else(String::new, |pid| format!(" by process {pid}"));
            let why = format!("it was superseded{by}, which came later and is to take over");
            let what = format!("cannot take over {}", core.addr);
            return Err(Error::refused(io::ErrorKind::ConnectionAborted, what, why).at(core.addr));
        }
        let ends = self.machine.is_over() || self.machine.gives_up();
        if ends && !self.machine.is_dropped() {
            return Err(core.has_ended());
        }
        Ok(Drained::of(core.kind, self.left))
    }
}

/// Nothing comes to the successor when this has been done; there may be no descriptor or memory for it, which changes.
fn unshare(core: &Core) -> Result<(), Error> {
    const TRIES: usize = 20;
    for _ in 1..TRIES {
        if core.shared.state().give_part(0.0).is_ok() {
            return Ok(());
        }
        std::thread::sleep(RETRY);
    }
    core.shared.state().give_part(0.0)
}

fn cannot_lend(core: &Core, error: io::Error) -> Error {
    let what = format!("cannot pass {} on to the next process", core.addr);
    let why = sys::pass::reason(&error);
    Error::system(what, error).at(core.addr).why(why)
}
