//! From what the core tells to how it is told: times of day, labels, the proxy's own words.
//!
//! In: requests and attempts. Out: their JSON shapes.

use std::sync::Arc;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::event::{Attempt, Check, Evidence, Failure, Request};

use super::shape::{
    AttemptShape, CaseShape, CheckShape, EvidenceShape, FailureShape, HeadShape, LoneAttemptShape,
    PlaceShape, ProxyShape, RequestShape, has_failed, is_masked, rfc3339, word,
};
use crate::cases::{self, Case};
use crate::clock::WallClock;
use crate::config::Settings;
use crate::identity::{Peer, Whereabouts};
use crate::incidents::Id;
use crate::knowledge;
use crate::knowledge::words::{Products, Question};
use crate::names;

/// A proxy that ended an attempt this long after the first byte of a response waited for more of it,
/// seconds. Shorter: one that a busy machine kept from refusing it passes for that.
const WAITED: f64 = 0.2;

/// What telling needs to know besides the event.
#[derive(Clone, Debug)]
pub struct Teller {
    /// Kernel time to time of day.
    pub clock: WallClock,
    products: Arc<Products>,
}

/// What became of the request an attempt belongs to.
#[derive(Clone, Copy)]
struct Outcome {
    /// The client got an answer; `None` when its request is not known.
    answered: Option<bool>,
    /// The client got a whole answer, as far as is known.
    complete: bool,
    /// The request succeeded all the same.
    masked: bool,
}

impl Teller {
    /// The clock as it is now.
    pub fn new(settings: &Settings) -> Self {
        Self {
            clock: WallClock::sample(),
            products: Arc::new(Products::new(settings)),
        }
    }

    /// A clock for tests, ns.
    #[cfg(test)]
    pub(crate) fn fixed(offset: i128) -> Self {
        Self {
            clock: WallClock::fixed(offset),
            products: Arc::default(),
        }
    }

    /// A request as it is told; `id` when it is kept as an incident.
    pub fn request(
        &self,
        request: &Request,
        whereabouts: &Whereabouts,
        id: Option<Id>,
    ) -> RequestShape {
        let Request {
            proxy,
            client,
            cookie,
            index,
            head,
            started,
            ended: _,
            seconds,
            code,
            complete,
            client_left,
            error,
            error_attempt,
            origin,
            origin_check,
            attempts,
        } = request;
        let last = attempts.len().checked_sub(1);
        let shown = error_attempt.filter(|at| *at < attempts.len()).or(last);
        let told = shown.map(|at| &attempts[at]);
        let masked = is_masked(request);
        let outcome = Outcome {
            answered: Some(code.is_some()),
            complete: *complete,
            masked,
        };
        // What went wrong: the error, else the last attempt that failed.
        let fault = match error {
            Some(error) => Some((*error, shown)),
            None => attempts
                .iter()
                .rposition(|attempt| has_failed(attempt))
                .and_then(|at| Some((attempts[at].failure?, Some(at)))),
        };
        let case = fault.and_then(|(failure, at)| {
            let at = at?;
            let attempt = &attempts[at];
            let is_its = attempt.failure.map(|own| own.cause) == Some(failure.cause);
            is_its.then(|| cases::of(attempt, &whereabouts.upstream(at)))?
        });
        let words = fault.and_then(|(failure, at)| {
            let attempt = at.map(|at| attempts[at].as_ref());
            self.words(&proxy.name, failure, attempt, outcome)
        });
        let HeadShape {
            method,
            path,
            host,
            request_id,
            trace_id,
        } = HeadShape::new(head.as_ref());
        let FailureShape {
            cause,
            certainty,
            phase,
            how,
        } = FailureShape::new(*error);
        RequestShape {
            id,
            time: rfc3339(*started, &self.clock),
            proxy: ProxyShape::new(proxy, &whereabouts.proxy),
            client: client.to_string(),
            method,
            path,
            host,
            code: *code,
            cause,
            certainty,
            join: told.map(|attempt| word(attempt.join)),
            phase,
            how,
            masked,
            upstream: told.map(|attempt| names::address(&attempt.upstream)),
            words,
            fix: fault.map(|(failure, _)| fix(failure, case.as_ref())),
            case: case.as_ref().map(CaseShape::new),
            origin_cause: origin.map(word),
            origin_check: origin_check.as_deref().map(check_shape),
            request_seconds: *seconds,
            complete: *complete,
            client_left: *client_left,
            request_id,
            trace_id,
            cookie: *cookie,
            index: *index,
            attempts: attempts
                .iter()
                .enumerate()
                .map(|(at, attempt)| {
                    self.attempt_shape(attempt, &whereabouts.upstream(at), outcome)
                })
                .collect(),
        }
    }

    /// An attempt as it is told without its request.
    pub fn attempt(&self, attempt: &Attempt, whereabouts: &Whereabouts) -> LoneAttemptShape {
        let HeadShape {
            method,
            path,
            host,
            request_id,
            trace_id,
        } = HeadShape::new(attempt.head.as_ref());
        let outcome = Outcome {
            answered: None,
            complete: false,
            masked: attempt.masked == Some(true),
        };
        LoneAttemptShape {
            time: rfc3339(attempt.started, &self.clock),
            proxy: ProxyShape::new(&attempt.proxy, &whereabouts.proxy),
            method,
            path,
            host,
            request_id,
            trace_id,
            attempt: self.attempt_shape(attempt, &whereabouts.upstream(0), outcome),
        }
    }

    fn attempt_shape(&self, attempt: &Attempt, peer: &Peer, outcome: Outcome) -> AttemptShape {
        let Attempt {
            proxy,
            upstream,
            local: _,
            cookie,
            index,
            join,
            join_certainty,
            witnesses,
            head: _,
            started,
            ended,
            reused,
            idle_seconds,
            connect_seconds,
            first_byte_seconds,
            header_seconds,
            response_seconds,
            code,
            failure,
            masked,
            evidence,
        } = attempt;
        let Peer {
            place,
            endpoint,
            ready_endpoints,
            unconnected: _,
            known: _,
        } = peer;
        let FailureShape {
            cause,
            certainty,
            phase,
            how,
        } = FailureShape::new(*failure);
        let case = cases::of(attempt, peer);
        AttemptShape {
            upstream: names::address(upstream),
            endpoint: endpoint.map(|endpoint| endpoint.to_string()),
            peer: PlaceShape::new(place),
            ready_endpoints: *ready_endpoints,
            join: word(*join),
            join_certainty: join_certainty.map(word),
            join_evidence: witnesses.names().map(str::to_owned).collect(),
            reused: *reused,
            idle_seconds: *idle_seconds,
            cause,
            certainty,
            phase,
            how,
            masked: *masked,
            words: failure
                .and_then(|failure| self.words(&proxy.name, failure, Some(attempt), outcome)),
            fix: failure.map(|failure| fix(failure, case.as_ref())),
            case: case.as_ref().map(CaseShape::new),
            code: *code,
            connect_seconds: *connect_seconds,
            first_byte_seconds: *first_byte_seconds,
            header_seconds: *header_seconds,
            duration_seconds: *response_seconds,
            started: rfc3339(*started, &self.clock),
            ended: rfc3339(*ended, &self.clock),
            cookie: *cookie,
            index: *index,
            evidence: EvidenceShape::new(evidence),
        }
    }

    fn words(
        &self,
        proxy: &str,
        failure: Failure,
        attempt: Option<&Attempt>,
        outcome: Outcome,
    ) -> Option<String> {
        let Outcome {
            answered,
            complete,
            masked,
        } = outcome;
        let evidence = attempt.map(|attempt| &attempt.evidence);
        let question = Question {
            failure: as_read(failure, evidence),
            errno: evidence.and_then(|evidence| evidence.errno),
            answered,
            sending: evidence.is_some_and(|evidence| {
                let length = evidence.request_length;
                length.is_some_and(|length| evidence.request_bytes < length)
            }),
            unsent: evidence.is_some_and(|evidence| evidence.request_bytes == 0),
            waited: attempt.is_some_and(waited),
            complete,
            masked,
        };
        self.products.of(proxy)?.words(&question).map(str::to_owned)
    }
}

/// Something of a response was there, and the attempt did not end on that account.
fn waited(attempt: &Attempt) -> bool {
    // Of who speaks first this is not known, or 0.
    let first_byte = attempt.first_byte_seconds.unwrap_or(0.0);
    let took = attempt.ended.saturating_sub(attempt.started) as f64 / 1e9;
    // What came before the request is not counted.
    let began = attempt.evidence.response_bytes > 0 || attempt.evidence.opening.is_some();
    began && took - first_byte >= WAITED
}

/// The failure as the proxy's read of the socket shows it. In a race, a RST without ACK flag
/// answers from a socket that had sent its FIN before, and the read returns end of file, not
/// ECONNRESET: tcp_fin() sets SOCK_DONE, which tcp_recvmsg() asks before sk_err
/// (net/ipv4/tcp.c); nginx on 6.18 writes so.
fn check_shape(check: &Check) -> CheckShape {
    CheckShape {
        upstream: names::address(&check.upstream),
        method: check.method.as_deref().map(str::to_owned),
        path: check.path.as_deref().map(str::to_owned),
        code: check.code,
    }
}

fn as_read(failure: Failure, evidence: Option<&Evidence>) -> Failure {
    let bare = evidence.is_some_and(|evidence| evidence.reset_had_ack == Some(false));
    if failure.cause == Cause::KeepaliveRace && failure.how == How::Rst && bare {
        Failure {
            how: How::Fin,
            ..failure
        }
    } else {
        failure
    }
}

/// The fix of the case, else of the cause. What is one possibility does not hide the others.
fn fix(failure: Failure, case: Option<&Case>) -> String {
    let usual = knowledge::of(failure.cause).fix;
    match case {
        Some(case) if case.certainty == Certainty::Guess => {
            format!("{usual} Possibly: {}", case.fix)
        }
        Some(case) => case.fix.clone(),
        None => usual.to_owned(),
    }
}
