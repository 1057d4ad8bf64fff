//! Connection ids of QUIC that name the member of a group, so that its datagrams find it.

use std::time::Duration;

use quinn::rustls::crypto::ring;
use quinn::{ConnectionId, ConnectionIdGenerator};

/// Eight bytes: the number of the member, and chance.
pub struct Numbered(pub u8);

impl ConnectionIdGenerator for Numbered {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [self.0; 8];
        let random = ring::default_provider().secure_random.fill(&mut id[1..]);
        random.expect("the system has random bytes");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
