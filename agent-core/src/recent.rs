//! A table that forgets its oldest entry when it is full, and counts that.

use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// The last entries by key, in the order in which they were first put in.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: FxHashMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
    forgotten: u64,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: FxHashMap::default(),
            order: VecDeque::new(),
            limit,
            forgotten: 0,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        while self.order.len() > self.limit {
            if let Some(oldest) = self.order.pop_front()
                && self.entries.remove(&oldest).is_some()
            {
                self.forgotten += 1;
            }
        }
    }

    /// Takes an entry out. Its place among the last is taken until the others have moved on.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries made room for others so far.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
