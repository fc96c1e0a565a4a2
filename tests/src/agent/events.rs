//! A line of the agent's event stream.
//!
//! In: a line of JSON. Out: a [`Line`]; fields that are not known here are kept out of the
//! way, fields that are missing are an error, for they are promised.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A request, or an attempt that was joined to none.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// What one client asked, with its attempts.
    Request(Box<Request>),
    /// An attempt whose request is not known.
    Attempt(Box<LoneAttempt>),
    /// This reader was too slow and missed so many.
    Lost {
        /// How many.
        events: u64,
    },
    /// What is no event: the beginning of the stream, a sign of life.
    #[serde(other)]
    Other,
}

/// What one client asked, and what became of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// Version of the form.
    pub v: u32,
    /// When it began, RFC 3339.
    pub time: String,
    /// Who answered.
    pub proxy: Proxy,
    /// Address of the client.
    pub client: Option<String>,
    /// Method.
    pub method: Option<String>,
    /// Path, query cut.
    pub path: Option<String>,
    /// Status given; none without an answer.
    pub code: Option<u16>,
    /// Why it is an error.
    pub cause: Option<String>,
    /// How sure that is.
    pub certainty: Option<String>,
    /// In which part of the attempt.
    pub phase: Option<String>,
    /// By what.
    pub how: Option<String>,
    /// The fix.
    #[serde(default)]
    pub fix: Option<String>,
    /// What the evidence says beyond the cause.
    #[serde(default)]
    pub case: Option<Case>,
    /// What the proxy writes into its log about it.
    #[serde(default)]
    pub words: Option<String>,
    /// The upstream the error comes from.
    pub upstream: Option<String>,
    /// The health check that says why no upstream is left.
    pub origin_check: Option<Check>,
    /// First request byte to last response byte.
    pub request_seconds: Option<f64>,
    /// Attempts in order.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// A health check that failed.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// Whom the proxy checked.
    pub upstream: String,
    /// Path.
    pub path: Option<String>,
    /// Status it was answered with.
    pub code: Option<u16>,
}

/// Who answered.
#[derive(Clone, Debug, Deserialize)]
pub struct Proxy {
    /// Label value.
    pub name: String,
    /// Process.
    pub pid: u32,
    /// Id of its container.
    pub container: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// What owns its pod.
    pub workload: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
}

/// Who is behind an upstream's address.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Peer {
    /// Id of its container.
    pub container: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
    /// Kubernetes service.
    pub service: Option<String>,
}

/// The case of a failure.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// How sure it is.
    pub certainty: String,
    /// What it means.
    pub meaning: String,
    /// What it was found by.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

/// One try at one upstream.
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    /// Address or name.
    pub upstream: String,
    /// Where the kernel translates it to.
    pub endpoint: Option<String>,
    /// Who is behind it.
    #[serde(default)]
    pub peer: Peer,
    /// Of a Service that could not be connected to, the endpoints that are ready.
    #[serde(default)]
    pub ready_endpoints: Option<usize>,
    /// What the proxy writes into its log about it.
    #[serde(default)]
    pub words: Option<String>,
    /// The fix.
    #[serde(default)]
    pub fix: Option<String>,
    /// What the evidence says beyond the cause.
    #[serde(default)]
    pub case: Option<Case>,
    /// How it was joined to its request.
    pub join: Option<String>,
    /// How sure that is.
    pub join_certainty: Option<String>,
    /// The connection had carried an exchange before.
    pub reused: Option<bool>,
    /// Idle time before reuse.
    pub idle_seconds: Option<f64>,
    /// Why it failed; none when it did not.
    pub cause: Option<String>,
    /// How sure that is.
    pub certainty: Option<String>,
    /// In which part of it.
    pub phase: Option<String>,
    /// By what.
    pub how: Option<String>,
    /// Status the upstream gave.
    pub code: Option<u16>,
    /// SYN to established.
    pub connect_seconds: Option<f64>,
    /// Last request byte to first response byte.
    pub first_byte_seconds: Option<f64>,
    /// Start to whole head.
    pub header_seconds: Option<f64>,
    /// Start to end.
    pub duration_seconds: Option<f64>,
    /// The numbers behind it.
    #[serde(default)]
    pub evidence: Value,
}

/// An attempt whose request is not known.
#[derive(Clone, Debug, Deserialize)]
pub struct LoneAttempt {
    /// Who tried.
    pub proxy: Proxy,
    /// Path of the request as sent upstream.
    pub path: Option<String>,
    /// The attempt itself, in the same words as within a request.
    #[serde(flatten)]
    pub attempt: Attempt,
}

impl Line {
    /// Reads a line; panics when it is not what is promised.
    #[track_caller]
    pub(super) fn parse(text: &str) -> Self {
        serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("an event is not as promised: {error}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_attempts() {
        let line = Line::parse(
            r#"{"v":1,"type":"request","time":"2022-11-23T12:00:00Z","proxy":{"name":"nginx","pid":7},
            "client":"127.0.0.1:5","method":"GET","path":"/one/1/2/reset","host":"a","code":502,
            "cause":"closed_before_response","certainty":"proof","join":"errand","phase":"head","how":"rst",
            "masked":false,"upstream":"127.0.0.1:9001","request_seconds":0.1,"request_id":null,"trace_id":null,
            "attempts":[{"upstream":"127.0.0.1:9001","reused":false,"idle_seconds":null,"cause":null,
            "certainty":null,"phase":null,"how":null,"code":200,"connect_seconds":0.001,
            "first_byte_seconds":0.1,"header_seconds":0.1,"duration_seconds":0.1,"evidence":{"syns":1}}]}"#,
        );

        let Line::Request(request) = line else {
            panic!("not a request");
        };
        assert_eq!(request.code, Some(502));
        assert_eq!(request.attempts.first().unwrap().code, Some(200));
    }
}
