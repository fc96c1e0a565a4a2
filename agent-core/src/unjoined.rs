//! When each process last had an attempt that no request is known for.
//!
//! In: attempts that were not joined. Out: for a process, the end of the last of them: until then a
//! request without an attempt may have had one. What is forgotten must not make a verdict surer, so
//! of processes for which there is no room one time is kept for all of them.

use rustc_hash::FxHashMap;

use crate::observation::Nanos;

/// Processes, each with the end of its last attempt without a request.
#[derive(Debug)]
pub(crate) struct Unjoined {
    latest: FxHashMap<u32, Nanos>,
    limit: usize,
    /// The last one of the processes for which there was no room.
    others: Option<Nanos>,
    forgotten: u64,
}

impl Unjoined {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            latest: FxHashMap::default(),
            limit,
            others: None,
            forgotten: 0,
        }
    }

    /// An attempt of the process that was over then was not joined.
    pub(crate) fn saw(&mut self, tgid: u32, ended: Nanos) {
        if self.latest.len() >= self.limit && !self.latest.contains_key(&tgid) {
            self.others = self.others.max(Some(ended));
            self.forgotten += 1;
            return;
        }
        let latest = self.latest.entry(tgid).or_default();
        *latest = ended.max(*latest);
    }

    /// When the last such attempt was over that may be the process's.
    pub(crate) fn last_of(&self, tgid: u32) -> Option<Nanos> {
        self.latest.get(&tgid).copied().max(self.others)
    }

    /// Forgets what was over before.
    pub(crate) fn sweep(&mut self, idle_since: Nanos) {
        self.latest.retain(|_, at| *at >= idle_since);
        self.others = self.others.filter(|at| *at >= idle_since);
    }

    pub(crate) fn len(&self) -> usize {
        self.latest.len()
    }

    /// How often there was no room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::Unjoined;

    #[test]
    fn a_process_without_room_counts_as_one_with_an_unjoined_attempt() {
        let mut unjoined = Unjoined::new(2);
        for tgid in 1..=100 {
            unjoined.saw(tgid, u64::from(tgid));
        }

        assert_eq!((unjoined.len(), unjoined.forgotten()), (2, 98));
        for tgid in [1, 50, 100, 101] {
            assert_eq!(unjoined.last_of(tgid), Some(100), "{tgid}");
        }

        unjoined.sweep(101);
        assert_eq!((unjoined.len(), unjoined.last_of(50)), (0, None));
        unjoined.saw(50, 200);
        assert_eq!(unjoined.last_of(50), Some(200));
        assert_eq!(unjoined.last_of(51), None);
    }
}
