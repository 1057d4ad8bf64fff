//! Threads that close what may take long to close.
//!
//! A TCP connection with SO_LINGER takes as long to close as its user said, but not for a thread
//! that is exiting (kernel: inet_release asks for PF_EXITING). So such a stream is closed by the end
//! of a thread whose table of descriptors is its own, and has no other: it takes a tenth of a
//! millisecond. What closes slowly all the same, as a packet socket, which waits for a grace period,
//! takes the time of that thread only. A plain thread would be held for as long as the sender likes,
//! and as many strangers as there may be threads would keep everybody else out.
//!
//! One thread, the keeper, starts those that close, and ends when nothing is left to close.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::sys::unix::check;

/// Threads that close at a time, each as many as there are.
const MOST_CLOSERS: usize = 8;

/// Streams that wait for a thread. Then no more strangers are accepted, until some have closed.
const MOST_WAITING: usize = 256;

/// Between two looks whether one of the threads has ended.
const PAUSE: Duration = Duration::from_millis(5);

static STATE: Mutex<State> = Mutex::new(State {
    waiting: Vec::new(),
    closers: Vec::new(),
    keeper: None,
});

#[derive(Debug)]
struct State {
    waiting: Vec<OwnedFd>,
    /// The threads that close, as gettid(2) numbers them.
    closers: Vec<libc::pid_t>,
    /// The process that has a keeper: a thread is not in a child of fork(2).
    keeper: Option<u32>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes it on a thread, now or when there is one.
pub(super) fn close(fd: OwnedFd) {
    let mut state = state();
    state.waiting.push(fd);
    start(&mut state);
}

/// Fails where too many are still being closed.
pub(super) fn check_room() -> io::Result<()> {
    let mut state = state();
    if state.waiting.is_empty() {
        return Ok(());
    }
    start(&mut state);
    if state.waiting.len() < MOST_WAITING {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "what other users have sent is still being closed",
    ))
}

/// Starts the keeper; where no thread can be started the next call tries again.
fn start(state: &mut State) {
    let this = Some(std::process::id());
    if state.keeper != this && spawn("reuseport-keep", keep).is_ok() {
        state.keeper = this;
    }
}

fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(f).map(drop)
}

fn keep() {
    loop {
        let batch = {
            let mut state = state();
            state.closers.retain(|&thread| is_alive(thread));
            if state.waiting.is_empty() {
                state.keeper = None;
                return;
            }
            match state.closers.len() < MOST_CLOSERS {
                true => std::mem::take(&mut state.waiting),
                false => Vec::new(),
            }
        };
        if batch.is_empty() {
            thread::sleep(PAUSE);
        } else if let Err((fds, _)) = close_all(batch) {
            state().waiting.extend(fds);
            thread::sleep(PAUSE);
        }
    }
}

/// What a closing thread says first: its number, and whether it has a table of its own.
type Ready = (libc::pid_t, bool);

/// Hands all to a thread that ends with them; gives them back where there is none.
fn close_all(fds: Vec<OwnedFd>) -> Result<(), (Vec<OwnedFd>, io::Error)> {
    let numbers = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let (say_ready, ready) = channel();
    let (hand_over, handed_over) = channel();
    let closer = move || close_by_exit(numbers, &say_ready, &handed_over);
    if let Err(error) = spawn("reuseport-close", closer) {
        return Err((fds, error));
    }
    let Ok((thread, is_apart)) = ready.recv() else {
        return Err((fds, io::ErrorKind::Other.into()));
    };
    state().closers.push(thread);
    if is_apart {
        // These are not the last descriptors: the thread has the others until it is told.
        drop(fds);
        drop(hand_over);
    } else {
        // It has gone only if this fails, and then nothing but a plain close is left.
        let _ = hand_over.send(fds);
    }
    Ok(())
}

fn close_by_exit(
    numbers: Vec<RawFd>,
    say_ready: &Sender<Ready>,
    handed_over: &Receiver<Vec<OwnedFd>>,
) {
    let is_apart = leave_table(numbers).is_ok();
    // SAFETY: gettid touches no memory.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) } as libc::pid_t;
    let _ = say_ready.send((thread, is_apart));
    // Until the copies in the table of the process are closed; or here, where that is the only one.
    drop(handed_over.recv());
}

/// Gives this thread a table of descriptors of its own, in which only these are open.
fn leave_table(mut keep: Vec<RawFd>) -> io::Result<()> {
    const CLOSE_RANGE_UNSHARE: libc::c_uint = 1 << 1;
    keep.sort_unstable();
    let keep: Vec<libc::c_uint> = keep
        .into_iter()
        .filter_map(|fd| fd.try_into().ok())
        .collect();
    let last = keep.last().copied().unwrap_or_default();
    // What is above is not even copied.
    let result = close_range(
        last.saturating_add(1),
        libc::c_uint::MAX,
        CLOSE_RANGE_UNSHARE,
    );
    if result.is_err() {
        // Before Linux 5.9 the others stay open until the thread ends, which is soon.
        // SAFETY: the flag touches no memory, and nothing else is done with this thread's table.
        return check(unsafe { libc::unshare(libc::CLONE_FILES) }).map(drop);
    }
    let mut first = 0;
    for fd in keep {
        if let Some(before) = fd.checked_sub(1).filter(|&before| before >= first) {
            let _ = close_range(first, before, 0);
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// close_range(2), which libc has for some targets.
fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call touches no memory. With the flag it acts on a copy of the table, which only
    // this thread has; without it is called only for that copy.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    check(result as libc::c_int).map(drop)
}

/// Whether a thread of this process has not yet closed all that it has.
///
/// It closes its descriptors after pthread_join(3) has returned, and before its number is free
/// (kernel: do_exit).
fn is_alive(thread: libc::pid_t) -> bool {
    // SAFETY: signal 0 does nothing, and the call touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, 0) };
    check(result as libc::c_int).is_ok()
}
