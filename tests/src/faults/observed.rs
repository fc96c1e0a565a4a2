//! What came of one request: what its client got, and what the agent said about it.
//!
//! In: outcomes of clients, and the agent's stream of events. Out: an [`Observed`] for each
//! mode.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::expected::Found;
use super::play::Played;
use crate::agent::Events;
use crate::agent::events::{Attempt, Line, LoneAttempt, Request};
use crate::load::Outcome;
use crate::proxies::Kind;

/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(40);

/// No event for so long, and what was not told will not be. Too short: events that come with
/// the end of a connection are missed, such as that of Varnish, which goes on sending for 11 s.
const SILENCE: Duration = Duration::from_secs(12);

/// What came of a mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The status that the client got.
    pub code: Option<u16>,
    /// What the agent found.
    pub found: Found,
    /// What is wrong whatever was expected.
    pub faults: Vec<String>,
}

/// What the agent said about all requests of a run.
#[derive(Debug, Default)]
pub struct Told {
    requests: Vec<Request>,
    lone: Vec<LoneAttempt>,
}

impl Told {
    /// What was told once there is an event for each request, or nothing more comes.
    pub fn of(events: &Events, played: &[Played]) -> Self {
        let paths: Vec<&str> = played
            .iter()
            .flat_map(|played| &played.outcomes)
            .map(|outcome| outcome.path.as_str())
            .collect();
        let started = Instant::now();
        let mut last = (0, Instant::now());
        loop {
            let told = Self::new(events.so_far());
            let count = told.requests();
            if count != last.0 {
                last = (count, Instant::now());
            }
            let complete = paths.iter().all(|path| told.has(path));
            if complete || last.1.elapsed() > SILENCE || started.elapsed() > TELL {
                return told;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sorts the lines of an event stream.
    pub fn new(lines: Vec<Line>) -> Self {
        let mut told = Self::default();
        for line in lines {
            match line {
                Line::Request(request) => told.requests.push(*request),
                Line::Attempt(attempt) => told.lone.push(*attempt),
                Line::Lost { .. } | Line::Other => {}
            }
        }
        told
    }

    /// How many requests were told.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is an event about a path.
    pub fn has(&self, path: &str) -> bool {
        self.requests
            .iter()
            .any(|request| request.path.as_deref() == Some(path))
    }

    /// What the agent says that the proxy writes into its log about the request of this path.
    pub fn words(&self, path: &str) -> Vec<&str> {
        let of_path = |request: &&Request| request.path.as_deref() == Some(path);
        let requests = self.requests.iter().filter(of_path);
        requests
            .flat_map(|request| {
                let of_attempts = request.attempts.iter().map(|attempt| &attempt.words);
                of_attempts.chain([&request.words])
            })
            .flatten()
            .map(String::as_str)
            .collect()
    }

    /// How many errors `proxy` gave to clients, by code, cause and certainty.
    pub fn errors_of(&self, proxy: &str) -> BTreeMap<Vec<String>, u64> {
        let mut errors = BTreeMap::new();
        let of_proxy = |request: &&Request| request.proxy.name == proxy;
        for request in self.requests.iter().filter(of_proxy) {
            if let (Some(cause), Some(certainty)) = (&request.cause, &request.certainty) {
                let code = super::expected::code(request.code);
                let key = vec![code, cause.clone(), certainty.clone()];
                *errors.entry(key).or_insert(0) += 1;
            }
        }
        errors
    }

    /// Paths of requests that `upstream` was tried for, with their cause.
    pub fn tried(&self, upstream: &str) -> Vec<String> {
        let tries = |request: &&Request| {
            let mut attempts = request.attempts.iter();
            attempts.any(|attempt| attempt.upstream == upstream)
        };
        let tried = self.requests.iter().filter(tries);
        tried
            .map(|request| {
                let path = request.path.as_deref().unwrap_or("-");
                format!("{path} {}", found(request))
            })
            .collect()
    }

    /// What came of a mode; of several requests, the one whose attempt failed.
    pub fn observe(&self, kind: Kind, played: &Played) -> Observed {
        let all: Vec<Observed> = played
            .outcomes
            .iter()
            .map(|outcome| self.observe_one(kind, outcome))
            .collect();
        all.iter()
            .find(|observed| observed.found.cause.is_some())
            .or(all.first())
            .cloned()
            .unwrap_or_default()
    }

    fn observe_one(&self, kind: Kind, outcome: &Outcome) -> Observed {
        let requests: Vec<&Request> = self
            .requests
            .iter()
            .filter(|request| request.path.as_deref() == Some(&outcome.path))
            .collect();
        let lone: Vec<&LoneAttempt> = self
            .lone
            .iter()
            .filter(|attempt| attempt.path.as_deref() == Some(&outcome.path))
            .collect();
        let mut observed = Observed {
            code: outcome.status,
            ..Observed::default()
        };
        match requests.as_slice() {
            [] => observed.faults.push("no event".to_owned()),
            [request] => {
                if request.code != outcome.status && !outcome.aborted {
                    let code = request
                        .code
                        .map_or("none".to_owned(), |code| code.to_string());
                    observed.faults.push(format!("told as {code}"));
                }
                if request.proxy.name != kind.label() {
                    let name = &request.proxy.name;
                    observed.faults.push(format!("told of {name}"));
                }
                observed.found = found(request);
            }
            several => observed.faults.push(format!("{} events", several.len())),
        }
        if let Some(cause) = lone.iter().find_map(|lone| lone.attempt.cause.as_deref()) {
            observed.faults.push(format!("{cause} not joined"));
        }
        observed
    }
}

/// What the agent found of a request.
fn found(request: &Request) -> Found {
    if let Some(cause) = &request.cause {
        return Found {
            cause: Some(cause.clone()),
            certainty: request.certainty.clone(),
            masked: false,
        };
    }
    let failed = |attempt: &&Attempt| attempt.cause.is_some();
    let Some(attempt) = request.attempts.iter().rev().find(failed) else {
        return Found::default();
    };
    let last_is_good = |last: &Attempt| last.cause.is_none();
    Found {
        cause: attempt.cause.clone(),
        certainty: attempt.certainty.clone(),
        masked: request.attempts.last().is_some_and(last_is_good),
    }
}
