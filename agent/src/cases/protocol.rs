//! Proxy and upstream speak different protocols.

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{Nanos, Opening};

use super::{Found, Kind, Scene};

/// A server that does not understand what it gets closes sooner than this, ns. Longer: more requests
/// that an application gave up pass for it. Shorter: a busy server is missed.
const AT_ONCE: Nanos = 200_000_000;

pub(super) const TLS_TO_PLAIN_HTTP: Kind = Kind {
    name: "tls_to_plain_http",
    causes: &[Cause::TlsFailed],
    evidence: "The proxy sent a ClientHello, and the first byte of the answer is the `H` of `HTTP/1`; or the answer was none of TLS, and the address answered plain HTTP before.",
    meaning: "The proxy speaks TLS to {asked}, and the upstream speaks plain HTTP there.",
    fix: "Set the proxy to plain HTTP for {asked} (http:// instead of https://, no `ssl` on the server line), or name the upstream's TLS port.",
    find: tls_to_plain_http,
};

pub(super) const PLAIN_HTTP_TO_TLS: Kind = Kind {
    name: "plain_http_to_tls",
    causes: &[Cause::InvalidResponse, Cause::ClosedBeforeResponse],
    evidence: "The proxy sent a plain HTTP request, and the answer starts as a TLS record, an alert (proof); or the upstream closed without a byte, as OpenSSL does, and the address completed a TLS handshake with another connection and never answered plain HTTP (strong).",
    meaning: "The proxy speaks plain HTTP to {asked}, and the upstream speaks TLS there.",
    fix: "Set the proxy to TLS for {asked} (https:// instead of http://, `ssl` on the server line), or name the upstream's plain port.",
    find: plain_http_to_tls,
};

pub(super) const CLOSES_EACH_REQUEST: Kind = Kind {
    name: "closes_each_request",
    causes: &[Cause::ClosedBeforeResponse],
    evidence: "On a fresh connection the upstream closed at once when it had the request, without a byte, and has answered nothing at this address since the agent started. What it expects is not seen, so this is a guess.",
    meaning: "{asked} closed each connection at once, {closed} so far, and answered none: it may expect TLS or a PROXY protocol header (nginx `listen ... proxy_protocol`, HAProxy `accept-proxy`), or fail at every request.",
    fix: "Look at the upstream's listener and log: if it expects a PROXY header, have the proxy send it (HAProxy `send-proxy`) or switch it off there; if it speaks TLS, use https.",
    find: closes_each_request,
};

fn tls_to_plain_http(scene: &Scene<'_>) -> Option<Found> {
    let evidence = &scene.attempt.evidence;
    let by = if evidence.opening == Some(Opening::Http) {
        "answered the ClientHello with HTTP"
    } else if evidence.tls_alert.is_some() || evidence.opening == Some(Opening::Tls) {
        // It speaks TLS, and answers plain HTTP to who does not (nginx, 400).
        return None;
    } else if scene.peer.known.spoke_http && !scene.peer.known.spoke_tls {
        "answered plain HTTP before"
    } else {
        return None;
    };
    // One byte is not a status line.
    Some(found(scene, Certainty::Strong, by))
}

fn plain_http_to_tls(scene: &Scene<'_>) -> Option<Found> {
    let known = &scene.peer.known;
    if scene.attempt.evidence.opening == Some(Opening::Tls) {
        let by = "answered the request with a TLS record";
        return Some(found(scene, Certainty::Proof, by));
    }
    let by = "completed a TLS handshake with another connection";
    let fits = was_closed_at_once(scene) && known.spoke_tls && !known.spoke_http;
    fits.then(|| found(scene, Certainty::Strong, by))
}

fn closes_each_request(scene: &Scene<'_>) -> Option<Found> {
    let known = &scene.peer.known;
    let fits = was_closed_at_once(scene) && known.answered.is_none() && !known.spoke_tls;
    fits.then(|| {
        Found::new(Certainty::Guess)
            .fact("asked", scene.asked())
            .fact("closed", known.closed)
    })
}

/// The upstream closed a fresh connection without a byte, as soon as it had the request.
fn was_closed_at_once(scene: &Scene<'_>) -> bool {
    let attempt = scene.attempt;
    attempt.failure.map(|failure| failure.cause) == Some(Cause::ClosedBeforeResponse)
        && attempt.reused == Some(false)
        && attempt.ended.saturating_sub(attempt.started) < AT_ONCE
}

fn found(scene: &Scene<'_>, certainty: Certainty, by: &str) -> Found {
    Found::new(certainty)
        .fact("asked", scene.asked())
        .more("found_by", Some(by), |by| format!("It {by}."))
}
