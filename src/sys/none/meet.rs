//! Network namespaces have no names at which processes could meet.

use std::io;
use std::time::Instant;

use crate::sys::{BorrowedFd, OwnedFd, unsupported};

#[derive(Debug)]
pub(crate) enum Found {
    Line(OwnedFd),
    Refused,
    Nobody,
    Busy,
}

#[derive(Debug)]
pub(crate) enum Accepted {
    Line(OwnedFd),
    Stranger(Stranger),
    None,
}

#[derive(Debug)]
pub(crate) enum Stranger {}

pub(crate) fn listen(_: &[u8]) -> io::Result<OwnedFd> {
    Err(no_names())
}

pub(crate) fn find(_: &[u8], _: u32, _: Instant) -> io::Result<Found> {
    Err(no_names())
}

pub(crate) fn accept(_: BorrowedFd<'_>, _: u32) -> io::Result<Accepted> {
    Err(no_names())
}

pub(crate) fn dismiss(stranger: Stranger, _: &[u8]) {
    match stranger {}
}

pub(crate) fn close(_: BorrowedFd<'_>) -> io::Result<()> {
    Err(no_names())
}

pub(crate) fn end(_: OwnedFd, _: &[u8]) {}

fn no_names() -> io::Error {
    unsupported("processes of this system have no name at which to meet")
}
