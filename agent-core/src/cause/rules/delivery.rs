//! Connected, and the request did not arrive, or nobody was left to want it.

use super::{ABORT_WINDOW, Case, SILENCE, failure};
use crate::attempt::{EndedBy, Finish};
use crate::cause::{Cause, Certainty, How};
use crate::errno;
use crate::event::Failure;
use crate::observation::Phase;

/// The client's FIN or RST came first, then the proxy closed upstream without a complete
/// response.
pub(super) fn client_abort(case: &Case<'_>) -> Option<Failure> {
    if case.trial.ended_by() != EndedBy::Local || case.trial.is_complete() {
        return None;
    }
    let gone = case.client_gone()?;
    // It went on waiting for its upstream until its own timer ended that, and logs a timeout.
    let how = if case.trial.ended - gone > ABORT_WINDOW && case.silence() >= SILENCE {
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
    let how = match trial.ended_by() {
        // Somebody had the kernel end it (`ss -K`; tcp_abort, net/ipv4/tcp.c).
        EndedBy::Kernel if trial.errno == Some(errno::ECONNABORTED) => return None,
        EndedBy::Kernel => How::Errno,
        EndedBy::Local
            if !trial.all_acked()
                && trial.retransmits() >= 2
                && !trial.flags.zero_window()
                && !trial.flags.peer_answers() =>
        {
            How::Timeout
        }
        _ => return None,
    };
    failure(Cause::PathLost, Certainty::Proof, case.phase(), how)
}

/// The upstream did not take the request in: the proxy gave up with part of it unsent or not
/// acknowledged. Proof where the peer offered no window; else the client may be the slow one.
pub(super) fn request_stalled(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    if trial.ended_by() != EndedBy::Local || trial.response_began() || case.silence() < SILENCE {
        return None;
    }
    let stuck = trial.request_whole() == Some(false) || !trial.all_acked();
    let sure = if trial.flags.zero_window() && stuck {
        case.sure(true)
    } else if trial.request_whole() == Some(false) && !trial.all_acked() {
        Certainty::Strong
    } else {
        return None;
    };
    failure(Cause::RequestStalled, sure, Phase::Request, How::Timeout)
}
