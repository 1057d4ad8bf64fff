//! A value that one thread puts down, and that others wait for, as a future or in the kernel.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
pub(crate) struct Slot<T> {
    state: Mutex<(Option<T>, Vec<Waker>)>,
    filled: Condvar,
}

impl<T> Slot<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new((None, Vec::new())),
            filled: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, (Option<T>, Vec<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, value: T) {
        let mut state = self.state();
        state.0 = Some(value);
        let wakers = std::mem::take(&mut state.1);
        drop(state);
        self.filled.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// `get` looks at the value when there is one, and may take it.
    pub(crate) fn poll<R>(
        &self,
        context: &Context<'_>,
        get: impl FnOnce(&mut Option<T>) -> Option<R>,
    ) -> Poll<R> {
        let mut state = self.state();
        match get(&mut state.0) {
            Some(value) => Poll::Ready(value),
            None => {
                let waker = context.waker();
                if !state.1.iter().any(|other| other.will_wake(waker)) {
                    state.1.push(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    pub(crate) fn wait<R>(&self, mut get: impl FnMut(&mut Option<T>) -> Option<R>) -> R {
        let mut state = self.state();
        loop {
            match get(&mut state.0) {
                Some(value) => return value,
                None => {
                    state = self
                        .filled
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}
