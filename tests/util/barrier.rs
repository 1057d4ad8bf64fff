//! A kernel whose grace periods take long, as under a flood of packets.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(unsafe_code, reason = "nothing safe installs a filter that asks")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// From here on this thread's membarrier(2) takes so much longer, and that of the threads that it
/// starts; an error where that is not allowed.
///
/// Only the command by which the kernel waits for all processors (MEMBARRIER_CMD_GLOBAL).
pub fn late(delay: Duration) -> io::Result<()> {
    // Before the filter, which the thread would inherit.
    let (give, listener) = mpsc::channel::<OwnedFd>();
    thread::spawn(move || {
        if let Ok(listener) = listener.recv() {
            answer_all(&listener, delay);
        }
    });
    give.send(install()?).map_err(io::Error::other)
}

/// membarrier(2) of the command 1 is asked about, and all else allowed.
fn install() -> io::Result<OwnedFd> {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    // Of struct seccomp_data the number of the call, and the low half of its first argument.
    let argument = 16 + if cfg!(target_endian = "big") { 4 } else { 0 };
    let mut filter = [
        statement(load, 0),
        libc::sock_filter {
            code: equal,
            jt: 0,
            jf: 3,
            k: libc::SYS_membarrier as u32,
        },
        statement(load, argument),
        libc::sock_filter {
            code: equal,
            jt: 0,
            jf: 1,
            k: 1,
        },
        statement(ret, libc::SECCOMP_RET_USER_NOTIF),
        statement(ret, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: prctl takes numbers; seccomp reads the program, which outlives the call, and makes a
    // descriptor that is this function's only.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let listener = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        );
        match i32::try_from(listener) {
            Ok(listener) if listener >= 0 => Ok(OwnedFd::from_raw_fd(listener)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn answer_all(listener: &OwnedFd, delay: Duration) {
    let fd = listener.as_raw_fd();
    loop {
        // SAFETY: a seccomp_notif is plain data, for which zeros are valid, and what the call wants.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: it fills one seccomp_notif, which `asked` is.
        let got = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        if got != 0 {
            match io::Error::last_os_error().raw_os_error() {
                // Who asked has gone.
                Some(libc::ENOENT | libc::EINTR) => continue,
                _ => return,
            }
        }
        let Ok(listener) = listener.try_clone() else {
            return;
        };
        thread::spawn(move || {
            thread::sleep(delay);
            let mut answer = libc::seccomp_notif_resp {
                id: asked.id,
                val: 0,
                error: 0,
                flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            };
            let fd = listener.as_raw_fd();
            // SAFETY: it reads one seccomp_notif_resp, which `answer` is. Who asked may have gone.
            unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
        });
    }
}
