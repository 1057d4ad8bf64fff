//! Waits until no processor is at a packet any more that arrived before.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// No packet takes so long.
const LONG: Duration = Duration::from_millis(100);

static BARRIER: Barrier = Barrier::new(membarrier);

/// Waits until every processor has done with the packets that it was at: none of them sees an older
/// program, or a socket that is hidden. False where that is not sure after `limit`.
pub(crate) fn barrier(limit: Duration) -> bool {
    BARRIER.wait(limit)
}

/// False where it is refused: a filter of system calls forbids it, or the machine has processors
/// without a tick.
fn membarrier() -> bool {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: membarrier takes three ints and touches no memory.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 }
}

/// One thread that calls the kernel for all that wait, because a flood can keep membarrier(2), a
/// grace period of the kernel, for many seconds.
///
/// What is asked for while a call is under way is done by the next one: a grace period is for what
/// was before it.
struct Barrier {
    state: Mutex<State>,
    done: Condvar,
    call: fn() -> bool,
}

#[derive(Clone, Copy)]
struct State {
    /// The process that the thread is of: a child of fork(2) has none.
    process: u32,
    running: bool,
    asked: u64,
    done: u64,
    refused: bool,
}

impl Barrier {
    const fn new(call: fn() -> bool) -> Self {
        let state = State {
            process: 0,
            running: false,
            asked: 0,
            done: 0,
            refused: false,
        };
        Self {
            state: Mutex::new(state),
            done: Condvar::new(),
            call,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&'static self, limit: Duration) -> bool {
        let until = Instant::now().checked_add(limit);
        let mut state = self.state();
        let process = std::process::id();
        if state.process != process {
            state.process = process;
            state.running = false;
        }
        state.asked += 1;
        let mine = state.asked;
        if !state.running {
            let thread = thread::Builder::new().name("reuseport-barrier".to_owned());
            if thread.spawn(|| self.run()).is_err() {
                // Without a thread this one calls, and waits longer than it wants where a flood is on.
                drop(state);
                if !(self.call)() {
                    thread::sleep(LONG.min(limit));
                }
                return true;
            }
            state.running = true;
        }
        let left = || {
            until.map_or(LONG, |until| {
                until.saturating_duration_since(Instant::now())
            })
        };
        while state.done < mine {
            let left = left();
            if left.is_zero() {
                return false;
            }
            let (now, _) = self
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state = now;
        }
        let refused = state.refused;
        drop(state);
        if refused {
            thread::sleep(LONG.min(left()));
        }
        true
    }

    fn run(&self) {
        let mut state = self.state();
        while state.done < state.asked {
            let asked = state.asked;
            drop(state);
            let refused = !(self.call)();
            state = self.state();
            state.refused = refused;
            state.done = asked;
            self.done.notify_all();
        }
        state.running = false;
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::super::testing::until;
    use super::*;

    const LONGEST: Duration = Duration::from_secs(20);

    fn barrier(call: fn() -> bool) -> &'static Barrier {
        Box::leak(Box::new(Barrier::new(call)))
    }

    /// Calls that wait until they may go on.
    struct Calls {
        begun: AtomicUsize,
        may: AtomicUsize,
    }

    impl Calls {
        const fn new() -> Self {
            let (begun, may) = (AtomicUsize::new(0), AtomicUsize::new(0));
            Self { begun, may }
        }

        fn call(&self) -> bool {
            let mine = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            until(|| (self.may.load(Ordering::SeqCst) >= mine).then_some(true))
        }

        fn have_begun(&self, n: usize) {
            until(|| (self.begun.load(Ordering::SeqCst) == n).then_some(()));
        }
    }

    #[test]
    fn the_kernel_has_done() {
        assert!(super::barrier(LONGEST));
    }

    #[test]
    fn it_is_over_at_the_limit() {
        static CALLS: Calls = Calls::new();
        let barrier = barrier(|| CALLS.call());
        let start = Instant::now();
        let limit = Duration::from_millis(50);
        assert!(!barrier.wait(limit));
        assert!(start.elapsed() >= limit);
        // The call that is under way does for none that comes later, and no second thread is made.
        assert!(!barrier.wait(limit));
        assert!(start.elapsed() < LONGEST);
        assert_eq!(CALLS.begun.load(Ordering::SeqCst), 1);
        CALLS.may.store(usize::MAX, Ordering::SeqCst);
        assert!(barrier.wait(LONGEST));
        assert!(CALLS.begun.load(Ordering::SeqCst) > 1);
    }

    #[test]
    fn what_is_asked_for_during_a_call_is_done_by_the_next() {
        static CALLS: Calls = Calls::new();
        let barrier = barrier(|| CALLS.call());
        let (sender, done) = mpsc::channel();
        let wait = |n| {
            let sender = sender.clone();
            thread::spawn(move || sender.send((n, barrier.wait(LONGEST))));
        };
        wait(1);
        CALLS.have_begun(1);
        wait(2);
        wait(3);
        until(|| (barrier.state().asked == 3).then_some(()));
        CALLS.may.store(1, Ordering::SeqCst);
        assert_eq!(done.recv(), Ok((1, true)));
        CALLS.have_begun(2);
        assert_eq!(done.try_recv(), Err(mpsc::TryRecvError::Empty));
        CALLS.may.store(2, Ordering::SeqCst);
        let mut others = [done.recv().unwrap(), done.recv().unwrap()];
        others.sort_unstable();
        assert_eq!(others, [(2, true), (3, true)]);
        assert_eq!(CALLS.begun.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_refusal_is_a_pause() {
        let barrier = barrier(|| false);
        let start = Instant::now();
        assert!(barrier.wait(LONGEST));
        let (first, limit) = (start.elapsed(), LONG / 4);
        assert!(first >= LONG);
        assert!(barrier.wait(limit));
        assert!(start.elapsed() >= first + limit);
    }

    /// A child of fork(2) has no other thread.
    #[test]
    fn a_thread_of_another_process_is_not_waited_for() {
        let barrier = barrier(|| true);
        let mut state = barrier.state();
        (state.process, state.running) = (std::process::id() + 1, true);
        drop(state);
        assert!(barrier.wait(LONGEST));
    }
}
