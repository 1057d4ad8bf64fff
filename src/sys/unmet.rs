//! Systems whose network namespaces have no names at which processes could meet.

#![allow(dead_code, reason = "nobody gets as far as to need all of it")]

use std::io;
use std::time::Duration;

use super::{BorrowedFd, OwnedFd, unsupported};

pub(crate) fn listen(_: &[u8]) -> io::Result<OwnedFd> {
    Err(nobody_meets())
}

pub(crate) fn connect(_: &[u8], _: Duration) -> io::Result<OwnedFd> {
    Err(nobody_meets())
}

pub(crate) fn accept(_: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Err(nobody_meets())
}

pub(crate) fn close(_: BorrowedFd<'_>) -> io::Result<()> {
    Err(nobody_meets())
}

fn nobody_meets() -> io::Error {
    unsupported("processes of this system have no name at which to meet")
}
