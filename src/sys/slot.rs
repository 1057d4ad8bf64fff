//! What a worker publishes of itself, in memory that a program in the kernel may read too.

use std::sync::atomic::{AtomicU32, AtomicUsize};

/// The atomics of one member, alone on their cache lines: two, as processors fetch them in pairs.
///
/// Any bits are valid: a child that was forked shares them, and has its own idea of them.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    pub(crate) set: AtomicUsize,
    pub(crate) held: AtomicU32,
    /// How many were ever held; it wraps.
    pub(crate) taken: AtomicU32,
    /// How many the kernel's program gave to the member; it wraps.
    pub(crate) given: AtomicU32,
    /// `given - taken` where nothing waits; it wraps.
    pub(crate) base: AtomicU32,
    /// What the member is to get beside the others, up to [`MOST`]; 0: nothing.
    pub(crate) share: AtomicU32,
}

/// The largest share of a slot.
pub(crate) const MOST: u32 = 0xffff;
