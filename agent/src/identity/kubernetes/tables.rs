//! Who has which address in the cluster.
//!
//! In: pods of this node, EndpointSlices and Services, as they come and go. Out: the [`Place`]
//! behind an address and port, and that of a pod by its uid. Pure: no clock and no network.
//!
//! Each kind has a bound: EndpointSlices and Services come from the whole cluster. What is beyond it is
//! left out and counted, and then nothing is said that holds only if all are known.
//!
//! An address is named as long as exactly one owner has it, and forgotten with its owner: pod
//! addresses are used again. A pod in the host's network has the node's address and names none.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::objects::{EndpointSlice, Pod, Service};
use super::read::{Endpoint, Key, PodFacts, ServiceFacts, SliceFacts};
use crate::identity::Place;

/// Room for the pods of a node: its pods and their addresses. Kubernetes runs some hundred pods on a
/// node. Fewer: names of some are missing. More: memory, about 300 bytes each.
const PODS: usize = 8_192;

/// Room for EndpointSlices: slices, their endpoints, and the addresses with ports of these. An endpoint
/// with one port takes two. Fewer: upstreams of a large cluster are called by their addresses. More:
/// memory, about 170 bytes each, and twice that while all are listed.
const SLICES: usize = 65_536;

/// Room for Services: services and their own addresses with ports. Kubernetes is built for 10,000
/// services. Fewer: as above. More: memory, about 260 bytes each, and twice that while all are listed.
const SERVICES: usize = 32_768;

/// What the API server told.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pods: Pods,
    slices: Slices,
    services: Services,
    /// Objects that tables had no room for which are no more.
    left_out_before: u64,
}

/// Objects of one kind, within a bound.
#[derive(Debug)]
pub(super) struct Table<F, const LIMIT: usize> {
    facts: HashMap<Key, F>,
    /// What they take of the bound.
    used: usize,
    /// How often one was left out for want of room.
    left_out: u64,
}

impl<F, const LIMIT: usize> Default for Table<F, LIMIT> {
    fn default() -> Self {
        Self {
            facts: HashMap::new(),
            used: 0,
            left_out: 0,
        }
    }
}

impl<F: Sized, const LIMIT: usize> Table<F, LIMIT> {
    /// Takes one in that takes so much of the bound; `false` when there is no room for it.
    fn put(&mut self, key: &Key, facts: F, size: impl Fn(&F) -> usize) -> bool {
        let size = size(&facts);
        if self.used + size > LIMIT {
            self.left_out += 1;
            return false;
        }
        self.used += size;
        self.facts.insert(key.clone(), facts);
        true
    }

    fn remove(&mut self, key: &Key, size: impl Fn(&F) -> usize) -> Option<F> {
        let facts = self.facts.remove(key)?;
        self.used -= size(&facts);
        Some(facts)
    }
}

/// The pods of this node.
#[derive(Debug, Default)]
pub(super) struct Pods {
    table: Table<PodFacts, PODS>,
    /// By uid, and static ones by the hash of their file.
    by_uid: HashMap<Arc<str>, Key>,
    by_ip: HashMap<IpAddr, Vec<Key>>,
}

/// All EndpointSlices.
#[derive(Debug, Default)]
pub(super) struct Slices {
    table: Table<SliceFacts, SLICES>,
    /// By the addresses of their endpoints.
    by_endpoint: HashMap<SocketAddr, Vec<Key>>,
    by_service: HashMap<Key, Vec<Key>>,
}

/// All Services.
#[derive(Debug, Default)]
pub(super) struct Services {
    table: Table<ServiceFacts, SERVICES>,
    /// By their own addresses.
    by_cluster_ip: HashMap<SocketAddr, Vec<Key>>,
}

/// An object that the tables hold, and how it gets in and out.
pub(super) trait Tabled: Sized {
    /// Where those of its kind are.
    type Objects: Default + Send;
    /// The objects of its kind.
    fn of(tables: &mut Tables) -> &mut Self::Objects;
    /// Takes it in, in place of what was known of it; leaves it out where there is no room.
    fn put(self, objects: &mut Self::Objects);
    /// It is gone.
    fn remove(&self, objects: &mut Self::Objects);
    /// How often one was left out for want of room.
    fn left_out(objects: &Self::Objects) -> u64;
}

impl Tables {
    /// All objects of a kind, in place of those known.
    pub(super) fn replace<K: Tabled>(&mut self, objects: K::Objects) {
        let before = std::mem::replace(K::of(self), objects);
        self.left_out_before += K::left_out(&before);
    }

    /// Takes one in, in place of what was known of it.
    pub(super) fn put<K: Tabled>(&mut self, object: K) {
        object.put(K::of(self));
    }

    /// It is gone.
    pub(super) fn remove<K: Tabled>(&mut self, object: &K) {
        object.remove(K::of(self));
    }

    /// Objects known.
    pub(super) fn len(&self) -> usize {
        let Self {
            pods,
            slices,
            services,
            left_out_before: _,
        } = self;
        pods.table.facts.len() + slices.table.facts.len() + services.table.facts.len()
    }

    /// How often an object was left out for want of room.
    pub(super) fn left_out(&self) -> u64 {
        let Self {
            pods,
            slices,
            services,
            left_out_before,
        } = self;
        left_out_before + pods.table.left_out + slices.table.left_out + services.table.left_out
    }

    /// The pod of this uid.
    pub(super) fn pod(&self, uid: &str) -> Option<Place> {
        let key = self.pods.by_uid.get(uid)?;
        self.pods.table.facts.get(key).map(PodFacts::place)
    }

    /// Who is behind an address and port; `None` when that is nobody that is known, or several.
    pub(super) fn behind(&self, address: SocketAddr) -> Option<Place> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let pod = self.pod_at(address.ip());
        if let Some(services) = self.services.by_cluster_ip.get(&address) {
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
    /// address is that of no service, or of several, or where a slice was left out.
    pub(super) fn ready_endpoints(&self, address: SocketAddr) -> Option<usize> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let [service] = self.services.by_cluster_ip.get(&address)?.as_slice() else {
            return None;
        };
        if self.slices.table.left_out > 0 {
            return None;
        }
        let slices = self.slices.by_service.get(service).into_iter().flatten();
        // One may be in several of them, while it moves from one to another.
        let ready: HashSet<IpAddr> = slices
            .filter_map(|key| self.slices.table.facts.get(key))
            .flat_map(|slice| slice.ready(address.ip()))
            .collect();
        Some(ready.len())
    }

    /// The one pod that has this address.
    fn pod_at(&self, ip: IpAddr) -> Option<&PodFacts> {
        let [key] = self.pods.by_ip.get(&ip)?.as_slice() else {
            return None;
        };
        self.pods.table.facts.get(key)
    }

    /// The endpoint at an address, and the service that it is told by. One that several services
    /// have is told by one with an address of its own, the first by name: all are true.
    fn endpoint(&self, address: SocketAddr, pod: Option<&PodFacts>) -> Option<(&Key, &Endpoint)> {
        let slices = self.slices.by_endpoint.get(&address)?.iter();
        let mut found: Vec<(&Key, &Endpoint)> = slices
            .filter_map(|key| self.slices.table.facts.get(key))
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
            .and_then(|uid| self.pods.by_uid.get(uid))
            .and_then(|key| self.pods.table.facts.get(key));
        pod.is_some_and(|pod| pod.has_ended)
    }

    /// Pods have no addresses any more. What they are by uid stays: a uid is never used again.
    pub(super) fn forget_addresses_of_pods(&mut self) {
        let Pods { table, by_ip, .. } = &mut self.pods;
        by_ip.clear();
        for pod in table.facts.values_mut() {
            table.used -= pod.ips.len();
            pod.ips.clear();
        }
    }

    fn is_headless(&self, service: &Key) -> bool {
        let facts = self.services.table.facts.get(service);
        facts.is_none_or(|service| service.addresses.is_empty())
    }
}

impl Pods {
    fn size(facts: &PodFacts) -> usize {
        1 + facts.ips.len()
    }

    fn remove(&mut self, key: &Key) {
        let Some(facts) = self.table.remove(key, Self::size) else {
            return;
        };
        for uid in &facts.uids {
            self.by_uid.remove(uid);
        }
        for ip in &facts.ips {
            unlink(&mut self.by_ip, ip, key);
        }
    }
}

impl Slices {
    fn size(facts: &SliceFacts) -> usize {
        1 + facts.endpoints() + facts.addresses().count()
    }

    fn remove(&mut self, key: &Key) {
        let Some(facts) = self.table.remove(key, Self::size) else {
            return;
        };
        unlink(&mut self.by_service, &facts.service, key);
        for address in facts.addresses() {
            unlink(&mut self.by_endpoint, &address, key);
        }
    }
}

impl Services {
    fn size(facts: &ServiceFacts) -> usize {
        1 + facts.addresses.len()
    }

    fn remove(&mut self, key: &Key) {
        let Some(facts) = self.table.remove(key, Self::size) else {
            return;
        };
        for address in &facts.addresses {
            unlink(&mut self.by_cluster_ip, address, key);
        }
    }
}

impl Tabled for Pod {
    type Objects = Pods;

    fn of(tables: &mut Tables) -> &mut Pods {
        &mut tables.pods
    }

    fn put(self, pods: &mut Pods) {
        Tabled::remove(&self, pods);
        let Some((key, facts)) = PodFacts::of(&self) else {
            return;
        };
        let (uids, ips) = (facts.uids.clone(), facts.ips.clone());
        if !pods.table.put(&key, facts, Pods::size) {
            return;
        }
        for ip in ips {
            link(&mut pods.by_ip, ip, &key);
        }
        for uid in uids {
            pods.by_uid.insert(uid, key.clone());
        }
    }

    fn remove(&self, pods: &mut Pods) {
        if let Some(key) = Key::of(&self.metadata) {
            pods.remove(&key);
        }
    }

    fn left_out(pods: &Pods) -> u64 {
        pods.table.left_out
    }
}

impl Tabled for EndpointSlice {
    type Objects = Slices;

    fn of(tables: &mut Tables) -> &mut Slices {
        &mut tables.slices
    }

    fn put(self, slices: &mut Slices) {
        Tabled::remove(&self, slices);
        let Some((key, facts)) = SliceFacts::of(&self) else {
            return;
        };
        let service = facts.service.clone();
        if !slices.table.put(&key, facts, Slices::size) {
            return;
        }
        link(&mut slices.by_service, service, &key);
        let addresses = slices.table.facts.get(&key).map(SliceFacts::addresses);
        for address in addresses.into_iter().flatten() {
            link(&mut slices.by_endpoint, address, &key);
        }
    }

    fn remove(&self, slices: &mut Slices) {
        if let Some(key) = Key::of(&self.metadata) {
            slices.remove(&key);
        }
    }

    fn left_out(slices: &Slices) -> u64 {
        slices.table.left_out
    }
}

impl Tabled for Service {
    type Objects = Services;

    fn of(tables: &mut Tables) -> &mut Services {
        &mut tables.services
    }

    fn put(self, services: &mut Services) {
        Tabled::remove(&self, services);
        let Some((key, facts)) = ServiceFacts::of(&self) else {
            return;
        };
        if !services.table.put(&key, facts, Services::size) {
            return;
        }
        let facts = services.table.facts.get(&key);
        for address in facts.iter().flat_map(|facts| &facts.addresses) {
            link(&mut services.by_cluster_ip, *address, &key);
        }
    }

    fn remove(&self, services: &mut Services) {
        if let Some(key) = Key::of(&self.metadata) {
            services.remove(&key);
        }
    }

    fn left_out(services: &Services) -> u64 {
        services.table.left_out
    }
}

fn link<K: Eq + std::hash::Hash>(index: &mut HashMap<K, Vec<Key>>, at: K, key: &Key) {
    // Most addresses have one owner.
    let keys = index.entry(at).or_insert_with(|| Vec::with_capacity(1));
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
