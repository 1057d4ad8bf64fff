//! The calls by which tests have members leave and generations take over, each in one place.

#![allow(unreachable_pub, reason = "a module of many crates")]
#![allow(dead_code, reason = "no test file uses all of it")]

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use reuseport::{Drained, Error, Generation, Guarantee, Leaving, Member, Roster, Socket};

#[allow(unused_imports, reason = "a module of many crates")]
pub use crate::util::PATIENCE;

/// A member's number, by which its roster knows it.
pub fn number<S: Socket>(member: &Member<S>) -> usize {
    member.number()
}

/// A member that is being drained, as a future.
pub type Drain = Leaving;

/// Begins to drain; what is lost is told when it is over.
pub fn drain(leaving: Leaving, timeout: Duration) -> Drain {
    leaving.timeout(timeout)
}

/// Drains to the end.
pub fn drain_blocking(leaving: Leaving, timeout: Duration) -> Result<u32, Error> {
    lost(leaving.timeout(timeout).wait())
}

/// What a drain that has ended says was lost.
pub fn lost(drained: Result<Drained, Error>) -> Result<u32, Error> {
    drained.map(|drained| drained.unaccepted + u32::from(drained.unread))
}

/// Whether nothing is said to be lost.
pub fn is_lossless(leaving: &Leaving) -> bool {
    leaving.guarantee() == Guarantee::Lossless
}

/// Takes over, and says what the predecessor lost.
pub fn take_over(generation: &Generation, timeout: Duration) -> Result<u32, Error> {
    lost(generation.take_over_blocking(timeout))
}

/// The same as a future.
pub fn taking_over(
    generation: &Generation,
    timeout: Duration,
) -> Pin<Box<dyn Future<Output = Result<u32, Error>> + Send>> {
    let taken = generation.take_over(timeout);
    Box::pin(async { lost(taken.await) })
}

/// The process that served before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// There is none.
    Nothing,
    /// There is one, in a place that has no number here.
    Unknown,
    Process(u32),
}

pub fn before(generation: &Generation) -> Before {
    match generation
        .predecessor()
        .map(|predecessor| predecessor.pid())
    {
        None => Before::Nothing,
        Some(None) => Before::Unknown,
        Some(Some(pid)) => Before::Process(pid),
    }
}

/// Closes a member at once.
pub fn close<S: Socket>(roster: &Roster<S>, number: usize, socket: S) -> Result<(), Error> {
    roster.close(number)?;
    drop(socket);
    Ok(())
}

/// What a peer sends that speaks another version: as the next process, and as the one before.
pub fn of_another_version() -> [Vec<u8>; 2] {
    [
        frame(b"reuseport\x09\x01\x09\x09"),
        frame(b"reuseport\x09\x06"),
    ]
}

/// What the next process says first.
pub fn hello() -> Vec<u8> {
    frame(b"reuseport\x01\x01\x01\x01")
}

/// A payload as it goes over the stream, without descriptors.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    [&length[..], &[0; 4], payload].concat()
}
