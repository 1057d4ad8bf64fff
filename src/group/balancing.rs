//! The thread that calls a balancer's step again and again.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::balancer::{Balance, Balancer, forked};
use crate::error::Error;
use crate::sys;
use crate::trace;

/// A thread that sees to the load of a group's members, until this is dropped.
///
/// [`Balancer::spawn`] starts it. Dropping this ends it, waits until it has ended, which takes no longer
/// than a step, and leaves the group steered as if there had been none. After fork(2) the child has no such
/// thread, and dropping this there does nothing.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use std::time::Duration;
/// use reuseport::Options;
///
/// let group = Options::new().group("localhost:0", 2)?;
/// let balancing = group.roster().balance()?.spawn(Duration::from_millis(5))?;
/// assert!(balancing.last()?.stuck.is_empty());
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "dropping it ends the thread"]
pub struct Balancing {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    addr: SocketAddr,
    process: u32,
}

#[derive(Debug)]
struct Control {
    state: Mutex<State>,
    ends: Condvar,
}

#[derive(Debug)]
struct State {
    ends: bool,
    last: Result<Balance, Error>,
}

impl Balancer {
    /// Starts a thread that calls [`step`](Self::step) at once, and again after each pause of that length.
    ///
    /// A step that fails is tried again after the next pause; [`Balancing::last`] has its error.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 4)?;
    /// let balancing = group.roster().balance()?.spawn(Duration::from_millis(5))?;
    /// drop(balancing);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where the first step fails, and where the process can have no more threads.
    pub fn spawn(mut self, pause: Duration) -> Result<Balancing, Error> {
        let last = Ok(self.step()?);
        let control = Arc::new(Control {
            state: Mutex::new(State { ends: false, last }),
            ends: Condvar::new(),
        });
        sys::fork::prepare();
        let addr = self.shared.state().addr();
        let started = thread::Builder::new()
            .name("reuseport-balance".to_owned())
            .spawn({
                let control = Arc::clone(&control);
                move || run(self, &control, pause)
            });
        let thread = started.map_err(|error| {
            let what = format!("cannot balance the group on {addr}");
            let why = Some("no thread can be started for it");
            let error = Error::system(what, error).at(addr).why(why);
            trace::refused(&error);
            error
        })?;
        Ok(Balancing {
            control,
            thread: Some(thread),
            addr,
            process: std::process::id(),
        })
    }
}

fn run(mut balancer: Balancer, control: &Control, pause: Duration) {
    let mut was_refused = false;
    loop {
        let state = control.state();
        let waited = control
            .ends
            .wait_timeout_while(state, pause, |state| !state.ends);
        if waited.unwrap_or_else(PoisonError::into_inner).0.ends {
            let work = sys::fork::work();
            drop((balancer, work));
            return;
        }
        let work = sys::fork::work();
        let step = balancer.try_step();
        // Once, and not every few milliseconds.
        let refused = step.as_ref().err();
        refused
            .filter(|_| !was_refused)
            .into_iter()
            .for_each(trace::refused);
        was_refused = refused.is_some();
        let before = std::mem::replace(&mut control.state().last, step);
        drop((before, work));
    }
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balancing {
    /// What the last step has seen.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use std::time::Duration;
    /// use reuseport::Options;
    ///
    /// let group = Options::new().group("localhost:0", 2)?;
    /// let balancing = group.roster().balance()?.spawn(Duration::from_millis(5))?;
    /// println!("{} programs were attached", balancing.last()?.attaches);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Why the last step has failed: see [`Balancer::step`]. The thread goes on.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) in a child that was forked, which has no such thread.
    pub fn last(&self) -> Result<Balance, Error> {
        // There the lock may be that of a thread which is not there.
        if self.process != std::process::id() {
            return Err(forked(self.addr));
        }
        self.control.state().last.clone()
    }
}

impl Drop for Balancing {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        self.control.state().ends = true;
        self.control.ends.notify_all();
        if let Some(thread) = self.thread.take() {
            // Refused only after a panic of it, which has been reported.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancing")
            .field("last", &self.last())
            .finish_non_exhaustive()
    }
}

/// A thread may be started wherever the handle is sent.
const _: fn() = || {
    fn is_sent<T: Send + Sync>() {}
    is_sent::<(Balancer, Balancing, io::Error)>();
};
