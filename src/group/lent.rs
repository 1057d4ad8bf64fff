//! The descriptors that this process has of sockets which others own.
//!
//! A generation may take over from one of the same process: then the descriptors that were lent must not
//! seem to be their owners'.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::sys::{self, OwnedFd};

/// By their sockets' inodes.
static ALL: Mutex<BTreeMap<u64, Vec<Weak<OwnedFd>>>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<u64, Vec<Weak<OwnedFd>>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor of a socket that another process, or another group, lent.
#[derive(Debug)]
pub(super) struct LentFd {
    fd: Arc<OwnedFd>,
    inode: Option<u64>,
}

impl LentFd {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let inode = sys::identity(sys::borrow(&fd));
        let fd = Arc::new(fd);
        if let Some(inode) = inode {
            all().entry(inode).or_default().push(Arc::downgrade(&fd));
        }
        Self { fd, inode }
    }

    pub(super) fn get(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    pub(super) fn inode(&self) -> Option<u64> {
        self.inode
    }
}

impl Drop for LentFd {
    fn drop(&mut self) {
        let Some(inode) = self.inode else {
            return;
        };
        let mut all = all();
        if let Some(of) = all.get_mut(&inode) {
            let own = Arc::downgrade(&self.fd);
            of.retain(|other| !other.ptr_eq(&own));
            if of.is_empty() {
                all.remove(&inode);
            }
        }
    }
}

/// Those of one socket.
pub(super) fn of(inode: u64) -> Vec<Arc<OwnedFd>> {
    let all = all();
    let of = all.get(&inode);
    of.into_iter().flatten().filter_map(Weak::upgrade).collect()
}
