//! How the members of a group stop: new clients are refused, and what is under way is still accepted.

use std::sync::Arc;

use super::state::State;
use super::table::Id;
use crate::steering::Spread;
use crate::sys::{Kind, OwnedFd};

impl State {
    /// From here on no new client finds a listener of this process; those, each with a descriptor, that
    /// have something to accept.
    ///
    /// Members of a successor get what is new, where there are any. Datagrams have no handshake in which
    /// they could be refused: UDP sockets go on receiving until they are closed.
    pub(crate) fn stop(&mut self) -> Vec<(Id, Arc<OwnedFd>)> {
        self.is_stopping = true;
        let _ = self.sweep();
        let mut own = Vec::new();
        for entry in self.table.iter_mut().filter(|entry| entry.role.is_own()) {
            if let Ok(Some(fd)) = entry.socket.open() {
                own.push((entry.id, fd));
                if self.spread == Spread::Queue {
                    // The others are the same socket.
                    break;
                }
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
