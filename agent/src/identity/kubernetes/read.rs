//! Of the API's objects, what naming needs.
//!
//! In: Pods, EndpointSlices, Services. Out: the few facts that [`super::tables`] keeps. What an
//! object lacks makes it say less, never something wrong.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::objects::{ContainerStatus, EndpointSlice, Pod, PodStatus, Service};
use crate::identity::Place;

/// Label of an EndpointSlice: its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Annotation of a static pod: the uid that the kubelet has for it.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Label of what a Deployment made, and the end of its ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Phases of a pod whose containers have all ended: its address may be someone else's.
const ENDED: [&str; 2] = ["Succeeded", "Failed"];

/// An object of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// A pod.
#[derive(Clone, Debug)]
pub(super) struct PodFacts {
    key: Key,
    workload: Option<Arc<str>>,
    pub(super) uids: Vec<Arc<str>>,
    /// None of its containers runs, or will again: its address may be someone else's.
    pub(super) has_ended: bool,
    /// None in the host's network, or when it has ended.
    pub(super) ips: Vec<IpAddr>,
}

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub(super) struct SliceFacts {
    pub(super) service: Key,
    ports: Vec<u16>,
    endpoints: Vec<Endpoint>,
}

/// One of its endpoints.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    ips: Vec<IpAddr>,
    is_ready: bool,
    pub(super) pod: Option<Target>,
}

/// The pod that an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) uid: Option<Arc<str>>,
}

/// A Service.
#[derive(Clone, Debug)]
pub(super) struct ServiceFacts {
    /// Its own addresses with its ports; none when it is headless.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Key {
    pub(super) fn of(metadata: &ObjectMeta) -> Option<Self> {
        Some(Self {
            namespace: Arc::from(metadata.namespace.as_deref()?),
            name: Arc::from(metadata.name.as_deref()?),
        })
    }
}

impl PodFacts {
    pub(super) fn of(pod: &Pod) -> Option<(Key, Self)> {
        let Pod {
            metadata,
            spec,
            status,
        } = pod;
        let key = Key::of(metadata)?;
        let hash = metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(CONFIG_HASH));
        let uids = metadata.uid.iter().chain(hash);
        let shares_host = spec
            .as_ref()
            .is_none_or(|spec| spec.host_network == Some(true));
        let has_ended = status
            .as_ref()
            .is_some_and(|status| has_ended(metadata, status));
        let mut ips = Vec::new();
        if let Some(status) = status.as_ref().filter(|_| !shares_host && !has_ended) {
            let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
            ips.extend(all.chain(&status.pod_ip).filter_map(|ip| address(ip)));
            ips.sort_unstable();
            ips.dedup();
        }
        let facts = Self {
            workload: workload(metadata),
            uids: uids.map(|uid| Arc::from(uid.as_str())).collect(),
            has_ended,
            ips,
            key: key.clone(),
        };
        Some((key, facts))
    }

    pub(super) fn place(&self) -> Place {
        Place {
            container: None,
            namespace: Some(Arc::clone(&self.key.namespace)),
            workload: self.workload.clone(),
            pod: Some(Arc::clone(&self.key.name)),
            service: None,
        }
    }
}

/// Its containers have all ended, for good. Before Kubernetes 1.27 the phase of a pod that is being
/// deleted stays `Running` until it is gone, seconds after its address was given to another.
fn has_ended(metadata: &ObjectMeta, status: &PodStatus) -> bool {
    if status
        .phase
        .as_deref()
        .is_some_and(|phase| ENDED.contains(&phase))
    {
        return true;
    }
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let is_over = |container: &ContainerStatus| {
        container
            .state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some())
    };
    // One that is not being deleted keeps its address while its containers are started again.
    metadata.deletion_timestamp.is_some()
        && !containers.is_empty()
        && containers.iter().all(is_over)
}

impl SliceFacts {
    pub(super) fn of(slice: &EndpointSlice) -> Option<(Key, Self)> {
        let key = Key::of(&slice.metadata)?;
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let ports = slice.ports.iter().flatten();
        let tcp = ports.filter(|port| is_tcp(port.protocol.as_deref()));
        let endpoints = slice.endpoints.iter().flatten().map(|endpoint| {
            let pod = endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"));
            let conditions = endpoint.conditions.as_ref();
            Endpoint {
                is_ready: conditions.and_then(|all| all.ready) != Some(false),
                ips: endpoint
                    .addresses
                    .iter()
                    .flatten()
                    .filter_map(|ip| address(ip))
                    .collect(),
                pod: pod.and_then(|target| {
                    Some(Target {
                        // Nearly always the slice's own, of which one copy is enough.
                        namespace: match target.namespace.as_deref() {
                            Some(namespace) if *namespace != *key.namespace => Arc::from(namespace),
                            _ => Arc::clone(&key.namespace),
                        },
                        name: Arc::from(target.name.as_deref()?),
                        uid: target.uid.as_deref().map(Arc::from),
                    })
                }),
            }
        });
        let facts = Self {
            service: Key {
                namespace: Arc::clone(&key.namespace),
                name: Arc::from(service.as_str()),
            },
            ports: tcp
                .filter_map(|port| u16::try_from(port.port?).ok())
                .collect(),
            endpoints: endpoints.collect(),
        };
        Some((key, facts))
    }

    /// How many endpoints it has.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// All addresses of its endpoints.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.ips)
            .flat_map(|ip| self.ports.iter().map(|port| SocketAddr::new(*ip, *port)))
    }

    /// Its endpoints that are ready, of those with addresses like this one: a slice has IPv4 or IPv6.
    pub(super) fn ready(&self, like: IpAddr) -> impl Iterator<Item = IpAddr> {
        let is_alike = move |ip: &&IpAddr| ip.is_ipv4() == like.is_ipv4();
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.is_ready)
            .filter_map(move |endpoint| endpoint.ips.iter().find(is_alike).copied())
    }

    /// The endpoints that have this address.
    pub(super) fn at(&self, address: SocketAddr) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .iter()
            .filter(move |endpoint| endpoint.ips.contains(&address.ip()))
    }
}

impl Endpoint {
    /// The endpoint is this pod, as far as can be told.
    pub(super) fn may_be(&self, pod: &PodFacts) -> bool {
        match &self.pod {
            Some(Target { uid: Some(uid), .. }) => pod.uids.contains(uid),
            Some(Target {
                namespace, name, ..
            }) => *namespace == pod.key.namespace && *name == pod.key.name,
            None => true,
        }
    }
}

impl ServiceFacts {
    pub(super) fn of(service: &Service) -> Option<(Key, Self)> {
        let key = Key::of(&service.metadata)?;
        let spec = service.spec.as_ref()?;
        let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        // `None` is how a headless service writes its address.
        let mut ips: Vec<IpAddr> = ips.filter_map(|ip| address(ip)).collect();
        ips.sort_unstable();
        ips.dedup();
        let ports: Vec<u16> = spec
            .ports
            .iter()
            .flatten()
            .filter(|port| is_tcp(port.protocol.as_deref()))
            .filter_map(|port| u16::try_from(port.port).ok())
            .collect();
        let addresses = ips
            .iter()
            .flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port)))
            .collect();
        Some((key, Self { addresses }))
    }
}

/// What made the pod: its controller, and for the ReplicaSet of a Deployment that Deployment,
/// whose name is the ReplicaSet's without the hash of the template. A Job made by a CronJob has
/// a time in its name, which is left as it is: the pod does not say who made the Job.
fn workload(metadata: &ObjectMeta) -> Option<Arc<str>> {
    let owner = metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))?;
    let (kind, name) = (owner.kind.as_str(), owner.name.as_str());
    let labels = metadata.labels.as_ref();
    let hash = labels.and_then(|labels| labels.get(TEMPLATE_HASH));
    let deployment = hash
        .filter(|_| kind == "ReplicaSet")
        .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(Arc::from(match deployment {
        Some(name) => format!("Deployment/{name}"),
        None => format!("{kind}/{name}"),
    }))
}

fn address(written: &str) -> Option<IpAddr> {
    written.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// TCP is the default of both kinds of ports.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}
