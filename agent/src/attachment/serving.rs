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

    /// The process, which connects, has a listener open as well, as far as its files may be read; where they
    /// may not, it or the process that it was forked from may have one: a worker has the listeners of its
    /// master, and often another user.
    pub(super) fn serves(&self, tgid: u32, processes: &Processes) -> bool {
        let Some(proc) = processes.proc() else {
            return false;
        };
        match holds_listener(proc, tgid) {
            Held::Yes => true,
            Held::No => false,
            held @ (Held::Perhaps | Held::Unknown) => {
                let of_parent = |parent| (parent, holds_listener(proc, parent));
                let parent = processes.forked_from(tgid).map(of_parent);
                let both = std::iter::once((tgid, held)).chain(parent);
                both.into_iter()
                    .any(|(tgid, held)| self.may_serve(tgid, held, processes))
            }
        }
    }

    /// The process began to listen, or its user has a listener and it was there before the agent.
    fn may_serve(&self, tgid: u32, held: Held, processes: &Processes) -> bool {
        let start = processes.start(tgid);
        let listened = start.is_some() && self.listened.get(&tgid) == Some(&start);
        match held {
            Held::Yes => true,
            Held::No => false,
            Held::Unknown => listened,
            Held::Perhaps => {
                let was_there = processes.started(tgid).is_some_and(|at| at < self.since);
                listened || was_there
            }
        }
    }
}
