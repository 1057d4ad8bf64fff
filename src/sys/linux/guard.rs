//! The program that makes a socket able only to found a group, never to join one.
//!
//! A socket that carries a classic BPF program before bind(2) gets EADDRINUSE wherever anybody
//! holds the port, this user's own groups included (kernel: inet_bind_conflict,
//! udp_lib_lport_inuse). Nothing can come between the question and the answer, and the port that
//! the kernel chooses for port 0 is nobody else's.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::unix::set_option;

/// BPF_RET | BPF_K, which libc has for Linux and not for Android.
const RET: u16 = 0x06;

/// `ret #-1`: no member has this index, so the kernel's hash decides as it would without a program.
const TO_THE_HASH: libc::sock_filter = libc::sock_filter {
    code: RET,
    jt: 0,
    jf: 0,
    k: u32::MAX,
};

pub(super) fn attach(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut program = [TO_THE_HASH];
    let program = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    set_option(
        fd,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        &program,
    )
}

/// Takes the program off, so that the group is as any other; joining it never depended on that.
pub(super) fn detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    match set_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, &0i32) {
        // ENOPROTOOPT: before 5.3 a program could not be taken off; it leaves everything to the
        // hash anyway. ENOENT: a process of this user has joined already and taken it off.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::ENOENT)) => {
            Ok(())
        }
        done => done,
    }
}
