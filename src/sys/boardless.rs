//! Where no eBPF program chooses a member: without the feature `ebpf`, on other systems, and on Android, whose
//! sandbox kills an app that asks for one.

use std::io;

use super::slot::Slot;
use super::{BorrowedFd, unsupported};

#[derive(Debug)]
pub(crate) enum Board {}

impl Board {
    pub(crate) const SLOTS: usize = 1024;

    pub(crate) fn open() -> io::Result<Self> {
        Err(unsupported("no eBPF program is at hand"))
    }

    pub(crate) fn slot(&self, _: usize) -> &Slot {
        match *self {}
    }

    pub(crate) fn seat(&self, _: usize, _: BorrowedFd<'_>) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn unseat(&self, _: usize) {
        match *self {}
    }

    pub(crate) fn share(&self, _: &[u32]) {
        match *self {}
    }

    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}
