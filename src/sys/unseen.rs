//! Systems on which nobody has looked for the queues of sockets and for who is on a port.

#![allow(dead_code, reason = "Linux tells")]

use std::io;

use super::{BorrowedFd, unsupported};
use crate::{Occupant, PacketQueue, Queue};

pub(crate) fn queue(_: BorrowedFd<'_>) -> io::Result<Queue> {
    Err(unsupported("this system does not tell"))
}

pub(crate) fn packet_queue(_: BorrowedFd<'_>) -> io::Result<PacketQueue> {
    Err(unsupported("this system does not tell"))
}

pub(crate) fn occupants(_: u16) -> io::Result<Vec<Occupant>> {
    Err(unsupported("this system does not tell"))
}
