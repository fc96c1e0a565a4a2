//! What happened on the way between proxy and upstream, or at the proxy itself, and looks like the doing of an
//! application: resets of boxes, answers that were lost, errors of which only the status is the same.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{End, Framing, Observation, Phase, ResetDirection, What};
use agent_wire::record::flag;
use agent_wire::reset_reason;
use support::{Ex, Sock, Told, attempt_of, client, exchange_of, sent, told, upstream};

fn error(told: &Told) -> (Cause, Certainty) {
    let error = told.request().error.expect("its client got an error");
    (error.cause, error.certainty)
}

/// A connection that had carried a request before, and one more on it that was reset.
fn reused(had_ack: bool) -> (Sock, Ex) {
    let flags = flag::PEER_RESET | if had_ack { flag::RESET_HAD_ACK } else { 0 };
    let x = sent(3, 2.0)
        .idle_since(-5000.0)
        .errand(1, 0, 100)
        .ended(End::PeerReset);
    (upstream(2).opened(-9000.0).flag(flags), x)
}

/// The upstream's kernel says why it reset the connection.
fn says_why(u: &Sock, reason: &str, at: f64) -> Observation {
    let mut served = client(3).of(None);
    served.socket.local = u.socket.remote;
    served.socket.remote = u.socket.local;
    let mut seen = served.close(at);
    seen.what = What::Reset {
        direction: ResetDirection::Sent,
        phase: Phase::Request,
        reason: reset_reason::code(reason).map(u16::from),
    };
    seen
}

/// A socket that is closed says in its RST what it has received; a firewall, or a host that has forgotten the
/// connection, does not.
#[test]
fn a_reset_of_no_socket_is_no_word_of_the_application() {
    let upload = sent(0, 2.0)
        .errand(1, 0, 100)
        .acked(40)
        .ended(End::PeerReset);
    for (had_ack, expected) in [(true, Certainty::Proof), (false, Certainty::Guess)] {
        let flags = flag::PEER_RESET | if had_ack { flag::RESET_HAD_ACK } else { 0 };
        let u = upstream(2).opened(1.5).flag(flags);
        let told = exchange_of(attempt_of(&u, &upload, 43.0), 502, 43.2);
        assert_eq!(error(&told), (Cause::ClosedBeforeResponse, expected));
    }
    let (u, x) = reused(false);
    let told = exchange_of(attempt_of(&u, &x.clone().acked(0), 43.0), 502, 43.2);
    assert_eq!(error(&told), (Cause::KeepaliveRace, Certainty::Guess));
    // Behind a FIN it is what a kernel answers to what comes after that.
    let told = exchange_of(attempt_of(&u, &x.acked(0).peer_fin(1.9), 43.0), 502, 43.2);
    assert_eq!(error(&told), (Cause::KeepaliveRace, Certainty::Proof));
}

/// The application reads the request and resets a millisecond later, or closes and has not read it.
#[test]
fn whether_a_reset_at_once_was_a_race_is_what_the_upstreams_kernel_says() {
    for (reason, expected) in [
        (
            Some("tcp_abort_on_close"),
            (Cause::KeepaliveRace, Certainty::Strong),
        ),
        (
            Some("tcp_state"),
            (Cause::ClosedBeforeResponse, Certainty::Strong),
        ),
        (None, (Cause::KeepaliveRace, Certainty::Guess)),
    ] {
        let (u, x) = reused(true);
        let mut seen = vec![u.request(&x, "POST", "/orders")];
        seen.extend(reason.map(|reason| says_why(&u, reason, 3.0)));
        seen.push(u.end(3.1, &x));
        let told = exchange_of(seen, 502, 3.3);
        assert_eq!(error(&told), expected, "{reason:?}");
    }
}

/// The FIN of an idle close is lost once, and is sent again when the request has come.
#[test]
fn a_fin_on_a_reused_connection_is_no_proof_that_the_request_was_read() {
    let u = upstream(2).opened(-9000.0);
    let x = sent(3, 2.0)
        .idle_since(-5000.0)
        .errand(1, 0, 100)
        .peer_fin(190.0)
        .ended(End::PeerFin);
    let told = exchange_of(attempt_of(&u, &x, 190.0), 502, 190.2);
    assert_eq!(
        error(&told),
        (Cause::ClosedBeforeResponse, Certainty::Strong)
    );
}

/// Envoy gives 503 of its own where the upload is reset, and does not read the 503 before that.
#[test]
fn an_error_that_came_before_the_upload_was_reset_may_not_have_been_read() {
    let u = upstream(2)
        .opened(1.5)
        .flag(flag::PEER_RESET | flag::RESET_HAD_ACK);
    for code in [503, 502] {
        let mut x = sent(0, 2.0)
            .errand(1, 0, 100)
            .acked(40)
            .head(503, 3.0, Framing::Length(50))
            .body(50, 3.0)
            .ended(End::PeerReset);
        x.exchange.request_bytes = 500_000;
        let told = exchange_of(attempt_of(&u, &x, 3.5), code, 3.9);
        assert_eq!(
            error(&told),
            (Cause::UpstreamStatus, Certainty::Guess),
            "{code}"
        );
    }
}

/// The inner proxy's 504 comes as the timer of the outer one runs out, and that gives a 504 of its own.
#[test]
fn an_error_of_another_length_may_be_another_error_of_the_same_status() {
    let u = upstream(2).opened(1.5);
    for (code, given, expected) in [
        (504, 50, Certainty::Proof),
        (504, 167, Certainty::Guess),
        // An error page for what the upstream said.
        (503, 167, Certainty::Strong),
    ] {
        let x = sent(0, 2.0).errand(1, 0, 100).answered(code, 1002.0);
        let (c, asked) = (client(1), sent(0, 1.0));
        let mut seen = vec![c.request(&asked, "POST", "/orders")];
        seen.extend(attempt_of(&u, &x, 1002.0));
        let got = asked
            .head(code, 1002.2, Framing::Length(given))
            .body(given, 1002.2)
            .ended(End::Complete);
        seen.push(c.response(&got));
        let told = told(&mut support::core(), seen);
        assert_eq!(
            error(&told),
            (Cause::UpstreamStatus, expected),
            "{code}, {given} bytes"
        );
    }
    // It came when the client had its answer.
    let late = sent(0, 2.0).errand(1, 0, 100).answered(504, 1002.4);
    let told = exchange_of(attempt_of(&u, &late, 1002.4), 504, 1002.2);
    assert_eq!(error(&told).1, Certainty::Guess);
}

/// nginx goes on to another upstream, finds none, and says 502 of that.
#[test]
fn an_error_of_another_status_may_have_another_reason() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).answered(503, 3.0);
    let told = exchange_of(attempt_of(&u, &x, 3.0), 502, 3.2);
    assert_eq!(error(&told), (Cause::UpstreamStatus, Certainty::Guess));
}

/// A firewall of the proxy's own host rejects what leaves on a kept connection: the request is not seen to leave.
#[test]
fn an_idle_connection_that_is_reset_as_an_error_is_given_may_have_been_used_for_it() {
    let served = |reset: bool| {
        let (c, u) = (client(1), upstream(2).opened(0.5));
        let (first, second) = (sent(0, 1.0), sent(1, 900.0));
        let x = sent(0, 1.1).errand(1, 0, 100).answered(200, 3.0);
        let mut gone = u.clone().flag(flag::PEER_RESET).close(900.2);
        gone.what = What::Reset {
            direction: ResetDirection::Received,
            phase: Phase::Idle,
            reason: None,
        };
        let mut seen = vec![
            c.request(&first, "POST", "/orders"),
            u.request(&x, "POST", "/orders"),
            u.response(&x),
            c.response(&first.answered(200, 3.1)),
            c.request(&second, "POST", "/orders"),
        ];
        seen.extend(reset.then_some(gone));
        seen.push(c.response(&second.answered(502, 900.3)));
        let told = told(&mut support::core(), seen);
        let requests = told.requests();
        let error = requests.last().and_then(|request| request.error);
        let error = error.expect("it got 502");
        (error.cause, error.certainty)
    };
    assert_eq!(served(false), (Cause::ProxyGenerated, Certainty::Strong));
    assert_eq!(served(true), (Cause::Unattributed, Certainty::Guess));
}
