//! The proxy closed first, and the answer was not whole: it waited too long, did not like what it read,
//! wanted no more of it, or took the upstream out of service.

use super::case::{Case, GATEWAY_TIMEOUT, SILENCE, Words, failure, is_5xx};
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::timing::SHORTEST_TIMER;
use crate::transport::{ClosedBy, Delivered};
use crate::whole::{Unread, Whole};

/// A health check of the upstream failed, and right after it the proxy closed: it ends what is under way
/// at a server that it takes out of service (HAProxy: `on-marked-down shutdown-sessions`). Not where it
/// says that a timer ran out.
pub(super) fn taken_out_of_service(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let taken_out = trial.around().check_failed && !trial.around().others.again;
    if !taken_out || !gave_up(case) || is_satisfied(case) || case.proxy_left() {
        return None;
    }
    let sure = match case.words() {
        Words::Timeout | Words::Usual => return None,
        Words::Other => Certainty::Strong,
        Words::None => Certainty::Guess,
    };
    failure(Cause::NoLiveUpstream, sure, case.phase(), How::None)
}

/// The proxy closed at once after the response had begun, and told its client an error of its own or
/// cut its answer short: it did not like what it read. After silence it is a timer, and Apache's word
/// for that is 502 as well. With a whole head it may have other reasons to stop: its disk is full, or
/// it may not write there.
pub(super) fn refused_at_once(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let at_once = gave_up(case) && case.silence() < SILENCE;
    // An error of the upstream's own says more.
    let own_error = trial.head_complete() && trial.code().is_some_and(is_5xx);
    if !at_once || !trial.response_began() || own_error {
        return None;
    }
    let request = case
        .request
        .filter(|request| request.client_gone.is_none())?;
    let cut_short = trial.head_complete() && request.code == trial.code() && !request.complete;
    let rejected = match request.code? {
        502 => true,
        GATEWAY_TIMEOUT => false,
        code => is_5xx(code) && !trial.head_complete(),
    };
    if cut_short && !rejected {
        // HAProxy passes on a head whose length is no number that it can hold, and closes then.
        return if trial.answer.malformed {
            failure(
                Cause::InvalidResponse,
                Certainty::Guess,
                case.phase(),
                How::None,
            )
        } else {
            unattributed(case)
        };
    }
    if !rejected {
        return None;
    }
    // Of a whole head by the grammar it may dislike something else: what it says, its size, a rule.
    let is_plain = trial.head_complete() && !trial.answer.malformed;
    let sure = if case.is_firm() && !is_plain {
        Certainty::Strong
    } else {
        Certainty::Guess
    };
    failure(Cause::InvalidResponse, sure, case.phase(), How::None)
}

/// The proxy closed after silence: it gave up waiting. Not where it had the head and closed without
/// waiting for more, nor where others like it lasted longer, unless it says that a timer ran out, or
/// another one was cut at the same age.
///
/// Proof needs one of these two or the status that the proxy is known to give then, the whole request
/// delivered, a firm join, a client that was still there, a silence that was long enough to be one, and an
/// upstream on this host that had read the request and answered nothing: elsewhere the answer may have been
/// lost on its way. A guess if the request is not known.
pub(super) fn response_timeout(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    if !gave_up(case) {
        return None;
    }
    let satisfied = is_satisfied(case);
    // Of a head that was not read whole the end is not known, on the client's side neither.
    let passed_on = trial.flags.head_cut() && trial.code().is_some_and(|code| !is_5xx(code));
    let passed_on = passed_on && case.given() == Some(trial.code());
    let at_once = case.silence() < SILENCE;
    let has_head = trial.head_complete() || satisfied && trial.code().is_some();
    if passed_on || at_once && has_head {
        return None;
    }
    if trial.request_whole() == Whole::No {
        let phase = case.phase();
        return failure(Cause::Unattributed, Certainty::Guess, phase, How::Timeout);
    }
    // Sooner than any timer: the proxy does not want the answer, or not any more.
    let arrived = trial.delivered() == Delivered::All;
    let too_early = trial.waited() < SHORTEST_TIMER && arrived;
    if too_early || case.proxy_left() || case.client_stalls() || is_no_timer(case) {
        return unattributed(case);
    }
    let waited = case.silence() >= SILENCE;
    let is_said = matches!(case.words(), Words::Timeout | Words::Usual);
    let is_said = is_said || trial.around().others.again;
    let sure = match case.request {
        _ if !arrived => Certainty::Guess,
        // Its end was not looked for: the client may have been silent, and not the upstream.
        _ if trial.request_whole() == Whole::Unknown(Unread::Chunks) => Certainty::Guess,
        // In the middle of an answer a proxy ends for other reasons as well: it is reloaded, or told to.
        _ if trial.head_complete() && !is_said => Certainty::Guess,
        // It may have rejected what it read, and had no CPU to do so at once.
        _ if trial.response_began() && case.may_be_late() => Certainty::Guess,
        Some(request) => {
            let unanswered = request.code.is_none_or(is_5xx) || trial.head_complete();
            let whole = trial.request_whole() == Whole::Yes;
            let whole = whole && !satisfied && is_said;
            let stayed = request.client_gone.or(request.client_fin).is_none();
            let is_read = trial.around().read == Some(true);
            case.sure(unanswered && whole && waited && stayed && is_read)
        }
        // Its client may have left: of one that is not read that is not always known.
        None => Certainty::Guess,
    };
    failure(Cause::ResponseTimeout, sure, case.phase(), How::Timeout)
}

/// Others like it lasted longer, or its proxy says something else of it than of timers; and none was cut
/// at the same age, and it does not say that it was a timer. Of one that is under way for longer it is not
/// known whether it waits: that says less than the status which the proxy gives for timers.
pub(super) fn is_no_timer(case: &Case<'_>) -> bool {
    let (words, others) = (case.words(), case.trial.around().others);
    let says_otherwise = words == Words::Other && !case.trial.response_began();
    let outlasted = others.outlasted || others.still_waits && words != Words::Usual;
    (outlasted || says_otherwise) && words != Words::Timeout && !others.again
}

/// The proxy closed, and the answer was not whole.
fn gave_up(case: &Case<'_>) -> bool {
    case.trial.closed_by() == ClosedBy::Local && !case.trial.is_complete()
}

/// The client got its whole answer: the proxy had what it needed (X-Accel-Redirect, ranges, a body it
/// does not want).
fn is_satisfied(case: &Case<'_>) -> bool {
    case.request
        .is_some_and(|request| request.complete && request.code.is_some_and(|code| !is_5xx(code)))
}

fn unattributed(case: &Case<'_>) -> Option<Failure> {
    let phase = case.phase();
    failure(Cause::Unattributed, Certainty::Guess, phase, How::None)
}
