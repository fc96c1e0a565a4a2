//! A table that loses its oldest entry when it is full.

use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Entries by key, in the order in which they were put in last.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    entries: FxHashMap<K, (V, u64)>,
    /// With numbers: one that its entry has no more says nothing.
    order: VecDeque<(K, u64)>,
    number: u64,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self {
            entries: FxHashMap::default(),
            order: VecDeque::new(),
            number: 0,
        }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Bounded<K, V> {
    /// The entry of this key.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key).map(|(value, _)| *value)
    }

    /// Puts it in, in place of what this key had; the oldest go beyond `at_most`.
    pub(super) fn insert(&mut self, key: K, value: V, at_most: usize) {
        self.number += 1;
        self.entries.insert(key, (value, self.number));
        self.order.push_back((key, self.number));
        while self.entries.len() > at_most
            && let Some((oldest, number)) = self.order.pop_front()
        {
            if self.has(&oldest, number) {
                self.entries.remove(&oldest);
            }
        }
        if self.order.len() > 2 * at_most {
            let entries = &self.entries;
            self.order
                .retain(|(key, number)| entries.get(key).is_some_and(|(_, own)| own == number));
        }
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Entries now.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes all out, and gives their memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn has(&self, key: &K, number: u64) -> bool {
        self.entries.get(key).is_some_and(|(_, own)| *own == number)
    }
}

#[cfg(test)]
mod tests {
    use super::Bounded;

    #[test]
    fn the_oldest_goes() {
        let mut table = Bounded::default();
        for key in 0..5 {
            table.insert(key, 'a', 3);
        }
        table.insert(3, 'b', 3);

        assert_eq!((table.get(&1), table.get(&2)), (None, Some('a')));
        assert_eq!((table.get(&3), table.len()), (Some('b'), 3));

        table.remove(&3);
        table.remove(&9);
        assert_eq!(table.len(), 2);
        table.clear();
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_is_put_in_again_is_the_newest() {
        let mut table = Bounded::default();
        for key in 0..3 {
            table.insert(key, 'a', 3);
        }
        table.insert(0, 'b', 3);
        table.insert(3, 'a', 3);

        assert_eq!((table.get(&0), table.get(&1)), (Some('b'), None));
    }

    #[test]
    fn what_is_put_in_again_and_again_takes_no_more_room() {
        let mut table = Bounded::default();
        for number in 0..10_000 {
            table.insert(number % 2, number, 4);
            table.remove(&(number % 3));
        }
        assert!(table.order.len() <= 8, "{}", table.order.len());
    }
}
