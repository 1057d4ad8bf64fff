//! Keeps fork(2) from copying this process while a thread of the crate is in the middle of its work: the
//! child has no such thread, and would have its locks for ever. And it tells a child that it is one.

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        use std::cell::{Cell, RefCell};
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

        static WORK: RwLock<()> = RwLock::new(());

        static AGE: AtomicU32 = AtomicU32::new(0);

        thread_local! {
            /// Whether this thread works, so that what it forks itself waits for nothing.
            static WORKS: Cell<bool> = const { Cell::new(false) };
            /// From before a fork of this thread until after it, in both processes.
            static FORKS: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
        }

        /// A thread of the crate works as long as this is there.
        #[derive(Debug)]
        pub(crate) struct Work(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'static, ()>);

        /// How often this process's ancestors were forked, each from the one before; no system call. Only those count
        /// that were forked after [`prepare`].
        pub(crate) fn age() -> u32 {
            AGE.load(Relaxed)
        }

        /// To be called before a thread of the crate is started, and before [`age`].
        pub(crate) fn prepare() {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                // SAFETY: the handlers are functions of this program, which take nothing and do not unwind.
                // Refused only without memory: then a fork can meet a lock, as without this.
                unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) };
            });
        }

        /// Waits until no thread forks; none does until what this returns is dropped. Not to be called twice.
        pub(crate) fn work() -> Work {
            let guard = WORK.read().unwrap_or_else(PoisonError::into_inner);
            WORKS.set(true);
            Work(guard)
        }

        impl Drop for Work {
            fn drop(&mut self) {
                WORKS.set(false);
            }
        }

        extern "C" fn before() {
            // A thread that ends has none of these any more.
            if !WORKS.try_with(Cell::get).unwrap_or(true) {
                let guard = WORK.write().unwrap_or_else(PoisonError::into_inner);
                let _ = FORKS.try_with(|forks| forks.replace(Some(guard)));
            }
        }

        extern "C" fn after() {
            let guard = FORKS.try_with(RefCell::take);
            drop(guard);
        }

        extern "C" fn in_child() {
            AGE.fetch_add(1, Relaxed);
            after();
        }
    } else {
        /// A thread of the crate works as long as this is there.
        #[derive(Debug)]
        pub(crate) struct Work(());

        // As on Linux, dropping it means something.
        impl Drop for Work {
            fn drop(&mut self) {}
        }

        pub(crate) fn prepare() {}

        /// No memory of loads is shared here.
        pub(crate) fn age() -> u32 {
            0
        }

        pub(crate) fn work() -> Work {
            Work(())
        }
    }
}
