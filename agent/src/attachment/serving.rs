//! Which processes serve.

use agent_core::observation::Nanos;
use rustc_hash::FxHashMap;

use crate::identity::sockets::{Held, holds_listener};
use crate::processes::Processes;

/// Processes remembered that began to listen.
const MOST: usize = 4096;

/// Processes that began to listen, for where a process' files may not be read.
#[derive(Debug)]
pub(super) struct Serving {
    /// With their start, ticks since boot.
    listened: FxHashMap<u32, Option<u64>>,
    /// Since when that is known, ns.
    since: Nanos,
}

impl Serving {
    pub(super) fn since(now: Nanos) -> Self {
        Self {
            listened: FxHashMap::default(),
            since: now,
        }
    }

    /// It began to listen.
    pub(super) fn listens(&mut self, tgid: u32, processes: &Processes) {
        if self.listened.len() >= MOST {
            self.listened.clear();
        }
        self.listened.insert(tgid, processes.start(tgid));
    }

    /// It has a listener open. Where its files may not be read, one that began to listen or was there
    /// before may have, and what was forked from such a one.
    pub(super) fn serves(&self, tgid: u32, processes: &Processes) -> bool {
        let Some(proc) = processes.proc() else {
            return false;
        };
        let may = |tgid| {
            let was_there = processes.started(tgid).is_some_and(|at| at < self.since);
            let start = processes.start(tgid);
            was_there || start.is_some() && self.listened.get(&tgid) == Some(&start)
        };
        match holds_listener(proc, tgid) {
            Held::Yes => true,
            Held::No => false,
            Held::Perhaps => may(tgid) || processes.forked_from(tgid).is_some_and(may),
        }
    }
}
