//! The program that makes a socket able only to found a group, never to join one.
//!
//! A socket that carries a classic BPF program before bind(2) gets EADDRINUSE wherever another
//! socket has the port, this user's own groups included (kernel: inet_bind_conflict,
//! udp_lib_lport_inuse). Nothing can come between the question and the answer, and the port that
//! the kernel chooses for port 0 is no other socket's.

use std::io;
use std::os::fd::BorrowedFd;

use super::steer::{self, TO_THE_HASH};

pub(super) fn attach(fd: BorrowedFd<'_>) -> io::Result<()> {
    steer::attach(fd, &[TO_THE_HASH])
}

/// Takes the program off, so that the group is as any other; joining it never depended on that.
pub(super) fn detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    steer::detach(fd)
}
