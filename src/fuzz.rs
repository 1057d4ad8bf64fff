//! What reads bytes that come from outside, for the targets in `fuzz/`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::open::addr::sealed::ToAddr as _;

/// A text that was meant as an address: refused in a sentence, or used.
pub fn address(text: &str) {
    if let Err(error) = text.target() {
        assert!(error.to_string().starts_with("cannot use "), "{error}");
    }
}

/// What another process says, with the descriptors that come along.
pub fn frame(stream: &impl AsFd) {
    crate::generation::fuzz(stream, Instant::now() + Duration::from_secs(1));
}

/// A line of one of the tables in /proc.
pub fn row(line: &str) {
    crate::sys::fuzz::row(line);
}

/// What one read(2) from a socket of netlink(7) returned.
pub fn netlink(bytes: &[u8]) {
    crate::sys::fuzz::netlink(bytes);
}
