//! The book in which every request is entered.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::form::{Kind, Protocol};
use crate::loss::{Failure, Loss, sentence};

/// What became of the requests of one kind.
#[derive(Clone, Default)]
pub(crate) struct Cell {
    pub(crate) answered: usize,
    pub(crate) losses: BTreeMap<Loss, usize>,
}

impl Cell {
    pub(crate) fn lost(&self) -> usize {
        self.losses.values().sum::<usize>() - self.unsent()
    }

    /// Requests that the client has asked again, because they had not been sent.
    pub(crate) fn unsent(&self) -> usize {
        self.losses.get(&Loss::Unsent).copied().unwrap_or_default()
    }

    pub(crate) fn requests(&self) -> usize {
        self.answered + self.lost()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Those whom the server cannot refuse end.
    Ending,
    /// The server refuses, and whom it refuses ends.
    Stopping,
    /// All end.
    Over,
}

pub(crate) struct Counts {
    pub(crate) cells: BTreeMap<Kind, Cell>,
    /// Answers of each process.
    pub(crate) processes: BTreeMap<u32, BTreeMap<Kind, usize>>,
    /// What some of the losses said.
    pub(crate) sentences: Vec<String>,
    phase: Phase,
}

impl Counts {
    fn has_answered(&self, pid: u32, kinds: &[Kind], answers: usize) -> bool {
        let process = self.processes.get(&pid);
        let of = |kind| process.and_then(|process| process.get(kind)).copied();
        kinds.iter().all(|kind| of(kind) >= Some(answers))
    }
}

pub(crate) struct Tally {
    protocol: Protocol,
    counts: Mutex<Counts>,
    changed: Condvar,
}

impl Tally {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let counts = Counts {
            cells: BTreeMap::new(),
            processes: BTreeMap::new(),
            sentences: Vec::new(),
            phase: Phase::Serving,
        };
        Self {
            protocol,
            counts: Mutex::new(counts),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        let changed = change(&mut self.counts.lock().unwrap());
        self.changed.notify_all();
        changed
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.change(|counts| counts.phase = phase);
    }

    /// How many processes have answered.
    pub(crate) fn processes(&self) -> usize {
        self.counts.lock().unwrap().processes.len()
    }

    pub(crate) fn goes_on(&self, kind: Kind) -> bool {
        match self.counts.lock().unwrap().phase {
            Phase::Serving => true,
            Phase::Ending | Phase::Stopping => self.protocol.refuses(kind),
            Phase::Over => false,
        }
    }

    /// Enters what came of a request; whether its client goes on.
    pub(crate) fn note(&self, kind: Kind, answer: Result<u32, Failure>) -> bool {
        self.change(|counts| {
            let cell = counts.cells.entry(kind).or_default();
            let failure = match answer {
                Ok(pid) => {
                    cell.answered += 1;
                    let process = counts.processes.entry(pid).or_default();
                    *process.entry(kind).or_default() += 1;
                    return true;
                }
                Err(failure) => failure,
            };
            let loss = match Loss::of(&failure) {
                // Nobody says goodbye to a connection that is new.
                Loss::Unsent if !kind.is_kept() => Loss::Eof,
                loss => loss,
            };
            if loss == Loss::Refused && counts.phase == Phase::Stopping {
                return false;
            }
            *cell.losses.entry(loss).or_default() += 1;
            let is_expected = loss == Loss::Unsent || self.protocol.limit(kind).is_some();
            if !is_expected && counts.sentences.len() < 20 {
                let said = sentence(&failure);
                counts
                    .sentences
                    .push(format!("{kind:?}, {}: {said}", loss.name()));
            }
            // A server that answers nobody is not asked for ever.
            cell.losses[&loss] < 100_000
        })
    }

    /// Waits until this process has answered so many of each kind; false where it does not.
    pub(crate) fn wait(&self, pid: u32, answers: usize, patience: Duration) -> bool {
        let kinds = self.protocol.kinds();
        let counts = self.counts.lock().unwrap();
        let waits = |counts: &mut Counts| !counts.has_answered(pid, kinds, answers);
        let waited = self.changed.wait_timeout_while(counts, patience, waits);
        !waited.unwrap().1.timed_out()
    }

    pub(crate) fn into_counts(self) -> Counts {
        self.counts.into_inner().unwrap()
    }
}
