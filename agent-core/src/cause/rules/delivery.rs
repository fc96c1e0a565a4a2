//! Connected, and the request did not arrive, or nobody was left to want it.

use super::case::{ABORT_WINDOW, Case, SILENCE, Words, failure};
use crate::attempt::Finish;
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::{Nanos, Phase};
use crate::timing::SECOND;
use crate::transport::{ClosedBy, Delivered};
use crate::whole::Whole;

/// The kernel gives a peer up that answers no probe after this time or later (`tcp_retries2`, 8 at
/// least by RFC 1122, 4.2.3.5; 15 by default), ns. Sooner only where a program sets a limit (TCP_USER_TIMEOUT).
const PROBED_IN_VAIN: Nanos = 100 * SECOND;

/// The client's FIN or RST came first, then the proxy closed upstream without a complete
/// response.
pub(super) fn client_abort(case: &Case<'_>) -> Option<Failure> {
    if case.trial.closed_by() != ClosedBy::Local || case.trial.is_complete() {
        return None;
    }
    let gone = case.client_gone()?;
    // Its own timer ran out as its client left: who lets go for a client that leaves has no word for it.
    let at_once = case.trial.ended - gone <= ABORT_WINDOW;
    if at_once && case.words() == Words::Timeout {
        return None;
    }
    // It went on waiting for its upstream until its own timer ended that, and logs a timeout.
    let how = if !at_once && case.silence() >= SILENCE {
        How::Timeout
    } else {
        How::None
    };
    failure(
        Cause::ClientAbort,
        case.abort_certainty(gone),
        case.phase(),
        how,
    )
}

/// Established, but the request was not acknowledged and was sent again at least twice, or the
/// kernel gave up on it or on its own keep-alive probes. Not a slow application: the path, or the
/// host, is gone. A peer that offers no window, or acknowledges something, is there.
pub(super) fn path_lost(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    if trial.is_complete() || trial.finish? == Finish::Tls {
        return None;
    }
    let transport = &trial.transport;
    let how = match trial.closed_by() {
        ClosedBy::Kernel if transport.was_aborted() => return None,
        // TCP_USER_TIMEOUT runs against a peer that answers and does not read as well.
        ClosedBy::Kernel if transport.peer_stopped_reading() && is_stuck(case) => return None,
        ClosedBy::Kernel => How::Errno,
        ClosedBy::Local
            if trial.delivered() != Delivered::All
                && transport.was_sent_again()
                && !transport.peer_is_there() =>
        {
            How::Timeout
        }
        _ => return None,
    };
    failure(Cause::PathLost, Certainty::Proof, case.phase(), how)
}

/// The upstream did not take the request in: the proxy, or the kernel on its behalf (TCP_USER_TIMEOUT),
/// gave up with part of it unsent or not acknowledged. Proof where the peer offered no window; else the
/// client may be the slow one. Where the kernel gave up, the peer may have gone meanwhile.
pub(super) fn request_stalled(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let unread = trial.transport.peer_stopped_reading();
    let by_kernel = trial.closed_by() == ClosedBy::Kernel && unread;
    let by_proxy = trial.closed_by() == ClosedBy::Local && case.silence() >= SILENCE;
    if !(by_proxy || by_kernel) || trial.response_began() {
        return None;
    }
    if by_kernel {
        let sure = if case.silence() < PROBED_IN_VAIN {
            Certainty::Strong
        } else {
            Certainty::Guess
        };
        let stalled = failure(Cause::RequestStalled, sure, Phase::Request, How::Errno);
        return stalled.filter(|_| is_stuck(case));
    }
    let sure = if unread && is_stuck(case) {
        case.sure(true)
    } else if trial.request_whole() == Whole::No && trial.delivered() != Delivered::All {
        Certainty::Strong
    } else {
        return None;
    };
    failure(Cause::RequestStalled, sure, Phase::Request, How::Timeout)
}

/// Part of the request was not sent, or did not arrive.
fn is_stuck(case: &Case<'_>) -> bool {
    case.trial.request_whole() == Whole::No || case.trial.delivered() != Delivered::All
}
