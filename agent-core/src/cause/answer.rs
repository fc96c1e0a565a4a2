//! What a request got for its attempts: which of them it was answered for, and what that makes of it.

use std::sync::Arc;
use std::time::Duration;

use crate::attempt::Trial;
use crate::cause::rules::{Case, UNATTRIBUTED, judge};
use crate::cause::{Cause, Certainty, How};
use crate::event::{Attempt, Failure};
use crate::join;
use crate::observation::{Nanos, Phase, RequestHead};
use crate::outcome::Outcome;
use crate::request::OpenRequest;
use crate::timing::{AT_ONCE, SLACK};
use crate::witness::Witnesses;

/// "500 Internal Server Error" (RFC 9110, 15.6.1).
const INTERNAL_ERROR: u16 = 500;

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
///
/// What is fetched from elsewhere when an attempt has failed is no retry, but the page that tells of the error
/// (nginx `error_page`, Traefik's `errors`): the one before decides then, as a guess. `asked` is what the
/// client asked for.
pub(crate) fn decisive(
    attempts: &[Arc<Attempt>],
    outcome: &Outcome,
    asked: Option<&RequestHead>,
) -> Option<(usize, Certainty)> {
    let (last, sure) = answered_for(attempts, outcome)?;
    let page = &attempts[last];
    let is_other = page.code.is_some() && page.failure.is_none_or(is_own_answer);
    let lines = page.head.as_ref().zip(asked);
    if !is_other || lines.is_none_or(|(sent, asked)| join::is_alike(sent, asked)) {
        return Some((last, sure));
    }
    let before = (0..attempts.len()).rev().find(|at| {
        let other = &attempts[*at];
        let after = page.started.saturating_add(SLACK).checked_sub(other.ended);
        let is_before = after.is_some_and(|after| after <= AT_ONCE);
        *at != last && other.failure.is_some() && is_before
    });
    Some(before.map_or((last, sure), |before| (before, Certainty::Guess)))
}

fn is_own_answer(failure: Failure) -> bool {
    failure.cause == Cause::UpstreamStatus
}

/// Its peer ended it: refused, closed or reset. Not by ICMP, upon which this end gives up when it likes.
fn is_of_peer(attempt: &Attempt) -> bool {
    attempt
        .failure
        .is_some_and(|failure| matches!(failure.how, How::Fin | How::Rst))
}

fn answered_for(attempts: &[Arc<Attempt>], outcome: &Outcome) -> Option<(usize, Certainty)> {
    let answered = outcome.answer_began.unwrap_or(outcome.ended);
    let known = |attempt: &Attempt| match attempt.header_seconds {
        Some(seconds) => attempt
            .started
            .saturating_add(Duration::from_secs_f64(seconds).as_nanos() as Nanos),
        None => attempt.ended,
    };
    // A proxy may answer first and then close what it gave up. What its upstream did after that is not why.
    let is_of_upstream =
        |attempt: &Attempt| attempt.header_seconds.is_some() || is_of_peer(attempt);
    let is_in_time = |attempt: &Attempt| {
        let after = known(attempt).saturating_sub(answered);
        after == 0 || after <= AT_ONCE && !is_of_upstream(attempt)
    };
    let all = attempts.iter().enumerate();
    let in_time = all
        .filter(|(_, attempt)| is_in_time(attempt))
        .max_by_key(|(at, attempt)| (known(attempt), *at));
    let Some((last, _)) = in_time else {
        let (last, attempt) = attempts.iter().enumerate().next_back()?;
        let surety = if is_of_upstream(attempt) {
            Certainty::Guess
        } else {
            Certainty::Proof
        };
        return Some((last, surety));
    };
    let (started, ended) = (attempts[last].started, known(&attempts[last]));
    let side_by_side: Vec<usize> = (0..attempts.len())
        .filter(|at| {
            let other = &attempts[*at];
            let common = ended
                .min(known(other))
                .saturating_sub(started.max(other.started));
            *at != last && common > 0
        })
        .collect();
    let is_passed_on = outcome.is_cut() || outcome.code.is_some_and(|code| code >= 500);
    let passed_on = |at: &usize| is_passed_on && attempts[*at].code == outcome.code;
    if side_by_side.is_empty() {
        // The last one had no answer, and the client's has the status and the length of an earlier one: what
        // came last was beside the point (the copy that nginx `mirror` sends begins when it can).
        let is_same = |at: &usize| {
            let length = attempts[*at].evidence.content_length;
            passed_on(at) && length.is_some() && length == outcome.length
        };
        let earlier = (0..last).rev().find(is_same);
        let earlier = earlier.filter(|_| attempts[last].code.is_none());
        return Some(earlier.map_or((last, Certainty::Proof), |at| (at, Certainty::Strong)));
    }
    let same = |at: usize| {
        let cause = attempts[at].failure.map(|failure| failure.cause);
        (cause, &attempts[at].upstream)
    };
    let mut candidates = side_by_side
        .iter()
        .chain([&last])
        .filter(|at| passed_on(at));
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => Some((*only, Certainty::Strong)),
        _ if side_by_side.iter().all(|at| same(*at) == same(last)) => {
            Some((last, Certainty::Strong))
        }
        _ => Some((last, Certainty::Guess)),
    }
}

/// The error is one that programs make themselves (RFC 9110, 15.6.1), and gateways by the way only: an
/// application that runs in the proxy (mod_php, Lua) may have asked a cache, gone on without it, and failed
/// of something else. Not where what failed was a request like the client's, nor where the error followed the
/// end of a connection at once, as it does for Apache httpd's `proxy_uwsgi`.
fn is_of_application(cause: Cause, attempt: &Attempt, outcome: &Outcome) -> bool {
    // Apache httpd gives 500 for a handshake that failed.
    let is_gateways = matches!(
        cause,
        Cause::UpstreamStatus | Cause::ConnectLocalError | Cause::TlsFailed
    );
    let of_heads = attempt.witnesses.has_any(Witnesses::OF_HEADS);
    let answered = outcome.answer_began.unwrap_or(outcome.ended);
    let connected = attempt
        .failure
        .is_some_and(|one| one.phase != Phase::Connect);
    let at_once = connected && answered.saturating_sub(attempt.ended) <= AT_ONCE;
    outcome.code == Some(INTERNAL_ERROR) && !is_gateways && !of_heads && !at_once
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
    let most = if is_of_application(failure.cause, last, outcome) {
        Certainty::Guess
    } else if same_status {
        Certainty::Proof
    } else {
        // The proxy may have gone on after it: to another upstream, and found none, or to a page of its own.
        Certainty::Guess
    };
    let certainty = failure.certainty.max(surety).max(most);
    (
        Some(Failure {
            certainty,
            ..failure
        }),
        at,
    )
}
