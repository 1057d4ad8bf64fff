//! A process that this one has started to be its successor: the thread that reaps it, and what has become of it.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use super::Generation;
use super::core::{self, Core};
use crate::error::Error;
use crate::group::Signal;
use crate::sys;

/// How long the next process may take until it begins to take over.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the end of a process is waited for that was killed: it may be in a call that nothing interrupts.
const KILLED: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Attempt {
    core: Weak<Core>,
    addr: SocketAddr,
    /// What is started, for sentences.
    program: String,
    /// The process that has started it: one that was forked from that has no such child.
    owner: u32,
    state: Mutex<State>,
    /// The number of the process that has taken over.
    pub(super) done: Signal<Result<u32, Error>>,
    pub(super) ended: Signal<Result<ExitStatus, Error>>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    pid: Option<u32>,
    timeout: Duration,
    /// Since when it could have begun to take over.
    since: Option<Instant>,
    /// Why it was killed, and until when its end is waited for.
    given_up: Option<(Why, Instant)>,
}

/// Why a process is given up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    Hung,
    Stopped,
}

#[derive(Debug)]
enum Stage {
    Starting,
    Running(Child),
    /// It has ended, and how; or could not be started.
    Ended(String),
    Refused(Error),
}

/// What the generation's thread wants to know of it.
pub(super) enum Now {
    Starts,
    Runs,
    Refused(Error),
    Ended(Error),
    /// It was killed, and its end is waited for.
    GivenUp,
    /// It was killed for this reason, and has ended.
    Over(Error),
}

impl Attempt {
    /// Starts the command, unless another has been started that is not yet there.
    pub(super) fn begin(generation: &Generation, command: Command) -> Result<Arc<Self>, Error> {
        let core = generation.first();
        let this = Arc::new(Self {
            core: Arc::downgrade(core),
            addr: core.addr,
            program: command.get_program().to_string_lossy().into_owned(),
            owner: process::id(),
            state: Mutex::new(State {
                stage: Stage::Starting,
                pid: None,
                timeout: PATIENCE,
                since: None,
                given_up: None,
            }),
            done: Signal::new(),
            ended: Signal::new(),
        });
        core.start()?;
        if let Some((kind, why)) = core.cannot_restart() {
            return Err(this.refused(kind, why));
        }
        if let Some(other) = core.set_attempt(&this, generation) {
            let who = other.who();
            return Err(this.refused(
                io::ErrorKind::ResourceBusy,
                format!("{who} is already on its way"),
            ));
        }
        // Its thread may have ended since it was asked.
        core.command(core::Command::Look).map_err(|_| {
            core.forget_attempt(&this);
            let why = "this process serves no more";
            this.refused(io::ErrorKind::ConnectionAborted, why)
        })?;
        let attempt = Arc::clone(&this);
        let thread = thread::Builder::new().name("reuseport-next".to_owned());
        let started = thread.spawn(move || attempt.run(command));
        started.map_err(|error| {
            core.forget_attempt(&this);
            let what = format!("{}: no thread can be started for it", this.cannot());
            let why = sys::resource_reason(&error);
            Error::system(what, error).at(this.addr).why(why)
        })?;
        Ok(this)
    }

    /// What its thread does, as long as the child lives.
    fn run(&self, mut command: Command) {
        let spawned = command.spawn();
        // What it passes on is the child's now.
        drop(command);
        let work = sys::fork::work();
        let pid = match spawned {
            Ok(child) => self.started(child),
            Err(error) => {
                let what = format!("{}: {} cannot be started", self.cannot(), self.program);
                let why = sys::resource_reason(&error);
                let error = Error::system(what, error).at(self.addr).why(why);
                self.state().stage = Stage::Refused(error);
                return self.tell();
            }
        };
        self.tell();
        drop(work);
        let waited = sys::reap::wait(pid);
        let _work = sys::fork::work();
        self.reap(waited);
        self.tell();
    }

    fn started(&self, mut child: Child) -> u32 {
        let pid = child.id();
        // What it says there would not be read.
        let _pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut state = self.state();
        if state.given_up.is_some() {
            // It may have ended.
            let _ = child.kill();
        }
        state.pid = Some(pid);
        state.stage = Stage::Running(child);
        pid
    }

    /// Takes the status of a child that has ended.
    fn reap(&self, waited: io::Result<()>) {
        let mut state = self.state();
        let Stage::Running(child) = &mut state.stage else {
            return;
        };
        let status = waited.and_then(|()| child.wait());
        let (how, ended) = match status {
            Ok(status) => (status.to_string(), Ok(status)),
            Err(error) => {
                let how = format!("how is not known, because it was reaped by another: {error}");
                let what = format!("cannot tell how {} ended", self.process(state.pid));
                let why = "another part of the program has waited for it, or SIGCHLD is ignored";
                (how, Err(Error::system(what, error).why(Some(why))))
            }
        };
        state.stage = Stage::Ended(how);
        drop(state);
        self.ended.put(ended);
    }

    /// Rings for the generation's thread; it is over where that has ended.
    pub(super) fn tell(&self) {
        if let Some(core) = self.core.upgrade() {
            let _ = core.command(core::Command::Look);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
        self.tell();
    }

    /// Whether this process has started it.
    pub(super) fn is_own(&self) -> bool {
        self.owner == process::id()
    }

    /// Whether a process is the child, or was started by it.
    pub(super) fn is(&self, pid: Option<u32>) -> bool {
        let child = self.state().pid;
        pid.is_some_and(|pid| match child {
            Some(child) => pid == child || sys::reap::descends(pid, child),
            // It is there before this process has heard its number.
            None => sys::reap::descends(pid, self.owner),
        })
    }

    pub(super) fn now(&self) -> Now {
        let state = self.state();
        match (&state.stage, state.given_up) {
            (Stage::Refused(error), _) => Now::Refused(error.clone()),
            (Stage::Ended(_), Some((why, _))) => Now::Over(self.because(why, &state, "")),
            (_, Some((why, until))) if Instant::now() >= until => {
                Now::Over(self.because(why, &state, ", and has not ended yet"))
            }
            (_, Some(_)) => Now::GivenUp,
            (Stage::Starting, None) => Now::Starts,
            (Stage::Running(_), None) => Now::Runs,
            (Stage::Ended(how), None) => {
                let who = self.process(state.pid);
                let why = format!("{who} ended before it had taken over: {how}");
                Now::Ended(self.refused(io::ErrorKind::Other, why))
            }
        }
    }

    /// Counts the time in which it could begin to take over; true where that is over.
    pub(super) fn is_late(&self, counts: bool) -> bool {
        let mut state = self.state();
        if !counts {
            state.since = None;
            return false;
        }
        let since = *state.since.get_or_insert_with(Instant::now);
        since.elapsed() >= state.timeout
    }

    /// When it has to be looked at, whatever is heard until then.
    pub(super) fn until(&self) -> Option<Instant> {
        let state = self.state();
        match (&state.given_up, state.since) {
            (Some((_, until)), _) => Some(*until),
            (None, Some(since)) => since.checked_add(state.timeout),
            (None, None) => None,
        }
    }

    /// Kills the child; the reason is told when it has ended.
    pub(super) fn give_up(&self, why: Why) {
        let mut state = self.state();
        if state.given_up.is_some() {
            return;
        }
        state.given_up = Some((why, Instant::now() + KILLED));
        if let Stage::Running(child) = &mut state.stage {
            // It is not reaped yet, so that the number is its own.
            let _ = child.kill();
        }
    }

    fn cannot(&self) -> String {
        format!("cannot restart the server on {}", self.addr)
    }

    pub(super) fn refused(&self, kind: io::ErrorKind, why: impl Into<String>) -> Error {
        Error::refused(kind, self.cannot(), why.into()).at(self.addr)
    }

    fn process(&self, pid: Option<u32>) -> String {
        match pid {
            Some(pid) => format!("process {pid} ({})", self.program),
            None => self.program.clone(),
        }
    }

    /// The word for it in a sentence.
    pub(super) fn who(&self) -> String {
        self.process(self.state().pid)
    }

    fn because(&self, why: Why, state: &State, but: &str) -> Error {
        match why {
            Why::Stopped => self.stopped(),
            Why::Hung => {
                let (who, timeout) = (self.process(state.pid), state.timeout);
                let why = "was killed, because it hung: it had not begun to take over within";
                let why = format!("{who} {why} {timeout:?}{but}");
                self.refused(io::ErrorKind::TimedOut, why)
            }
        }
    }

    pub(super) fn stopped(&self) -> Error {
        let why = "this process has been told to stop";
        self.refused(io::ErrorKind::ConnectionAborted, why)
    }

    /// Another serves, and the child is not this process's to judge any more.
    pub(super) fn too_late(&self, why: &str) -> Error {
        let why = format!("{why}, and {} goes on by itself", self.who());
        self.refused(io::ErrorKind::ConnectionAborted, why)
    }

    /// Where this process was forked from the one that has started it.
    pub(super) fn foreign(&self) -> Error {
        let why = format!("process {} has started it, and not this one", self.owner);
        self.refused(io::ErrorKind::ConnectionAborted, why)
    }
}

/// The process that was started, and the generation, which is kept until it is decided what becomes of that.
pub(super) type Begun = Option<(Arc<Attempt>, Generation)>;

impl Core {
    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attempt(&self) -> Option<Arc<Attempt>> {
        self.begun()
            .as_ref()
            .map(|(attempt, _)| Arc::clone(attempt))
    }

    /// Notes what is being started, unless something is: that is returned.
    pub(super) fn set_attempt(
        &self,
        attempt: &Arc<Attempt>,
        generation: &Generation,
    ) -> Option<Arc<Attempt>> {
        let mut begun = self.begun();
        match &*begun {
            Some((other, _)) if other.is_own() => Some(Arc::clone(other)),
            _ => {
                let before = begun.replace((Arc::clone(attempt), generation.clone()));
                drop(begun);
                drop(before);
                None
            }
        }
    }

    /// Forgets it. The generation may be dropped by that.
    pub(super) fn forget_attempt(&self, attempt: &Attempt) {
        let is_it = |begun: &mut (Arc<Attempt>, _)| std::ptr::eq(&*begun.0, attempt);
        let begun = self.begun().take_if(is_it);
        drop(begun);
    }

    pub(super) fn successor(&self) -> Option<Option<u32>> {
        *self
            .successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_successor(&self, successor: Option<Option<u32>>) {
        let mut now = self
            .successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *now = successor;
    }

    /// Why nothing can be started to take over from this process, as far as is known without asking its thread.
    pub(super) fn cannot_restart(&self) -> Option<(io::ErrorKind, String)> {
        if self.is_alone() || !sys::pass::TELLS_SENDERS {
            let why = "this system does not tell which process takes over";
            return Some((io::ErrorKind::Unsupported, why.to_owned()));
        }
        if self.predecessor.is_some() && !self.asked.load(Ordering::SeqCst) {
            let why = "this process has not taken over itself";
            return Some((io::ErrorKind::InvalidInput, why.to_owned()));
        }
        if !self.is_ending.load(Ordering::SeqCst) {
            return None;
        }
        let why = match (self.successor(), self.relieved.has()) {
            (None, false) => "this process has been told to stop".to_owned(),
            (None, true) => "this process serves no more".to_owned(),
            (Some(pid), false) => by(pid, "is already taking over"),
            (Some(pid), true) => by(pid, "has already taken over"),
        };
        Some((io::ErrorKind::ConnectionAborted, why))
    }
}

/// What a process does that takes over, for a sentence.
pub(super) fn by(pid: Option<u32>, does: &str) -> String {
    match pid {
        Some(pid) => format!("process {pid} {does}"),
        None => format!("a process whose number is not known here {does}"),
    }
}
