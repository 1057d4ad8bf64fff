//! Which process has a socket, for the sentence of an error.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;

/// The most descriptors that are looked at, which takes some tens of milliseconds: a machine can have
/// a hundred thousand, and an error should not wait for all of them.
const MOST: usize = 1 << 14;

/// A server opens its listener before it has connections. So of each process these are looked at
/// first, lest one with many keeps the others from being asked.
const FEW: usize = 256;

/// A process that has a descriptor of a socket.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: u32,
    pub(super) name: String,
    /// It is this one.
    pub(super) is_own: bool,
}

impl fmt::Display for Process {
    /// "this process" or "process 4711 (nginx)". A process can put control characters into its
    /// name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_own {
            true => f.write_str("this process"),
            false => write!(f, "process {} ({})", self.id, self.name.escape_debug()),
        }
    }
}

/// A process that has a descriptor of the socket with this inode; this one before others.
///
/// Without a privilege only this user's processes tell (proc_pid_fd(5)).
pub(super) fn of(inode: u64) -> Option<Process> {
    let mut search = Search {
        socket: format!("socket:[{inode}]"),
        left: MOST,
    };
    // The number that this process has where /proc was mounted.
    let own = fs::read_link("/proc/self").ok()?;
    let own: u32 = own.to_str()?.parse().ok()?;
    let entries = fs::read_dir("/proc").ok()?;
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut ids: Vec<u32> = ids.filter(|&id| id != own).collect();
    // The process that opened a socket is older than those that got it from it.
    ids.sort_unstable();
    ids.insert(0, own);
    for most in [FEW, usize::MAX] {
        let mut rest = Vec::new();
        for id in ids {
            match search.look(id, most) {
                Found::Here => return found(id, id == own),
                Found::NotYet => rest.push(id),
                Found::Nowhere => {}
            }
        }
        ids = rest;
    }
    None
}

/// The inodes of the sockets that this process has; none where /proc does not tell.
pub(super) fn sockets() -> HashSet<u64> {
    let inode = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?;
        inode.strip_suffix(']')?.parse().ok()
    };
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries.flatten().filter_map(inode).collect()
}

/// A socket among the descriptors of processes.
struct Search {
    socket: String,
    /// How many descriptors it may still look at.
    left: usize,
}

#[derive(PartialEq, Eq)]
enum Found {
    Here,
    /// Not among the descriptors that were looked at.
    NotYet,
    Nowhere,
}

impl Search {
    /// Looks at the lowest descriptors of a process, in which order /proc has them (kernel:
    /// proc_readfd_common).
    fn look(&mut self, id: u32, most: usize) -> Found {
        // Another user's process is not looked at.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{id}/fd")) else {
            return Found::Nowhere;
        };
        for (n, entry) in descriptors.flatten().enumerate() {
            if n == most {
                return Found::NotYet;
            }
            match self.left.checked_sub(1) {
                Some(left) => self.left = left,
                None => return Found::Nowhere,
            }
            let link = fs::read_link(entry.path());
            if link.is_ok_and(|link| link == Path::new(&self.socket)) {
                return Found::Here;
            }
        }
        Found::Nowhere
    }
}

fn found(id: u32, is_own: bool) -> Option<Process> {
    let name = fs::read(format!("/proc/{id}/comm")).ok()?;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into();
    Some(Process { id, name, is_own })
}
