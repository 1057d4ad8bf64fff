//! The deadline of what blocks on this thread, for `Std`.
//!
//! A future that blocks cannot be raced against a timer, because nothing else runs meanwhile. So the
//! deadline is this thread's while the future is polled, and each call that blocks ends at it. Nothing is
//! set on a socket, so that other threads, and other deadlines, do not notice.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::tasks::timed_out;

thread_local! {
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Whether a call has ended because its time was over.
    static IS_CUT: Cell<bool> = const { Cell::new(false) };
}

/// The time by which a call that blocks on this thread has to end.
pub(crate) fn current() -> Option<Instant> {
    UNTIL.get()
}

/// What a call that blocks returned; it is remembered where its time was over.
pub(crate) fn ended<T>(result: io::Result<T>) -> io::Result<T> {
    if UNTIL.get().is_some_and(|until| until <= Instant::now()) {
        let is_cut = matches!(&result, Err(error) if error.kind() == io::ErrorKind::TimedOut);
        IS_CUT.set(IS_CUT.get() || is_cut);
    }
    result
}

/// Sleeps, and no longer than the time that this thread has.
pub(crate) fn sleep(duration: Duration) {
    match UNTIL
        .get()
        .map(|until| until.saturating_duration_since(Instant::now()))
    {
        Some(left) if left < duration => {
            thread::sleep(left);
            IS_CUT.set(true);
        }
        _ => thread::sleep(duration),
    }
}

/// Runs an operation whose calls, where they block, end after so long.
pub(crate) async fn within<T>(
    duration: Duration,
    operation: impl Future<Output = io::Result<T>> + Send,
) -> io::Result<T> {
    // What no clock reaches has no end.
    let until = Instant::now().checked_add(duration);
    let mut operation = pin!(operation);
    let mut alarm: Option<Alarm> = None;
    poll_fn(|context| {
        let scope = Scope::enter(until);
        let polled = operation.as_mut().poll(context);
        let is_cut = scope.is_cut();
        drop(scope);
        let is_over = until.is_some_and(|until| until <= Instant::now());
        match (polled, until) {
            (Poll::Ready(_), _) if is_cut => Poll::Ready(Err(timed_out(duration))),
            (Poll::Ready(result), _) => Poll::Ready(result),
            // It waits for something else than sockets of this thread.
            (Poll::Pending, _) if is_over => Poll::Ready(Err(timed_out(duration))),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(until)) => {
                match &alarm {
                    Some(alarm) => alarm.wakes(context.waker()),
                    None => match Alarm::set(until, context.waker()) {
                        Ok(set) => alarm = Some(set),
                        Err(error) => return Poll::Ready(Err(error)),
                    },
                }
                Poll::Pending
            }
        }
    })
    .await
}

/// While this lives the deadline is this thread's, unless there is an earlier one.
struct Scope {
    outer: Option<Instant>,
    was_cut: bool,
    until: Option<Instant>,
}

impl Scope {
    fn enter(until: Option<Instant>) -> Self {
        let outer = UNTIL.get();
        UNTIL.set(outer.into_iter().chain(until).min());
        Self {
            outer,
            was_cut: IS_CUT.replace(false),
            until,
        }
    }

    /// Whether this deadline has ended a call.
    fn is_cut(&self) -> bool {
        IS_CUT.get() && self.until.is_some_and(|until| until <= Instant::now())
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let outer_is_over = self.outer.is_some_and(|outer| outer <= Instant::now());
        IS_CUT.set(self.was_cut || IS_CUT.get() && outer_is_over);
        UNTIL.set(self.outer);
    }
}

/// Wakes a task at its deadline, from a thread: what waits for a channel is woken by nothing else.
struct Alarm(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// None when the task waits no more.
    waker: Mutex<Option<Waker>>,
    ended: Condvar,
}

impl Shared {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alarm {
    fn set(until: Instant, waker: &Waker) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        *shared.waker() = Some(waker.clone());
        let rings = Arc::clone(&shared);
        let thread = thread::Builder::new().name("reuseport-alarm".to_owned());
        thread.spawn(move || {
            let left = until.saturating_duration_since(Instant::now());
            let waits = |waker: &mut Option<Waker>| waker.is_some();
            let waker = rings.waker();
            let rung = rings.ended.wait_timeout_while(waker, left, waits);
            let waker = rung.unwrap_or_else(PoisonError::into_inner).0.take();
            // Not under the lock, which is free by now.
            if let Some(waker) = waker {
                waker.wake();
            }
        })?;
        Ok(Self(shared))
    }

    /// From here on another waker is the task's.
    fn wakes(&self, waker: &Waker) {
        let waker = waker.clone();
        let old = {
            let mut current = self.0.waker();
            match &*current {
                Some(_) => current.replace(waker),
                // It has rung since the clock was looked at, for a waker that may be nobody's any more.
                None => {
                    drop(current);
                    return waker.wake();
                }
            }
        };
        drop(old);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let waker = self.0.waker().take();
        self.0.ended.notify_all();
        drop(waker);
    }
}

#[cfg(test)]
mod tests;
