//! Pods, EndpointSlices and Services with the fields that naming reads, and no others: what is not
//! read need not be decoded, and the code for it is 2 MB.
//!
//! The API server writes what is empty as null or leaves it out.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

/// `v1` Pod.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Option<PodSpec>,
    pub(super) status: Option<PodStatus>,
}

/// Of its spec.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) host_network: Option<bool>,
}

/// Of its status.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Option<Vec<PodIp>>,
    pub(super) container_statuses: Option<Vec<ContainerStatus>>,
}

/// How one of its containers is.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerStatus {
    pub(super) state: Option<ContainerState>,
}

/// One of three states; the others are not told apart.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerState {
    pub(super) terminated: Option<Terminated>,
}

/// That it has ended; how is not read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Terminated {}

/// One of its addresses.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodIp {
    pub(super) ip: String,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct EndpointSlice {
    pub(super) metadata: ObjectMeta,
    pub(super) ports: Option<Vec<EndpointPort>>,
    pub(super) endpoints: Option<Vec<SliceEndpoint>>,
}

/// A port of all its endpoints.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct EndpointPort {
    pub(super) port: Option<i32>,
    pub(super) protocol: Option<String>,
}

/// One of its endpoints.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceEndpoint {
    pub(super) addresses: Option<Vec<String>>,
    pub(super) conditions: Option<EndpointConditions>,
    pub(super) target_ref: Option<TargetRef>,
}

/// How it is.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct EndpointConditions {
    /// Without it, it is to be taken as ready.
    pub(super) ready: Option<bool>,
}

/// What an endpoint is.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TargetRef {
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) uid: Option<String>,
}

/// `v1` Service.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Service {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Option<ServiceSpec>,
}

/// Of its spec.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    pub(super) ports: Option<Vec<ServicePort>>,
}

/// One of its ports.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServicePort {
    pub(super) port: i32,
    pub(super) protocol: Option<String>,
}

/// Says where a kind is found.
macro_rules! resource {
    ($kind:ident, $group:literal, $plural:literal) => {
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                Cow::Borrowed(stringify!($kind))
            }

            fn group((): &()) -> Cow<'_, str> {
                Cow::Borrowed($group)
            }

            fn version((): &()) -> Cow<'_, str> {
                Cow::Borrowed("v1")
            }

            fn plural((): &()) -> Cow<'_, str> {
                Cow::Borrowed($plural)
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(Pod, "", "pods");
resource!(EndpointSlice, "discovery.k8s.io", "endpointslices");
resource!(Service, "", "services");
