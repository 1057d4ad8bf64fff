//! What the handles of a generation share with its thread.
//!
//! The thread holds the lock of the driver while it works, and takes the group's lock under it; a handle
//! takes neither: it leaves a command, and rings.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::attempt::Begun;
use super::canary::Answer;
use super::driver::{self, Driver};
use super::joint::{Failure, Joint};
use crate::error::Error;
use crate::group::{Drained, Guarantee, Shared, Signal};
use crate::sys::{self, Kind, wait::Bell};
use crate::trace;

/// How long a takeover may take: one second more than a handshake whose client has vanished takes to
/// end, with the kernel's default of five answers (net.ipv4.tcp_synack_retries).
const TAKEOVER: Duration = Duration::from_secs(64);

/// How long a stop may take: a client that is there has answered by then also where three SYN-ACKs were
/// lost, and one that is not there is not waited for.
pub(super) const STOP: Duration = Duration::from_secs(10);

/// How long the last handle waits for the thread, which answers at once unless a peer hangs.
const DROP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) addr: SocketAddr,
    pub(super) kind: Kind,
    /// The user that opened the sockets, whatever this process has become since.
    pub(super) owner: u32,
    pub(super) guarantee: Guarantee,
    pub(super) predecessor: Option<super::Predecessor>,
    /// The other addresses that are taken over with this one, and which of them this is.
    pub(super) joint: OnceLock<(usize, Arc<Joint>)>,
    pub(super) taken: Signal<Result<Drained, Error>>,
    /// Nothing more comes.
    pub(super) relieved: Signal<()>,
    /// Rings from then on, for workers that wait in the kernel; only where the group has one queue, because
    /// nothing can be done to that which wakes them.
    pub(super) ends: Option<Bell>,
    /// Fresh connections have had time besides.
    pub(super) shutdown: Signal<()>,
    /// The thread has heard that no handle is left.
    pub(super) dropped: Signal<()>,
    /// Whether clients should find another process from now on.
    pub(super) is_ending: AtomicBool,
    /// What was left to accept when nothing more came; or why it does not serve.
    outcome: Mutex<Result<Drained, Error>>,
    pub(super) settings: Mutex<Settings>,
    pub(super) asked: AtomicBool,
    /// Whether the takeover was begun by a future that tells only when to end.
    is_plain: AtomicBool,
    /// None when its thread has ended for good.
    commands: Mutex<Option<Vec<Command>>>,
    driver: Mutex<Driver>,
    thread: Mutex<Thread>,
    /// The process that has been started to be the successor; until that is decided, the generation is kept.
    pub(super) attempt: Mutex<Begun>,
    /// The process that is taking over, or has; its number where it has one here.
    pub(super) successor: Mutex<Option<Option<u32>>>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// What fresh connections have for their first request.
    pub(super) grace: Duration,
    /// What handshakes have, and the workers for accepting; the defaults differ.
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug)]
struct Thread {
    /// None where there is no thread: see [`Core::alone`].
    bell: Option<Arc<Bell>>,
    /// The process in which it runs: a child that was forked has none.
    pid: Option<u32>,
    id: Option<ThreadId>,
}

/// What the program asks for.
#[derive(Debug)]
pub(super) enum Command {
    TakeOver(Option<Instant>),
    Share(f64, Answer),
    Stop,
    Drop,
    /// Something has become of the process that was started.
    Look,
}

impl Core {
    pub(super) fn new(
        shared: Arc<Shared>,
        driver: Driver,
        predecessor: Option<super::Predecessor>,
    ) -> io::Result<Self> {
        Self::with(shared, driver, predecessor, Some(Bell::new()?))
    }

    /// One that no process replaces, because this system has no place at which two could meet. It has no thread,
    /// and takes no command.
    pub(super) fn alone(shared: Arc<Shared>, driver: Driver) -> io::Result<Self> {
        let this = Self::with(shared, driver, None, None)?;
        *this.command_list() = None;
        Ok(this)
    }

    fn with(
        shared: Arc<Shared>,
        driver: Driver,
        predecessor: Option<super::Predecessor>,
        bell: Option<Bell>,
    ) -> io::Result<Self> {
        let (addr, kind, owner, guarantee, one_queue) = {
            let mut state = shared.state();
            let guarantee = state.passing_guarantee();
            let one_queue = state.is_one_queue() && bell.is_some();
            (
                state.addr(),
                state.kind(),
                state.owner(),
                guarantee,
                one_queue,
            )
        };
        Ok(Self {
            shared,
            addr,
            kind,
            owner,
            guarantee,
            predecessor,
            joint: OnceLock::new(),
            taken: Signal::new(),
            relieved: Signal::new(),
            ends: one_queue.then(Bell::new).transpose()?,
            shutdown: Signal::new(),
            dropped: Signal::new(),
            is_ending: AtomicBool::new(false),
            outcome: Mutex::new(Ok(Drained::default())),
            settings: Mutex::new(Settings {
                grace: Duration::from_secs(5),
                timeout: None,
            }),
            asked: AtomicBool::new(false),
            is_plain: AtomicBool::new(false),
            commands: Mutex::new(Some(Vec::new())),
            driver: Mutex::new(driver),
            thread: Mutex::new(Thread {
                bell: bell.map(Arc::new),
                pid: None,
                id: None,
            }),
            attempt: Mutex::new(None),
            successor: Mutex::new(None),
        })
    }

    pub(super) fn driver(&self) -> MutexGuard<'_, Driver> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command_list(&self) -> MutexGuard<'_, Option<Vec<Command>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn commands(&self) -> Vec<Command> {
        self.command_list()
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Takes no command any more, unless one has just come.
    pub(super) fn close(&self) -> bool {
        let mut list = self.command_list();
        let is_empty = list.as_ref().is_none_or(Vec::is_empty);
        if is_empty {
            *list = None;
        }
        is_empty
    }

    fn thread(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bell(&self) -> Option<Arc<Bell>> {
        self.thread().bell.clone()
    }

    /// Whether no process can replace this one.
    pub(super) fn is_alone(&self) -> bool {
        self.thread().bell.is_none()
    }

    /// Starts the thread, unless it runs in this process.
    pub(super) fn start(self: &Arc<Self>) -> Result<(), Error> {
        sys::fork::prepare();
        let me = std::process::id();
        let mut thread = self.thread();
        if thread.pid == Some(me) || thread.bell.is_none() {
            return Ok(());
        }
        let mut started = || {
            if thread.pid.is_some() {
                // The parent's thread waits for the other one.
                thread.bell = Some(Arc::new(Bell::new()?));
            }
            let core = Arc::clone(self);
            thread::Builder::new()
                .name("reuseport-gen".to_owned())
                .spawn(move || driver::run(&core))
        };
        let started = started().map_err(|error| {
            let what = format!("cannot start a thread for the generation on {}", self.addr);
            let why = sys::resource_reason(&error);
            Error::system(what, error).at(self.addr).why(why)
        })?;
        thread.pid = Some(me);
        thread.id = Some(started.thread().id());
        Ok(())
    }

    /// Leaves a command for the thread; an error where the thread cannot be woken.
    pub(super) fn command(&self, command: Command) -> Result<(), Error> {
        match &mut *self.command_list() {
            Some(list) => list.push(command),
            None => return Err(self.has_ended()),
        }
        let rung = self.bell().map_or(Ok(()), |bell| bell.ring());
        rung.map_err(|error| {
            drop(self.commands());
            let what = format!("cannot wake the thread of the generation on {}", self.addr);
            Error::system(what, error).at(self.addr)
        })
    }

    /// No handle is left.
    ///
    /// The program closes its members next. Where those of the predecessor get everything, these leave the
    /// group first: a close alone can lose a datagram.
    pub(super) fn give_up(&self) {
        let is_beside = self.shared.state().is_beside();
        // An error where it is over.
        let is_told = self.command(Command::Drop).is_ok();
        let answers = {
            let thread = self.thread();
            thread.pid == Some(std::process::id()) && thread.id != Some(thread::current().id())
        };
        if is_beside && is_told && answers {
            self.dropped.wait_for(DROP);
        }
    }

    pub(super) fn has_ended(&self) -> Error {
        // With another address, which tells why.
        if let Some(failure) = self.joint.get().and_then(|(_, joint)| joint.failed()) {
            return failure.error;
        }
        let what = format!("cannot take over {}", self.addr);
        let why = "this process has been told to end";
        Error::refused(io::ErrorKind::ConnectionAborted, what, why).at(self.addr)
    }

    /// Takes over, unless that has begun.
    pub(super) fn take_over(self: &Arc<Self>, timeout: Duration) -> Result<(), Error> {
        self.start().inspect_err(|error| self.fail_jointly(error))?;
        if self.asked.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.begin(timeout)
    }

    fn begin(&self, timeout: Duration) -> Result<(), Error> {
        // There is nothing to wait for.
        if self.predecessor.is_none() {
            self.taken.put(Ok(Drained::default()));
            return Ok(());
        }
        // It may have been told before it was asked, where the predecessor has died.
        self.taken.clear_if(|taken| taken.is_err());
        let until = Instant::now().checked_add(timeout);
        self.command(Command::TakeOver(until)).inspect_err(|error| {
            self.asked.store(false, Ordering::SeqCst);
            self.fail_jointly(error);
        })
    }

    /// As [`take_over`](Self::take_over), for a server that is told only when to end.
    pub(super) fn take_over_at_once(self: &Arc<Self>) {
        // What has been told to end does not begin.
        let is_ending = self.is_ending.load(Ordering::SeqCst);
        if is_ending || self.asked.swap(true, Ordering::SeqCst) {
            return;
        }
        self.is_plain.store(true, Ordering::SeqCst);
        let timeout = self.settings().timeout.unwrap_or(TAKEOVER);
        let begun = self.start().and_then(|()| self.begin(timeout));
        if let Err(error) = begun.inspect_err(trace::refused) {
            self.fail_jointly(&error);
            self.put_outcome(Err(error));
            self.stop();
        }
    }

    /// Tells how the takeover went; `again` says that it can be asked for once more.
    pub(super) fn tell(&self, outcome: Result<Drained, Error>, again: bool) {
        let refusal = outcome.as_ref().err().cloned();
        let is_plain = self.is_plain.load(Ordering::SeqCst);
        if again && !is_plain {
            self.asked.store(false, Ordering::SeqCst);
        }
        self.taken.put(outcome);
        match refusal {
            // Its members get nothing, and the predecessor goes on.
            Some(error) if is_plain => {
                self.put_outcome(Err(error));
                if again {
                    self.end(self.command(Command::Stop));
                }
            }
            _ => {}
        }
    }

    /// Tells the thread to stop.
    pub(super) fn stop(self: &Arc<Self>) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.end(self.start().and_then(|()| self.command(Command::Stop)));
    }

    /// Ends at once where no thread can wait for what is left, or it has ended.
    fn end(&self, told: Result<(), Error>) {
        if told.is_err() {
            self.tell_relieved();
            self.shutdown.put(());
        }
    }

    /// None of the other addresses is taken over, because this one is not; for good, where the first poll of a future
    /// has begun it, after which the server ends.
    pub(super) fn fail_jointly(&self, error: &Error) {
        if let Some((at, joint)) = self.joint.get() {
            let for_good = self.is_plain.load(Ordering::SeqCst);
            let error = error.clone();
            joint.fail(*at, Failure { error, for_good });
        }
    }

    /// From here on nothing more comes.
    pub(super) fn tell_relieved(&self) {
        self.relieved.put(());
        if let Some(Err(error)) = self.ends.as_ref().map(Bell::ring) {
            let what = format!("cannot wake the workers of the generation on {}", self.addr);
            trace::refused(&Error::system(what, error).at(self.addr));
        }
    }

    /// Whether the members of both processes have one queue.
    pub(super) fn is_one_queue(&self) -> bool {
        self.ends.is_some()
    }

    pub(super) fn put_outcome(&self, outcome: Result<Drained, Error>) {
        let mut now = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        // The first error is why.
        if now.is_ok() {
            *now = outcome;
        }
    }

    pub(super) fn outcome(&self) -> Result<Drained, Error> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.clone()
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn predecessor_pid(&self) -> Option<u32> {
        self.predecessor.as_ref().and_then(super::Predecessor::pid)
    }
}
