//! The last explained gateway errors and masked failures, with their full evidence.
//!
//! In: requests that the core told, from the pipeline. Out: those that fit a question
//! ([`filter`]), for `GET /api/v1/incidents` and `why502 explain`.
//!
//! Bounded twice: at most as many as the setting `incidents` says, and at most
//! 8 KiB for each of them together; the oldest goes. What goes is counted.
//! Keeping one costs the pipeline a reference to what the core made anyway; JSON is only
//! made for who asks.

pub mod filter;
mod memory;
pub mod shape;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_core::event::Request;
use jiff::Timestamp;

use self::filter::Filter;
use crate::config::Settings;
use crate::events::shape::RequestShape;
use crate::events::teller::Teller;
use crate::identity::Whereabouts;
use crate::metrics::report::IncidentCounts;
use crate::names::UpstreamNames;

/// Number of an incident: from 1, in the order in which they ended, unique within a run.
pub type Id = u64;

/// Memory for each incident the setting allows, bytes; an ordinary one with one attempt
/// takes about 1,500. Smaller: requests with many attempts or long paths push others out
/// before the count does. Larger: clients who send 4 KiB heads decide about the agent's memory.
const AVERAGE_BYTES: usize = 8 * 1024;

/// Memory that is allowed in any case, bytes: the largest request (64 attempts, heads of
/// 4 KiB) must fit, however few incidents the setting allows.
const LEAST_BYTES: usize = 1 << 20;

/// Incidents that are taken out of the store at a time to be looked at: some microseconds' worth.
const AT_A_TIME: usize = 256;

/// The store; clones share it.
#[derive(Clone, Debug)]
pub struct Incidents {
    shared: Arc<Mutex<Store>>,
    names: Arc<UpstreamNames>,
}

/// One kept request.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its number.
    pub id: Id,
    request: Arc<Request>,
    whereabouts: Whereabouts,
    /// How its times and names are told: the clock is that of the moment it came.
    teller: Teller,
    bytes: usize,
}

/// What a question found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Newest first, no more than asked for.
    pub incidents: Vec<Arc<Kept>>,
    /// How many fit, those above the limit included.
    pub matched: usize,
    /// The store as it was.
    pub counts: IncidentCounts,
}

#[derive(Debug)]
struct Store {
    max: usize,
    max_bytes: usize,
    /// Oldest first.
    kept: VecDeque<Arc<Kept>>,
    bytes: usize,
    stored: u64,
    evicted: u64,
}

impl Incidents {
    /// An empty store as large as the settings say.
    pub fn new(settings: &Settings) -> Self {
        let max = settings.incidents;
        let store = Store {
            max,
            max_bytes: max.saturating_mul(AVERAGE_BYTES).max(LEAST_BYTES),
            kept: VecDeque::new(),
            bytes: 0,
            stored: 0,
            evicted: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(store)),
            names: Arc::new(UpstreamNames::of(settings)),
        }
    }

    /// The same store, whose upstreams are found by these names.
    pub fn named_by(self, names: UpstreamNames) -> Self {
        Self {
            names: Arc::new(names),
            ..self
        }
    }

    /// By what names upstreams are found.
    pub(crate) fn names(&self) -> &UpstreamNames {
        &self.names
    }

    /// Keeps one; its number. `None` when the settings keep none.
    pub fn keep(
        &self,
        request: &Arc<Request>,
        whereabouts: Whereabouts,
        teller: &Teller,
    ) -> Option<Id> {
        let mut store = self.store();
        if store.max == 0 {
            return None;
        }
        store.stored += 1;
        let kept = Kept {
            id: store.stored,
            request: Arc::clone(request),
            bytes: memory::of(request) + whereabouts.bytes(),
            whereabouts,
            teller: teller.clone(),
        };
        let id = kept.id;
        store.bytes += kept.bytes;
        store.kept.push_back(Arc::new(kept));
        while store.kept.len() > store.max || store.bytes > store.max_bytes {
            let Some(oldest) = store.kept.pop_front() else {
                break;
            };
            store.bytes -= oldest.bytes;
            store.evicted += 1;
        }
        Some(id)
    }

    /// Those that fit, newest first.
    pub fn find(&self, filter: &Filter) -> Found {
        self.find_by(filter.limit, |kept| {
            filter.fits(&kept.request, &kept.whereabouts, kept.time(), &self.names)
        })
    }

    /// The store is not held while it is asked what fits: the pipeline keeps incidents in it.
    fn find_by(&self, limit: usize, mut fits: impl FnMut(&Kept) -> bool) -> Found {
        let (counts, mut next) = {
            let store = self.store();
            (store.counts(), store.stored)
        };
        let mut matched = 0;
        let mut incidents = Vec::new();
        loop {
            let some = self.store().before(next, AT_A_TIME);
            let Some(last) = some.last() else { break };
            next = last.id - 1;
            for kept in some {
                if fits(&kept) {
                    matched += 1;
                    if incidents.len() < limit {
                        incidents.push(kept);
                    }
                }
            }
        }
        Found {
            incidents,
            matched,
            counts,
        }
    }

    /// The one of this number, if it is still kept.
    pub fn get(&self, id: Id) -> Option<Arc<Kept>> {
        let store = self.store();
        let first = store.kept.front()?.id;
        let at = usize::try_from(id.checked_sub(first)?).ok()?;
        store.kept.get(at).cloned()
    }

    /// How many there are and were.
    pub fn counts(&self) -> IncidentCounts {
        self.store().counts()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// As it is told.
    pub fn shape(&self) -> RequestShape {
        self.teller
            .request(&self.request, &self.whereabouts, Some(self.id))
    }

    /// When its first byte came.
    fn time(&self) -> Timestamp {
        self.teller.clock.at(self.request.started)
    }
}

impl Store {
    /// Those of the number `last` and before, newest first, so many at most.
    fn before(&self, last: Id, at_most: usize) -> Vec<Arc<Kept>> {
        let first = self.kept.front().map_or(Id::MAX, |kept| kept.id);
        let count = (last + 1).saturating_sub(first);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let some = self.kept.iter().take(count).rev().take(at_most);
        some.cloned().collect()
    }

    fn counts(&self) -> IncidentCounts {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        IncidentCounts {
            kept: count(self.kept.len()),
            bytes: count(self.bytes),
            stored: self.stored,
            evicted: self.evicted,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::filter::Filter;
    use super::{Incidents, LEAST_BYTES};
    use crate::config::Settings;
    use crate::events::teller::Teller;
    use crate::identity::Whereabouts;
    use crate::samples::{failed_attempt, request};

    fn store(incidents: usize) -> Incidents {
        Incidents::new(&Settings {
            incidents,
            ..Settings::default()
        })
    }

    fn keep(store: &Incidents, count: usize) {
        for _ in 0..count {
            let request = Arc::new(request(Some(502), vec![failed_attempt()]));
            store.keep(&request, Whereabouts::default(), &Teller::fixed(0));
        }
    }

    #[test]
    fn the_oldest_goes_and_is_counted() {
        let store = store(3);

        keep(&store, 5);

        let counts = store.counts();
        assert_eq!((counts.kept, counts.stored, counts.evicted), (3, 5, 2));
        let found = store.find(&Filter::default());
        let ids: Vec<u64> = found.incidents.iter().map(|kept| kept.id).collect();
        assert_eq!(ids, [5, 4, 3], "newest first");
        assert!(store.get(2).is_none());
        assert_eq!(store.get(3).unwrap().id, 3);
        assert!(store.get(6).is_none());
    }

    #[test]
    fn large_ones_push_others_out_before_the_count_does() {
        let store = store(100);
        let mut large = request(Some(502), vec![failed_attempt(); 64]);
        for attempt in &mut large.attempts {
            let head = Arc::make_mut(attempt).head.as_mut().unwrap();
            head.path = "x".repeat(4096).into();
        }
        let large = Arc::new(large);

        for _ in 0..100 {
            store.keep(&large, Whereabouts::default(), &Teller::fixed(0));
        }

        let counts = store.counts();
        assert!(counts.bytes <= LEAST_BYTES as u64, "{counts:?}");
        assert!((1..100).contains(&counts.kept), "{counts:?}");
        assert_eq!(counts.stored, counts.kept + counts.evicted);
    }

    #[test]
    fn the_store_is_free_while_incidents_are_looked_for() {
        let store = store(2000);
        keep(&store, 600);
        let mut ids = Vec::new();

        let found = store.find_by(2, |kept| {
            assert!(store.shared.try_lock().is_ok(), "the pipeline would wait");
            // Newer ones are not looked at.
            keep(&store, 1);
            ids.push(kept.id);
            true
        });

        assert_eq!(ids, (1..=600).rev().collect::<Vec<_>>());
        assert_eq!((found.incidents.len(), found.matched), (2, 600));
    }

    #[test]
    fn with_a_limit_the_rest_is_counted_only() {
        let store = store(10);
        keep(&store, 6);

        let found = store.find(&Filter {
            limit: 2,
            ..Filter::default()
        });

        assert_eq!((found.incidents.len(), found.matched), (2, 6));
    }

    #[test]
    fn a_store_of_none_keeps_none() {
        let store = store(0);

        keep(&store, 2);

        assert_eq!(store.counts().stored, 0);
        assert!(store.get(1).is_none());
    }
}
