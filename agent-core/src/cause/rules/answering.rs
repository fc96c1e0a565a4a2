//! The request arrived, or might have, and the answer is missing, short, wrong or an error.

use agent_wire::reset_reason;

use super::case::{Case, GATEWAY_TIMEOUT, SILENCE, failure, is_5xx};
use crate::attempt::Finish;
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::{Ended, Nanos, Phase};
use crate::outcome::Outcome;
use crate::transport::{ClosedBy, Delivered};
use crate::whole::{Unread, Whole, announced};

/// A reset of a reused connection that comes this soon after the request, and with the
/// request acknowledged, is likely a race: the application closed while the request sat
/// unread. Too small: races under load pass for crashes. Too large: fast crashes pass for
/// races.
const RACE_WINDOW: Nanos = 5_000_000;

/// The kernel's reason for a reset by a server that closes with data unread.
const UNREAD: &str = "tcp_abort_on_close";

/// Bytes of a request that a server reads at once. Too small: large requests that were left unread
/// pass for closes in the middle. Too large: a close with part of a body unread passes for a race.
const ONE_READ: u64 = 2048;

/// The smallest buffer that a proxy keeps for a response head: nginx `proxy_buffer_size`, one
/// page. A proxy that refuses a shorter head has another reason.
const SMALLEST_HEAD_BUFFER: u64 = 4096;

/// The upstream's own 5xx began and the client was given the same: whatever happened to
/// the rest of it, this is what the client got.
pub(super) fn upstream_status_passed_on(case: &Case<'_>) -> Option<Failure> {
    let code = case.trial.code().filter(|code| *code >= 500)?;
    if !case.trial.response_began() || case.request?.code != Some(code) {
        return None;
    }
    let sure = case.sure(case.trial.is_complete()).max(surety(case));
    failure(Cause::UpstreamStatus, sure, case.phase(), How::None)
}

/// The most that an answer of 500 or more says of what the client got: the proxy may not have read it. Not
/// where the upstream reset while it was still being sent to, nor where it came when the client had its answer;
/// and where the client's has another length, it may be the proxy's own, or its page for the same error.
fn surety(case: &Case<'_>) -> Certainty {
    let trial = case.trial;
    let unsent = trial.request_whole() == Whole::No || trial.delivered() != Delivered::All;
    if unsent && trial.closed_by() == ClosedBy::PeerReset {
        return Certainty::Guess;
    }
    let (Some(request), Some(exchange)) = (case.request, trial.exchange.as_ref()) else {
        return Certainty::Proof;
    };
    let times = exchange.head.get().zip(request.answer_began);
    if times.is_some_and(|(head, began)| began < head) {
        return Certainty::Guess;
    }
    let lengths = announced(exchange).zip(request.length);
    match lengths {
        Some((given, got)) if given != got && request.code == Some(GATEWAY_TIMEOUT) => {
            Certainty::Guess
        }
        Some((given, got)) if given != got => Certainty::Strong,
        _ => Certainty::Proof,
    }
}

/// The connection had carried a response before, and its peer closed it while the request
/// was on its way:
/// 1. its FIN or RST acknowledges no byte of the request, or its FIN came before the request, or
/// 2. RST because the request was still unread, at any time (strong), or, where the upstream's kernel does
///    not say why, with some of the request acknowledged, within [`RACE_WINDOW`] or two round trips (a
///    guess: who reads it and resets at once looks the same). Not FIN: a close with the request unread is a
///    reset (tcp_close, Linux 5.10 to 6.18), so that a FIN says that the request was read.
///
/// A reset from where there is no socket, without a FIN before it, may be of something on the way that
/// forgot the connection: a guess. Where it is not known whether the connection was used before, none of
/// this is proof. On a fresh connection it is never a race. Nor where the process that held it crashed: it
/// closed nothing for idleness, and no longer timeout would have helped.
pub(super) fn keepalive_race(case: &Case<'_>) -> Option<Failure> {
    let how = case.peer_closed()?;
    let trial = case.trial;
    if trial.response_began() || trial.reused == Some(false) || crashed(case) {
        return None;
    }
    let undelivered = trial.delivered() == Delivered::Nothing;
    let is_unexplained = trial.around().reset_reason.is_none();
    let sure = if undelivered && is_of_no_socket(case) {
        Certainty::Guess
    } else if undelivered || trial.peer_closed_before() {
        Certainty::Proof
    } else if how == How::Rst && was_left_unread(case) {
        Certainty::Strong
    } else if how == How::Rst && came_soon(case) && (is_unexplained || is_for_unread(case)) {
        Certainty::Guess
    } else {
        return None;
    };
    let sure = if trial.reused.is_none() {
        sure.lowered()
    } else {
        sure
    };
    failure(Cause::KeepaliveRace, sure, Phase::Request, how)
}

/// The first bytes of the response are not HTTP/1, its body does not start as its framing says,
/// or the proxy did not pass it on, and its head breaks the grammar or an interim response came before
/// it, which that proxy takes for a bad answer.
pub(super) fn invalid_response(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let closed_by = case.peer_closed().unwrap_or(How::None);
    let invalid = |sure, phase| failure(Cause::InvalidResponse, sure, phase, closed_by);
    // Where the next request leaves while the answer comes, it may be the answer of another.
    let seen = if trial.flags.pipelined() {
        Certainty::Strong
    } else {
        Certainty::Proof
    };
    if trial.flags.not_http() {
        return invalid(seen, Phase::Head);
    }
    if trial.flags.bad_chunk() {
        return invalid(seen, Phase::Body);
    }
    // A head to its end, and no status in it (RFC 9112, 4).
    if trial.head_complete() && trial.code().is_none() {
        return invalid(Certainty::Proof, Phase::Head);
    }
    let unwanted = trial.answer.interim && trial.around().refuses_interim;
    if (trial.answer.malformed || unwanted) && case.is_refused() {
        return invalid(case.sure(true).lowered(), Phase::Head);
    }
    None
}

/// The proxy stopped reading in the middle of a head that was long already, and gave its client
/// an error of its own: no part of its buffer was left. A head longer than the probes read may
/// have been whole.
pub(super) fn header_too_big(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let read = trial.exchange.as_ref()?.response_bytes;
    if trial.head_complete() || read < SMALLEST_HEAD_BUFFER || !case.is_refused() {
        return None;
    }
    let sure = match trial.closed_by() {
        ClosedBy::Local if case.silence() < SILENCE => case.sure(true),
        ClosedBy::Local if case.may_be_late() => Certainty::Guess,
        ClosedBy::Peer | ClosedBy::PeerReset if trial.flags.head_cut() => Certainty::Strong,
        _ => return None,
    };
    failure(Cause::HeaderTooBig, sure, Phase::Head, How::None)
}

/// The peer closed because the process that served the connection was killed by a signal, or exited
/// with a status that is not 0. One that exits with 0 may do so in the middle of a request as well:
/// that it closed the connection says it better.
pub(super) fn upstream_crashed(case: &Case<'_>) -> Option<Failure> {
    let how = case.peer_closed()?;
    let ended = case.trial.around().process_ended?;
    // What ends with the connection looks whole when its sender was killed.
    let is_whole = case.trial.is_complete() && !(case.trial.is_until_close() && ended.is_kill());
    if !ended.is_crash() || is_whole {
        return None;
    }
    failure(Cause::UpstreamCrashed, Certainty::Proof, case.phase(), how)
}

/// The process that served the connection crashed under the attempt.
fn crashed(case: &Case<'_>) -> bool {
    case.trial
        .around()
        .process_ended
        .is_some_and(Ended::is_crash)
}

/// The peer closed and no byte of a response had come; not a race.
pub(super) fn closed_before_response(case: &Case<'_>) -> Option<Failure> {
    let how = case.peer_closed()?;
    let trial = case.trial;
    if trial.response_began() {
        return None;
    }
    // Something on the way may have sent it: nobody is known to have had the request.
    let unseen = how == How::Rst
        && trial.delivered() == Delivered::Nothing
        && !trial.peer_had_closed()
        && trial.around().reset_reason.is_none();
    let sure = match trial.reused {
        _ if is_of_no_socket(case) => Certainty::Guess,
        _ if unseen => Certainty::Strong,
        Some(false) => Certainty::Proof,
        // The FIN may have been sent before the request came, lost once, and sent again.
        _ => Certainty::Strong,
    };
    failure(Cause::ClosedBeforeResponse, sure, Phase::Request, how)
}

/// The reset is of no socket, as far as it shows: it acknowledges nothing, and there was no FIN, behind which a
/// kernel answers so to what comes after it.
fn is_of_no_socket(case: &Case<'_>) -> bool {
    let trial = case.trial;
    trial.closed_by() == ClosedBy::PeerReset
        && trial.transport.was_reset_by_no_socket()
        && !trial.peer_had_closed()
        && trial.around().reset_reason.is_none()
}

/// The upstream's kernel says that it sent RST because data was unread.
fn is_for_unread(case: &Case<'_>) -> bool {
    case.trial
        .around()
        .reset_reason
        .and_then(reset_reason::name)
        == Some(UNREAD)
}

/// That was so of the request: there was no more data than one read takes.
fn was_left_unread(case: &Case<'_>) -> bool {
    let sent = case.trial.exchange.as_ref().map(|one| one.request_bytes);
    is_for_unread(case) && sent.is_some_and(|sent| sent <= ONE_READ)
}

/// The peer closed soon enough after the request for a race.
fn came_soon(case: &Case<'_>) -> bool {
    let trial = case.trial;
    let asked = trial
        .exchange
        .as_ref()
        .and_then(|exchange| exchange.request.get());
    let round_trip = trial.transport.round_trip().unwrap_or(0);
    asked.is_some_and(|asked| {
        trial.closed_at().saturating_sub(asked) <= RACE_WINDOW.max(2 * round_trip)
    })
}

/// The response began, and the peer closed before its end: the head is not whole, or bytes
/// of Content-Length are missing, or the last chunk is, or a body until close was reset.
pub(super) fn truncated_response(case: &Case<'_>) -> Option<Failure> {
    let how = case.peer_closed()?;
    let trial = case.trial;
    if !trial.response_began() || trial.is_complete() {
        return None;
    }
    // Its framing can be read in more than one way, and what the client got was whole in one, as far as
    // is known: it was the client that left.
    let enough = |request: &Outcome| request.complete || request.client_gone.is_some();
    if trial.answer.malformed && case.request.is_none_or(enough) {
        return None;
    }
    let sure = match trial.whole() {
        _ if trial.answer.malformed => Certainty::Guess,
        // Framing fields may be in the part that was not read: a FIN may be the right end.
        Whole::Unknown(Unread::Head) if how == How::Fin => return None,
        // The end may have passed unseen: a FIN may be the right one.
        Whole::Unknown(_) => Certainty::Guess,
        Whole::Yes | Whole::No => Certainty::Proof,
    };
    failure(Cause::TruncatedResponse, sure, case.phase(), how)
}

/// The upstream answered before it had the whole request and the proxy, still sending, lost that
/// answer: its client got an error of the proxy's own (RFC 9112, 9.5).
pub(super) fn answered_early(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let unsent = trial.request_whole() == Whole::No || trial.delivered() != Delivered::All;
    if !unsent || trial.code().is_none_or(is_5xx) || !case.is_refused() {
        return None;
    }
    let how = case.peer_closed().unwrap_or(How::None);
    let cause = Cause::ClosedBeforeResponse;
    failure(cause, Certainty::Guess, Phase::Request, how)
}

/// The upstream answered 500 or more.
pub(super) fn upstream_status(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    trial.code().filter(|code| is_5xx(*code))?;
    let sure = if trial.is_complete() && trial.finish != Some(Finish::Lost) {
        Certainty::Proof
    } else {
        Certainty::Strong
    };
    let sure = sure.max(surety(case));
    failure(Cause::UpstreamStatus, sure, case.phase(), How::None)
}
