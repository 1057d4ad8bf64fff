//! What can be seen of ports, queues and systems.

mod occupants;
mod queue;
mod support;

pub use occupants::occupants;
pub use queue::{packet_queue, queue};
pub use support::support;
