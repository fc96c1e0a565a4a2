//! Failed attempts without a request, which wait for one to turn up.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rustc_hash::FxHashMap;

use crate::attempt::Trial;
use crate::observation::Nanos;
use crate::table::{Deadlines, Key};

/// Attempts in the order in which they were over.
type ByEnd = BTreeMap<(Nanos, Key), Box<Trial>>;

/// Attempts by the process that made them, and in the order in which they are given up.
#[derive(Debug)]
pub(crate) struct Orphans {
    by_process: FxHashMap<Option<u32>, ByEnd>,
    queue: Deadlines<(Option<u32>, Nanos, Key)>,
    len: usize,
}

impl Orphans {
    pub(crate) fn new(limit: usize, delay: Nanos) -> Self {
        Self {
            by_process: FxHashMap::default(),
            queue: Deadlines::new(limit, delay),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds one at a time that never goes back; at the bound, the oldest is given up and returned.
    pub(crate) fn push(&mut self, now: Nanos, trial: Box<Trial>) -> Option<Box<Trial>> {
        let name = (trial.tgid, trial.ended, trial.key);
        let early = self.queue.push(now, name);
        let early = early.and_then(|name| self.take_named(name));
        let of_process = self.by_process.entry(trial.tgid).or_default();
        let twin = of_process.insert((trial.ended, trial.key), trial);
        self.len += usize::from(twin.is_none());
        early.or(twin)
    }

    /// Those of the process that were over then.
    pub(crate) fn over(
        &self,
        tgid: Option<u32>,
        between: RangeInclusive<Nanos>,
    ) -> impl Iterator<Item = &Trial> {
        let of_process = self.by_process.get(&tgid);
        of_process.into_iter().flat_map(move |trials| {
            let over = trials.range(ends_in(&between));
            over.map(|(_, trial)| trial.as_ref())
        })
    }

    /// One of those, by its name.
    pub(crate) fn find_mut(
        &mut self,
        tgid: Option<u32>,
        between: RangeInclusive<Nanos>,
        key: Key,
    ) -> Option<&mut Trial> {
        let of_process = self.by_process.get_mut(&tgid)?;
        let mut over = of_process.range_mut(ends_in(&between));
        let found = over.find(|(_, trial)| trial.key == key);
        found.map(|(_, trial)| trial.as_mut())
    }

    /// Takes out one of those, by its name.
    pub(crate) fn take(
        &mut self,
        tgid: Option<u32>,
        between: RangeInclusive<Nanos>,
        key: Key,
    ) -> Option<Box<Trial>> {
        let mut over = self.over(tgid, between);
        let ended = over.find(|trial| trial.key == key)?.ended;
        drop(over);
        self.take_named((tgid, ended, key))
    }

    /// The next one that has waited long enough.
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<Box<Trial>> {
        loop {
            let name = self.queue.pop_due(now)?;
            // Others have found a request meanwhile.
            if let Some(trial) = self.take_named(name) {
                return Some(trial);
            }
        }
    }

    fn take_named(&mut self, (tgid, ended, key): (Option<u32>, Nanos, Key)) -> Option<Box<Trial>> {
        let of_process = self.by_process.get_mut(&tgid)?;
        let trial = of_process.remove(&(ended, key));
        self.len -= usize::from(trial.is_some());
        if of_process.is_empty() {
            self.by_process.remove(&tgid);
        }
        trial
    }
}

/// The names of attempts that were over then.
fn ends_in(between: &RangeInclusive<Nanos>) -> RangeInclusive<(Nanos, Key)> {
    let (from, to) = (*between.start(), *between.end());
    (from, Key::FIRST)..=(to.max(from), Key::LAST)
}
