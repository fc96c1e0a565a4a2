//! What proxies and upstreams are called in labels.
//!
//! In: upstreams' addresses, proxies' processes; names of the operator and of Kubernetes. Out:
//! [`UpstreamKey`] and [`ProxyKey`], what makes a series. Addresses that have the same name share
//! it. What an address is called can change, for addresses are used again in a cluster: then its
//! old name is told to who keeps the series.

use std::sync::Arc;

use agent_core::event::{Proxy, Upstream};
use rustc_hash::FxHashMap;

use super::labels::PlaceLabels;
use crate::config::{IdentityLabels, Settings};
use crate::identity::Place;
use crate::identity::kubernetes::Directory;
use crate::names::UpstreamNames;

/// Addresses whose names are remembered, for each upstream that may have series. Fewer: a scan of
/// ports makes others be looked up again. More: memory, about 150 bytes each.
const ADDRESSES_PER_UPSTREAM: usize = 4;

/// A proxy as labels have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProxyKey {
    pub(super) name: Arc<str>,
    pub(super) place: PlaceLabels,
}

/// An upstream as labels have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UpstreamKey {
    pub(super) name: Arc<str>,
    pub(super) place: PlaceLabels,
}

/// Knows what everyone is called.
#[derive(Debug)]
pub(super) struct Naming {
    given: UpstreamNames,
    directory: Option<Directory>,
    level: IdentityLabels,
    /// Uids of the pods of processes.
    pods: FxHashMap<u32, Arc<str>>,
    resolved: FxHashMap<Upstream, Arc<UpstreamKey>>,
    limit: usize,
    /// The state of the names when `resolved` was made.
    generation: (u64, u64),
}

impl Naming {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            given: UpstreamNames::of(settings),
            directory: None,
            level: settings.identity_labels,
            pods: FxHashMap::default(),
            resolved: FxHashMap::default(),
            limit: settings
                .max_upstreams
                .saturating_mul(ADDRESSES_PER_UPSTREAM),
            generation: (0, 0),
        }
    }

    /// What the operator calls upstreams; it shares what hosts resolve to.
    pub(super) fn given(&self) -> &UpstreamNames {
        &self.given
    }

    pub(super) fn set_directory(&mut self, directory: Directory) {
        self.directory = Some(directory);
    }

    /// The process is in the pod of this uid, or in none.
    pub(super) fn set_pod(&mut self, tgid: u32, uid: Option<Arc<str>>) {
        match uid.filter(|_| self.level > IdentityLabels::None) {
            Some(uid) => self.pods.insert(tgid, uid),
            None => self.pods.remove(&tgid),
        };
    }

    /// What a proxy is called.
    pub(super) fn proxy(&self, proxy: &Proxy) -> ProxyKey {
        let place = || {
            let uid = self.pods.get(&proxy.tgid)?;
            self.directory.as_ref()?.pod(uid)
        };
        let place = if self.level > IdentityLabels::None {
            place()
        } else {
            None
        };
        let labels = place.map(|place| {
            let Place {
                container: _,
                namespace,
                workload,
                pod,
                service: _,
            } = place;
            self.labels([
                (IdentityLabels::Namespace, "proxy_namespace", namespace),
                (IdentityLabels::Workload, "proxy_workload", workload),
                (IdentityLabels::Pod, "proxy_pod", pod),
            ])
        });
        ProxyKey {
            name: Arc::clone(&proxy.name),
            place: labels.unwrap_or_default(),
        }
    }

    /// What an upstream is called.
    pub(super) fn upstream(&mut self, upstream: &Upstream) -> Arc<UpstreamKey> {
        if let Some(key) = self.resolved.get(upstream) {
            return Arc::clone(key);
        }
        let key = Arc::new(self.look_up(upstream));
        if self.resolved.len() >= self.limit {
            self.resolved.clear();
        }
        self.resolved.insert(upstream.clone(), Arc::clone(&key));
        key
    }

    /// Looks names up again if they may have changed; those that no address has any more.
    pub(super) fn renew(&mut self) -> Vec<Arc<UpstreamKey>> {
        let directory = self.directory.as_ref().map(Directory::generation);
        let generation = (directory.unwrap_or(0), self.given.generation());
        if generation == self.generation {
            return Vec::new();
        }
        self.generation = generation;
        let before = std::mem::take(&mut self.resolved);
        let mut gone = Vec::new();
        for (upstream, old) in before {
            let key = self.look_up(&upstream);
            if key == *old {
                self.resolved.insert(upstream, old);
            } else {
                self.resolved.insert(upstream, Arc::new(key));
                gone.push(old);
            }
        }
        gone.retain(|old| !self.resolved.values().any(|key| key == old));
        gone
    }

    fn look_up(&self, upstream: &Upstream) -> UpstreamKey {
        let place = match (&self.directory, upstream) {
            (Some(directory), Upstream::Inet(address)) => directory.behind(*address),
            _ => None,
        };
        let name = match self.given.given(upstream) {
            Some(name) => name,
            None => match place.as_ref().and_then(Place::service_name) {
                Some(name) => Arc::from(name),
                None => self.given.name(upstream),
            },
        };
        let labels = place.map(|place| {
            let Place {
                container: _,
                namespace,
                workload: _,
                pod,
                service: _,
            } = place;
            self.labels([
                (IdentityLabels::Namespace, "upstream_namespace", namespace),
                (IdentityLabels::Pod, "upstream_pod", pod),
            ])
        });
        UpstreamKey {
            name,
            place: labels.unwrap_or_default(),
        }
    }

    fn labels(
        &self,
        all: impl IntoIterator<Item = (IdentityLabels, &'static str, Option<Arc<str>>)>,
    ) -> PlaceLabels {
        all.into_iter()
            .filter(|(level, _, _)| self.level >= *level)
            .filter_map(|(_, label, value)| Some((label, value?)))
            .collect()
    }
}
