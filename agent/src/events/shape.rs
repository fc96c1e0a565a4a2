//! The JSON shape of events, version 1. Fields are only ever added; a field that changes
//! its meaning makes version 2.
//!
//! Times of day are RFC 3339 in UTC with microseconds, durations are seconds, addresses are
//! `address:port`, `[address]:port` or `unix:/path`. What is not known is null.

mod evidence;

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_core::event::{Attempt, Failure, Request};
use agent_core::observation::RequestHead;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::cases::Case;
use crate::clock::WallClock;
use crate::identity::Place;
use crate::metrics::labels::Word;
use crate::metrics::traffic::is_failed_attempt;

pub use self::evidence::EvidenceShape;

/// Version of the shape.
pub const VERSION: u8 = 1;

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub v: u8,
    /// What it says.
    #[serde(flatten)]
    pub line: Line,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// The stream begins.
    Hello {
        /// Of the agent.
        version: String,
        /// Whether everything comes, or only trouble.
        all: bool,
    },
    /// Nothing was to be told for a while.
    Alive {
        /// When this was sent.
        time: String,
    },
    /// This reader was too slow.
    Lost {
        /// How many events it missed.
        events: u64,
    },
    /// A client's request is over.
    Request(Box<RequestShape>),
    /// An attempt is over that no request tells: its request is not known, or was told
    /// before.
    Attempt(Box<LoneAttemptShape>),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestShape {
    /// Number as an incident; null when it is none, or none are kept.
    pub id: Option<u64>,
    /// First request byte.
    pub time: String,
    /// Who answered.
    pub proxy: ProxyShape,
    /// Who asked.
    pub client: String,
    /// Method.
    pub method: Option<String>,
    /// Path, without its query.
    pub path: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Status code given; null when the client got no answer.
    pub code: Option<u16>,
    /// Why it is a gateway error; null when it is none.
    pub cause: Option<String>,
    /// How sure that is.
    pub certainty: Option<String>,
    /// How the attempt of the error (else the last attempt) was joined; null without one.
    pub join: Option<String>,
    /// Part of the attempt in which it failed.
    pub phase: Option<String>,
    /// By what it failed.
    pub how: Option<String>,
    /// An attempt failed, and the request succeeded all the same.
    pub masked: bool,
    /// Upstream of the attempt of the error, else of the last attempt.
    pub upstream: Option<String>,
    /// What this proxy writes into its own log about it, to grep for; of the error, else of the
    /// last failed attempt. Null when that is nothing, or not known.
    pub words: Option<String>,
    /// The fix of the same: of its case where there is one, else the usual one of its cause.
    pub fix: Option<String>,
    /// What the evidence says of the same beyond its cause; null where that is nothing.
    #[serde(default)]
    pub case: Option<CaseShape>,
    /// For `no_live_upstream`: why its upstreams had been given up before.
    pub origin_cause: Option<String>,
    /// The health check that failed with that, if it was one.
    pub origin_check: Option<CheckShape>,
    /// First request byte to last response byte.
    pub request_seconds: f64,
    /// The answer is complete.
    pub complete: bool,
    /// The client left before it was.
    pub client_left: bool,
    /// `x-request-id` or like it.
    pub request_id: Option<String>,
    /// W3C trace id.
    pub trace_id: Option<String>,
    /// Cookie of the client's socket.
    pub cookie: u64,
    /// Number of the request on it.
    pub index: u32,
    /// In order of start.
    pub attempts: Vec<AttemptShape>,
}

/// A health check that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckShape {
    /// Whom the proxy checked.
    pub upstream: String,
    /// Method; null for a check that only connects, or did not come further.
    pub method: Option<String>,
    /// Path without query.
    pub path: Option<String>,
    /// Status it was answered with.
    pub code: Option<u16>,
}

/// An attempt that no request tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoneAttemptShape {
    /// Its start.
    pub time: String,
    /// Who tried.
    pub proxy: ProxyShape,
    /// Method, as sent upstream.
    pub method: Option<String>,
    /// Path, without its query.
    pub path: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// `x-request-id` or like it.
    pub request_id: Option<String>,
    /// W3C trace id.
    pub trace_id: Option<String>,
    /// The attempt.
    #[serde(flatten)]
    pub attempt: AttemptShape,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyShape {
    /// As in the label.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Where it runs.
    #[serde(flatten)]
    pub place: PlaceShape,
}

/// Where a process runs, or who is behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlaceShape {
    /// Id of its container, 64 hexadecimal digits.
    pub container: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// What owns the pod, as `Deployment/orders`.
    pub workload: Option<String>,
    /// Pod.
    pub pod: Option<String>,
    /// Kubernetes service.
    pub service: Option<String>,
}

/// An attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptShape {
    /// Whom.
    pub upstream: String,
    /// The address that the kernel put in its place, by its connection tracking; null where it
    /// did not, or that is not known.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Who is behind that, else behind the upstream's.
    #[serde(default)]
    pub peer: PlaceShape,
    /// How many endpoints of the Kubernetes Service were ready when this was told, where a connect
    /// to its own address failed; null otherwise, and where that is not known.
    #[serde(default)]
    pub ready_endpoints: Option<usize>,
    /// How it was joined to its request.
    pub join: String,
    /// How sure it is that it was made for this request; null when its request is not known.
    pub join_certainty: Option<String>,
    /// What spoke for this request.
    #[serde(default)]
    pub join_evidence: Vec<String>,
    /// On a connection that had carried an exchange.
    pub reused: Option<bool>,
    /// How long that connection had been idle.
    pub idle_seconds: Option<f64>,
    /// Why it failed; null when it did not.
    pub cause: Option<String>,
    /// How sure that is.
    pub certainty: Option<String>,
    /// Part of the attempt in which it failed.
    pub phase: Option<String>,
    /// By what it failed.
    pub how: Option<String>,
    /// It failed, and its request succeeded all the same; null when it did not fail, or its
    /// request is not known.
    pub masked: Option<bool>,
    /// What this proxy writes into its own log about it, to grep for; null when that is
    /// nothing, or not known.
    pub words: Option<String>,
    /// The fix: of its case where there is one, else the usual one of its cause; null when it did
    /// not fail.
    pub fix: Option<String>,
    /// What the evidence says beyond its cause; null where that is nothing.
    #[serde(default)]
    pub case: Option<CaseShape>,
    /// Status code the upstream answered.
    pub code: Option<u16>,
    /// SYN to established.
    pub connect_seconds: Option<f64>,
    /// Last request byte to first response byte.
    pub first_byte_seconds: Option<f64>,
    /// Start to complete response head.
    pub header_seconds: Option<f64>,
    /// Start to last response byte, or to the failure.
    pub duration_seconds: f64,
    /// Its start: connect on a fresh connection, else the first request byte.
    pub started: String,
    /// Its end.
    pub ended: String,
    /// Cookie of the upstream socket.
    pub cookie: u64,
    /// Number of the exchange on it.
    pub index: u32,
    /// The numbers behind it.
    pub evidence: EvidenceShape,
}

/// The case of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseShape {
    /// Its name.
    pub name: String,
    /// How sure it is; a guess is one possibility among others.
    pub certainty: String,
    /// What it means here.
    pub meaning: String,
    /// What it was found by.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

impl Envelope {
    /// A line of this version.
    pub fn new(line: Line) -> Self {
        Self { v: VERSION, line }
    }

    /// The line as JSON with its newline.
    ///
    /// # Errors
    /// None in practice: every shape has a JSON form.
    pub fn to_line(&self) -> Result<Bytes, serde_json::Error> {
        let mut json = serde_json::to_vec(self)?;
        json.push(b'\n');
        Ok(Bytes::from(json))
    }
}

impl ProxyShape {
    pub(crate) fn new(proxy: &agent_core::event::Proxy, place: &Place) -> Self {
        Self {
            name: proxy.name.to_string(),
            pid: proxy.tgid,
            place: PlaceShape::new(place),
        }
    }
}

impl PlaceShape {
    pub(crate) fn new(place: &Place) -> Self {
        let Place {
            container,
            namespace,
            workload,
            pod,
            service,
        } = place;
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            container: text(container),
            namespace: text(namespace),
            workload: text(workload),
            pod: text(pod),
            service: text(service),
        }
    }
}

impl CaseShape {
    pub(super) fn new(case: &Case) -> Self {
        let Case {
            name,
            certainty,
            meaning,
            fix: _,
            facts,
        } = case;
        let facts = facts.iter();
        Self {
            name: (*name).to_owned(),
            certainty: word(*certainty),
            meaning: meaning.clone(),
            facts: facts
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    }
}

/// A gateway error, or an attempt failed.
pub fn is_trouble(request: &Request) -> bool {
    request.error.is_some() || request.attempts.iter().any(|attempt| has_failed(attempt))
}

/// The attempt failed, by a fault that is not the client's.
pub fn has_failed(attempt: &Attempt) -> bool {
    attempt
        .failure
        .is_some_and(|failure| is_failed_attempt(failure.cause))
}

/// An attempt failed, and the request succeeded all the same.
pub(super) fn is_masked(request: &Request) -> bool {
    request
        .attempts
        .iter()
        .any(|attempt| attempt.masked == Some(true) && has_failed(attempt))
}

pub(crate) struct HeadShape {
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) trace_id: Option<String>,
}

impl HeadShape {
    pub(crate) fn new(head: Option<&RequestHead>) -> Self {
        Self {
            method: head.map(|head| head.method.to_string()),
            path: head.map(|head| head.path.to_string()),
            host: head.and_then(|head| head.host.as_ref().map(SmolStr::to_string)),
            request_id: head.and_then(|head| head.request_id.as_deref().map(str::to_owned)),
            trace_id: head.and_then(|head| head.trace_id.as_deref().map(str::to_owned)),
        }
    }
}

pub(super) struct FailureShape {
    pub(super) cause: Option<String>,
    pub(super) certainty: Option<String>,
    pub(super) phase: Option<String>,
    pub(super) how: Option<String>,
}

impl FailureShape {
    pub(super) fn new(failure: Option<Failure>) -> Self {
        Self {
            cause: failure.map(|failure| word(failure.cause)),
            certainty: failure.map(|failure| word(failure.certainty)),
            phase: failure.map(|failure| word(failure.phase)),
            how: failure.map(|failure| word(failure.how)),
        }
    }
}

pub(crate) fn word(value: impl Into<Word>) -> String {
    value.into().as_str().to_owned()
}

pub(crate) fn rfc3339(time: u64, clock: &WallClock) -> String {
    format!("{:.6}", clock.at(time))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Envelope, Line};
    use crate::events::teller::Teller;
    use crate::identity::Whereabouts;
    use crate::samples::{failed_attempt, good_attempt, request};

    const REQUEST: &str = r#"{
    "v": 1,
    "type": "request",
    "id": 17,
    "time": "2023-11-14T22:13:21.999000Z",
    "proxy": {"name": "nginx", "pid": 4242, "container": null, "namespace": null, "workload": null, "pod": null, "service": null},
    "client": "192.0.2.9:51000",
    "method": "POST",
    "path": "/api/orders",
    "host": "shop.example",
    "code": 502,
    "cause": "keepalive_race",
    "certainty": "proof",
    "join": "errand",
    "phase": "request",
    "how": "rst",
    "masked": false,
    "upstream": "10.0.3.17:8080",
    "words": "upstream prematurely closed connection while reading response header",
    "fix": "Make the proxy's idle timeout shorter than the upstream's keep-alive timeout (5 s in node.js), and retry idempotent requests.",
    "case": null,
    "origin_cause": null,
    "origin_check": null,
    "request_seconds": 0.043,
    "complete": true,
    "client_left": false,
    "request_id": "r-1",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "cookie": 66,
    "index": 0,
    "attempts": [{
        "upstream": "10.0.3.17:8080",
        "endpoint": null,
        "peer": {"container": null, "namespace": null, "workload": null, "pod": null, "service": null},
        "ready_endpoints": null,
        "join": "errand",
        "join_certainty": "proof",
        "join_evidence": ["errand", "request_line"],
        "reused": true,
        "idle_seconds": 7.002,
        "cause": "keepalive_race",
        "certainty": "proof",
        "phase": "request",
        "how": "rst",
        "masked": false,
        "words": "upstream prematurely closed connection while reading response header",
        "fix": "Make the proxy's idle timeout shorter than the upstream's keep-alive timeout (5 s in node.js), and retry idempotent requests.",
        "case": null,
        "code": null,
        "connect_seconds": null,
        "first_byte_seconds": null,
        "header_seconds": null,
        "duration_seconds": 0.041,
        "started": "2023-11-14T22:13:22.000000Z",
        "ended": "2023-11-14T22:13:22.041000Z",
        "cookie": 77,
        "index": 3,
        "evidence": {
            "errno": null,
            "syns": 1,
            "retransmits": 0,
            "request_bytes": 412,
            "request_acked": 0,
            "response_bytes": 0,
            "content_length": null,
            "reset_had_ack": false,
            "srtt_us": 250,
            "zero_window": false,
            "killed_by": null,
            "out_of_memory": false,
            "exit_status": null,
            "reset_reason": null,
            "tls_alert": null,
            "opening": null,
            "tls_alert_name": null,
            "tls_alert_by": null,
            "server_name": null,
            "server_name_sent": null,
            "request_length": null,
            "carried_requests": null,
            "read_by_upstream": null
        }
    }]
}"#;

    fn value(line: Line) -> Value {
        let json = Envelope::new(line).to_line().unwrap();
        assert_eq!(json.last(), Some(&b'\n'));
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn a_request_has_this_shape() {
        let teller = Teller::fixed(1_700_000_000_000_000_000);
        let shape = teller.request(
            &request(Some(502), vec![failed_attempt()]),
            &Whereabouts::default(),
            Some(17),
        );

        let value = value(Line::Request(Box::new(shape)));

        let expected: Value = serde_json::from_str(REQUEST).unwrap();
        assert_eq!(value, expected);
    }

    #[test]
    fn a_masked_failure_is_no_error_and_is_told_as_masked() {
        let mut failed = failed_attempt();
        failed.masked = Some(true);
        let request = request(Some(200), vec![failed, good_attempt()]);

        let shape = Teller::fixed(0).request(&request, &Whereabouts::default(), None);

        assert!(super::is_trouble(&request));
        assert!(shape.masked);
        assert_eq!((shape.code, shape.cause), (Some(200), None));
        assert_eq!(shape.attempts.len(), 2);
    }

    #[test]
    fn a_success_is_no_trouble() {
        assert!(!super::is_trouble(&request(
            Some(200),
            vec![good_attempt()]
        )));
    }

    #[test]
    fn a_lone_attempt_is_flat() {
        let shape = Teller::fixed(0).attempt(&failed_attempt(), &Whereabouts::default());

        let value = value(Line::Attempt(Box::new(shape)));

        assert_eq!(value["type"], "attempt");
        assert_eq!(value["time"], "1970-01-01T00:00:02.000000Z");
        assert_eq!(value["method"], "POST");
        assert_eq!(value["cause"], "keepalive_race");
        assert_eq!(value["evidence"]["request_bytes"], 412);
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let shape = Teller::fixed(0).request(
            &request(None, vec![failed_attempt()]),
            &Whereabouts::default(),
            None,
        );
        let envelope = Envelope::new(Line::Request(Box::new(shape)));

        let again: Envelope = serde_json::from_slice(&envelope.to_line().unwrap()).unwrap();

        assert_eq!(again, envelope);
    }
}
