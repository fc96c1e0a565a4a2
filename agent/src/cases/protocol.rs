//! Proxy and upstream speak different protocols.

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::Opening;

use super::{Found, Kind, Scene};

pub(super) const TLS_TO_PLAIN_HTTP: Kind = Kind {
    name: "tls_to_plain_http",
    causes: &[Cause::TlsFailed],
    evidence: "The proxy sent a ClientHello, and the first byte of the answer is the `H` of `HTTP/1`.",
    meaning: "The proxy speaks TLS to {asked}, and the upstream speaks plain HTTP there: it answered the ClientHello with an HTTP response.",
    fix: "Set the proxy to plain HTTP for {asked} (http:// instead of https://, no `ssl` on the server line), or name the upstream's TLS port.",
    find: tls_to_plain_http,
};

pub(super) const PLAIN_HTTP_TO_TLS: Kind = Kind {
    name: "plain_http_to_tls",
    causes: &[Cause::InvalidResponse],
    evidence: "The proxy sent a plain HTTP request, and the answer starts as a TLS record: an alert.",
    meaning: "The proxy speaks plain HTTP to {asked}, and the upstream speaks TLS there: it answered the request with a TLS record.",
    fix: "Set the proxy to TLS for {asked} (https:// instead of http://, `ssl` on the server line), or name the upstream's plain port.",
    find: plain_http_to_tls,
};

fn tls_to_plain_http(scene: &Scene<'_>) -> Option<Found> {
    // One byte is not a status line.
    spoke(scene, Opening::Http, Certainty::Strong)
}

fn plain_http_to_tls(scene: &Scene<'_>) -> Option<Found> {
    spoke(scene, Opening::Tls, Certainty::Proof)
}

fn spoke(scene: &Scene<'_>, opening: Opening, certainty: Certainty) -> Option<Found> {
    let is_it = scene.attempt.evidence.opening == Some(opening);
    is_it.then(|| Found::new(certainty).fact("asked", scene.asked()))
}
