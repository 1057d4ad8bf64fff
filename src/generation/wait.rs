//! The futures of a generation: each waits for one thing that its thread puts down.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::core::Core;
use crate::error::Error;
use crate::group::{Drained, Key, Signal};

/// What all of them are around. Clones are independent, and a dropped one leaves nothing behind.
pub(super) struct Wait<T: 'static> {
    core: Arc<Core>,
    of: fn(&Core) -> &Signal<T>,
    key: Key,
}

impl<T: Clone> Wait<T> {
    pub(super) fn new(core: &Arc<Core>, of: fn(&Core) -> &Signal<T>) -> Self {
        Self {
            core: Arc::clone(core),
            of,
            key: Key::default(),
        }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<T> {
        let signal = (self.of)(&self.core);
        signal.poll(&mut self.key, context, |value| value.clone())
    }
}

impl<T: Clone> Clone for Wait<T> {
    fn clone(&self) -> Self {
        Self::new(&self.core, self.of)
    }
}

impl<T> Drop for Wait<T> {
    fn drop(&mut self) {
        (self.of)(&self.core).forget(&self.key);
    }
}

/// The future of [`Generation::take_over`](super::Generation::take_over).
#[must_use = "the takeover goes on without it, and its error is in this one"]
pub struct TakeOver {
    pub(super) taken: Wait<Result<Drained, Error>>,
    pub(super) refused: Option<Error>,
}

impl Future for TakeOver {
    type Output = Result<Drained, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.refused.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => self.taken.poll(context),
        }
    }
}

impl fmt::Debug for TakeOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakeOver").finish_non_exhaustive()
    }
}

/// The future of [`Generation::relieved`](super::Generation::relieved).
#[derive(Clone)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Relieved(pub(super) Wait<()>);

impl Future for Relieved {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll(context)
    }
}

impl fmt::Debug for Relieved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relieved").finish_non_exhaustive()
    }
}
