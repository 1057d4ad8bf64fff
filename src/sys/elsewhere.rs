//! What `unix.rs` does, for systems that are no Unix: Windows and WASI.

use std::io;
use std::net::SocketAddr;

use super::{BorrowedFd, unsupported};

/// Nothing here asks for SO_ACCEPTCONN: a socket that is adopted is taken for a listener.
pub(crate) fn is_listening(_: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(true)
}

pub(super) fn wait_writable(_: BorrowedFd<'_>) -> io::Result<()> {
    Err(unsupported(
        "waiting for a connect is not supported on this system",
    ))
}

pub(super) fn is_in_progress(_: &io::Error) -> bool {
    false
}

pub(crate) fn is_no_ipv6(_: &io::Error) -> bool {
    false
}

/// Windows has another type for what is no socket.
pub(crate) fn is_no_socket(_: &io::Error) -> bool {
    false
}

pub(crate) fn is_unsupported(_: &io::Error) -> bool {
    false
}

/// It cannot be asked.
pub(crate) fn is_blocking(_: BorrowedFd<'_>) -> bool {
    true
}

/// Users have no numbers here.
pub(crate) fn user() -> u32 {
    0
}

/// Handles are not inherited here unless that is asked for.
pub(crate) fn set_close_on_exec(_: BorrowedFd<'_>) -> io::Result<()> {
    Ok(())
}

/// There is no table to grow.
pub(crate) fn reserve(_: BorrowedFd<'_>, _: usize) {}

/// Interfaces have no names that std could look up; a zone is a number here.
pub(crate) fn zone(_: &str) -> io::Result<u32> {
    Err(unsupported("zones are numbers on this system"))
}

pub(crate) fn resource_reason(_: &io::Error) -> Option<&'static str> {
    None
}

pub(crate) fn reason(_: &io::Error, _: &SocketAddr) -> Option<&'static str> {
    None
}
