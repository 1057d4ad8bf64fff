//! Who is on a port: sockets from the kernel's tables, and processes from their descriptors.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::table::{self, LISTEN, Row};
use super::{diag, queue};
use crate::sys::Kind;
use crate::{Occupant, Process, Protocol};

pub(crate) fn occupants(port: u16) -> io::Result<Vec<Occupant>> {
    let mut occupants = BTreeMap::new();
    let mut connections = HashSet::new();
    for (kind, protocol) in [(Kind::Tcp, Protocol::Tcp), (Kind::Udp, Protocol::Udp)] {
        let rows = match diag::rows(kind, port) {
            Ok(rows) => rows,
            Err(_) => listed(kind, port)?,
        };
        for row in rows {
            if kind == Kind::Tcp && row.state != LISTEN {
                connections.insert(row.inode);
                continue;
            }
            let occupant = Occupant {
                protocol,
                addr: row.local,
                peer: Some(row.remote).filter(|peer| peer.port() != 0),
                inode: row.inode,
                uid: row.uid,
                waiting: row.waiting,
                limit: row.limit,
                drops: row.drops,
                ours: false,
                processes: Vec::new(),
            };
            occupants.insert(row.inode, occupant);
        }
    }
    if !occupants.is_empty() {
        find_processes(&mut occupants, &connections);
    }
    Ok(occupants.into_values().collect())
}

/// What the tables say, without the zeros that gVisor writes for what it does not know.
fn listed(kind: Kind, port: u16) -> io::Result<Vec<Row>> {
    let mut rows = table::rows(kind, |row| row.local.port() == port)?;
    if !queue::is_told()? {
        for row in &mut rows {
            (row.waiting, row.drops) = (None, None);
        }
    }
    Ok(rows)
}

/// Adds to each socket, by its inode, the processes that have a descriptor of it.
fn find_processes(occupants: &mut BTreeMap<u64, Occupant>, connections: &HashSet<u64>) {
    // The number that this process has where /proc was mounted.
    let me = fs::read_link("/proc/self").ok();
    let me = me.and_then(|me| me.to_str()?.parse().ok());
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut ids: Vec<u32> = ids.collect();
    ids.sort_unstable();
    for id in ids {
        let directory = Path::new("/proc").join(id.to_string());
        // Nothing is read of another user's process, or one that has ended.
        let descriptors = fs::read_dir(directory.join("fd")).into_iter().flatten();
        let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let inodes: BTreeSet<u64> = links
            .filter_map(|link| socket_inode(link.as_os_str()))
            .collect();
        if !inodes.iter().any(|inode| occupants.contains_key(inode)) {
            continue;
        }
        let Ok(name) = fs::read(directory.join("comm")) else {
            continue;
        };
        let process = Process {
            id,
            name: String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into(),
            connections: inodes
                .iter()
                .copied()
                .filter(|inode| connections.contains(inode))
                .collect(),
        };
        for inode in &inodes {
            if let Some(occupant) = occupants.get_mut(inode) {
                occupant.ours |= me == Some(id);
                occupant.processes.push(process.clone());
            }
        }
    }
}

/// `socket:[4711]` (proc_pid_fd(5)).
fn socket_inode(link: &OsStr) -> Option<u64> {
    let inode = link
        .as_bytes()
        .strip_prefix(b"socket:[")?
        .strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}
