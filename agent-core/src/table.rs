//! Containers that never grow past their bound: a map, a first-in first-out queue of
//! deadlines, and the memory of what was told already.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::observation::{Errand, Nanos};

/// One exchange: a socket cookie and the number of the exchange on that connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) cookie: u64,
    pub(crate) index: u32,
}

impl Key {
    /// Before all others.
    pub(crate) const FIRST: Self = Self {
        cookie: 0,
        index: 0,
    };
    /// After all others.
    pub(crate) const LAST: Self = Self {
        cookie: u64::MAX,
        index: u32::MAX,
    };

    /// The request that a thread on this errand had read last.
    pub(crate) fn of(errand: Errand) -> Self {
        Self {
            cookie: errand.cookie.get(),
            index: errand.index,
        }
    }
}

/// A map with a bound.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    map: FxHashMap<K, V>,
    limit: usize,
    refused: u64,
}

impl<K: Eq + Hash + Copy, V> Table<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            map: FxHashMap::default(),
            limit,
            refused: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.map.len() >= self.limit
    }

    /// How many entries were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.map.contains_key(&key)
    }

    pub(crate) fn get(&self, key: K) -> Option<&V> {
        self.map.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.map.get_mut(&key)
    }

    /// The entry of `key`, made by `make` when there is none; `None` when the table is full.
    pub(crate) fn get_or_insert_with(
        &mut self,
        key: K,
        make: impl FnOnce() -> V,
    ) -> Option<&mut V> {
        let full = self.map.len() >= self.limit;
        match self.map.entry(key) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(_) if full => {
                self.refused += 1;
                None
            }
            Entry::Vacant(entry) => Some(entry.insert(make())),
        }
    }

    /// `false` when there was no room.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        if self.is_full() && !self.map.contains_key(&key) {
            self.refused += 1;
            return false;
        }
        self.map.insert(key, value);
        true
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        self.map.remove(&key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.map.iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.map.values()
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&K, &mut V) -> bool) {
        self.map.retain(keep);
    }
}

/// Things that fall due, all after the same delay: so the first in is the first due.
#[derive(Debug)]
pub(crate) struct Deadlines<T> {
    /// When each came in, and what it is.
    queue: VecDeque<(Nanos, T)>,
    delay: Nanos,
    limit: usize,
}

impl<T> Deadlines<T> {
    pub(crate) fn new(limit: usize, delay: Nanos) -> Self {
        Self {
            queue: VecDeque::new(),
            delay,
            limit: limit.max(1),
        }
    }

    /// Adds `thing`, at a time that never goes back; at the bound, the oldest falls due now and
    /// is returned.
    pub(crate) fn push(&mut self, now: Nanos, thing: T) -> Option<T> {
        let early = if self.queue.len() >= self.limit {
            self.queue.pop_front()
        } else {
            None
        };
        self.queue.push_back((now, thing));
        early.map(|(_, thing)| thing)
    }

    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<T> {
        self.queue
            .pop_front_if(|(came, _)| came.saturating_add(self.delay) <= now)
            .map(|(_, thing)| thing)
    }
}

/// Which exchanges of a connection have ended, so that none is told twice: all below
/// `next - 64` are taken as ended, the 64 below `next` are remembered one by one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// Wider than an index, which may be the largest there is.
    next: u64,
    window: u64,
}

impl Ended {
    pub(crate) fn contains(self, index: u32) -> bool {
        match self.next.checked_sub(u64::from(index)) {
            None | Some(0) => false,
            Some(back @ 1..=64) => self.window & (1 << (back - 1)) != 0,
            Some(_) => true,
        }
    }

    pub(crate) fn insert(&mut self, index: u32) {
        let index = u64::from(index);
        match self.next.checked_sub(index) {
            Some(back @ 1..=64) => self.window |= 1 << (back - 1),
            Some(65..) => {}
            None | Some(0) => {
                let shift = index + 1 - self.next;
                let kept = if shift < 64 { self.window << shift } else { 0 };
                self.window = kept | 1;
                self.next = index + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Deadlines, Ended, Table};

    #[test]
    fn a_full_table_refuses_and_counts() {
        let mut table = Table::new(1);
        assert!(table.insert(1, 'a'));
        assert!(!table.insert(2, 'b'));
        assert!(
            table.insert(1, 'c'),
            "an entry that is there can be replaced"
        );
        assert!(table.get_or_insert_with(3, || 'd').is_none());
        assert_eq!((table.len(), table.refused()), (1, 2));
    }

    #[test]
    fn a_full_queue_gives_back_its_oldest() {
        let mut queue = Deadlines::new(2, 10);
        assert_eq!(queue.push(1, 'a'), None);
        assert_eq!(queue.push(2, 'b'), None);
        assert_eq!(queue.push(3, 'c'), Some('a'));
        assert_eq!(queue.pop_due(11), None);
        assert_eq!(queue.pop_due(12), Some('b'));
        assert_eq!(queue.pop_due(12), None);
    }

    #[test]
    fn ended_remembers_each_index_whatever_the_order() {
        let mut ended = Ended::default();
        for index in [5, 3, 70, 69, u32::MAX - 1, u32::MAX] {
            assert!(!ended.contains(index), "{index}");
            ended.insert(index);
            assert!(ended.contains(index), "{index}");
        }
        let mut ended = Ended::default();
        ended.insert(10);
        assert!(!ended.contains(9));
        assert!(!ended.contains(11));
        ended.insert(200);
        assert!(ended.contains(9), "older than the window is taken as ended");
    }
}
