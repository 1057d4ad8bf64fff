//! The thread that drains the members of a group which are leaving: one for all of them, with one look
//! at the kernel for all, and only while there are any.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::count::{Remains, barrier, look};
use super::departures::{Departure, How};
use super::guarantee::{Drained, Guarantee};
use super::job::{Job, Outcome, Step, Told};
use super::shared::Shared;
use super::table::Role;
use crate::error::{self, Error};
use crate::sys::{self, Kind};
use crate::trace;

/// Until descriptors or memory are tried for again.
const RETRY: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Drain {
    jobs: Mutex<Jobs>,
    /// A job is new, or what has become of one was decided.
    changed: Condvar,
}

#[derive(Debug)]
struct Jobs {
    new: Vec<Job>,
    /// How many are about to come.
    expected: usize,
    /// The process in which the thread runs: a child that was forked has none.
    thread: Option<u32>,
    /// Whether a decision has come since the thread last looked.
    rung: bool,
}

/// A promise to add a job, or not.
#[derive(Debug)]
pub(super) struct Expected<'a>(&'a Drain);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.jobs().expected -= 1;
        self.0.ring();
    }
}

impl Drain {
    pub(super) fn new() -> Self {
        Self {
            jobs: Mutex::new(Jobs {
                new: Vec::new(),
                expected: 0,
                thread: None,
                rung: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread.
    pub(super) fn ring(&self) {
        self.jobs().rung = true;
        self.changed.notify_all();
    }

    /// Sees to it that the thread runs, before anything is changed that needs it.
    pub(super) fn expect<'a>(&'a self, shared: &Arc<Shared>) -> io::Result<Expected<'a>> {
        sys::fork::prepare();
        let me = std::process::id();
        let mut jobs = self.jobs();
        if jobs.thread != Some(me) {
            let shared = Arc::clone(shared);
            thread::Builder::new()
                .name("reuseport-drain".to_owned())
                .spawn(move || run(&shared))?;
            jobs.thread = Some(me);
        }
        jobs.expected += 1;
        Ok(Expected(self))
    }

    pub(super) fn add(&self, departure: Departure, kind: Kind, told: &Arc<Outcome>) {
        let Departure { id, guarantee, how } = departure;
        let job = |fd, step| Job::new(id, guarantee, Remains::of(kind, fd), step, told);
        let job = match how {
            How::Drains(fd) | How::IsOut(fd) => job(fd, Step::Starts),
            How::Gets(fd) => job(fd, Step::Counts),
            How::Shared | How::Unseen => {
                // Nothing has to be waited for.
                return told.drained.put(Ok(Told::default()));
            }
        };
        self.jobs().new.push(job);
        self.ring();
    }

    /// Waits for a change, at most for so long; not where there is no job, and none is expected.
    fn wait(&self, pause: Option<Duration>, is_idle: bool) {
        let jobs = self.jobs();
        let unchanged = |jobs: &mut Jobs| !(jobs.rung || is_idle && jobs.expected == 0);
        let mut jobs = match pause {
            None => self
                .changed
                .wait_while(jobs, unchanged)
                .unwrap_or_else(PoisonError::into_inner),
            Some(pause) => {
                let waited = self.changed.wait_timeout_while(jobs, pause, unchanged);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        jobs.rung = false;
    }
}

fn run(shared: &Shared) {
    let mut jobs: Vec<Job> = Vec::new();
    let mut patience = Duration::from_millis(1);
    loop {
        let work = sys::fork::work();
        {
            let mut list = shared.drain.jobs();
            jobs.append(&mut list.new);
            if jobs.is_empty() && list.expected == 0 {
                list.thread = None;
                return;
            }
        }
        decide(shared, &mut jobs);
        let until_next = count(shared, &mut jobs);
        close(shared, &mut jobs);
        jobs.retain(|job| job.step != Step::Done);

        let counts = jobs
            .iter()
            .any(|job| matches!(job.step, Step::Starts | Step::Counts | Step::Hides));
        let waits = jobs
            .iter()
            .any(|job| matches!(job.step, Step::Left | Step::Waits));
        let pause = match (counts, waits) {
            (true, _) => Some(until_next),
            // For owners that take their time, and others to join, it is looked ever more seldom.
            (false, true) => Some(patience),
            (false, false) => None,
        };
        patience = match waits {
            true => (patience * 2).min(Duration::from_millis(50)),
            false => Duration::from_millis(1),
        };
        drop(work);
        shared.drain.wait(pause, jobs.is_empty());
    }
}

/// Sees what has been decided of those that were told, and waits until no processor can bring anything
/// to those that begin, or have been hidden.
fn decide(shared: &Shared, jobs: &mut [Job]) {
    let mut hides = Vec::new();
    {
        let mut state = shared.state();
        for job in jobs.iter_mut() {
            match (state.role(job.id), job.step) {
                _ if job.told.is_dropped() => job.step = Step::Done,
                // It has been removed by another way: what it has can still be read.
                (None, Step::Starts | Step::Counts) => {}
                (None, Step::Waits) => job.step = Step::Starts,
                // It stays, or is gone.
                (None | Some(Role::Serves), _) => job.step = Step::Done,
                (Some(Role::Leaves), Step::Told) if job.told.is_counted_again() => {
                    job.step = Step::Waits;
                    job.watch(state.calm());
                }
                (Some(Role::Leaves), Step::Waits | Step::Starts | Step::Counts)
                    if job.guarantee != Guarantee::None =>
                {
                    job.watch(state.calm());
                }
                // This one goes on getting what is new, or keeps its flows.
                (Some(Role::Closes), Step::Told) => job.step = Step::Left,
                (Some(Role::Empty), Step::Told) if state.kind() == Kind::Udp => {
                    job.step = Step::Left;
                }
                (Some(Role::Empty), Step::Told) => {
                    job.step = Step::Hides;
                    hides.push(job.id);
                }
                _ => {}
            }
        }
        state.hide(hides);
    }
    let waits = |job: &Job| matches!(job.step, Step::Starts | Step::Hides);
    let has_passed = jobs.iter().any(waits) && barrier(deadline(jobs));
    let now = Instant::now();
    for job in jobs.iter_mut() {
        match job.step {
            Step::Starts if has_passed || job.is_over(now) => job.step = Step::Counts,
            Step::Hides if has_passed => job.step = Step::Left,
            _ => {}
        }
    }
}

/// When the time of the first is over.
fn deadline(jobs: &[Job]) -> Option<Instant> {
    let waits = jobs
        .iter()
        .filter(|job| matches!(job.step, Step::Starts | Step::Counts));
    waits.filter_map(|job| job.told.deadline()).min()
}

/// Tells those to whom nothing more can come, or whose time is over; how long to wait until the others are
/// counted again.
fn count(shared: &Shared, jobs: &mut [Job]) -> Duration {
    let begin = Instant::now();
    let (kind, addr, abandoned) = {
        let mut state = shared.state();
        let counts = |job: &&Job| matches!(job.step, Step::Counts | Step::Waits);
        let mut abandoned = state.closed(jobs.iter().filter(counts).map(|job| job.id));
        // What is out of the table can still be read.
        abandoned.retain(|id| state.role(*id).is_some());
        (state.kind(), state.addr(), abandoned)
    };
    for job in jobs.iter_mut().filter(|job| job.step == Step::Waits) {
        if abandoned.contains(&job.id) {
            job.step = Step::Counts;
        } else if job.is_over(Instant::now()) {
            let error = shared.state().none_stays(job.id);
            job.tell(Err(error), None);
        }
    }
    let deadline = deadline(jobs);
    let counted = |job: &&mut Job| job.step == Step::Counts && job.guarantee != Guarantee::None;
    let mut remains: Vec<&mut Remains> = jobs
        .iter_mut()
        .filter(counted)
        .filter_map(|job| job.remains.as_mut())
        .collect();
    let seen = match look(kind, &addr, &mut remains, deadline) {
        Ok(seen) => seen,
        Err(error) => {
            uncounted(addr, jobs, &error);
            return RETRY;
        }
    };
    let now = Instant::now();
    for job in jobs.iter_mut().filter(|job| job.step == Step::Counts) {
        let Some(remains) = &mut job.remains else {
            continue;
        };
        let left = match job.guarantee {
            Guarantee::None => remains.queued(),
            Guarantee::Lossless | Guarantee::BestEffort => remains.left(&seen),
        };
        // Without its owner nothing is accepted any more.
        let is_abandoned = abandoned.contains(&job.id);
        if left == 0 || job.is_over(now) || is_abandoned {
            let calm = job.calm.filter(|_| !is_abandoned);
            job.tell(Ok(Drained::of(kind, left)), calm);
        }
    }
    seen.pause(begin)
}

/// Tells those whose time is over that it is not known what they have; they stay.
fn uncounted(addr: SocketAddr, jobs: &mut [Job], error: &io::Error) {
    let now = Instant::now();
    let counts = |job: &&mut Job| job.step == Step::Counts && job.is_over(now);
    for job in jobs.iter_mut().filter(counts) {
        let what = format!("cannot tell whether a member of the group on {addr} is empty");
        let error = Error::system(what, error::copy(error)).at(addr);
        let why = sys::resource_reason(error.io_error());
        job.tell(Err(error.why(why)), None);
    }
}

/// Takes those out of the group that have left, when their owners have closed them, or wait in a call
/// that only this ends.
fn close(shared: &Shared, jobs: &mut [Job]) {
    let mut state = shared.state();
    let left = jobs.iter().filter(|job| job.step == Step::Left);
    let closed = state.closed(left.map(|job| job.id));
    let mut out = Vec::new();
    for job in jobs.iter_mut().filter(|job| job.step == Step::Left) {
        let role = state.role(job.id);
        if role == Some(Role::Closes) && job.guarantee == Guarantee::None && !job.is_blocking() {
            // What goes on coming to it would wait in a socket that only this keeps.
            state.release(job.id);
            job.step = Step::Done;
        } else if closed.contains(&job.id) {
            // Where only its close takes it out, what is kept of it is closed with it.
            job.remains = None;
            out.push(job.id);
        } else if state.kind() == Kind::Tcp && job.is_blocking() && !state.keeps_flows() {
            out.push(job.id);
        }
    }
    if out.is_empty() {
        return;
    }
    match state.remove(&out) {
        Ok(true) => {
            for job in jobs.iter_mut().filter(|job| out.contains(&job.id)) {
                job.step = Step::Done;
            }
        }
        // A successor stands behind them, or owners have them: later.
        Ok(false) => {}
        Err(error) => {
            drop(state);
            trace::refused(&error);
        }
    }
}
