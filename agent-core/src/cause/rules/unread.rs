//! The talk was not read: the transport is the only witness.
//!
//! It tells who ended the connection and whether anything came back. Which answer that was, and whether
//! it was whole, it does not: an error that an application answered itself looks like a success. So
//! nothing here is proof, and what the transport does not decide is unattributed.

use super::case::{Case, SILENCE, failure};
use super::{answering, delivery, giving_up};
use crate::attempt::Finish;
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::{Ended, Nanos, Phase};
use crate::transport::{ClosedBy, Delivered};

/// A proxy that closes after at least this long without a byte gave up waiting, ns. One that closes
/// sooner may have had another reason: [`SILENCE`] to this is a guess.
const PATIENCE: Nanos = 10 * SILENCE;

/// Why it failed; `None` when nothing is known to be wrong with it.
pub(super) fn judge(case: &Case<'_>) -> Option<Failure> {
    let found = if case.trial.finish == Some(Finish::Unread) {
        None
    } else {
        by_transport(case)
    };
    let found = found.or_else(|| unclear(case))?;
    Some(Failure {
        certainty: found.certainty.max(Certainty::Strong),
        ..found
    })
}

fn by_transport(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    // A request that was answered well needs no reason, unless its answer was cut.
    let is_fine = |code: u16| code < 500;
    let given = case.request.and_then(|request| request.code);
    if !trial.response_began() && given.is_some_and(is_fine) {
        return None;
    }
    delivery::client_abort(case)
        .or_else(|| delivery::path_lost(case))
        .or_else(|| delivery::request_stalled(case))
        .or_else(|| match case.peer_closed() {
            Some(how) => closed(case, how),
            None => gave_up(case),
        })
}

/// The upstream closed first.
fn closed(case: &Case<'_>, how: How) -> Option<Failure> {
    let trial = case.trial;
    if trial.around().process_ended.is_some_and(Ended::is_crash) {
        return failure(Cause::UpstreamCrashed, Certainty::Strong, phase(case), how);
    }
    if !trial.response_began() {
        let race = answering::keepalive_race(case).filter(|_| idled(case));
        return race.or_else(|| answering::closed_before_response(case));
    }
    // What came back was passed on, and broke off when the upstream closed.
    let cut = case.request.is_some_and(|request| {
        request.code.is_some_and(|code| code < 500)
            && !request.complete
            && request.client_gone.is_none()
    });
    // It may be whole, and the proxy waited for a client that took nothing more in, or little.
    let at_once = case
        .request
        .is_some_and(|request| request.ended.saturating_sub(case.trial.ended) < SILENCE);
    let sure = if at_once {
        Certainty::Strong
    } else {
        Certainty::Guess
    };
    let cause = Cause::TruncatedResponse;
    (cut && !case.client_stalls()).then(|| failure(cause, sure, Phase::Body, how))?
}

/// The connection lay idle before. One that did not was perhaps not used again: another thread went on
/// with the same request.
fn idled(case: &Case<'_>) -> bool {
    let exchange = case.trial.exchange.as_ref();
    let times = exchange.and_then(|exchange| exchange.idle_since.get().zip(exchange.request.get()));
    times.is_some_and(|(since, sent)| sent.saturating_sub(since) >= SILENCE)
}

/// The proxy closed first, and nothing had come back.
fn gave_up(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let silence = case.silence();
    let arrived = trial.delivered() == Delivered::All;
    let waited = trial.closed_by() == ClosedBy::Local && silence >= SILENCE && arrived;
    let is_otherwise = case.proxy_left() || case.client_stalls();
    if !waited || trial.response_began() || is_otherwise || giving_up::is_no_timer(case) {
        return None;
    }
    let sure = match case.request {
        Some(_) if silence >= PATIENCE => Certainty::Strong,
        _ => Certainty::Guess,
    };
    let cause = Cause::ResponseTimeout;
    failure(cause, sure, Phase::Request, How::Timeout)
}

/// Its request has an error or a cut answer, and the transport does not show why.
fn unclear(case: &Case<'_>) -> Option<Failure> {
    let request = case.request?;
    let is_wrong = request.code.is_none_or(|code| code >= 500) || !request.complete;
    let cause = Cause::Unattributed;
    is_wrong.then(|| failure(cause, Certainty::Guess, phase(case), How::None))?
}

/// The part of the attempt, as far as it shows: a status below 500 is of an answer that began.
fn phase(case: &Case<'_>) -> Phase {
    let answered = case
        .request
        .and_then(|request| request.code)
        .is_some_and(|code| code < 500);
    if answered {
        Phase::Body
    } else {
        Phase::Request
    }
}
