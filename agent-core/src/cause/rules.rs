//! Which evidence makes which cause: one function per cause, asked in the order of
//! [`RULES`]; the first that answers decides.
//!
//! In: an attempt that is over and, when it is known, what became of its request. Out: why
//! it failed, or nothing for success. A cause is added by a function here and a line in
//! the table. Causes that need evidence the core does not have yet are named in the table
//! at the place where they will be asked.

use crate::attempt::{EndedBy, Finish, Trial, errno};
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::{ConnectOutcome, Framing, Nanos, Phase};
use crate::request::Outcome;

/// A failure on a reused connection that comes this soon after the request, and with the
/// request acknowledged, is likely a race: the application closed while the request sat
/// unread. Too small: races under load pass for crashes. Too large: fast crashes pass for
/// races.
const RACE_WINDOW: Nanos = 5_000_000;

/// A proxy that closes after at least this long without a byte has waited; one that closes
/// sooner may have had another reason.
const SILENCE: Nanos = 100_000_000;

/// An unanswered SYN that is given up sooner than this may have been one of two tried at
/// once (RFC 8305: 250 ms between address families).
const SYN_PATIENCE: Nanos = 300_000_000;

/// A proxy that closes upstream within this time after its client left did it for that
/// reason: nginx, Envoy and Caddy take less than 1 ms.
const ABORT_WINDOW: Nanos = 50_000_000;

/// An attempt to be judged.
pub(crate) struct Case<'a> {
    /// The attempt, over.
    pub(crate) trial: &'a Trial,
    /// What became of its request; `None` when that is not known.
    pub(crate) request: Option<&'a Outcome>,
}

type Rule = fn(&Case<'_>) -> Option<Failure>;

/// The order of decision: connect, then TLS, then whether the client left, then whether
/// the request arrived, then who closed first.
const RULES: [Rule; 14] = [
    connect_local_error,
    host_unreachable,
    connect_refused,
    // accept_queue_full: needs the local listener's overflow.
    client_abort_in_connect,
    connect_timeout,
    // tls_failed: needs the TLS record types.
    upstream_status_passed_on,
    client_abort,
    path_lost,
    // request_stalled: needs the window.
    keepalive_race,
    // upstream_crashed: needs the exit of the owning process.
    invalid_response,
    closed_before_response,
    truncated_response,
    // header_too_big: as refused_by_proxy, 4 KB or more of an incomplete head.
    response_timeout,
    upstream_status,
];

/// Why the attempt failed; `None` when it did not.
pub(crate) fn judge(case: &Case<'_>) -> Option<Failure> {
    RULES
        .iter()
        .find_map(|rule| rule(case))
        .or_else(|| unattributed(case))
}

/// `connect(2)` returned an error and no packet left: EADDRNOTAVAIL (99), EACCES (13),
/// EPERM (1), EMFILE (24) and so on.
fn connect_local_error(case: &Case<'_>) -> Option<Failure> {
    let sure = match case.trial.finish? {
        Finish::Call if !is_of_network(case.trial.errno) => Certainty::Proof,
        // EAGAIN from a Unix connect is a full backlog (unix_stream_connect,
        // net/unix/af_unix.c): the fault may be the upstream's.
        Finish::UnixCall if case.trial.errno == Some(errno::EAGAIN) => Certainty::Guess,
        Finish::UnixCall if !is_absent(case.trial.errno) => Certainty::Proof,
        _ => return None,
    };
    failure(Cause::ConnectLocalError, sure, Phase::Connect, How::Errno)
}

/// ENETUNREACH or EHOSTUNREACH from the kernel, or a soft error (ICMP, ARP) and then a
/// local close while the SYN was not answered.
fn host_unreachable(case: &Case<'_>) -> Option<Failure> {
    let soft = case.trial.flags.soft_error();
    let unreachable = matches!(
        case.trial.errno,
        Some(errno::ENETUNREACH | errno::EHOSTUNREACH)
    );
    let how =
        match case.trial.finish? {
            Finish::Call | Finish::Handshake(ConnectOutcome::KernelError) if unreachable => {
                if soft { How::Icmp } else { How::Errno }
            }
            Finish::Handshake(ConnectOutcome::ClosedByUs) if soft => How::Icmp,
            _ => return None,
        };
    failure(
        Cause::HostUnreachable,
        Certainty::Proof,
        Phase::Connect,
        how,
    )
}

/// A reset answered the SYN, or the kernel says ECONNREFUSED (111; ICMP port unreachable
/// gives it too). On a Unix path: nobody listens (111), or no such file (2).
fn connect_refused(case: &Case<'_>) -> Option<Failure> {
    let refused = case.trial.errno == Some(errno::ECONNREFUSED);
    let how = match case.trial.finish? {
        Finish::Handshake(ConnectOutcome::Reset) => How::Rst,
        Finish::Handshake(ConnectOutcome::KernelError) if refused => {
            if case.trial.flags.soft_error() {
                How::Icmp
            } else {
                How::Errno
            }
        }
        Finish::Call if refused => How::Errno,
        Finish::UnixCall if is_absent(case.trial.errno) => How::Errno,
        _ => return None,
    };
    failure(Cause::ConnectRefused, Certainty::Proof, Phase::Connect, how)
}

/// The proxy gave the first SYN up when its client had left: there was no time for an
/// answer.
fn client_abort_in_connect(case: &Case<'_>) -> Option<Failure> {
    let Finish::Handshake(ConnectOutcome::ClosedByUs) = case.trial.finish? else {
        return None;
    };
    let gone = case
        .request?
        .client_gone
        .filter(|gone| *gone <= case.trial.ended)?;
    if case.trial.syns > 1 {
        return None;
    }
    failure(
        Cause::ClientAbort,
        case.abort_certainty(gone),
        Phase::Connect,
        How::None,
    )
}

/// SYNs without any reply, then a local close (the proxy's timer) or ETIMEDOUT (the
/// kernel's, `tcp_syn_retries`).
fn connect_timeout(case: &Case<'_>) -> Option<Failure> {
    let (sure, how) = match case.trial.finish? {
        Finish::Handshake(ConnectOutcome::KernelError) | Finish::Call
            if case.trial.errno == Some(errno::ETIMEDOUT) =>
        {
            (Certainty::Proof, How::Errno)
        }
        Finish::Handshake(ConnectOutcome::ClosedByUs) => {
            let waited = case.trial.ended - case.trial.started >= SYN_PATIENCE;
            let sure = if case.trial.syns > 1 || waited {
                Certainty::Proof
            } else {
                Certainty::Strong
            };
            (sure, How::Timeout)
        }
        _ => return None,
    };
    failure(Cause::ConnectTimeout, sure, Phase::Connect, how)
}

/// The upstream's own 5xx began and the client was given the same: whatever happened to
/// the rest of it, this is what the client got.
fn upstream_status_passed_on(case: &Case<'_>) -> Option<Failure> {
    let code = case.trial.code().filter(|code| *code >= 500)?;
    if !case.trial.response_began() || case.request?.code != Some(code) {
        return None;
    }
    let sure = case.sure(case.trial.is_complete());
    failure(Cause::UpstreamStatus, sure, case.phase(), How::None)
}

/// The client's FIN or RST came first, then the proxy closed upstream without a complete
/// response.
fn client_abort(case: &Case<'_>) -> Option<Failure> {
    if case.trial.ended_by() != EndedBy::Local || case.trial.is_complete() {
        return None;
    }
    let gone = case
        .request?
        .client_gone
        .filter(|gone| *gone <= case.trial.ended)?;
    failure(
        Cause::ClientAbort,
        case.abort_certainty(gone),
        case.phase(),
        How::None,
    )
}

/// Established, but the request was not acknowledged and was sent again at least twice, or
/// the kernel gave up. Not a slow application. It has no name of its own yet.
fn path_lost(case: &Case<'_>) -> Option<Failure> {
    let how = match case.trial.ended_by() {
        EndedBy::Kernel => How::Errno,
        EndedBy::Local if !case.trial.all_acked() && case.trial.retransmits() >= 2 => How::Timeout,
        _ => return None,
    };
    if case.trial.is_complete() {
        return None;
    }
    failure(Cause::Unattributed, Certainty::Guess, case.phase(), how)
}

/// The connection had carried a response before, and its peer closed it while the request
/// was on its way:
/// 1. its FIN or RST acknowledges no byte of the request, or
/// 2. its RST has no ACK flag, the reply of a socket that was closed already, to a request
///    that was not acknowledged, or
/// 3. FIN or RST came sooner than the round trip after the first request byte, before the
///    request was acknowledged, or
/// 4. with the request acknowledged, within [`RACE_WINDOW`] or two round trips (strong: a
///    fast crash looks the same).
///
/// Where it is not known whether the connection was used before, none of this is proof. On
/// a fresh connection it is never a race.
fn keepalive_race(case: &Case<'_>) -> Option<Failure> {
    let how = case.peer_closed()?;
    let trial = case.trial;
    if trial.response_began() || trial.reused == Some(false) {
        return None;
    }
    let exchange = trial.exchange.as_ref()?;
    let after = trial.closed_at() - exchange.request?.min(trial.closed_at());
    let round_trip = Nanos::from(trial.srtt_us.unwrap_or(0)) * 1000;
    let unacked = exchange.request_acked == 0 && exchange.request_bytes > 0;
    let bare_reset = how == How::Rst && !trial.flags.reset_had_ack() && !trial.all_acked();
    let too_soon = after < round_trip && !trial.all_acked();
    let sure = if unacked || bare_reset || too_soon {
        Certainty::Proof
    } else if after <= RACE_WINDOW.max(2 * round_trip) {
        Certainty::Strong
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

/// The first bytes of the response are not HTTP/1, its head breaks the grammar and the
/// proxy did not pass it on, or the proxy itself closed at once after the head began and
/// told its client 502.
fn invalid_response(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let closed_by = match trial.ended_by() {
        EndedBy::PeerFin => How::Fin,
        EndedBy::PeerReset => How::Rst,
        EndedBy::Local | EndedBy::Kernel | EndedBy::Nobody => How::None,
    };
    if trial.flags.not_http() {
        return failure(
            Cause::InvalidResponse,
            Certainty::Proof,
            Phase::Head,
            closed_by,
        );
    }
    let answered = case.request.filter(|request| request.client_gone.is_none());
    let given = answered.map(|request| request.code);
    let refused = given.is_some_and(|given| given != trial.code() && given.is_none_or(is_5xx));
    if trial.malformed && refused {
        let sure = case.sure(true).lowered();
        return failure(Cause::InvalidResponse, sure, Phase::Head, closed_by);
    }
    // After silence it is a timer: Apache's word for that is 502 as well.
    let at_once = trial.ended_by() == EndedBy::Local && case.silence() < SILENCE;
    if at_once && trial.response_began() && !trial.is_complete() && given == Some(Some(502)) {
        let sure = if case.is_firm() {
            Certainty::Strong
        } else {
            Certainty::Guess
        };
        return failure(Cause::InvalidResponse, sure, case.phase(), How::None);
    }
    None
}

/// The peer closed and no byte of a response had come; not a race.
fn closed_before_response(case: &Case<'_>) -> Option<Failure> {
    let how = case.peer_closed()?;
    let trial = case.trial;
    if trial.response_began() {
        return None;
    }
    let sure = match trial.reused {
        Some(false) => Certainty::Proof,
        Some(true) if trial.all_acked() => Certainty::Proof,
        _ => Certainty::Strong,
    };
    failure(Cause::ClosedBeforeResponse, sure, Phase::Request, how)
}

/// The response began, and the peer closed before its end: the head is not whole, or bytes
/// of Content-Length are missing, or the last chunk is, or a body until close was reset.
fn truncated_response(case: &Case<'_>) -> Option<Failure> {
    let how = case.peer_closed()?;
    let trial = case.trial;
    if !trial.response_began() || trial.is_complete() {
        return None;
    }
    let sure = match trial.exchange.as_ref()?.framing {
        // Framing fields may be in the part that was not read: a FIN may be the right end.
        Framing::Unknown if trial.flags.head_cut() => match how {
            How::Rst => Certainty::Guess,
            _ => return None,
        },
        _ => Certainty::Proof,
    };
    failure(Cause::TruncatedResponse, sure, case.phase(), how)
}

/// The proxy closed after silence: it gave up waiting. Proof needs the whole request
/// acknowledged, a firm join, an error given to a client that was still there, and a
/// silence that was long enough to be one.
fn response_timeout(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    if trial.ended_by() != EndedBy::Local || trial.is_complete() {
        return None;
    }
    // The client got its whole answer: the proxy had what it needed (X-Accel-Redirect,
    // ranges, a body it does not want).
    let satisfied = case
        .request
        .is_some_and(|request| request.complete && request.code.is_some_and(|code| !is_5xx(code)));
    if satisfied && trial.head_complete() {
        return None;
    }
    if trial.request_whole() == Some(false) {
        return failure(
            Cause::Unattributed,
            Certainty::Guess,
            case.phase(),
            How::Timeout,
        );
    }
    let waited = case.silence() >= SILENCE;
    let sure = match case.request {
        _ if !trial.all_acked() || !waited && case.request.is_none() => Certainty::Guess,
        Some(request) => {
            let unanswered = request.code.is_none_or(is_5xx) || trial.head_complete();
            let whole = trial.request_whole() == Some(true);
            case.sure(unanswered && whole && waited && request.client_gone.is_none())
        }
        None => Certainty::Strong,
    };
    failure(Cause::ResponseTimeout, sure, case.phase(), How::Timeout)
}

/// The upstream answered 500 or more.
fn upstream_status(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    trial.code().filter(|code| is_5xx(*code))?;
    let sure = if trial.is_complete() && trial.finish != Some(Finish::Lost) {
        Certainty::Proof
    } else {
        Certainty::Strong
    };
    failure(Cause::UpstreamStatus, sure, case.phase(), How::None)
}

/// Over, not complete, and no rule knows why.
fn unattributed(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let (phase, how) = match trial.finish? {
        Finish::Handshake(_) | Finish::Call | Finish::UnixCall => (Phase::Connect, How::Errno),
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
        match self.trial.ended_by() {
            EndedBy::PeerFin => Some(How::Fin),
            EndedBy::PeerReset => Some(How::Rst),
            EndedBy::Local | EndedBy::Kernel | EndedBy::Nobody => None,
        }
    }

    fn phase(&self) -> Phase {
        if self.trial.head_complete() {
            Phase::Body
        } else if self.trial.response_began() {
            Phase::Head
        } else {
            Phase::Request
        }
    }

    /// No other request could be meant.
    fn is_firm(&self) -> bool {
        self.trial.parent.is_some_and(|parent| parent.firm)
    }

    /// Proof where the evidence is whole and the join is firm, else strong.
    fn sure(&self, whole: bool) -> Certainty {
        if whole && self.is_firm() {
            Certainty::Proof
        } else {
            Certainty::Strong
        }
    }

    fn abort_certainty(&self, gone: Nanos) -> Certainty {
        let sure = self.sure(self.trial.ended - gone <= ABORT_WINDOW);
        // An answer that was given nevertheless: the client may only have shut down its
        // sending side.
        match self.request.and_then(|request| request.code) {
            Some(_) => sure.lowered(),
            None => sure,
        }
    }

    /// From the last byte either way to the end.
    fn silence(&self) -> Nanos {
        let exchange = self.trial.exchange.as_ref();
        let last = exchange.and_then(|exchange| {
            exchange
                .last_byte
                .max(exchange.request_last)
                .max(exchange.request)
        });
        self.trial
            .ended
            .saturating_sub(last.unwrap_or(self.trial.ended))
    }
}

/// An errno that speaks of the network, not of this host.
fn is_of_network(errno: Option<u16>) -> bool {
    matches!(
        errno,
        Some(errno::ENETUNREACH | errno::EHOSTUNREACH | errno::ECONNREFUSED | errno::ETIMEDOUT)
    )
}

/// Nobody listens on a Unix path.
fn is_absent(errno: Option<u16>) -> bool {
    matches!(errno, Some(errno::ECONNREFUSED | errno::ENOENT))
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
