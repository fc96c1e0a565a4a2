//! Uses of upstream connections whose talk is not read, as far as no request has them for sure.
//!
//! In: when such a connection of a process was used, TCP or Unix. Out: for a request that got an
//! error and has no attempt, whether one may have been its own, and at which upstream. Without this
//! an upstream that speaks FastCGI would look like no upstream at all.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::event::Upstream;
use crate::observation::Nanos;

/// Processes remembered. With more, any may have used what is not known.
const PROCESSES: usize = 4096;
/// Uses of one process that are remembered.
const USES: usize = 256;
/// Unix sockets and routes to them that are remembered of one process.
const SOCKETS: usize = 16;
const ROUTES: usize = 1024;

/// What is known of all processes.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    processes: FxHashMap<u32, Uses>,
    /// Uses of processes for which there was no room: until when.
    refused: Nanos,
    /// Uses that made room for newer ones, or found none.
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Uses {
    latest: VecDeque<Use>,
    /// When the last of those ended that are not remembered any more.
    forgotten: Nanos,
    /// Unix sockets that were connected to. When such a connection ends is not seen.
    sockets: Vec<Upstream>,
    /// Routes of the requests for which that was done.
    routes: FxHashSet<u64>,
    /// For others too, or nobody knows for whom.
    everywhere: bool,
    seen: Nanos,
}

#[derive(Debug)]
struct Use {
    upstream: Upstream,
    from: Nanos,
    to: Nanos,
}

/// What may have been used for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Used {
    /// Nothing.
    #[default]
    Nothing,
    /// Connections to this upstream only.
    Only(Upstream),
    /// Several upstreams, or it is not known which.
    Some,
}

impl Used {
    pub(crate) fn add(&mut self, upstream: &Upstream) {
        *self = match std::mem::take(self) {
            Self::Nothing => Self::Only(upstream.clone()),
            Self::Only(only) if only == *upstream => Self::Only(only),
            Self::Only(_) | Self::Some => Self::Some,
        };
    }

    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }
}

impl Unread {
    /// The process used a connection to `upstream`, for nobody knows which request.
    pub(crate) fn ran(&mut self, tgid: u32, upstream: Upstream, from: Nanos, to: Nanos) {
        let mut made_room = 0;
        let Some(uses) = self.of(tgid, to) else {
            return;
        };
        if uses.latest.len() >= USES
            && let Some(oldest) = uses.latest.pop_front()
        {
            uses.forgotten = uses.forgotten.max(oldest.to);
            made_room = 1;
        }
        uses.latest.push_back(Use { upstream, from, to });
        self.forgotten += made_room;
    }

    /// The process connected to a Unix socket at `at`, for a request of this route if it is known.
    pub(crate) fn connected(
        &mut self,
        tgid: u32,
        upstream: &Upstream,
        route: Option<u64>,
        at: Nanos,
    ) {
        let Some(uses) = self.of(tgid, at) else {
            return;
        };
        if !uses.sockets.contains(upstream) {
            if uses.sockets.len() < SOCKETS {
                uses.sockets.push(upstream.clone());
            } else {
                uses.everywhere = true;
            }
        }
        match route {
            Some(route) if uses.routes.len() < ROUTES => {
                uses.routes.insert(route);
            }
            Some(route) if uses.routes.contains(&route) => {}
            _ => uses.everywhere = true,
        }
    }

    /// What the process used between `from` and `to`, beside what requests have for sure.
    pub(crate) fn between(&self, tgid: u32, from: Nanos, to: Nanos) -> Used {
        let mut used = Used::Nothing;
        let Some(uses) = self.processes.get(&tgid) else {
            let unknown = self.refused >= from;
            return if unknown { Used::Some } else { used };
        };
        for one in &uses.latest {
            if one.from <= to && one.to >= from {
                used.add(&one.upstream);
            }
        }
        if uses.forgotten >= from {
            used = Used::Some;
        }
        used
    }

    /// The Unix sockets to which the process may have kept connections that requests of this route
    /// use; of any route where it connects for one request while it serves another.
    pub(crate) fn kept(&self, tgid: u32, route: Option<u64>) -> Used {
        let mut used = Used::Nothing;
        if let Some(uses) = self.processes.get(&tgid) {
            let other = route.is_some_and(|route| !uses.routes.contains(&route));
            if uses.everywhere || !other {
                uses.sockets.iter().for_each(|socket| used.add(socket));
            }
        }
        used
    }

    pub(crate) fn len(&self) -> usize {
        self.processes.len()
    }

    /// Uses that made room for newer ones, or found none. A request of then may have had one.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets processes that used nothing since.
    pub(crate) fn sweep(&mut self, idle_since: Nanos) {
        self.processes
            .retain(|_, uses| uses.seen >= idle_since || !uses.sockets.is_empty());
        if self.processes.len() >= PROCESSES {
            self.processes.retain(|_, uses| uses.seen >= idle_since);
        }
    }

    fn of(&mut self, tgid: u32, at: Nanos) -> Option<&mut Uses> {
        if self.processes.len() >= PROCESSES && !self.processes.contains_key(&tgid) {
            self.refused = self.refused.max(at);
            self.forgotten += 1;
            return None;
        }
        let uses = self.processes.entry(tgid).or_default();
        uses.seen = uses.seen.max(at);
        Some(uses)
    }
}
