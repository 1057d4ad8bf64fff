//! Where no memory is at hand that can be passed to another process and that no process can take away.

use std::io;

use super::slot::Slot;
use super::{BorrowedFd, OwnedFd, unsupported};

#[derive(Debug)]
pub(crate) enum Page {}

impl Page {
    pub(crate) fn open() -> io::Result<(Self, OwnedFd)> {
        Err(none())
    }

    pub(crate) fn adopt(_: BorrowedFd<'_>) -> io::Result<Self> {
        Err(none())
    }

    pub(crate) fn slot(&self) -> &Slot {
        match *self {}
    }
}

fn none() -> io::Error {
    unsupported("this system has no memory that can be lent to another process for it")
}
