//! Systems that cannot be told which member of a group to choose.

#![allow(dead_code, reason = "Linux can be told")]

use std::io;

use super::{BorrowedFd, Dispatch, cannot_steer};

pub(crate) fn cpus() -> Vec<usize> {
    Vec::new()
}

pub(crate) fn pins_groups() -> bool {
    false
}

pub(crate) fn pin(_: BorrowedFd<'_>, _: Option<usize>) -> io::Result<()> {
    Err(cannot_steer())
}

pub(crate) fn dispatch(_: BorrowedFd<'_>, dispatch: &Dispatch<'_>) -> io::Result<()> {
    match dispatch {
        Dispatch::Hash => Ok(()),
        Dispatch::Program(_) | Dispatch::Ebpf(_) => Err(cannot_steer()),
    }
}

pub(crate) fn dispatch_reason(_: &io::Error) -> Option<&'static str> {
    None
}
