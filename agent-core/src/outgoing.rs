//! Connections that processes opened and whose talk is not read, and what each is used for.
//!
//! In: that such a connection is used, and that it is not any more, or is HTTP. Out: those that are
//! used for a request, and the upstreams that a process uses for nobody knows which. What is asked is
//! asked for each request that failed: the cost does not grow with the connections that are open.

use std::cell::Cell;
use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::address::Address;
use crate::event::Upstream;
use crate::observation::Nanos;
use crate::table::Key;
use crate::unread::Used;

/// What a connection whose talk is not read is used for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    /// The request, where nobody else can be meant.
    pub(crate) owner: Option<Key>,
    /// Since when.
    pub(crate) began: Nanos,
    /// Which use of the connection, from 0.
    pub(crate) index: u32,
}

/// A use, and how it is found.
#[derive(Clone, Copy, Debug)]
struct Listed {
    used: Use,
    upstream: Address,
    /// When the handshake was complete, if that was seen.
    established: Option<Nanos>,
}

/// Connections in the order of a time.
type ByTime = BTreeSet<(Nanos, u64)>;

/// The connections of one process. By cookie, and by what is asked for.
#[derive(Debug, Default)]
struct Uses {
    all: FxHashMap<u64, Listed>,
    owned: BTreeSet<(Key, u64)>,
    unowned: FxHashMap<Address, ByTime>,
    established: FxHashMap<Address, ByTime>,
}

/// The connections of all processes.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    processes: FxHashMap<u32, Uses>,
    looked_at: Cell<u64>,
}

impl Outgoing {
    /// The process uses the connection to `upstream`, of which the handshake was complete at
    /// `established`, for another request than before. What it was used for until then.
    pub(crate) fn begin(
        &mut self,
        tgid: u32,
        cookie: u64,
        used: Use,
        upstream: Address,
        established: Option<Nanos>,
    ) -> Option<Use> {
        let uses = self.processes.entry(tgid).or_default();
        let before = uses.remove(cookie);
        match used.owner {
            Some(owner) => {
                uses.owned.insert((owner, cookie));
            }
            None => insert(&mut uses.unowned, upstream, used.began, cookie),
        }
        if let Some(at) = established {
            insert(&mut uses.established, upstream, at, cookie);
        }
        let listed = Listed {
            used,
            upstream,
            established,
        };
        uses.all.insert(cookie, listed);
        before
    }

    /// The connection is not used any more, is gone, or is HTTP. For which request it was used.
    pub(crate) fn end(&mut self, tgid: u32, cookie: u64) -> Option<Key> {
        let uses = self.processes.get_mut(&tgid)?;
        let owner = uses.remove(cookie).and_then(|used| used.owner);
        if uses.all.is_empty() {
            self.processes.remove(&tgid);
        }
        owner
    }

    /// Processes that use some.
    pub(crate) fn processes(&self) -> impl Iterator<Item = u32> {
        self.processes.keys().copied()
    }

    /// The connections that the process uses for the request `owner`.
    pub(crate) fn of(&self, tgid: u32, owner: Key) -> impl Iterator<Item = (u64, Use)> {
        let uses = self.processes.get(&tgid);
        uses.into_iter().flat_map(move |uses| {
            let owned = uses.owned.range((owner, 0)..=(owner, u64::MAX));
            owned.filter_map(|(_, cookie)| {
                self.looks();
                Some((*cookie, uses.all.get(cookie)?.used))
            })
        })
    }

    /// Adds the upstreams that the process began to use between `from` and `to` for it is not known
    /// which request.
    pub(crate) fn unowned(&self, tgid: u32, from: Nanos, to: Nanos, used: &mut Used) {
        if let Some(uses) = self.processes.get(&tgid) {
            self.add(&uses.unowned, from, to, used);
        }
    }

    /// Adds the upstreams to which the process has had a connection open since `at` or before.
    pub(crate) fn open_since(&self, tgid: u32, at: Nanos, used: &mut Used) {
        if let Some(uses) = self.processes.get(&tgid) {
            self.add(&uses.established, 0, at, used);
        }
    }

    /// Connections and upstreams looked at so far: what a failed request costs.
    pub(crate) fn looked_at(&self) -> u64 {
        self.looked_at.get()
    }

    fn add(&self, upstreams: &FxHashMap<Address, ByTime>, from: Nanos, to: Nanos, used: &mut Used) {
        for (upstream, times) in upstreams {
            // No more can be learnt.
            if *used == Used::Some {
                return;
            }
            self.looks();
            let mut within = times.range((from, 0)..=(to.max(from), u64::MAX));
            if within.next().is_some() {
                used.add(&Upstream::Inet((*upstream).into()));
            }
        }
    }

    fn looks(&self) {
        self.looked_at.set(self.looked_at.get() + 1);
    }
}

impl Uses {
    fn remove(&mut self, cookie: u64) -> Option<Use> {
        let Listed {
            used,
            upstream,
            established,
        } = self.all.remove(&cookie)?;
        match used.owner {
            Some(owner) => {
                self.owned.remove(&(owner, cookie));
            }
            None => remove(&mut self.unowned, upstream, used.began, cookie),
        }
        if let Some(at) = established {
            remove(&mut self.established, upstream, at, cookie);
        }
        Some(used)
    }
}

fn insert(upstreams: &mut FxHashMap<Address, ByTime>, upstream: Address, at: Nanos, cookie: u64) {
    upstreams.entry(upstream).or_default().insert((at, cookie));
}

fn remove(upstreams: &mut FxHashMap<Address, ByTime>, upstream: Address, at: Nanos, cookie: u64) {
    if let Some(times) = upstreams.get_mut(&upstream) {
        times.remove(&(at, cookie));
        if times.is_empty() {
            upstreams.remove(&upstream);
        }
    }
}
