//! What listeners still have to accept: the requests that are half-open, and those that are queued.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;

use super::{diag, queue, table};
use crate::sys::unsupported;

/// So many rows of other listeners are read: three milliseconds, in which the second way is done too.
const MOST: usize = 1_000;

/// With fewer connections the tables are slow: a read(2) goes on through the kernel's whole hash table
/// until it has filled a page, which are 27 rows (kernel: seq_read_iter, established_get_first).
const FEW: u32 = 256;

/// One look at the kernel's tables for a whole set of listeners.
#[derive(Debug, Default)]
pub(crate) struct Look {
    listeners: HashMap<u64, Listener>,
    /// The half-open requests of the port.
    half_open: HashSet<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Listener {
    /// It has no more than these.
    most: u32,
    /// Whether it has exactly so many.
    is_exact: bool,
    /// What is queued, where that had to be asked for.
    queued: Option<u32>,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            most: u32::MAX,
            is_exact: false,
            queued: None,
        }
    }
}

/// Whether this kernel counts what refers to a listener. gVisor has the same tables, with other numbers.
fn counts() -> io::Result<bool> {
    static COUNTS: OnceLock<bool> = OnceLock::new();
    if let Some(counts) = COUNTS.get() {
        return Ok(*counts);
    }
    let counts = queue::is_told()?;
    Ok(*COUNTS.get_or_init(|| counts))
}

impl Look {
    /// Looks at the listeners that are on an address, by their inodes.
    ///
    /// The tables tell of each how many it has. Where the machine has so many listeners that reading
    /// them takes long, sock_diag(7) tells what is queued in each, and what is half-open on the port.
    pub(crate) fn take(addr: &SocketAddr, inodes: &HashSet<u64>) -> io::Result<Self> {
        if !counts()? {
            return Err(unsupported("this kernel does not tell"));
        }
        let is_idle = table::size(addr).is_ok_and(|connections| connections < FEW);
        Self::take_by(addr, inodes, is_idle, MOST)
    }

    fn take_by(
        addr: &SocketAddr,
        inodes: &HashSet<u64>,
        is_idle: bool,
        others: usize,
    ) -> io::Result<Self> {
        let mut look = Self::default();
        if inodes.is_empty() {
            return Ok(look);
        }
        // Without a half-open request on the port, each has exactly what is queued, unless it is empty.
        if is_idle
            && look.ask(addr, inodes).is_ok()
            && look.half_open.is_empty()
            && look.knows(inodes)
            && !look.listeners.values().any(|known| known.queued == Some(0))
        {
            return Ok(look);
        }
        // What is not found so is asked for in the other way.
        let _ = look.count(addr, inodes, others);
        // Listeners that come and go while a dump is made can make it miss one.
        for _ in 0..2 {
            if look.knows(inodes) {
                break;
            }
            if let Err(error) = look.ask(addr, inodes) {
                look.count(addr, inodes, usize::MAX).map_err(|_| error)?;
                break;
            }
        }
        Ok(look)
    }

    fn knows(&self, inodes: &HashSet<u64>) -> bool {
        let mut listeners = inodes.iter().map(|inode| self.listeners.get(inode));
        listeners.all(|known| known.is_some_and(|known| known.is_exact || known.queued.is_some()))
    }

    /// The first way: by the references to each listener.
    fn count(&mut self, addr: &SocketAddr, inodes: &HashSet<u64>, others: usize) -> io::Result<()> {
        if others == 0 {
            return Ok(());
        }
        let (mut other, mut found) = (0, 0);
        table::listeners(addr, |row| {
            if !inodes.contains(&row.inode) {
                other += 1;
                return other < others;
            }
            found += 1;
            let listener = self.listeners.entry(row.inode).or_default();
            listener.most = row.references.saturating_sub(1);
            // One may be the last half-open request, or what MPTCP's listeners have besides.
            listener.is_exact = listener.most.checked_sub(row.queued) != Some(1);
            found < inodes.len()
        })
        .map(drop)
    }

    /// The second way: what is queued, and what is half-open on the port.
    fn ask(&mut self, addr: &SocketAddr, inodes: &HashSet<u64>) -> io::Result<()> {
        // In this order: a request that is queued meanwhile is counted twice, and not never.
        self.half_open = diag::half_open(addr)?;
        let listeners = &mut self.listeners;
        diag::queues(addr, |inode, queued| {
            if inodes.contains(&inode) {
                listeners.entry(inode).or_default().queued = Some(queued);
            }
        })
    }

    /// How many requests a listener has, or the most that it can have. None where it is in no table:
    /// it listens in another network namespace, or no more.
    ///
    /// `since` is the caller's, one for each listener, from the time on when none can be added to it:
    /// the half-open requests of the port at that time that are half-open still.
    ///
    /// A 0 may be too early: see [`is_sure`](Self::is_sure).
    pub(crate) fn left(&self, inode: u64, since: &mut Option<HashSet<u64>>) -> Option<u32> {
        let listener = self.listeners.get(&inode)?;
        let Some(queued) = listener.queued.filter(|_| !listener.is_exact) else {
            return Some(listener.most);
        };
        let since = since.get_or_insert_with(|| self.half_open.clone());
        since.retain(|request| self.half_open.contains(request));
        let half_open = u32::try_from(since.len()).unwrap_or(u32::MAX);
        Some(queued.saturating_add(half_open).min(listener.most))
    }

    /// Whether a listener that seems to have nothing left has nothing.
    ///
    /// A request that leaves the half-open ones is for an instant not queued yet (kernel:
    /// inet_csk_complete_hashdance), and in neither dump; its reference to the listener is there all the
    /// time. Where the references are not told, a 0 is sure when there is one again after a barrier.
    pub(crate) fn is_sure(&self, inode: u64) -> bool {
        self.listeners
            .get(&inode)
            .is_some_and(|listener| listener.most == 0)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
