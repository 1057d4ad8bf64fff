//! Which member stands where in the kernel's group: places, numbers and roles, without a system call.
//!
//! A newcomer goes to the end, and when a member is removed, the last one moves into its place (kernel:
//! __reuseport_add_sock, __reuseport_detach_sock). Nothing tells afterwards who stands where, so the
//! table follows each step. Where a step was not seen, the members that it may have moved are no longer
//! exact: they stand in certain places together, and which of them in which is not known.

use std::collections::{HashMap, HashSet};

/// An entry of one table, and of no other socket later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(u64);

/// What a socket of the kernel's group is to this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A member that gets its share.
    Serves,
    /// A member that gets nothing new, and still accepts what is under way.
    Leaves,
    /// It was a member, and nothing more can come to it. It has no number any more, and stands in its
    /// place until it is removed.
    Empty,
    /// A member that gets nothing new and is removed when its owner closes it: it keeps its flows, or
    /// the system has no other way.
    Closes,
    /// A member of the generation before this one.
    Predecessor,
    /// A member of the generation after this one.
    Successor,
    /// It keeps a place, so that members whose places are known stay in them: see
    /// [`State::add_spacers`](super::state::State::add_spacers).
    Spacer,
    /// A socket that this table did not open.
    Stranger,
}

#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) id: Id,
    /// What its owner and the steering know it by.
    pub(crate) number: Option<usize>,
    pub(crate) role: Role,
    /// Whether it stands in this place, and not in any that is not exact.
    pub(crate) exact: bool,
    pub(crate) socket: T,
}

/// The entries in the kernel's order.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: Vec<Entry<T>>,
    places: HashMap<Id, usize>,
    next: u64,
}

/// Sockets to remove while one program is in force.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// In this order.
    pub(crate) remove: Vec<Id>,
    /// Those that get what is new and are moved meanwhile, so that the program must not name them.
    pub(crate) moved: Vec<Id>,
    /// The one that gets everything, and the place into which the removal moves it.
    pub(crate) only: Option<(Id, usize)>,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            places: HashMap::new(),
            next: 0,
        }
    }

    /// Makes room for so many more at once.
    pub(crate) fn reserve(&mut self, n: usize) {
        self.entries.reserve_exact(n);
        self.places.reserve(n);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Entry<T>> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Entry<T>> {
        self.entries.iter_mut()
    }

    /// The newest, which stands behind all others.
    pub(crate) fn push(&mut self, number: Option<usize>, role: Role, socket: T) -> Id {
        let id = Id(self.next);
        self.next += 1;
        self.places.insert(id, self.entries.len());
        self.entries.push(Entry {
            id,
            number,
            role,
            exact: true,
            socket,
        });
        id
    }

    pub(crate) fn get(&self, id: Id) -> Option<&Entry<T>> {
        self.place(id).and_then(|place| self.entries.get(place))
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Entry<T>> {
        self.place(id).and_then(|place| self.entries.get_mut(place))
    }

    pub(crate) fn place(&self, id: Id) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// The member with that number.
    pub(crate) fn numbered(&self, number: usize) -> Option<&Entry<T>> {
        let is_it = |entry: &&Entry<T>| entry.number == Some(number) && entry.role.is_own();
        self.entries.iter().find(is_it)
    }

    /// The lowest number that stands for no member, and is not among `taken`.
    pub(crate) fn free_number(&self, taken: &[usize]) -> usize {
        let mut used: Vec<usize> = self
            .entries
            .iter()
            .filter_map(|entry| entry.number)
            .collect();
        used.extend(taken);
        used.sort_unstable();
        used.dedup();
        used.iter()
            .enumerate()
            .find(|(at, used)| at != *used)
            .map_or(used.len(), |(at, _)| at)
    }

    /// The last entry moves into the place of one that is removed.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Entry<T>> {
        let place = self.places.remove(&id)?;
        let removed = self.entries.swap_remove(place);
        if let Some(moved) = self.entries.get_mut(place) {
            self.places.insert(moved.id, place);
            // What moves into one of several places stands in one of several places.
            moved.exact &= removed.exact;
        }
        if !removed.exact {
            self.settle();
        }
        Some(removed)
    }

    /// Several were removed, and it was not seen in which order.
    pub(crate) fn vanish(&mut self, gone: &[Id]) -> Vec<Entry<T>> {
        // Only the last ones are moved, at most as many as there are holes.
        let first_moved = self.entries.len().saturating_sub(gone.len());
        let moved: HashSet<Id> = self
            .entries
            .iter()
            .skip(first_moved)
            .map(|entry| entry.id)
            .collect();
        let removed = gone.iter().filter_map(|&id| self.remove(id)).collect();
        if gone.len() > 1 {
            for entry in &mut self.entries {
                entry.exact &= !moved.contains(&entry.id);
            }
            self.settle();
        }
        removed
    }

    /// The entries in the kernel's order.
    pub(crate) fn ids(&self) -> Vec<Id> {
        self.entries.iter().map(|entry| entry.id).collect()
    }

    /// Since the entries were those, some have come and others gone, and it was not seen in which order.
    pub(crate) fn mingle(&mut self, before: &[Id]) {
        let known: HashSet<Id> = before.iter().copied().collect();
        let there = |id: &&Id| self.places.contains_key(*id);
        let gone = before.len() - before.iter().filter(there).count();
        let came = self.entries.iter().map(|entry| entry.id);
        let came: Vec<Id> = came.filter(|id| !known.contains(id)).collect();
        if came.is_empty() || came.len() == 1 && gone == 0 {
            return;
        }
        // Any of these may have been the last when another was removed.
        let last = before.iter().rev().take(gone).copied();
        let unknown: HashSet<Id> = came.into_iter().chain(last).collect();
        self.scramble(|entry| unknown.contains(&entry.id));
    }

    /// Where each stands is not known.
    pub(crate) fn scramble(&mut self, is_unknown: impl Fn(&Entry<T>) -> bool) {
        for entry in &mut self.entries {
            entry.exact &= !is_unknown(entry);
        }
        self.settle();
    }

    /// One alone stands in the only place that is left.
    fn settle(&mut self) {
        let mut unknown = self.entries.iter_mut().filter(|entry| !entry.exact);
        if let (Some(one), None) = (unknown.next(), unknown.next()) {
            one.exact = true;
        }
    }

    /// Some of the `doomed`, which one program allows to be removed: at most half of those that get
    /// what is new are moved meanwhile, so that the others can be named; none where all is done.
    ///
    /// `gets` tells who gets what is new.
    pub(crate) fn batch(
        &self,
        doomed: &HashSet<Id>,
        gets: impl Fn(&Entry<T>) -> bool,
    ) -> Option<Batch> {
        let getting: HashSet<Id> = self
            .entries
            .iter()
            .filter(|entry| gets(entry))
            .map(|entry| entry.id)
            .collect();
        let most = getting.len() / 2;
        let mut order: Vec<Id> = self.entries.iter().map(|entry| entry.id).collect();
        let mut batch = Batch {
            remove: Vec::new(),
            moved: Vec::new(),
            only: None,
        };
        let mut from = 0;
        loop {
            // The last can go without moving another.
            while order.last().is_some_and(|last| doomed.contains(last)) {
                batch.remove.extend(order.pop());
            }
            from += order
                .iter()
                .skip(from)
                .take_while(|id| !doomed.contains(id))
                .count();
            let (Some(&hole), Some(&last)) = (order.get(from), order.last()) else {
                break;
            };
            if getting.contains(&last) {
                if batch.moved.len() == most {
                    if batch.remove.is_empty() {
                        batch.remove.push(hole);
                        batch.only = Some((last, from));
                    }
                    break;
                }
                batch.moved.push(last);
            }
            order.swap_remove(from);
            batch.remove.push(hole);
        }
        (!batch.remove.is_empty()).then_some(batch)
    }
}

impl Role {
    /// Whether it is a member of this group, and has a number in it.
    pub(crate) fn is_own(self) -> bool {
        matches!(self, Self::Serves | Self::Leaves | Self::Closes)
    }
}

#[cfg(test)]
mod tests;
