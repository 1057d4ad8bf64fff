//! How the members of a group stop: new clients are refused, and what is under way is still accepted.

use std::sync::Arc;

use super::state::State;
use super::table::Id;
use crate::sys::{Kind, OwnedFd};

impl State {
    /// No new client is let in from here on; the members whose queues are to be emptied, one of those that have
    /// one queue.
    pub(crate) fn stop(&mut self) -> Vec<(Id, Arc<OwnedFd>)> {
        self.is_stopping = true;
        let _ = self.sweep();
        let one_queue = self.is_one_queue().then(|| self.via().ok().flatten());
        let mut own = Vec::new();
        for entry in self.table.iter_mut().filter(|entry| entry.role.is_own()) {
            let open = match &one_queue {
                Some(queue) => queue.clone(),
                None => entry.socket.open().ok().flatten(),
            };
            own.extend(open.map(|fd| (entry.id, fd)));
            if one_queue.is_some() {
                break;
            }
        }
        // Before the kernel's program could choose one that is hidden.
        let _ = self.reprogram();
        if self.kind == Kind::Tcp {
            self.hide(own.iter().map(|(id, _)| *id));
        }
        own
    }
}
