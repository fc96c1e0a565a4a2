//! Which incidents are asked for.
//!
//! In: the query of a URL. Out: a [`Filter`], or one sentence about what is wrong with it.

use agent_core::cause::Cause;
use agent_core::event::{Request, Upstream};
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use crate::identity::Whereabouts;
use crate::knowledge;
use crate::names::{self, UpstreamNames};

/// How many are told when nobody says.
pub const DEFAULT_LIMIT: usize = 100;

/// How many are told at most. More: an answer takes megabytes.
pub const MAX_LIMIT: usize = 1000;

/// What can be asked for.
const PARAMETERS: &str = "proxy, upstream, cause, code, path, since and limit";

/// A question. What is `None` fits everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name of the proxy.
    pub proxy: Option<String>,
    /// Address of an upstream of any of its attempts, or the name the operator gave it or
    /// Kubernetes has for it, `namespace/service`; or the address that was put in its place.
    pub upstream: Option<String>,
    /// Cause of the error, or of any of its failed attempts.
    pub cause: Option<Cause>,
    /// Status code the client got; `Some(None)` is no answer.
    pub code: Option<Option<u16>>,
    /// How the path starts.
    pub path: Option<String>,
    /// First byte no earlier.
    pub since: Option<Timestamp>,
    /// How many at most.
    pub limit: usize,
}

/// What is wrong with a question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadFilter {
    /// A parameter that there is not.
    #[error("there is no parameter `{name}`: there are {known}")]
    Unknown {
        /// As it was written.
        name: String,
        /// All of them.
        known: &'static str,
    },
    /// A parameter that came before.
    #[error("`{name}` is given twice: give it once")]
    Twice {
        /// Which.
        name: String,
    },
    /// `%` without two hexadecimal digits, or what is no UTF-8.
    #[error("the value of `{name}` is not percent-encoded UTF-8")]
    Encoding {
        /// Of which parameter.
        name: String,
    },
    /// A cause that there is not.
    #[error("`{value}` is no cause: there are {known}")]
    Cause {
        /// As it was written.
        value: String,
        /// All of them.
        known: String,
    },
    /// A code that is none.
    #[error("`{value}` is no code: write a number from 100 to 599, or none")]
    Code {
        /// As it was written.
        value: String,
    },
    /// A time that is none.
    #[error(
        "`{value}` is no time: write a duration such as 10m, or RFC 3339 such as 2026-11-25T14:00:00Z"
    )]
    Since {
        /// As it was written.
        value: String,
    },
    /// An age that is none.
    #[error("`{value}` is no age: write a duration such as 30s or 10m")]
    Age {
        /// As it was written.
        value: String,
    },
    /// A limit that is none.
    #[error("`{value}` is no limit: write a number from 1 to {MAX_LIMIT}")]
    Limit {
        /// As it was written.
        value: String,
    },
}

impl BadFilter {
    /// There is no such parameter; `known` lists those that there are.
    pub(crate) fn unknown(name: &str, known: &'static str) -> Self {
        Self::Unknown {
            name: name.to_owned(),
            known,
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            proxy: None,
            upstream: None,
            cause: None,
            code: None,
            path: None,
            since: None,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl Filter {
    /// Reads the query of a URL; durations count back from `now`. Empty parts are skipped.
    ///
    /// # Errors
    /// Names what is wrong and what would do.
    pub fn parse(query: &str, now: Timestamp) -> Result<Self, BadFilter> {
        let mut filter = Self::default();
        for (name, value) in parameters(query)? {
            match name {
                "proxy" => filter.proxy = Some(value),
                "upstream" => filter.upstream = Some(upstream(value)),
                "cause" => filter.cause = Some(cause(value)?),
                "code" => filter.code = Some(code(value)?),
                "path" => filter.path = Some(value),
                "since" => filter.since = Some(since(value, now)?),
                "limit" => filter.limit = limit(value)?,
                _ => return Err(BadFilter::unknown(name, PARAMETERS)),
            }
        }
        Ok(filter)
    }

    /// Whether a request is asked for. Its first byte came at `time`.
    pub(super) fn fits(
        &self,
        request: &Request,
        whereabouts: &Whereabouts,
        time: Timestamp,
        names: &UpstreamNames,
    ) -> bool {
        let Self {
            proxy,
            upstream,
            cause,
            code,
            path,
            since,
            limit: _,
        } = self;
        proxy
            .as_ref()
            .is_none_or(|proxy| **proxy == *request.proxy.name)
            && code.is_none_or(|code| code == request.code)
            && since.is_none_or(|since| time >= since)
            && cause.is_none_or(|cause| has_cause(request, cause))
            && path.as_ref().is_none_or(|path| {
                request
                    .head
                    .as_ref()
                    .is_some_and(|head| head.path.starts_with(path))
            })
            && upstream.as_ref().is_none_or(|upstream| {
                let by_peer = whereabouts.upstreams.iter().any(|peer| {
                    let service = peer.place.service_name();
                    let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string());
                    [service, endpoint]
                        .iter()
                        .flatten()
                        .any(|is| is == upstream)
                });
                by_peer
                    || request
                        .attempts
                        .iter()
                        .any(|attempt| is_called(&attempt.upstream, upstream, names))
            })
    }
}

fn has_cause(request: &Request, cause: Cause) -> bool {
    let of_attempts = request.attempts.iter().map(|attempt| attempt.failure);
    of_attempts
        .chain([request.error])
        .flatten()
        .any(|failure| failure.cause == cause)
}

/// It has this address, or this name by the operator.
pub(crate) fn is_called(upstream: &Upstream, called: &str, names: &UpstreamNames) -> bool {
    names::address(upstream) == called || *names.name(upstream) == *called
}

/// The parameters of a query in their order, values decoded. Empty parts are skipped.
///
/// # Errors
/// One is given twice, or its value cannot be decoded.
pub(crate) fn parameters(query: &str) -> Result<Vec<(&str, String)>, BadFilter> {
    let mut parameters: Vec<(&str, String)> = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if parameters.iter().any(|(before, _)| *before == name) {
            return Err(BadFilter::Twice {
                name: name.to_owned(),
            });
        }
        let value = decoded(value).ok_or_else(|| BadFilter::Encoding {
            name: name.to_owned(),
        })?;
        parameters.push((name, value));
    }
    Ok(parameters)
}

/// An address in the form in which addresses are told; a name stays as it is.
pub(crate) fn upstream(value: String) -> String {
    names::normalised(&value).unwrap_or(value)
}

fn cause(value: String) -> Result<Cause, BadFilter> {
    knowledge::by_label(&value).ok_or_else(|| BadFilter::Cause {
        value,
        known: knowledge::labels().collect::<Vec<_>>().join(", "),
    })
}

fn code(value: String) -> Result<Option<u16>, BadFilter> {
    if value == "none" {
        return Ok(None);
    }
    value
        .parse()
        .ok()
        .filter(|code| (100..=599).contains(code))
        .map(Some)
        .ok_or(BadFilter::Code { value })
}

fn since(value: String, now: Timestamp) -> Result<Timestamp, BadFilter> {
    if let Ok(time) = value.parse::<Timestamp>() {
        return Ok(time);
    }
    value
        .parse::<SignedDuration>()
        .ok()
        .filter(|ago| !ago.is_negative())
        .and_then(|ago| now.checked_sub(ago).ok())
        .ok_or(BadFilter::Since { value })
}

pub(crate) fn limit(value: String) -> Result<usize, BadFilter> {
    value
        .parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .ok_or(BadFilter::Limit { value })
}

/// Percent-decoding. `+` stays a plus: it is in offsets of RFC 3339, and people type those.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encoding for [`Filter::parse`] to read.
pub fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(b"0123456789ABCDEF"[usize::from(byte >> 4)]));
            out.push(char::from(b"0123456789ABCDEF"[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::cause::Cause;
    use jiff::{SignedDuration, Timestamp};

    use super::{Filter, decoded, encoded};
    use crate::identity::{Peer, Place, Whereabouts};
    use crate::names::UpstreamNames;
    use crate::samples::{failed_attempt, good_attempt, request, upstream};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn fits(query: &str, request: &agent_core::event::Request) -> bool {
        let names = UpstreamNames::new([("10.0.3.17:8080", "orders")]);
        let place = Place {
            namespace: Some(Arc::from("shop")),
            service: Some(Arc::from("cart")),
            ..Place::default()
        };
        let whereabouts = Whereabouts {
            upstreams: vec![Peer {
                place,
                endpoint: Some("10.244.1.7:8080".parse().unwrap()),
                ready_endpoints: None,
                unconnected: None,
                known: crate::identity::served::Known::default(),
            }],
            ..Whereabouts::default()
        };
        Filter::parse(query, NOW)
            .unwrap()
            .fits(request, &whereabouts, NOW, &names)
    }

    #[test]
    fn each_filter_lets_through_what_it_names_and_nothing_else() {
        let request = request(Some(502), vec![failed_attempt()]);

        for (query, expected) in [
            ("", true),
            ("proxy=nginx", true),
            ("proxy=haproxy", false),
            ("upstream=10.0.3.17:8080", true),
            ("upstream=[::ffff:10.0.3.17]:8080", true),
            ("upstream=orders", true),
            ("upstream=shop/cart", true),
            ("upstream=shop/orders", false),
            ("upstream=10.244.1.7:8080", true),
            ("upstream=10.0.3.18:8080", false),
            ("cause=keepalive_race", true),
            ("cause=path_lost", false),
            ("code=502", true),
            ("code=503", false),
            ("code=none", false),
            ("path=/api/", true),
            ("path=/apix", false),
            ("path=%2Fapi%2Forders", true),
            ("since=10m", true),
            ("since=1970-01-01T00:00:01Z", false),
            ("proxy=nginx&code=502&path=/api", true),
            ("proxy=nginx&code=503&path=/api", false),
        ] {
            assert_eq!(fits(query, &request), expected, "{query}");
        }
    }

    #[test]
    fn a_masked_failure_is_found_by_its_cause_and_its_upstream() {
        let mut failed = failed_attempt();
        failed.upstream = upstream("10.0.3.99:80");
        let masked = request(Some(200), vec![failed, good_attempt()]);

        assert!(fits("cause=keepalive_race", &masked));
        assert!(fits("upstream=10.0.3.99:80", &masked));
        assert!(fits("upstream=10.0.3.17:8080", &masked));
    }

    #[test]
    fn a_request_without_a_head_has_no_path() {
        let mut request = request(None, vec![failed_attempt()]);
        request.head = None;
        request.attempts = vec![Arc::new(failed_attempt())];

        assert!(!fits("path=/", &request));
        assert!(fits("code=none", &request));
    }

    #[test]
    fn since_is_a_time_or_a_duration_back_from_now() {
        for (text, expected) in [
            ("10m", NOW - SignedDuration::from_mins(10)),
            ("1h30m", NOW - SignedDuration::from_mins(90)),
            ("1970-01-01T02:00:00+02:00", NOW),
        ] {
            let filter = Filter::parse(&format!("since={text}"), NOW).unwrap();

            assert_eq!(filter.since, Some(expected), "{text}");
        }
    }

    #[test]
    fn a_bad_question_is_named_with_what_would_do() {
        for (query, words) in [
            ("colour=red", "there is no parameter `colour`"),
            (
                "cause=slow",
                "`slow` is no cause: there are connect_refused,",
            ),
            ("code=abc", "100 to 599, or none"),
            ("code=1000", "100 to 599, or none"),
            ("since=soon", "such as 10m"),
            ("since=-10m", "such as 10m"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("path=%zz", "percent-encoded"),
            ("path=%f", "percent-encoded"),
            ("code=502&code=503", "given twice"),
        ] {
            let error = Filter::parse(query, NOW).unwrap_err().to_string();

            assert!(error.contains(words), "{query}: {error}");
        }
    }

    #[test]
    fn a_limit_is_taken() {
        assert_eq!(Filter::parse("limit=5", NOW).unwrap().limit, 5);
        assert_eq!(
            Filter::parse("cause=path_lost&", NOW).unwrap().cause,
            Some(Cause::PathLost)
        );
    }

    #[test]
    fn what_is_encoded_reads_back() {
        for text in ["/a b&c=d%/ü?", "10m", "unix:/run/a=b.sock"] {
            assert_eq!(decoded(&encoded(text)).as_deref(), Some(text));
        }
    }
}
