//! No connection to the upstream, or none that both ends agree on.

use super::case::{ABORT_WINDOW, Case, SILENCE, failure};
use crate::cause::{Cause, Certainty, How};
use crate::event::Failure;
use crate::observation::{Nanos, Phase};
use crate::transport::{ClosedBy, NotConnected};

/// An unanswered SYN that is given up sooner than this may have been one of two tried at
/// once (RFC 8305: 250 ms between address families).
const SYN_PATIENCE: Nanos = 300_000_000;

/// `connect(2)` returned an error and no packet left: EADDRNOTAVAIL (99), EACCES (13),
/// EPERM (1), EMFILE (24) and so on.
pub(super) fn connect_local_error(case: &Case<'_>) -> Option<Failure> {
    match case.trial.transport.not_connected()? {
        NotConnected::LocalError => connect_failed(Cause::ConnectLocalError, How::Errno),
        _ => None,
    }
}

/// ENETUNREACH or EHOSTUNREACH from the kernel, or a soft error (ICMP, ARP) other than
/// ECONNREFUSED and then a local close while the SYN was not answered.
pub(super) fn host_unreachable(case: &Case<'_>) -> Option<Failure> {
    match case.trial.transport.not_connected()? {
        NotConnected::Unreachable(how) => connect_failed(Cause::HostUnreachable, how),
        _ => None,
    }
}

/// A reset answered the SYN, or the kernel says ECONNREFUSED (111; ICMP port unreachable
/// gives it too). On a Unix path: nobody listens (111), or no such file (2).
pub(super) fn connect_refused(case: &Case<'_>) -> Option<Failure> {
    match case.trial.transport.not_connected()? {
        NotConnected::Refused(how) => connect_failed(Cause::ConnectRefused, how),
        _ => None,
    }
}

/// Nobody accepts: the listener on this host got the SYN and did not answer it
/// (`tcp_conn_request`, net/ipv4/tcp_input.c), or a Unix connect returned EAGAIN.
pub(super) fn accept_queue_full(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let how = match trial.transport.not_connected()? {
        NotConnected::QueueFull => return connect_failed(Cause::AcceptQueueFull, How::Errno),
        NotConnected::ListenerSilent(How::Timeout) => {
            // A client that leaves leaves no time for an answer.
            let had_time =
                |gone| trial.transport.asked_again() && trial.ended - gone > ABORT_WINDOW;
            if case.client_gone().is_some_and(|gone| !had_time(gone)) {
                return None;
            }
            How::Timeout
        }
        NotConnected::ListenerSilent(how) => how,
        _ => return None,
    };
    // A SYN-ACK that a firewall drops on its way out of this host looks the same.
    let sure = Certainty::Strong;
    failure(Cause::AcceptQueueFull, sure, Phase::Connect, how)
}

/// The proxy gave the first SYN up when its client had left: there was no time for an
/// answer.
pub(super) fn client_abort_in_connect(case: &Case<'_>) -> Option<Failure> {
    let transport = &case.trial.transport;
    if !transport.not_connected()?.is_given_up() {
        return None;
    }
    let gone = case.client_gone()?;
    if transport.asked_again() && case.trial.ended - gone > ABORT_WINDOW {
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
pub(super) fn connect_timeout(case: &Case<'_>) -> Option<Failure> {
    let trial = case.trial;
    let not_connected = trial.transport.not_connected()?;
    if not_connected == NotConnected::Unanswered(How::Errno) {
        return connect_failed(Cause::ConnectTimeout, How::Errno);
    }
    if !not_connected.is_given_up() {
        return None;
    }
    if case.proxy_left() {
        return failure(
            Cause::Unattributed,
            Certainty::Guess,
            Phase::Connect,
            How::None,
        );
    }
    let waited = trial.ended - trial.started >= SYN_PATIENCE;
    let sure = if trial.transport.asked_again() || waited {
        Certainty::Proof
    } else {
        Certainty::Strong
    };
    failure(Cause::ConnectTimeout, sure, Phase::Connect, How::Timeout)
}

/// The kernel or the peer says what kept the connection from being.
fn connect_failed(cause: Cause, how: How) -> Option<Failure> {
    failure(cause, Certainty::Proof, Phase::Connect, how)
}

/// The proxy completed the handshake and closed without a word, and no request is known that misses an
/// answer: it wanted nothing more. So do checks (HAProxy `check ssl`), and Go with a connection too many.
pub(super) fn only_shook_hands(case: &Case<'_>) -> bool {
    let tls = case.trial.tls.as_ref();
    let is_done = tls.is_some_and(|tls| {
        let handshake = &tls.handshake;
        handshake.finished.is_some() && handshake.alert.is_none()
    });
    let is_missed = case
        .request
        .is_some_and(|request| request.code.is_none_or(|code| code >= 500));
    // The peer's FIN may overtake that of the proxy.
    let closed = case.trial.closed_by() == ClosedBy::Local
        || tls.is_some_and(|tls| tls.handshake.said_goodbye);
    is_done && closed && !is_missed
}

/// The TLS handshake ended before application data: the peer closed, an alert passed, the reply
/// was no TLS, or none came. Where the proxy gave up, its client must still have been there.
pub(super) fn tls_failed(case: &Case<'_>) -> Option<Failure> {
    let handshake = &case.trial.tls.as_ref()?.handshake;
    let fail = |sure, how| failure(Cause::TlsFailed, sure, Phase::Tls, how);
    match case.trial.closed_by() {
        ClosedBy::Peer => return fail(Certainty::Proof, How::Fin),
        ClosedBy::PeerReset => return fail(Certainty::Proof, How::Rst),
        ClosedBy::Kernel => return fail(Certainty::Strong, How::Errno),
        ClosedBy::Local | ClosedBy::Nobody => {}
    }
    if handshake.alert.is_some() || handshake.reply_is_tls == Some(false) {
        return fail(Certainty::Proof, How::None);
    }
    if case.proxy_left() {
        return failure(Cause::Unattributed, Certainty::Guess, Phase::Tls, How::None);
    }
    if let Some(gone) = case.client_gone() {
        let sure = case.abort_certainty(gone);
        return failure(Cause::ClientAbort, sure, Phase::Tls, How::None);
    }
    if handshake.finished.is_some() {
        // All was said, and the proxy did not like it: a certificate that it does not trust and looks at last.
        let sure = if case.is_firm() {
            Certainty::Strong
        } else {
            Certainty::Guess
        };
        return fail(sure, How::None);
    }
    let last = handshake.reply.unwrap_or(handshake.hello);
    let waited = case.trial.ended.saturating_sub(last) >= SILENCE;
    match (waited, handshake.reply) {
        // A client that left is no timer: it must be known to have been there.
        (true, _) if case.request.is_none() => fail(Certainty::Guess, How::Timeout),
        // Nothing acknowledged the ClientHello: the path may be at fault.
        (true, None) if !handshake.acked => fail(Certainty::Strong, How::Timeout),
        (true, _) => fail(Certainty::Proof, How::Timeout),
        // The proxy refused what the upstream said of itself: its certificate, usually.
        (false, Some(_)) => fail(Certainty::Proof, How::None),
        (false, None) => fail(Certainty::Guess, How::None),
    }
}
