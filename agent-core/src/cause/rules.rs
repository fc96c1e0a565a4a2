//! Which evidence makes which cause: one function per cause, asked in the order of
//! [`RULES`]; the first that answers decides.
//!
//! In: an attempt that is over and, when it is known, what became of its request. Out: why
//! it failed, or nothing for success. A cause is added by a function in [`connecting`],
//! [`delivery`], [`answering`] or [`giving_up`] and a line in the table. Requests without any attempt are
//! judged in [`without_attempt`].

mod answering;
mod connecting;
mod delivery;
mod giving_up;
mod unread;
pub(crate) mod without_attempt;

use crate::attempt::{Finish, Trial};
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::{Nanos, Phase};
use crate::request::Outcome;
use crate::transport::ClosedBy;

use answering::{
    answered_early, closed_before_response, header_too_big, invalid_response, keepalive_race,
    truncated_response, upstream_crashed, upstream_status, upstream_status_passed_on,
};
use connecting::{
    accept_queue_full, client_abort_in_connect, connect_local_error, connect_refused,
    connect_timeout, host_unreachable, tls_failed,
};
use delivery::{client_abort, path_lost, request_stalled};
use giving_up::{refused_at_once, response_timeout, taken_out_of_service};

/// A proxy that closes after at least this long without a byte has waited; one that closes
/// sooner may have had another reason.
const SILENCE: Nanos = 100_000_000;

/// A proxy that closes upstream within this time after its client left did it for that
/// reason: nginx, Envoy and Caddy take less than 1 ms.
const ABORT_WINDOW: Nanos = 50_000_000;

/// An error that is given within this time was given for the attempt that ended then, ns. Too small: a
/// busy proxy seems to say nothing. Too large: what it says of a later attempt is taken for this one.
const GIVEN_WITHIN: Nanos = 500_000_000;

/// "504 Gateway Timeout" (RFC 9110, 15.6.5).
const GATEWAY_TIMEOUT: u16 = 504;

/// That the evidence does not show why.
pub(crate) const UNATTRIBUTED: Failure = Failure {
    cause: Cause::Unattributed,
    certainty: Certainty::Guess,
    phase: Phase::Request,
    how: How::None,
};

/// An attempt to be judged.
pub(crate) struct Case<'a> {
    /// The attempt, over.
    pub(crate) trial: &'a Trial,
    /// What became of its request; `None` when that is not known.
    pub(crate) request: Option<&'a Outcome>,
}

/// What a proxy says of a timer by the status that it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// That it was one (RFC 9110, 15.6.5).
    Timeout,
    /// What it says of timers, and of other things.
    Usual,
    /// What it does not say of timers, unless it is configured to.
    Other,
    /// Nothing that is known.
    None,
}

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

impl Case<'_> {
    /// How the peer closed, when it was the peer.
    fn peer_closed(&self) -> Option<How> {
        match self.trial.closed_by() {
            ClosedBy::Peer => Some(How::Fin),
            ClosedBy::PeerReset => Some(How::Rst),
            ClosedBy::Local | ClosedBy::Kernel | ClosedBy::Nobody => None,
        }
    }

    fn phase(&self) -> Phase {
        if matches!(self.trial.finish, Some(Finish::Tls)) {
            Phase::Tls
        } else if self.trial.head_complete() {
            Phase::Body
        } else if self.trial.response_began() {
            Phase::Head
        } else {
            Phase::Request
        }
    }

    /// No other request could be meant.
    fn is_firm(&self) -> bool {
        self.trial
            .parent
            .is_some_and(|parent| parent.surety == Certainty::Proof)
    }

    /// Proof where the evidence is whole and the join is firm, else strong.
    fn sure(&self, whole: bool) -> Certainty {
        if whole && self.is_firm() {
            Certainty::Proof
        } else {
            Certainty::Strong
        }
    }

    /// The proxy closed to its client as well, without a word: it was stopped, reloaded or died, as
    /// far as is known. A timer of its own would have made it answer.
    fn proxy_left(&self) -> bool {
        self.request
            .is_some_and(|request| request.code.is_none() && request.client_gone.is_none())
    }

    /// The client had left when the attempt ended: since when.
    fn client_gone(&self) -> Option<Nanos> {
        let Some(request) = self.request else {
            return self.trial.around().client_left.map(|(at, _)| at);
        };
        let ended = self.trial.ended;
        let gone = request.client_gone.filter(|gone| *gone <= ended);
        // The proxy let go of the upstream at once when its client's FIN came.
        let followed = |fin: &Nanos| *fin <= ended && ended - *fin <= ABORT_WINDOW;
        gone.or(request.client_fin.filter(followed))
    }

    /// The status given to a client that was still there; `None` inside for none.
    fn given(&self) -> Option<Option<u16>> {
        let request = self
            .request
            .filter(|request| request.client_gone.is_none())?;
        Some(request.code)
    }

    /// The error that the client was given when the attempt ended: another may be of a later one.
    fn given_at_once(&self) -> Option<u16> {
        let request = self.request?;
        let began = request.answer_began?;
        let at_once = began.abs_diff(self.trial.ended) <= GIVEN_WITHIN;
        request.code.filter(|code| at_once && is_5xx(*code))
    }

    /// What the answer to the client says of a timer.
    fn words(&self) -> Words {
        match (self.given_at_once(), self.trial.around().timeout_code) {
            (Some(GATEWAY_TIMEOUT), _) => Words::Timeout,
            (Some(code), Some(usual)) if code == usual => Words::Usual,
            (Some(_), Some(_)) => Words::Other,
            (Some(_) | None, _) => Words::None,
        }
    }

    /// The client was given an error that is not the upstream's.
    fn is_refused(&self) -> bool {
        self.given()
            .is_some_and(|given| given != self.trial.code() && given.is_none_or(is_5xx))
    }

    fn abort_certainty(&self, gone: Nanos) -> Certainty {
        if let (None, Some((_, sure))) = (self.request, self.trial.around().client_left) {
            return sure;
        }
        let sure = self.sure(self.trial.ended - gone <= ABORT_WINDOW);
        // An answer that was given nevertheless: the client may only have shut down its
        // sending side.
        match self.request.and_then(|request| request.code) {
            Some(_) => sure.max(Certainty::Strong),
            None => sure,
        }
    }

    /// From the last byte either way to the end.
    fn silence(&self) -> Nanos {
        let exchange = self.trial.exchange.as_ref();
        let last = exchange.and_then(|exchange| {
            let sent = exchange.request_last.max(exchange.request);
            exchange.last_byte.max(sent).get()
        });
        self.trial
            .ended
            .saturating_sub(last.unwrap_or(self.trial.ended))
    }
}

fn is_5xx(code: u16) -> bool {
    code >= 500
}

fn failure(cause: Cause, certainty: Certainty, phase: Phase, how: How) -> Option<Failure> {
    Some(Failure {
        cause,
        certainty,
        phase,
        how,
    })
}
