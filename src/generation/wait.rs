//! The futures of a generation: each waits for one thing that its thread puts down.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::both;
use super::core::Core;
use crate::error::Error;
use crate::group::{Drained, Key, Signal};

/// What all of them are around. Clones are independent, and a dropped one leaves nothing behind.
pub(super) struct Wait<T: 'static> {
    of: fn(&Core) -> &Signal<T>,
    /// One for each address.
    parts: Vec<(Arc<Core>, Key)>,
}

impl<T: Clone> Wait<T> {
    pub(super) fn new<'a>(
        cores: impl Iterator<Item = &'a Arc<Core>>,
        of: fn(&Core) -> &Signal<T>,
    ) -> Self {
        let part = |core: &Arc<Core>| (Arc::clone(core), Key::default());
        Self {
            of,
            parts: cores.map(part).collect(),
        }
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = &Arc<Core>> {
        self.parts.iter().map(|(core, _)| core)
    }

    /// What all of them have put down, one after the other.
    pub(super) fn poll<R>(
        &mut self,
        context: &Context<'_>,
        first: R,
        mut fold: impl FnMut(R, T) -> R,
    ) -> Poll<R> {
        let mut all = Some(first);
        for (core, key) in &mut self.parts {
            let signal = (self.of)(core);
            // Each wakes, so that none is left out.
            all = match signal.poll(key, context, |value| value.clone()) {
                Poll::Ready(value) => all.map(|all| fold(all, value)),
                Poll::Pending => None,
            };
        }
        all.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T: Clone> Clone for Wait<T> {
    fn clone(&self) -> Self {
        Self::new(self.cores(), self.of)
    }
}

impl<T> Drop for Wait<T> {
    fn drop(&mut self) {
        for (core, key) in &self.parts {
            (self.of)(core).forget(key);
        }
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
            None => self.taken.poll(context, Ok(Drained::default()), both),
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
        self.0.poll(context, (), |(), ()| ())
    }
}

impl fmt::Debug for Relieved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relieved").finish_non_exhaustive()
    }
}
