//! A Kubernetes Service that leads nowhere.

use agent_core::cause::{Cause, Certainty};

use super::{Found, Kind, Scene};

pub(super) const NO_READY_ENDPOINT: Kind = Kind {
    name: "no_ready_endpoint",
    causes: &[
        Cause::ConnectRefused,
        Cause::ConnectTimeout,
        Cause::HostUnreachable,
    ],
    evidence: "A connect to a Kubernetes Service's own address failed, and by the cluster's EndpointSlices none of its endpoints was ready.",
    meaning: "No endpoint of the Service at {asked} is ready: nobody is there to answer.",
    fix: "No endpoint of the Service is ready: see why its pods are not (`kubectl describe pod`: readiness probes, crashes, nodes), or whether its selector fits any.",
    find: no_ready_endpoint,
};

fn no_ready_endpoint(scene: &Scene<'_>) -> Option<Found> {
    (scene.peer.ready_endpoints? == 0)
        .then(|| Found::new(Certainty::Strong).fact("asked", scene.asked()))
}
