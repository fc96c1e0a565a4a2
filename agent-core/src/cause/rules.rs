//! Which evidence makes which cause: one function per cause, asked in the order of
//! [`RULES`]; the first that answers decides.
//!
//! In: an attempt that is over and, when it is known, what became of its request. Out: why
//! it failed, or nothing for success. A cause is added by a function in [`connecting`],
//! [`delivery`], [`answering`] or [`giving_up`] and a line in the table. Requests without any attempt are
//! judged in [`without_attempt`].

mod answering;
mod case;
mod connecting;
mod delivery;
mod giving_up;
mod unread;
pub(crate) mod without_attempt;

pub(crate) use case::{Case, UNATTRIBUTED};

use crate::attempt::Finish;
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::Phase;

use answering::{
    answered_early, closed_before_response, header_too_big, invalid_response, keepalive_race,
    truncated_response, upstream_crashed, upstream_status, upstream_status_passed_on,
};
use case::failure;
use connecting::{
    accept_queue_full, client_abort_in_connect, connect_local_error, connect_refused,
    connect_timeout, host_unreachable, tls_failed,
};
use delivery::{client_abort, path_lost, request_stalled};
use giving_up::{refused_at_once, response_timeout, taken_out_of_service};

type Rule = fn(&Case<'_>) -> Option<Failure>;

/// The order of decision: connect, then TLS, then whether the client left, then whether the
/// request arrived, then who closed first: the peer, or the proxy.
const RULES: [Rule; 22] = [
    connect_local_error,
    host_unreachable,
    connect_refused,
    accept_queue_full,
    client_abort_in_connect,
    connect_timeout,
    tls_failed,
    upstream_status_passed_on,
    client_abort,
    path_lost,
    request_stalled,
    keepalive_race,
    invalid_response,
    upstream_crashed,
    closed_before_response,
    truncated_response,
    taken_out_of_service,
    header_too_big,
    refused_at_once,
    response_timeout,
    answered_early,
    upstream_status,
];

/// Why the attempt failed; `None` when it did not.
pub(crate) fn judge(case: &Case<'_>) -> Option<Failure> {
    if case.trial.unread {
        return unread::judge(case);
    }
    if connecting::only_shook_hands(case) {
        return None;
    }
    RULES
        .iter()
        .find_map(|rule| rule(case))
        .or_else(|| unattributed(case))
}

/// Over, not complete, and no rule knows why.
fn unattributed(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let (phase, how) = match trial.finish? {
        Finish::Connect => (Phase::Connect, How::Errno),
        Finish::Tls => (Phase::Tls, How::None),
        Finish::Unread => (Phase::Request, How::None),
        Finish::Exchange(_) if trial.is_complete() => return None,
        // A head that was not read whole hides the framing, and a proxy that is satisfied
        // may close: nothing is known to have gone wrong.
        Finish::Exchange(_) if trial.code().is_some() => return None,
        Finish::Exchange(_) => (case.phase(), How::None),
        Finish::Lost => return None,
    };
    failure(Cause::Unattributed, Certainty::Guess, phase, how)
}
