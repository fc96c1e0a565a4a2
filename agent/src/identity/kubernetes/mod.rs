//! Names from the Kubernetes API server.
//!
//! In: pods of this node, all EndpointSlices and Services, by list and watch. Out: the
//! [`Directory`], which answers who is behind an address or a pod's uid. Nothing here is waited
//! for: while the API server is away, addresses stay what they are, and what was known is dropped
//! when it could be old.

mod objects;
mod read;
mod tables;
mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::Place;
use crate::metrics::report::DirectoryCounts;
use objects::{EndpointSlice, Service};
use tables::{Tabled, Tables};
pub use watch::{Away, NoCluster, connect};

/// How long what is known is used without a connection to the API server. A watch that breaks is
/// usually resumed within a second, where it was. Longer: an address that was given to another pod
/// meanwhile is called by its old name. Shorter: names flicker when an API server is replaced.
const GRACE: Duration = Duration::from_secs(10);

/// Kinds of objects that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pods,
    EndpointSlices,
    Services,
}

/// All of them.
const KINDS: [Kind; 3] = [Kind::Pods, Kind::EndpointSlices, Kind::Services];

/// What is known of the cluster; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tables: RwLock<Tables>,
    /// Grows with each change of the tables.
    generation: AtomicU64,
    state: Mutex<State>,
}

/// How each kind's watch fares.
#[derive(Debug, Default)]
struct State {
    watches: [Watch; KINDS.len()],
    /// What was logged last.
    was_current: bool,
    was_away: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// The tables have all of its objects.
    listed: bool,
    /// Since when the API server does not answer.
    failing: Option<Instant>,
    /// It answers, and says no; that is logged.
    refused: bool,
}

impl Directory {
    /// Who is behind an address and port, without its container.
    pub fn behind(&self, address: SocketAddr) -> Option<Place> {
        self.read(|tables| tables.behind(address))
    }

    /// How many endpoints are ready of the Service that has this address for its own; `None` where no
    /// one Service has it, or that is not known for sure.
    pub fn ready_endpoints(&self, address: SocketAddr) -> Option<usize> {
        let known = self.is_current();
        known.then(|| self.read(|tables| tables.ready_endpoints(address)))?
    }

    /// The pod of this uid, without its container.
    pub fn pod(&self, uid: &str) -> Option<Place> {
        self.read(|tables| tables.pod(uid))
    }

    /// Another number when an answer may be another one.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// All objects are known, and changes arrive.
    pub fn is_current(&self) -> bool {
        self.state(|state| state.is_current())
    }

    fn read<T>(&self, ask: impl FnOnce(&Tables) -> T) -> T {
        ask(&self
            .shared
            .tables
            .read()
            .unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Tables)) {
        let mut tables = self
            .shared
            .tables
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut tables);
        self.shared.generation.fetch_add(1, Ordering::Release);
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(
            &mut self
                .shared
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// How many objects are known, and how often one was left out for want of room.
    pub fn counts(&self) -> DirectoryCounts {
        self.read(|tables| DirectoryCounts {
            known: u64::try_from(tables.len()).unwrap_or(u64::MAX),
            left_out: tables.left_out(),
        })
    }

    /// All objects of a kind, in place of those known.
    fn replace<K: Tabled>(&self, kind: Kind, objects: K::Objects) {
        self.change(|tables| tables.replace::<K>(objects));
        self.state(|state| {
            state.watches[kind.slot()].listed = true;
        });
        self.works(kind);
    }

    /// The API server answers.
    fn works(&self, kind: Kind) {
        self.state(|state| {
            let watch = &mut state.watches[kind.slot()];
            watch.failing = None;
            watch.refused = false;
            state.log(None);
        });
    }

    /// It does not, or with an error.
    fn fails(&self, kind: Kind, why: &Away) {
        self.state(|state| {
            let refusal = why.refusal();
            let watch = &mut state.watches[kind.slot()];
            watch.failing.get_or_insert_with(Instant::now);
            if let Some(error) = refusal.as_deref().filter(|_| !watch.refused) {
                tracing::warn!(
                    error,
                    "Kubernetes: the API server does not tell of {}; what only they name has no name until it does",
                    kind.words()
                );
            }
            watch.refused = refusal.is_some();
            state.log(Some(why));
        });
    }

    /// Drops what may be old by now.
    fn expire(&self) {
        for kind in KINDS {
            let is_old = self.state(|state| {
                let watch = &mut state.watches[kind.slot()];
                let is_old =
                    watch.listed && watch.failing.is_some_and(|since| since.elapsed() >= GRACE);
                watch.listed &= !is_old;
                is_old
            });
            if is_old {
                self.change(|tables| kind.expire(tables));
            }
        }
    }

    /// The tables have the objects of this kind.
    fn is_listed(&self, kind: Kind) -> bool {
        self.state(|state| state.watches[kind.slot()].listed)
    }
}

impl Kind {
    fn slot(self) -> usize {
        match self {
            Self::Pods => 0,
            Self::EndpointSlices => 1,
            Self::Services => 2,
        }
    }

    /// As the API calls them.
    fn words(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::EndpointSlices => "endpointslices",
            Self::Services => "services",
        }
    }

    /// Drops what may be another's by now.
    fn expire(self, tables: &mut Tables) {
        match self {
            Self::Pods => tables.forget_addresses_of_pods(),
            Self::EndpointSlices => tables.replace::<EndpointSlice>(Default::default()),
            Self::Services => tables.replace::<Service>(Default::default()),
        }
    }
}

impl State {
    fn is_current(&self) -> bool {
        self.watches
            .iter()
            .all(|watch| watch.listed && watch.failing.is_none())
    }

    /// A line when it changes, and only then.
    fn log(&mut self, why: Option<&Away>) {
        let is_current = self.is_current();
        let is_away = self
            .watches
            .iter()
            .any(|watch| watch.failing.is_some() && !watch.refused);
        if is_current && !self.was_current {
            tracing::info!("Kubernetes: names of pods and services are known");
        }
        if is_away && !self.was_away {
            let error = why.map(ToString::to_string).unwrap_or_default();
            tracing::warn!(
                error,
                "Kubernetes: the API server cannot be asked; upstreams are called by their addresses until it can"
            );
        }
        self.was_current = is_current;
        self.was_away = is_away;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::{from_value, json};

    use super::objects::{EndpointSlice, Pod, Service};
    use super::tables::Tabled;
    use super::{Away, Directory, GRACE, Kind};

    fn listed() -> Directory {
        let directory = Directory::default();
        directory.replace::<Pod>(Kind::Pods, Default::default());
        directory.replace::<EndpointSlice>(Kind::EndpointSlices, Default::default());
        let service = json!({
            "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
        });
        let service: Service = from_value(service).unwrap();
        let mut services = <Service as Tabled>::Objects::default();
        service.put(&mut services);
        directory.replace::<Service>(Kind::Services, services);
        directory
    }

    #[test]
    fn it_is_current_when_all_kinds_are_known_and_the_server_answers() {
        let directory = Directory::default();
        assert!(!directory.is_current());
        let directory = listed();
        assert!(directory.is_current());

        directory.fails(Kind::Pods, &Away::Silent);
        assert!(!directory.is_current());
        directory.works(Kind::Pods);
        assert!(directory.is_current());
    }

    #[test]
    fn what_may_be_old_is_dropped_and_a_short_gap_drops_nothing() {
        let directory = listed();
        let address: SocketAddr = "10.96.0.7:80".parse().unwrap();
        let generation = directory.generation();

        directory.fails(Kind::Services, &Away::Silent);
        directory.expire();
        assert!(directory.behind(address).is_some());
        assert_eq!(directory.generation(), generation);

        directory.state(|state| {
            let failing = &mut state.watches[Kind::Services.slot()].failing;
            *failing = failing.and_then(|since| since.checked_sub(GRACE));
        });
        directory.expire();
        assert!(directory.behind(address).is_none());
        assert_ne!(directory.generation(), generation);
        assert!(!directory.is_listed(Kind::Services));
    }
}
