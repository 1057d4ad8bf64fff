//! What the BSDs and Apple's systems have in common: plain SO_REUSEPORT, and no table that
//! everybody may read.

use std::io;
use std::net::SocketAddr;

use super::unix::flag;
use super::{BorrowedFd, Kind, Socket};

/// SO_REUSEPORT implies what SO_REUSEADDR would allow.
pub(crate) fn restartable(_: &Socket, _: Kind) -> io::Result<()> {
    Ok(())
}

#[allow(dead_code, reason = "FreeBSD shares in its own way")]
pub(crate) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port()
}

pub(crate) fn is_shared(fd: BorrowedFd<'_>) -> io::Result<bool> {
    flag(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT)
}

/// Bound without the option a socket excludes everybody (in_pcbbind), and afterwards it may ask for
/// it.
#[allow(dead_code, reason = "for systems without balanced groups")]
pub(crate) fn claim_late(_: &Socket, _: Kind, addr: &SocketAddr) -> io::Result<SocketAddr> {
    Ok(*addr)
}

pub(crate) fn identity(_: BorrowedFd<'_>) -> Option<u64> {
    None
}
