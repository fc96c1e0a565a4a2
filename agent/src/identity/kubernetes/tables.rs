//! Who has which address in the cluster.
//!
//! In: pods of this node, EndpointSlices and Services, as they come and go. Out: the [`Place`]
//! behind an address and port, and that of a pod by its uid. Pure: no clock and no network.
//!
//! An address is named as long as exactly one owner has it, and forgotten with its owner: pod
//! addresses are used again. A pod in the host's network has the node's address and names none.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::objects::{EndpointSlice, Pod, Service};
use super::read::{Endpoint, Key, PodFacts, ServiceFacts, SliceFacts};
use crate::identity::Place;

/// What the API server told.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pods: HashMap<Key, PodFacts>,
    slices: HashMap<Key, SliceFacts>,
    services: HashMap<Key, ServiceFacts>,
    /// Pods by uid, and static ones by the hash of their file.
    by_uid: HashMap<Arc<str>, Key>,
    /// Pods by address.
    by_ip: HashMap<IpAddr, Vec<Key>>,
    /// Slices by the addresses of their endpoints.
    by_endpoint: HashMap<SocketAddr, Vec<Key>>,
    /// Slices by their service.
    by_service: HashMap<Key, Vec<Key>>,
    /// Services by their own addresses.
    by_cluster_ip: HashMap<SocketAddr, Vec<Key>>,
}

/// An object that the tables hold, and how it gets in and out.
pub(super) trait Tabled: Sized {
    /// Takes it in, in place of what was known of it.
    fn put(self, tables: &mut Tables);
    /// It is gone.
    fn remove(&self, tables: &mut Tables);
    /// All of its kind are gone.
    fn clear(tables: &mut Tables);
}

impl Tables {
    /// The pod of this uid.
    pub(super) fn pod(&self, uid: &str) -> Option<Place> {
        let key = self.by_uid.get(uid)?;
        self.pods.get(key).map(PodFacts::place)
    }

    /// Who is behind an address and port; `None` when that is nobody that is known, or several.
    pub(super) fn behind(&self, address: SocketAddr) -> Option<Place> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let pod = self.pod_at(address.ip());
        if let Some(services) = self.by_cluster_ip.get(&address) {
            let [service] = services.as_slice() else {
                return None;
            };
            return Some(Place {
                namespace: Some(Arc::clone(&service.namespace)),
                service: Some(Arc::clone(&service.name)),
                ..Place::default()
            });
        }
        let Some((service, endpoint)) = self.endpoint(address, pod) else {
            return pod.map(PodFacts::place);
        };
        let place = match (pod, &endpoint.pod) {
            (Some(pod), _) => pod.place(),
            (None, Some(target)) => Place {
                namespace: Some(Arc::clone(&target.namespace)),
                pod: Some(Arc::clone(&target.name)),
                ..Place::default()
            },
            (None, None) => Place {
                namespace: Some(Arc::clone(&service.namespace)),
                ..Place::default()
            },
        };
        Some(Place {
            service: Some(Arc::clone(&service.name)),
            ..place
        })
    }

    /// How many endpoints of the service with this address of its own are ready; `None` where the
    /// address is that of no service, or of several.
    pub(super) fn ready_endpoints(&self, address: SocketAddr) -> Option<usize> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let [service] = self.by_cluster_ip.get(&address)?.as_slice() else {
            return None;
        };
        let slices = self.by_service.get(service).into_iter().flatten();
        // One may be in several of them, while it moves from one to another.
        let ready: HashSet<IpAddr> = slices
            .filter_map(|key| self.slices.get(key))
            .flat_map(|slice| slice.ready(address.ip()))
            .collect();
        Some(ready.len())
    }

    /// The one pod that has this address.
    fn pod_at(&self, ip: IpAddr) -> Option<&PodFacts> {
        let [key] = self.by_ip.get(&ip)?.as_slice() else {
            return None;
        };
        self.pods.get(key)
    }

    /// The endpoint at an address, and the service that it is told by. One that several services
    /// have is told by one with an address of its own, the first by name: all are true.
    fn endpoint(&self, address: SocketAddr, pod: Option<&PodFacts>) -> Option<(&Key, &Endpoint)> {
        let slices = self.by_endpoint.get(&address)?.iter();
        let mut found: Vec<(&Key, &Endpoint)> = slices
            .filter_map(|key| self.slices.get(key))
            .flat_map(|slice| {
                let at = slice.at(address);
                at.map(move |endpoint| (&slice.service, endpoint))
            })
            // What a pod that is here has taken over is not what a slice says it was.
            .filter(|(_, endpoint)| pod.is_none_or(|pod| endpoint.may_be(pod)))
            .filter(|(_, endpoint)| !self.has_ended(endpoint))
            .collect();
        found.sort_by_key(|(service, _)| (self.is_headless(service), *service));
        let (_, first) = found.first()?;
        let same = found.iter().all(|(_, other)| other.pod == first.pod);
        if same { found.first().copied() } else { None }
    }

    /// The pod that it was is known to have ended: a slice keeps it until the pod is deleted.
    fn has_ended(&self, endpoint: &Endpoint) -> bool {
        let uid = endpoint.pod.as_ref().and_then(|pod| pod.uid.as_ref());
        let pod = uid
            .and_then(|uid| self.by_uid.get(uid))
            .and_then(|key| self.pods.get(key));
        pod.is_some_and(|pod| pod.has_ended)
    }

    /// Pods have no addresses any more. What they are by uid stays: a uid is never used again.
    pub(super) fn forget_addresses_of_pods(&mut self) {
        self.by_ip.clear();
        for pod in self.pods.values_mut() {
            pod.ips.clear();
        }
    }

    fn is_headless(&self, service: &Key) -> bool {
        self.services
            .get(service)
            .is_none_or(|service| service.addresses.is_empty())
    }

    fn remove_pod(&mut self, key: &Key) {
        let Some(facts) = self.pods.remove(key) else {
            return;
        };
        for uid in &facts.uids {
            self.by_uid.remove(uid);
        }
        for ip in &facts.ips {
            unlink(&mut self.by_ip, ip, key);
        }
    }

    fn remove_slice(&mut self, key: &Key) {
        let Some(facts) = self.slices.remove(key) else {
            return;
        };
        unlink(&mut self.by_service, &facts.service, key);
        for address in facts.addresses() {
            unlink(&mut self.by_endpoint, &address, key);
        }
    }

    fn remove_service(&mut self, key: &Key) {
        let Some(facts) = self.services.remove(key) else {
            return;
        };
        for address in &facts.addresses {
            unlink(&mut self.by_cluster_ip, address, key);
        }
    }
}

impl Tabled for Pod {
    fn put(self, tables: &mut Tables) {
        self.remove(tables);
        let Some((key, facts)) = PodFacts::of(&self) else {
            return;
        };
        for uid in &facts.uids {
            tables.by_uid.insert(Arc::clone(uid), key.clone());
        }
        for ip in &facts.ips {
            link(&mut tables.by_ip, *ip, &key);
        }
        tables.pods.insert(key, facts);
    }

    fn remove(&self, tables: &mut Tables) {
        if let Some(key) = Key::of(&self.metadata) {
            tables.remove_pod(&key);
        }
    }

    fn clear(tables: &mut Tables) {
        tables.pods.clear();
        tables.by_uid.clear();
        tables.by_ip.clear();
    }
}

impl Tabled for EndpointSlice {
    fn put(self, tables: &mut Tables) {
        self.remove(tables);
        let Some((key, facts)) = SliceFacts::of(&self) else {
            return;
        };
        link(&mut tables.by_service, facts.service.clone(), &key);
        for address in facts.addresses() {
            link(&mut tables.by_endpoint, address, &key);
        }
        tables.slices.insert(key, facts);
    }

    fn remove(&self, tables: &mut Tables) {
        if let Some(key) = Key::of(&self.metadata) {
            tables.remove_slice(&key);
        }
    }

    fn clear(tables: &mut Tables) {
        tables.slices.clear();
        tables.by_service.clear();
        tables.by_endpoint.clear();
    }
}

impl Tabled for Service {
    fn put(self, tables: &mut Tables) {
        self.remove(tables);
        let Some((key, facts)) = ServiceFacts::of(&self) else {
            return;
        };
        for address in &facts.addresses {
            link(&mut tables.by_cluster_ip, *address, &key);
        }
        tables.services.insert(key, facts);
    }

    fn remove(&self, tables: &mut Tables) {
        if let Some(key) = Key::of(&self.metadata) {
            tables.remove_service(&key);
        }
    }

    fn clear(tables: &mut Tables) {
        tables.services.clear();
        tables.by_cluster_ip.clear();
    }
}

fn link<K: Eq + std::hash::Hash>(index: &mut HashMap<K, Vec<Key>>, at: K, key: &Key) {
    let keys = index.entry(at).or_default();
    if !keys.contains(key) {
        keys.push(key.clone());
    }
}

fn unlink<K: Eq + std::hash::Hash>(index: &mut HashMap<K, Vec<Key>>, at: &K, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.retain(|other| other != key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
