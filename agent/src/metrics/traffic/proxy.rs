//! The series of one proxy.

use std::sync::Arc;

use agent_core::observation::Nanos;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use rustc_hash::FxHashMap;

use super::{NO_UPSTREAM, OTHER};
use crate::metrics::families::Families;
use crate::metrics::handles::{Slots, Target};
use crate::metrics::labels::{Code, PlaceLabels, ProxyCodeSet, ProxySet};
use crate::metrics::naming::{ProxyKey, UpstreamKey};

/// One proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) key: ProxyKey,
    /// The last event about it.
    pub(super) seen: Nanos,
    pub(super) responses: Slots<Code, Counter>,
    pub(super) request_seconds: Slots<(), Histogram>,
    pub(super) targets: FxHashMap<Arc<UpstreamKey>, Target>,
    pub(super) other: Target,
    pub(super) none: Target,
}

impl Proxy {
    /// No series yet.
    pub(super) fn new(key: ProxyKey) -> Self {
        let target = |upstream: &str| {
            let upstream = UpstreamKey {
                name: Arc::from(upstream),
                place: PlaceLabels::default(),
            };
            Target::new(&key, &upstream, 0)
        };
        Self {
            responses: Slots::new(),
            request_seconds: Slots::new(),
            targets: FxHashMap::default(),
            other: target(OTHER),
            none: target(NO_UPSTREAM),
            seen: 0,
            key,
        }
    }

    /// Takes its series out of the exposition; how many upstreams it had. A field added above
    /// must be dealt with here.
    pub(super) fn retire(self, families: &Families) -> usize {
        let Self {
            key: ProxyKey { name, place },
            seen: _,
            responses,
            request_seconds,
            targets,
            other,
            none,
        } = self;
        responses.each(|code| {
            families.gateway_responses.remove(&ProxyCodeSet {
                proxy: Arc::clone(&name),
                code,
                place: place.clone(),
            })
        });
        request_seconds.each(|()| {
            families.gateway_request_seconds.remove(&ProxySet {
                proxy: Arc::clone(&name),
                place: place.clone(),
            })
        });
        let upstreams = targets.len();
        for target in targets.into_values().chain([other, none]) {
            target.retire(families);
        }
        upstreams
    }
}
