//! What a worker publishes of itself, in memory that a program in the kernel, or another process, may read too.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// The atomics of one member, alone on their cache lines: two, as processors fetch them in pairs.
///
/// Any bits are valid: another process that has them may write anything.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    pub(crate) set: AtomicUsize,
    /// How many are held, in the bits of [`COUNT`], and above them in which era: see [`Slot::clear`].
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

/// The bits of `held` that count.
pub(crate) const COUNT: u32 = 0x00ff_ffff;

impl Slot {
    /// One more is held; the era, for its release.
    pub(crate) fn hold(&self) -> u32 {
        let before = self.held.fetch_add(1, Relaxed);
        self.taken.fetch_add(1, Relaxed);
        before & !COUNT
    }

    /// One less, unless it was cleared since.
    pub(crate) fn release(&self, era: u32) {
        // Another process that has this memory may write anything.
        let less = |held| (held & !COUNT == era && held & COUNT > 0).then(|| held - 1);
        let _ = self.held.fetch_update(Relaxed, Relaxed, less);
    }

    /// Nothing is set or held; what was held counts no more, and neither does its release.
    pub(crate) fn clear(&self) {
        self.set.store(0, Relaxed);
        let next = |held: u32| Some((held & !COUNT).wrapping_add(COUNT + 1));
        let _ = self.held.fetch_update(Relaxed, Relaxed, next);
    }

    /// How many are held.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Relaxed) & COUNT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_before_it_was_cleared_is_released_in_vain() {
        let slot = Slot::default();
        let before = [slot.hold(), slot.hold()];
        slot.set.store(7, Relaxed);
        slot.clear();
        assert_eq!((slot.held(), slot.set.load(Relaxed)), (0, 0));
        let after = slot.hold();
        before.iter().for_each(|era| slot.release(*era));
        assert_eq!(slot.held(), 1);
        slot.release(after);
        slot.release(after);
        assert_eq!((slot.held(), slot.taken.load(Relaxed)), (0, 3));
    }

    #[test]
    fn any_bits_are_valid() {
        let slot = Slot::default();
        slot.held.store(u32::MAX, Relaxed);
        assert_eq!(slot.held(), COUNT);
        let era = slot.hold();
        slot.release(era);
        slot.held.store(u32::MAX, Relaxed);
        slot.clear();
        assert_eq!(slot.held(), 0);
        let era = slot.hold();
        assert_eq!(slot.held(), 1);
        slot.release(era);
        assert_eq!(slot.held(), 0);
    }
}
