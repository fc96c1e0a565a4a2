//! Who is behind a process id or an address: container, pod, namespace, service.
//!
//! In: `/proc`, sockets seen from both ends, and where the operator wants it the Kubernetes API and
//! the kernel's connection tracking.
//! Out: a [`Place`] for the proxy and for the upstream of each attempt. What is not known is
//! `None`; nothing here guesses.

mod bounded;
pub mod cgroup;
pub mod conntrack;
pub mod kubernetes;
pub mod listeners;
pub mod locator;
pub mod neighbours;
pub mod served;
pub mod sockets;

use std::net::SocketAddr;
use std::sync::Arc;

use self::listeners::{Around, Listener};
use self::served::{Before, Known};

/// Where a process is, or who is behind an address, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Id of its container, 64 hexadecimal digits.
    pub container: Option<Arc<str>>,
    /// Namespace in Kubernetes.
    pub namespace: Option<Arc<str>>,
    /// Kind and name of what owns the pod: `Deployment/orders`.
    pub workload: Option<Arc<str>>,
    /// Name of the pod.
    pub pod: Option<Arc<str>>,
    /// Name of the service.
    pub service: Option<Arc<str>>,
}

/// The places of all who took part in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The proxy's.
    pub proxy: Place,
    /// Those of the upstreams, attempt by attempt.
    pub upstreams: Vec<Peer>,
}

/// The upstream of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Who is there.
    pub place: Place,
    /// The address that the kernel put in place of the upstream's, where it did and that is known.
    pub endpoint: Option<SocketAddr>,
    /// Of an attempt that failed to connect to a Service's own address: how many of its endpoints
    /// were ready when it was told.
    pub ready_endpoints: Option<usize>,
    /// Of an attempt that failed to connect: what this host tells of the address.
    pub unconnected: Option<Arc<Unconnected>>,
    /// What is known of the address, this attempt included.
    pub known: Known,
}

/// What this host tells of an address that could not be connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unconnected {
    /// Who listens on the same port here; `None` where the host's processes are not shown.
    pub around: Option<Around>,
    /// What is known of the address from before; `None` when it never answered.
    pub before: Option<Before>,
}

impl Whereabouts {
    /// The upstream's of one attempt.
    pub fn upstream(&self, attempt: usize) -> Peer {
        self.upstreams.get(attempt).cloned().unwrap_or_default()
    }

    /// Memory they take beside themselves at most, bytes: strings are shared with the tables
    /// they come from, but may outlive these.
    pub fn bytes(&self) -> usize {
        let peers = self.upstreams.iter();
        size_of::<Place>()
            + self.proxy.text_bytes()
            + peers
                .map(|peer| {
                    let more = peer.unconnected.as_deref().map_or(0, Unconnected::bytes);
                    size_of::<Peer>() + peer.place.text_bytes() + more
                })
                .sum::<usize>()
    }
}

impl Unconnected {
    /// Memory it takes at most, bytes; strings as in [`Whereabouts::bytes`].
    fn bytes(&self) -> usize {
        let Self { around, before } = self;
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let listeners = around.iter().flat_map(|around| &around.listeners);
        let listeners = listeners.map(|listener| {
            let owner = listener.owner.as_ref();
            let texts = owner.map_or(0, |owner| owner.program.len() + text(&owner.container));
            size_of::<Listener>() + texts
        });
        let gone = before.iter().filter_map(|before| before.gone.as_ref());
        let gone = gone.map(|gone| gone.program.len() + text(&gone.container));
        size_of::<Self>() + listeners.sum::<usize>() + gone.sum::<usize>()
    }
}

impl Place {
    /// `namespace/service`, when both are known.
    pub fn service_name(&self) -> Option<String> {
        let (namespace, service) = (self.namespace.as_ref()?, self.service.as_ref()?);
        Some(format!("{namespace}/{service}"))
    }

    fn text_bytes(&self) -> usize {
        let Self {
            container,
            namespace,
            workload,
            pod,
            service,
        } = self;
        [container, namespace, workload, pod, service]
            .into_iter()
            .flatten()
            .map(|text| text.len())
            .sum()
    }
}
