//! Events for tests: one of each, to be changed where a test cares.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::event::{Attempt, Evidence, Failure, Join, Proxy, Request, Upstream, Witnesses};
use agent_core::observation::{Phase, RequestHead};

pub(crate) const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

pub(crate) fn proxy(name: &str) -> Proxy {
    Proxy {
        name: Arc::from(name),
        tgid: 4242,
    }
}

pub(crate) fn upstream(address: &str) -> Upstream {
    let address: SocketAddr = address.parse().unwrap();
    Upstream::Inet(address)
}

pub(crate) fn head(method: &str, path: &str) -> RequestHead {
    RequestHead {
        method: method.into(),
        path: path.into(),
        host: Some("shop.example".into()),
        request_id: Some("r-1".into()),
        trace_id: Some(TRACE_ID.into()),
        content_length: None,
        chunked: false,
    }
}

pub(crate) fn race() -> Failure {
    Failure {
        cause: Cause::KeepaliveRace,
        certainty: Certainty::Proof,
        phase: Phase::Request,
        how: How::Rst,
    }
}

/// A keep-alive race on a reused connection.
pub(crate) fn failed_attempt() -> Attempt {
    Attempt {
        proxy: proxy("nginx"),
        upstream: upstream("10.0.3.17:8080"),
        local: "10.0.3.1:40000".parse().unwrap(),
        cookie: 77,
        index: 3,
        join: Join::Errand,
        join_certainty: Some(Certainty::Proof),
        witnesses: Witnesses::ERRAND.and_if(true, Witnesses::REQUEST_LINE),
        head: Some(head("POST", "/api/orders")),
        started: 2_000_000_000,
        ended: 2_041_000_000,
        reused: Some(true),
        idle_seconds: Some(7.002),
        connect_seconds: None,
        first_byte_seconds: None,
        header_seconds: None,
        response_seconds: 0.041,
        code: None,
        failure: Some(race()),
        masked: Some(false),
        evidence: Evidence {
            syns: 1,
            request_bytes: 412,
            request_acked: 0,
            reset_had_ack: Some(false),
            srtt_us: Some(250),
            ..Evidence::default()
        },
    }
}

/// A 200 in a moment, on a fresh connection.
pub(crate) fn good_attempt() -> Attempt {
    Attempt {
        reused: Some(false),
        idle_seconds: None,
        connect_seconds: Some(0.000_3),
        first_byte_seconds: Some(0.02),
        header_seconds: Some(0.021),
        response_seconds: 0.025,
        code: Some(200),
        failure: None,
        masked: None,
        evidence: Evidence {
            syns: 1,
            request_bytes: 412,
            request_acked: 412,
            response_bytes: 900,
            content_length: Some(700),
            ..Evidence::default()
        },
        ..failed_attempt()
    }
}

/// What a client got for these attempts; a 502 is the fault of the last.
pub(crate) fn request(code: Option<u16>, attempts: Vec<Attempt>) -> Request {
    let error = code.is_none_or(|code| code >= 500).then(race);
    let last = attempts.len().checked_sub(1);
    Request {
        proxy: proxy("nginx"),
        client: "192.0.2.9:51000".parse().unwrap(),
        cookie: 66,
        index: 0,
        head: Some(head("POST", "/api/orders")),
        started: 1_999_000_000,
        ended: 2_042_000_000,
        seconds: 0.043,
        code,
        complete: true,
        client_left: false,
        error,
        error_attempt: error.and(last),
        origin: None,
        origin_check: None,
        attempts: attempts.into_iter().map(Arc::new).collect(),
    }
}
