//! Systems on which a socket of a group cannot step aside before it closes.

#![allow(dead_code, reason = "on Linux it can")]

use std::io;
use std::net::SocketAddr;

use super::{BorrowedFd, Kind, OwnedFd, cannot_steer};

/// Nothing is done with a member that somebody else owns, so nothing is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weak(());

impl Weak {
    pub(crate) fn new(_: BorrowedFd<'_>) -> Option<Self> {
        None
    }

    pub(crate) fn is_open(&self) -> bool {
        true
    }

    pub(crate) fn inode(&self) -> u64 {
        0
    }

    pub(crate) fn upgrade(&self) -> Option<OwnedFd> {
        None
    }
}

#[derive(Debug)]
pub(crate) struct Requests(());

impl Requests {
    pub(crate) fn of(_: &Weak, _: SocketAddr) -> Self {
        Self(())
    }

    pub(crate) fn left(&mut self, _: BorrowedFd<'_>) -> io::Result<u32> {
        Err(cannot_steer())
    }
}

pub(crate) fn hide(_: BorrowedFd<'_>) -> io::Result<()> {
    Err(cannot_steer())
}

pub(crate) fn can_hide(_: BorrowedFd<'_>) -> bool {
    false
}

pub(crate) fn is_hidden(_: BorrowedFd<'_>) -> bool {
    false
}

/// It leaves when it is closed.
pub(crate) fn leave(_: Kind, _: BorrowedFd<'_>) -> bool {
    false
}

pub(crate) fn is_readable(_: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn barrier() {}

pub(crate) fn migrates() -> bool {
    false
}

pub(crate) fn counts(_: Option<&Weak>, _: &SocketAddr) -> bool {
    false
}

pub(crate) fn has_stranger(_: Kind, _: &SocketAddr, _: &[u64]) -> bool {
    false
}
