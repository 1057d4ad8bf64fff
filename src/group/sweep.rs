//! The table learns who has left the kernel's group, or come to it, without a word.

use std::collections::HashSet;

use super::sock::{Sock, is_in_group};
use super::state::{Stage, State};
use super::table::Role;
use crate::error::Error;
use crate::steering::Spread;
use crate::sys;

impl State {
    /// Sees which sockets have left the group without a word, and which have come.
    pub(crate) fn sweep(&mut self) -> Result<(), Error> {
        if self.spread == Spread::Queue || self.stage == Stage::GivenAway {
            return Ok(());
        }
        let rows = sys::receivers(self.kind, &self.addr).ok();
        let known: HashSet<u64> = rows.iter().flatten().map(|row| row.inode).collect();
        self.sees_all = rows.is_some();
        let mut gone = Vec::new();
        let mut failed = None;
        for entry in self.table.iter_mut() {
            let Some(inode) = entry.socket.inode else {
                continue;
            };
            if known.contains(&inode) {
                continue;
            }
            self.sees_all = false;
            // The rows may be of another network namespace, so that each is asked by itself.
            match entry.socket.open() {
                Ok(Some(fd)) if is_in_group(self.kind, sys::borrow(&*fd)) => {}
                Ok(None) if entry.socket.is_unseen() && rows.is_none() => {}
                Ok(_) => gone.push(entry.id),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            let why = sys::resource_reason(&error);
            let what = format!("cannot see who is in the group on {}", self.addr);
            return Err(Error::system(what, error).at(self.addr).why(why));
        }
        let ours: HashSet<u64> = self
            .table
            .iter()
            .filter_map(|entry| entry.socket.inode)
            .collect();
        // Where none of this group is seen, it is not known what a stranger of it looks like.
        let mut seen = rows
            .iter()
            .flatten()
            .filter(|row| ours.contains(&row.inode));
        let like = seen.find(|row| !row.is_hidden());
        let is_stranger = |row: &&sys::Receiver| {
            like.is_some_and(|like| row.is_beside(like)) && !ours.contains(&row.inode)
        };
        let came = rows.iter().flatten().filter(is_stranger);
        let came: Vec<u64> = came.map(|row| row.inode).collect();
        if gone.is_empty() && came.is_empty() {
            return Ok(());
        }
        self.surprises += u64::from(!gone.is_empty());
        let before = self.table.ids();
        for removed in self.table.vanish(&gone) {
            self.tell_removed(removed.number);
        }
        for inode in came {
            self.table.push(None, Role::Stranger, Sock::stranger(inode));
        }
        self.table.mingle(&before);
        self.reprogram()
    }
}
