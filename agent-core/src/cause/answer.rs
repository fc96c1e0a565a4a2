//! What a request got for its attempts: which of them it was answered for, and what that makes of it.

use std::sync::Arc;
use std::time::Duration;

use crate::attempt::Trial;
use crate::cause::rules::{Case, UNATTRIBUTED, judge};
use crate::cause::{Cause, Certainty};
use crate::event::{Attempt, Failure};
use crate::observation::{Nanos, Phase};
use crate::outcome::Outcome;
use crate::request::OpenRequest;
use crate::timing::{AT_ONCE, SLACK};
use crate::witness::Witnesses;

/// Whether the process answered 5xx after an attempt of its own had failed: it acts as a proxy then,
/// whatever it is, and whatever the upstream speaks. An attempt that may be another request's does
/// not count, unless its thread had read this one last.
pub(crate) fn answers_for_upstream(tries: &[Box<Trial>], outcome: &Outcome) -> bool {
    outcome.code.is_some_and(|code| code >= 500)
        && tries.iter().any(|trial| {
            let is_its_own = trial.parent.is_some_and(|parent| {
                parent.surety < Certainty::Guess || parent.witnesses.has_any(Witnesses::ERRAND)
            });
            let request = Some(outcome);
            is_its_own && judge(&Case { trial, request }).is_some()
        })
}

/// Whether the request was rescued from this failure. A body that broke off under the last
/// attempt was not: the client has its status, and a cut body.
pub(crate) fn masked(failure: Option<Failure>, outcome: &Outcome, is_last: bool) -> Option<bool> {
    let failure = failure?;
    let answered = outcome.code.is_some_and(|code| code < 500);
    let reached_client = is_last && failure.phase == Phase::Body;
    Some(answered && !reached_client && failure.cause != Cause::ClientAbort)
}

/// The attempt that the answer was given for, and the most that can be said of that: of those that
/// were answered or over by then, the last to be so. Of attempts side by side (a mirrored request, a
/// hedged one) it is that whose status was passed on.
pub(crate) fn decisive(attempts: &[Arc<Attempt>], outcome: &Outcome) -> Option<(usize, Certainty)> {
    let by = outcome.answer_began.unwrap_or(outcome.ended);
    let by = by.saturating_add(AT_ONCE);
    let known = |attempt: &Attempt| match attempt.header_seconds {
        Some(seconds) => attempt
            .started
            .saturating_add(Duration::from_secs_f64(seconds).as_nanos() as Nanos),
        None => attempt.ended,
    };
    let all = attempts.iter().enumerate();
    let (last, _) = all
        .filter(|(_, attempt)| known(attempt) <= by)
        .max_by_key(|(at, attempt)| (known(attempt), *at))
        .or(attempts.iter().enumerate().next_back())?;
    let (started, ended) = (attempts[last].started, known(&attempts[last]));
    let side_by_side: Vec<usize> = (0..attempts.len())
        .filter(|at| {
            let other = &attempts[*at];
            let common = ended
                .min(known(other))
                .saturating_sub(started.max(other.started));
            *at != last && common > SLACK
        })
        .collect();
    if side_by_side.is_empty() {
        return Some((last, Certainty::Proof));
    }
    let cause = |at: usize| attempts[at].failure.map(|failure| failure.cause);
    let passed_on = |at: &usize| {
        outcome.code.is_some_and(|code| code >= 500) && attempts[*at].code == outcome.code
    };
    let mut candidates = side_by_side
        .iter()
        .chain([&last])
        .filter(|at| passed_on(at));
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => Some((*only, Certainty::Strong)),
        _ if side_by_side.iter().all(|at| cause(*at) == cause(last)) => {
            Some((last, Certainty::Strong))
        }
        _ => Some((last, Certainty::Guess)),
    }
}

/// Why the client got 500 or more, or no answer: the cause of the attempt `at`, where that explains
/// it. `surety` is the most that can be said of it being the one that was answered for.
pub(crate) fn error_of(
    request: &OpenRequest,
    outcome: &Outcome,
    attempts: &[Arc<Attempt>],
    at: Option<usize>,
    surety: Certainty,
) -> (Option<Failure>, Option<usize>) {
    let is_error = match outcome.code {
        Some(code) => code >= 500,
        None => outcome.client_gone.is_none() && (request.was_asked() || !attempts.is_empty()),
    };
    if !is_error {
        return (None, None);
    }
    // An attempt that is still under way began after those that are over.
    let last = at.and_then(|at| attempts.get(at));
    let Some(last) = last.filter(|_| request.open.is_empty()) else {
        return (Some(UNATTRIBUTED), None);
    };
    let Some(failure) = last.failure else {
        // It succeeded: the error is the proxy's own, or of an attempt that was not seen.
        return (
            Some(Failure {
                phase: Phase::Body,
                ..UNATTRIBUTED
            }),
            at,
        );
    };
    let same_status = failure.cause != Cause::UpstreamStatus || last.code == outcome.code;
    let certainty = if same_status {
        failure.certainty.max(surety)
    } else {
        failure.certainty.max(surety).max(Certainty::Strong)
    };
    (
        Some(Failure {
            certainty,
            ..failure
        }),
        at,
    )
}
