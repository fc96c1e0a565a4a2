//! An attempt to be judged, and what several rules ask of it.

use crate::attempt::{Finish, Trial};
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::{Nanos, Phase};
use crate::outcome::Outcome;
use crate::transport::ClosedBy;

/// A proxy that closes after at least this long without a byte has waited; one that closes
/// sooner may have had another reason.
pub(super) const SILENCE: Nanos = 100_000_000;

/// A proxy that had no CPU rejects what it read after [`SILENCE`], but within this time, ns. Too small: a
/// crowded host makes a slow application of a bad answer. Too large: a timer whose
/// status is not the usual one (Caddy: 502 within a head) is a guess.
const LATE: Nanos = 1_000_000_000;

/// A proxy that closes upstream within this time after its client left did it for that
/// reason: nginx, Envoy and Caddy take less than 1 ms.
pub(super) const ABORT_WINDOW: Nanos = 50_000_000;

/// An error that is given within this time was given for the attempt that ended then, ns. Too small: a
/// busy proxy seems to say nothing. Too large: what it says of a later attempt is taken for this one.
pub(super) const GIVEN_WITHIN: Nanos = 500_000_000;

/// "504 Gateway Timeout" (RFC 9110, 15.6.5).
pub(super) const GATEWAY_TIMEOUT: u16 = 504;

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
pub(super) enum Words {
    /// That it was one (RFC 9110, 15.6.5).
    Timeout,
    /// What it says of timers, and of other things.
    Usual,
    /// What it does not say of timers, unless it is configured to.
    Other,
    /// Nothing that is known.
    None,
}

impl Case<'_> {
    /// How the peer closed, when it was the peer.
    pub(super) fn peer_closed(&self) -> Option<How> {
        match self.trial.closed_by() {
            ClosedBy::Peer => Some(How::Fin),
            ClosedBy::PeerReset => Some(How::Rst),
            ClosedBy::Local | ClosedBy::Kernel | ClosedBy::Nobody => None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
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
    pub(super) fn is_firm(&self) -> bool {
        self.trial
            .parent
            .is_some_and(|parent| parent.surety == Certainty::Proof)
    }

    /// Proof where the evidence is whole and the join is firm, else strong.
    pub(super) fn sure(&self, whole: bool) -> Certainty {
        if whole && self.is_firm() {
            Certainty::Proof
        } else {
            Certainty::Strong
        }
    }

    /// The proxy closed to its client as well, without a word: it was stopped, reloaded or died, as
    /// far as is known. A timer of its own would have made it answer. Or its process ended.
    pub(super) fn proxy_left(&self) -> bool {
        self.request.is_some_and(|request| {
            let without_a_word = request.code.is_none() && request.client_gone.is_none();
            without_a_word || request.proxy_ended.is_some()
        })
    }

    /// The client did not read what it got: its proxy waited for it.
    pub(super) fn client_stalls(&self) -> bool {
        self.request
            .is_some_and(|request| request.client_stalls && !request.complete)
    }

    /// The client had left when the attempt ended: since when.
    pub(super) fn client_gone(&self) -> Option<Nanos> {
        let Some(request) = self.request else {
            return self.trial.around().client_left.map(|(at, _)| at);
        };
        let ended = self.trial.ended;
        let gone = request.client_gone.filter(|gone| *gone <= ended);
        // The proxy let go of the upstream at once when its client's FIN came. Not one that gave its client a
        // whole error nevertheless, which was there to read it.
        let stayed = request.was_answered_after_fin();
        let followed = |fin: &Nanos| !stayed && *fin <= ended && ended - *fin <= ABORT_WINDOW;
        gone.or(request.client_fin.filter(followed))
    }

    /// The status given to a client that was still there; `None` inside for none.
    pub(super) fn given(&self) -> Option<Option<u16>> {
        let request = self
            .request
            .filter(|request| request.client_gone.is_none())?;
        Some(request.code)
    }

    /// The error that the client was given when the attempt ended: another may be of a later one.
    pub(super) fn given_at_once(&self) -> Option<u16> {
        let request = self.request?;
        let began = request.answer_began?;
        let at_once = began.abs_diff(self.trial.ended) <= GIVEN_WITHIN;
        request.code.filter(|code| at_once && is_5xx(*code))
    }

    /// What the answer to the client says of a timer.
    pub(super) fn words(&self) -> Words {
        match (self.given_at_once(), self.trial.around().timeout_code) {
            (Some(GATEWAY_TIMEOUT), _) => Words::Timeout,
            (Some(code), Some(usual)) if code == usual => Words::Usual,
            (Some(_), Some(_)) => Words::Other,
            (Some(_) | None, _) => Words::None,
        }
    }

    /// The proxy says nothing of a timer, and its silence may be that it had no CPU.
    pub(super) fn may_be_late(&self) -> bool {
        self.words() == Words::Other && self.silence() < LATE
    }

    /// The client was given an error that is not the upstream's.
    pub(super) fn is_refused(&self) -> bool {
        self.given()
            .is_some_and(|given| given != self.trial.code() && given.is_none_or(is_5xx))
    }

    pub(super) fn abort_certainty(&self, gone: Nanos) -> Certainty {
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
    pub(super) fn silence(&self) -> Nanos {
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

pub(super) fn is_5xx(code: u16) -> bool {
    code >= 500
}

pub(super) fn failure(
    cause: Cause,
    certainty: Certainty,
    phase: Phase,
    how: How,
) -> Option<Failure> {
    Some(Failure {
        cause,
        certainty,
        phase,
        how,
    })
}
