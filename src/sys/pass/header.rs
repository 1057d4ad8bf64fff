//! The first bytes of a frame.

use std::io;

use super::{MAX_BYTES, MAX_FDS, invalid};

pub(super) const HEADER: usize = 8;

/// What a frame announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The bytes of the payload.
    pub(super) length: usize,
    /// The number of the descriptors.
    pub(super) count: usize,
}

impl Header {
    /// None for more than one frame holds.
    pub(super) fn new(length: usize, count: usize) -> Option<Self> {
        let fits = length <= MAX_BYTES && count <= MAX_FDS;
        fits.then_some(Self { length, count })
    }

    /// Reads what a peer announces; nothing is believed that no frame holds.
    pub(super) fn parse([a, b, c, d, e, f, g, h]: [u8; HEADER]) -> io::Result<Self> {
        let [length, count] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        Ok(Self {
            length: limited(
                length,
                MAX_BYTES,
                "a payload that is too long was announced",
            )?,
            count: limited(count, MAX_FDS, "too many descriptors were announced")?,
        })
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "both limits are far below 32 bits"
    )]
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let [a, b, c, d] = (self.length as u32).to_le_bytes();
        let [e, f, g, h] = (self.count as u32).to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

fn limited(announced: u32, limit: usize, why: &'static str) -> io::Result<usize> {
    usize::try_from(announced)
        .ok()
        .filter(|&announced| announced <= limit)
        .ok_or_else(|| invalid(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (length, count) in [(0, 0), (1, 2), (0x1234, 0x5678), (MAX_BYTES, MAX_FDS)] {
            let header = Header::new(length, count).unwrap();
            assert_eq!(Header::parse(header.to_bytes()).unwrap(), header);
        }
        let bytes = Header::new(0x0102, 0x0304).unwrap().to_bytes();
        assert_eq!(bytes, [2, 1, 0, 0, 4, 3, 0, 0]);
    }

    #[test]
    fn what_no_frame_holds_is_refused() {
        assert_eq!(Header::new(MAX_BYTES + 1, 0), None);
        assert_eq!(Header::new(0, MAX_FDS + 1), None);
        for (length, count) in [
            (MAX_BYTES as u32 + 1, 0),
            (u32::MAX, 0),
            (0, MAX_FDS as u32 + 1),
            (0, u32::MAX),
        ] {
            let bytes: Vec<_> = [length.to_le_bytes(), count.to_le_bytes()].concat();
            let error = Header::parse(bytes.try_into().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
