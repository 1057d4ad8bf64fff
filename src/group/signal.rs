//! A value that one thread puts down, and that others wait for, as a future or in the kernel.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Signal<T> {
    state: Mutex<State<T>>,
    put: Condvar,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    /// One for each future that waits, by the key that it has.
    wakers: HashMap<u64, Waker>,
    next: u64,
}

/// What a future that waits is known by, from its first poll until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Key(Option<u64>);

impl<T> Signal<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                value: None,
                wakers: HashMap::new(),
                next: 0,
            }),
            put: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, value: T) {
        let mut state = self.state();
        let before = state.value.replace(value);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        drop(before);
        self.put.notify_all();
        wakers.into_values().for_each(Waker::wake);
    }

    pub(crate) fn has(&self) -> bool {
        self.state().value.is_some()
    }

    /// There is no such value until the next one is put.
    pub(crate) fn clear_if(&self, is_such: impl FnOnce(&mut T) -> bool) {
        let before = self.state().value.take_if(is_such);
        drop(before);
    }

    /// `get` looks at the value when there is one, and may take it.
    pub(crate) fn poll<R>(
        &self,
        key: &mut Key,
        context: &Context<'_>,
        get: impl FnOnce(&mut Option<T>) -> Option<R>,
    ) -> Poll<R> {
        // A waker's functions are the runtime's: none of them runs under the lock.
        let waker = context.waker().clone();
        let mut state = self.state();
        if let Some(value) = get(&mut state.value) {
            drop(state);
            return Poll::Ready(value);
        }
        let number = *key.0.get_or_insert_with(|| {
            state.next += 1;
            state.next
        });
        let before = state.wakers.insert(number, waker);
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// A future with this key waits no more.
    pub(crate) fn forget(&self, key: &Key) {
        if let Some(number) = key.0 {
            let waker = self.state().wakers.remove(&number);
            drop(waker);
        }
    }

    /// Waits in the kernel until there is a value, but not longer than this.
    pub(crate) fn wait_for(&self, longest: Duration) {
        let state = self.state();
        // A mutex that is poisoned guards a value all the same.
        let _ = self
            .put
            .wait_timeout_while(state, longest, |state| state.value.is_none());
    }

    pub(crate) fn wait<R>(&self, mut get: impl FnMut(&mut Option<T>) -> Option<R>) -> R {
        let mut state = self.state();
        loop {
            if let Some(value) = get(&mut state.value) {
                return value;
            }
            let waited = self.put.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_future_that_is_dropped_leaves_nothing_behind() {
        let signal = Signal::<()>::new();
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counter));
        let context = Context::from_waker(&waker);
        let mut stays = Key::default();
        assert!(
            signal
                .poll(&mut stays, &context, |value| *value)
                .is_pending()
        );
        for _ in 0..1000 {
            let mut key = Key::default();
            assert!(signal.poll(&mut key, &context, |value| *value).is_pending());
            signal.forget(&key);
        }
        assert_eq!(signal.state().wakers.len(), 1);
        assert_eq!(Arc::strong_count(&counter), 3);
        signal.put(());
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        assert!(signal.poll(&mut stays, &context, |value| *value).is_ready());
        signal.wait(|value| *value);
    }
}
