//! Systems on which no descriptor goes to another process over a stream.

#![allow(dead_code, reason = "nobody gets as far as to need all of it")]

use std::io;
use std::time::Duration;

use super::{BorrowedFd, OwnedFd, unsupported};

pub(crate) const MAX_BYTES: usize = 64 << 10;

pub(crate) const MAX_FDS: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: Option<u32>,
}

pub(crate) fn send(_: BorrowedFd<'_>, _: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<()> {
    Err(nothing_passes())
}

pub(crate) fn receive(_: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    Err(nothing_passes())
}

pub(crate) fn set_timeout(_: BorrowedFd<'_>, _: Duration) -> io::Result<()> {
    Err(nothing_passes())
}

pub(crate) fn reason(_: &io::Error) -> Option<&'static str> {
    None
}

pub(crate) fn peer(_: BorrowedFd<'_>) -> io::Result<Peer> {
    Err(nothing_passes())
}

fn nothing_passes() -> io::Error {
    unsupported("this system cannot hand sockets to another process")
}
