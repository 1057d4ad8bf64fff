//! What several test files need: the runtimes behind one trait, namespaces, other users.

#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(unsafe_code, reason = "namespaces and users are set for one thread, which no safe API does")]

use std::future::Future;

use reuseport::{AsyncStd, Net, Smol, Std, Tokio};

/// A runtime that can run a future to its end on the calling thread.
pub trait Runtime: Net {
    const NAME: &'static str;
    fn block_on<F: Future>(future: F) -> F::Output;
}

impl Runtime for Std {
    const NAME: &'static str = "std";
    /// std's futures are ready at once; any executor does.
    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }
}

impl Runtime for Tokio {
    const NAME: &'static str = "tokio";
    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }
}

impl Runtime for AsyncStd {
    const NAME: &'static str = "async-std";
    fn block_on<F: Future>(future: F) -> F::Output {
        async_std::task::block_on(future)
    }
}

impl Runtime for Smol {
    const NAME: &'static str = "smol";
    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }
}

/// Says in one line what was not checked, and why.
pub fn skip(what: &str) {
    // Not `println!`, which the harness keeps for itself.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "not checked: {what}");
}

/// Runs `f` on a thread of its own, and hands a panic on.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `f` in a network namespace of its own, with only a loopback interface; None where that is not allowed.
///
/// Threads and processes that `f` starts are in the namespace too.
#[cfg(target_os = "linux")]
pub fn in_namespace<T: Send>(what: &str, f: impl FnOnce() -> T + Send) -> Option<T> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    on_thread(|| {
        // SAFETY: only this thread's view of the network changes, and no flag touches memory or descriptors.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            skip(&format!("{what} (no network namespace of its own: {error})"));
            return None;
        }
        loopback_up();
        Some(f())
    })
}

#[cfg(target_os = "linux")]
fn loopback_up() {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: an ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    assert_eq!(result, 0, "lo is set up: {}", std::io::Error::last_os_error());
}

/// Runs `f` on a thread that is that user, without any privilege; None where that is not allowed.
#[cfg(target_os = "linux")]
pub fn as_user<T: Send>(uid: u32, what: &str, f: impl FnOnce() -> T + Send) -> Option<T> {
    use rustix::process::Uid;
    on_thread(|| {
        let uid = Uid::from_raw(uid);
        // The system call itself, which acts on one thread; libc's setresuid acts on all.
        match rustix::thread::set_thread_res_uid(uid, uid, uid) {
            Ok(()) => Some(f()),
            Err(error) => {
                skip(&format!("{what} (cannot act as another user: {error})"));
                None
            }
        }
    })
}

/// How many descriptors this process has.
#[cfg(target_os = "linux")]
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
