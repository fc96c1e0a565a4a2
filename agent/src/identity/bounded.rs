//! A table that loses its oldest entry when it is full.

use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Entries by key, in the order in which their keys came.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    entries: FxHashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self {
            entries: FxHashMap::default(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Bounded<K, V> {
    /// The entry of this key.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key).copied()
    }

    /// Puts it in, in place of what this key had; the oldest go beyond `at_most`.
    pub(super) fn insert(&mut self, key: K, value: V, at_most: usize) {
        if self.entries.insert(key, value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > at_most {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, key: &K) {
        if self.entries.remove(key).is_some() {
            self.order.retain(|other| other != key);
        }
    }

    /// Entries now.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes all out, and gives their memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Bounded;

    #[test]
    fn the_oldest_goes_and_both_parts_have_the_same_keys() {
        let mut table = Bounded::default();
        for key in 0..5 {
            table.insert(key, 'a', 3);
        }
        table.insert(3, 'b', 3);

        assert_eq!((table.get(&1), table.get(&2)), (None, Some('a')));
        assert_eq!(table.get(&3), Some('b'));
        assert_eq!((table.len(), table.order.len()), (3, 3));

        table.remove(&3);
        table.remove(&9);
        assert_eq!((table.len(), table.order.len()), (2, 2));
        table.clear();
        assert_eq!((table.len(), table.order.len()), (0, 0));
    }
}
