//! Who is on a port: sockets from the kernel's tables, and processes from their descriptors.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::diag;
use super::table::{self, LISTEN};
use crate::sys::Kind;
use crate::{Occupant, Process, Protocol};

pub(crate) fn occupants(port: u16) -> io::Result<Vec<Occupant>> {
    let mut occupants = BTreeMap::new();
    for (kind, protocol) in [(Kind::Tcp, Protocol::Tcp), (Kind::Udp, Protocol::Udp)] {
        let rows = diag::rows(kind, port).or_else(|_| {
            table::rows(kind, |row| {
                row.local.port() == port && (kind == Kind::Udp || row.state == LISTEN)
            })
        })?;
        occupants.extend(rows.into_iter().map(|row| {
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
            (row.inode, occupant)
        }));
    }
    if !occupants.is_empty() {
        find_processes(&mut occupants);
    }
    Ok(occupants.into_values().collect())
}

/// Adds to each socket, by its inode, the processes that have a descriptor of it.
fn find_processes(occupants: &mut BTreeMap<u64, Occupant>) {
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
        let process = Path::new("/proc").join(id.to_string());
        // Another user's process, or one that has ended.
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let link = fs::read_link(descriptor.path());
            let inode = link.ok().and_then(|link| socket_inode(link.as_os_str()));
            let Some(occupant) = inode.and_then(|inode| occupants.get_mut(&inode)) else {
                continue;
            };
            // A second descriptor of the same socket.
            if occupant.processes.last().is_some_and(|last| last.id == id) {
                continue;
            }
            let Ok(name) = fs::read(process.join("comm")) else {
                continue;
            };
            let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into();
            occupant.ours |= me == Some(id);
            occupant.processes.push(Process { id, name });
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
