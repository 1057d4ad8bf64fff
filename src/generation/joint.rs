//! Addresses that are taken over together: each is ready before the first one's predecessor hears that it is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::core::{Command, Core};
use super::driver::MESSAGE;
use super::wire::{self, Word};
use crate::error::Error;
use crate::sys::OwnedFd;

/// What the generations of several addresses know of each other.
#[derive(Debug)]
pub(super) struct Joint {
    /// By which the predecessors know that it is one process that takes them over together.
    id: u64,
    cores: Vec<Weak<Core>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of each address, whether its predecessor has nothing left, or its time is over; or it has none any more.
    ready: Vec<bool>,
    /// Where the predecessors hear it that are still there, and what they have left.
    lines: Vec<Option<(Arc<OwnedFd>, u32)>>,
    told: Told,
    failed: Option<Failure>,
    /// What has been heard of the process that takes it over, for each address.
    passing: Vec<Option<Passing>>,
}

/// Whether the predecessors have been told that it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    No,
    /// One thread does it.
    Begun,
    All,
}

/// A successor that takes an address over.
#[derive(Clone, Copy, Debug)]
struct Passing {
    pid: Option<u32>,
    /// The same for all addresses that it takes over together; none where it is one.
    id: Option<u64>,
    /// It has said that it is over.
    is_over: bool,
    /// The connection with it has ended.
    has_ended: bool,
}

/// What becomes of an address of which the successor has said that it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has not said so of the others yet.
    Wait,
    Over,
    /// It has died before it could.
    Back,
}

/// Why the others go back too.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether one of them cannot take over any more, so that none does.
    pub(super) for_good: bool,
}

impl Joint {
    /// Of those there is more than one.
    pub(super) fn of(cores: &[Arc<Core>]) {
        let joint = Arc::new(Self {
            id: chance(),
            cores: cores.iter().map(Arc::downgrade).collect(),
            state: Mutex::new(State {
                ready: vec![false; cores.len()],
                lines: vec![None; cores.len()],
                told: Told::No,
                failed: None,
                passing: vec![None; cores.len()],
            }),
        });
        for (at, core) in cores.iter().enumerate() {
            // Before any of them takes over; it is set once.
            let _ = core.joint.set((at, Arc::clone(&joint)));
        }
        for (at, core) in cores.iter().enumerate() {
            // Each says whether it has a predecessor; one that was given up meanwhile says nothing any more.
            if core.command(Command::Look).is_err() && core.predecessor.is_some() {
                let error = core.outcome().err().unwrap_or_else(|| core.has_ended());
                let for_good = true;
                joint.fail(at, Failure { error, for_good });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the predecessors are told of it, each for one address.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// All are to take over, perhaps again after a takeover that was refused.
    pub(super) fn begin(&self) {
        let before = self.state().failed.take_if(|failure| !failure.for_good);
        drop(before);
    }

    /// That one has no predecessor any more to wait for.
    pub(super) fn is_free(&self, at: usize) {
        let mut state = self.state();
        let is_new = state.ready.get(at) == Some(&false);
        if let Some(ready) = state.ready.get_mut(at) {
            *ready = true;
        }
        drop(state);
        if is_new {
            self.ring(at);
        }
    }

    /// That one is ready, whose predecessor hears on `line`, and has so much left; whether all predecessors have been
    /// told.
    ///
    /// The last one tells all. Until the last of them has been told nothing is hidden that it had: so where this
    /// process dies in between, the predecessors go on with all.
    pub(super) fn is_over(&self, at: usize, line: Option<Arc<OwnedFd>>, left: u32) -> bool {
        let mut state = self.state();
        match state.told {
            Told::No => {}
            told => return told == Told::All,
        }
        if state.failed.is_some() {
            return false;
        }
        if let Some(its) = state.lines.get_mut(at) {
            *its = line.map(|line| (line, left));
        }
        if let Some(ready) = state.ready.get_mut(at) {
            *ready = true;
        }
        if !state.ready.iter().all(|ready| *ready) {
            return false;
        }
        state.told = Told::Begun;
        let lines = std::mem::take(&mut state.lines);
        drop(state);
        let until = Some(Instant::now() + MESSAGE);
        for (line, left) in lines.into_iter().flatten() {
            // Where it does not arrive, the end of the connection is heard next.
            let _ = wire::say(&*line, Word::Empty, &left.to_le_bytes(), until);
        }
        self.state().told = Told::All;
        self.ring(at);
        true
    }

    /// Whether the predecessors have been told.
    pub(super) fn has_told(&self) -> bool {
        self.state().told == Told::All
    }

    /// That process begins to take one address over; `None` where it has given it back.
    pub(super) fn passes(&self, at: usize, to: Option<(Option<u32>, Option<u64>)>) {
        let passing = to.map(|(pid, id)| Passing {
            pid,
            id,
            is_over: false,
            has_ended: false,
        });
        let mut state = self.state();
        // Of processes before that one.
        for ended in &mut state.passing {
            ended.take_if(|ended| ended.has_ended);
        }
        if let Some(its) = state.passing.get_mut(at) {
            *its = passing;
        }
        drop(state);
        self.ring(at);
    }

    /// The processes that take an address over, or have.
    pub(super) fn takers(&self) -> Vec<Option<u32>> {
        let state = self.state();
        state
            .passing
            .iter()
            .flatten()
            .map(|passing| passing.pid)
            .collect()
    }

    /// The process that takes one address over has said that it is over.
    pub(super) fn hears_over(&self, at: usize) {
        self.note(at, |passing| passing.is_over = true);
    }

    /// The connection with the process that takes one address over has ended.
    pub(super) fn hears_end(&self, at: usize) {
        self.note(at, |passing| passing.has_ended = true);
    }

    fn note(&self, at: usize, what: impl FnOnce(&mut Passing)) {
        let mut state = self.state();
        let passing = state.passing.get_mut(at).and_then(Option::as_mut);
        let is_noted = passing.map(what).is_some();
        drop(state);
        if is_noted {
            self.ring(at);
        }
    }

    /// What becomes of an address of which its successor has said that it is over: that process says so of all that
    /// it takes over, and what it could not say before it died it has not taken.
    pub(super) fn verdict(&self, at: usize) -> Verdict {
        let state = self.state();
        let Some(Some(own)) = state.passing.get(at) else {
            return Verdict::Over;
        };
        let all = state.passing.iter().flatten();
        let is_its = |other: &&Passing| other.id.is_some() && other.id == own.id;
        let missing = all.filter(|other| is_its(other) && !other.is_over);
        // One that has ended will not say it any more.
        missing.fold(Verdict::Over, |verdict, other| match verdict {
            Verdict::Back => verdict,
            _ if other.has_ended => Verdict::Back,
            _ => Verdict::Wait,
        })
    }

    /// That one cannot take over, and so none does.
    pub(super) fn fail(&self, at: usize, failure: Failure) {
        let mut state = self.state();
        let is_known = state
            .failed
            .as_ref()
            .is_some_and(|known| known.for_good || !failure.for_good);
        // What the predecessors have heard is not taken back.
        let is_known = is_known || state.told != Told::No;
        let mut lines = Vec::new();
        if !is_known {
            state.failed = Some(failure);
            // All go back, and say so anew.
            state.ready.fill(false);
            lines.resize(state.lines.len(), None);
            std::mem::swap(&mut lines, &mut state.lines);
        }
        drop(state);
        drop(lines);
        if !is_known {
            self.ring(at);
        }
    }

    pub(super) fn failed(&self) -> Option<Failure> {
        self.state().failed.clone()
    }

    /// The others look again.
    fn ring(&self, at: usize) {
        let others = self
            .cores
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        for core in others.filter_map(|(_, core)| core.upgrade()) {
            // An error where it is over.
            let _ = core.command(Command::Look);
        }
    }
}

/// A number that no other process has: the standard library's hashes begin with one.
fn chance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    // In a child that was forked, that is the same.
    hasher.write_u32(std::process::id());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: usize) -> Joint {
        Joint {
            id: chance(),
            cores: Vec::new(),
            state: Mutex::new(State {
                ready: vec![false; n],
                lines: vec![None; n],
                told: Told::No,
                failed: None,
                passing: vec![None; n],
            }),
        }
    }

    #[test]
    fn it_is_over_when_it_is_for_all() {
        let joint = of(3);
        assert!(!joint.is_over(0, None, 0));
        assert!(!joint.is_over(2, None, 0));
        assert!(!joint.has_told());
        assert!(joint.is_over(1, None, 0));
        assert!(joint.has_told() && joint.is_over(0, None, 0));
        // What has been told is not taken back.
        let error = Error::invalid("cannot", "because");
        let for_good = true;
        joint.fail(0, Failure { error, for_good });
        assert!(joint.failed().is_none());
    }

    #[test]
    fn where_one_fails_none_is_over() {
        let joint = of(2);
        let failure = |why: &'static str, for_good| Failure {
            error: Error::invalid("cannot", why),
            for_good,
        };
        joint.fail(0, failure("first", false));
        assert!(!joint.is_over(0, None, 0) && !joint.is_over(1, None, 0));
        joint.fail(1, failure("second", false));
        assert_eq!(joint.failed().unwrap().error.to_string(), "cannot: first");
        joint.begin();
        assert!(joint.failed().is_none());
        joint.fail(1, failure("third", false));
        joint.fail(0, failure("fourth", true));
        assert_eq!(joint.failed().unwrap().error.to_string(), "cannot: fourth");
        joint.begin();
        assert!(joint.failed().is_some());
    }

    #[test]
    fn a_process_takes_all_that_it_takes_or_none() {
        use Verdict::{Back, Over, Wait};
        // Off Linux, and of another container, the number of a process is not known.
        let (one, other) = (Some((None, Some(1))), Some((None, Some(2))));
        let joint = of(3);
        for (at, by) in [(0, one), (1, one), (2, other)] {
            joint.passes(at, by);
        }
        joint.hears_over(0);
        assert_eq!(joint.verdict(0), Wait);
        joint.hears_over(1);
        assert_eq!([joint.verdict(0), joint.verdict(1)], [Over, Over]);
        assert_eq!(joint.verdict(2), Wait);

        let joint = of(3);
        for (at, by) in [(0, one), (1, one), (2, one)] {
            joint.passes(at, by);
        }
        joint.hears_over(0);
        joint.hears_end(0);
        joint.hears_over(1);
        assert_eq!([joint.verdict(0), joint.verdict(1)], [Wait, Wait]);
        joint.hears_end(2);
        assert_eq!([joint.verdict(0), joint.verdict(1)], [Back, Back]);
        // The next one has nothing to do with it.
        joint.passes(0, one);
        joint.hears_over(0);
        assert_eq!(joint.verdict(0), Over);
        // Two that take an address each do not wait for each other, and are one to the predecessor neither.
        let joint = of(2);
        let alone = Some((Some(1), None));
        joint.passes(0, alone);
        joint.passes(1, alone);
        joint.hears_over(0);
        assert_eq!(joint.verdict(0), Over);
    }
}
