//! No connection to the upstream, or none that both ends agree on.

use super::{ABORT_WINDOW, Case, SILENCE, failure};
use crate::attempt::{EndedBy, Finish};
use crate::cause::{Cause, Certainty, How};
use crate::errno;
use crate::event::Failure;
use crate::observation::{ConnectOutcome, Nanos, Phase};

/// An unanswered SYN that is given up sooner than this may have been one of two tried at
/// once (RFC 8305: 250 ms between address families).
const SYN_PATIENCE: Nanos = 300_000_000;

/// `connect(2)` returned an error and no packet left: EADDRNOTAVAIL (99), EACCES (13),
/// EPERM (1), EMFILE (24) and so on.
pub(super) fn connect_local_error(case: &Case<'_>) -> Option<Failure> {
    let sure = match case.trial.finish? {
        Finish::Call if !is_of_network(case.trial.errno) => Certainty::Proof,
        Finish::UnixCall
            if !is_absent(case.trial.errno) && case.trial.errno != Some(errno::EAGAIN) =>
        {
            Certainty::Proof
        }
        _ => return None,
    };
    failure(Cause::ConnectLocalError, sure, Phase::Connect, How::Errno)
}

/// ENETUNREACH or EHOSTUNREACH from the kernel, or a soft error (ICMP, ARP) other than
/// ECONNREFUSED and then a local close while the SYN was not answered.
pub(super) fn host_unreachable(case: &Case<'_>) -> Option<Failure> {
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
            Finish::Handshake(ConnectOutcome::ClosedByUs)
                if soft && case.trial.errno != Some(errno::ECONNREFUSED) =>
            {
                How::Icmp
            }
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
pub(super) fn connect_refused(case: &Case<'_>) -> Option<Failure> {
    let refused = case.trial.errno == Some(errno::ECONNREFUSED);
    let soft = case.trial.flags.soft_error();
    let how = match case.trial.finish? {
        Finish::Handshake(ConnectOutcome::Reset) => How::Rst,
        Finish::Handshake(ConnectOutcome::KernelError) if refused => {
            if soft {
                How::Icmp
            } else {
                How::Errno
            }
        }
        // As kube-proxy refuses for a Service without endpoints.
        Finish::Handshake(ConnectOutcome::ClosedByUs) if refused && soft => How::Icmp,
        Finish::Call if refused => How::Errno,
        Finish::UnixCall if is_absent(case.trial.errno) => How::Errno,
        _ => return None,
    };
    failure(Cause::ConnectRefused, Certainty::Proof, Phase::Connect, how)
}

/// Nobody accepts: the listener on this host got the SYN and did not answer it
/// (`tcp_conn_request`, net/ipv4/tcp_input.c), or a Unix connect returned EAGAIN
/// (`unix_stream_connect`, net/unix/af_unix.c).
pub(super) fn accept_queue_full(case: &Case<'_>) -> Option<Failure> {
    let how = match case.trial.finish? {
        Finish::UnixCall if case.trial.errno == Some(errno::EAGAIN) => How::Errno,
        Finish::Handshake(ConnectOutcome::ClosedByUs) if case.trial.listener_silent => {
            // A client that leaves leaves no time for an answer.
            let left = case.client_gone();
            if left
                .is_some_and(|gone| case.trial.syns < 2 || case.trial.ended - gone <= ABORT_WINDOW)
            {
                return None;
            }
            How::Timeout
        }
        Finish::Handshake(ConnectOutcome::KernelError)
            if case.trial.listener_silent && case.trial.errno == Some(errno::ETIMEDOUT) =>
        {
            How::Errno
        }
        _ => return None,
    };
    // A SYN-ACK that a firewall drops on its way out of this host looks the same.
    let sure = match case.trial.finish? {
        Finish::UnixCall => Certainty::Proof,
        _ => Certainty::Strong,
    };
    failure(Cause::AcceptQueueFull, sure, Phase::Connect, how)
}

/// The proxy gave the first SYN up when its client had left: there was no time for an
/// answer.
pub(super) fn client_abort_in_connect(case: &Case<'_>) -> Option<Failure> {
    let Finish::Handshake(ConnectOutcome::ClosedByUs) = case.trial.finish? else {
        return None;
    };
    let gone = case.client_gone()?;
    if case.trial.syns > 1 && case.trial.ended - gone > ABORT_WINDOW {
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
    let (sure, how) = match case.trial.finish? {
        Finish::Handshake(ConnectOutcome::KernelError) | Finish::Call
            if case.trial.errno == Some(errno::ETIMEDOUT) =>
        {
            (Certainty::Proof, How::Errno)
        }
        Finish::Handshake(ConnectOutcome::ClosedByUs) if case.proxy_left() => {
            return failure(
                Cause::Unattributed,
                Certainty::Guess,
                Phase::Connect,
                How::None,
            );
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

/// The TLS handshake ended before application data: the peer closed, an alert passed, the reply
/// was no TLS, or none came. Where the proxy gave up, its client must still have been there.
pub(super) fn tls_failed(case: &Case<'_>) -> Option<Failure> {
    let handshake = &case.trial.tls.as_ref()?.handshake;
    let fail = |sure, how| failure(Cause::TlsFailed, sure, Phase::Tls, how);
    match case.trial.ended_by() {
        EndedBy::PeerFin => return fail(Certainty::Proof, How::Fin),
        EndedBy::PeerReset => return fail(Certainty::Proof, How::Rst),
        EndedBy::Kernel => return fail(Certainty::Strong, How::Errno),
        EndedBy::Local | EndedBy::Nobody => {}
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
        // All was said, and the proxy did not like it: a certificate it does not trust.
        return fail(Certainty::Strong, How::None);
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
