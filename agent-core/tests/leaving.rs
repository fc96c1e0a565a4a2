//! A client that left before its answer, and resets of which nobody knows who sent them.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::ProcessKind;
use agent_core::cause::{Cause, Certainty, How};
use agent_core::observation::{End, Observation, Phase, ResetDirection, What};
use agent_wire::record::flag;
use support::{
    PROXY, Sock, Told, attempt_of, client, core, exchange_of, know, parts, sent, told, upstream,
};

fn cause(told: &Told) -> (Cause, Certainty, Phase, How) {
    let failure = told.attempt().failure.expect("the attempt failed");
    parts(failure)
}

#[test]
fn a_client_that_left_first_is_client_abort_and_no_error() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
    let told = told(
        &mut core(),
        [
            c.request(&asked, "POST", "/orders"),
            u.request(&x, "POST", "/orders"),
            c.end(700.0, &asked.peer_fin(700.0).ended(End::PeerFin)),
            u.end(700.4, &x),
        ],
    );
    assert_eq!(
        cause(&told),
        (
            Cause::ClientAbort,
            Certainty::Proof,
            Phase::Request,
            How::None
        )
    );
    let request = told.request();
    assert_eq!(
        (request.code, request.client_left, request.error),
        (None, true, None)
    );
}

#[test]
fn a_client_that_its_proxy_says_has_left_is_client_abort_however_late_it_lets_go() {
    for (code, expected) in [(499, Cause::ClientAbort), (404, Cause::ResponseTimeout)] {
        let (c, asked) = (client(1), sent(0, 1.0));
        let u = upstream(2).opened(1.5);
        let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
        let told = told(
            &mut core(),
            [
                c.request(&asked, "GET", "/orders"),
                u.request(&x, "GET", "/orders"),
                // Somebody else had the CPU for 150 ms.
                u.end(850.0, &x),
                c.response(&asked.peer_fin(700.0).answered(code, 851.0)),
            ],
        );
        let (cause, certainty, ..) = cause(&told);
        assert_eq!(cause, expected, "{code}");
        assert!(certainty > Certainty::Proof, "{code}");
        assert_eq!(told.request().error, None);
    }
}

/// nginx in front of another server of its own with the same timeout: the second times out as its
/// client, the first, does.
#[test]
fn a_proxy_that_answers_504_to_a_client_that_left_as_its_timer_ran_out_has_timed_out() {
    for program in ["nginx", "haproxy"] {
        let mut core = core();
        know(&mut core, PROXY, program, ProcessKind::Known);
        let (c, asked) = (client(1), sent(0, 1.0));
        let u = upstream(2).opened(1.5);
        let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
        let told = told(
            &mut core,
            [
                c.request(&asked, "GET", "/hang"),
                u.request(&x, "GET", "/hang"),
                u.end(1002.2, &x),
                c.response(&asked.peer_fin(1002.0).answered(504, 1002.4)),
                resets(&c, 1002.5),
            ],
        );
        assert_eq!(cause(&told).0, Cause::ResponseTimeout, "{program}");
    }
}

/// The client closed: what it is sent then it resets.
fn resets(c: &Sock, at: f64) -> Observation {
    let mut seen = c.clone().flag(flag::PEER_FIN).close(at);
    seen.what = What::Reset {
        direction: ResetDirection::Received,
        phase: Phase::Idle,
        reason: None,
    };
    seen
}

/// HAProxy and Apache httpd go on waiting for their upstream when their client's FIN came, and answer.
#[test]
fn a_client_that_only_sends_no_more_has_not_left() {
    let timeout = (Cause::ResponseTimeout, Certainty::Strong);
    for (fin, code, reset, expected) in [
        (20.0, 504, true, (Cause::ClientAbort, Certainty::Strong)),
        (20.0, 504, false, timeout),
        // Its FIN comes just before the timer runs out.
        (985.0, 504, false, timeout),
        (985.0, 502, false, timeout),
    ] {
        let mut core = core();
        // Each says so of timers.
        let program = if code == 502 { "httpd" } else { "haproxy" };
        know(&mut core, PROXY, program, ProcessKind::Known);
        let (c, asked) = (client(1), sent(0, 1.0));
        let u = upstream(2).opened(1.5);
        let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
        let mut seen = vec![
            c.request(&asked, "GET", "/hang"),
            u.request(&x, "GET", "/hang"),
            u.end(1002.2, &x),
            c.response(&asked.peer_fin(fin).answered(code, 1002.4)),
        ];
        seen.extend(reset.then(|| resets(&c, 1002.6)));
        let told = told(&mut core, seen);
        let error = told.request().error.expect("it got 504");
        assert_eq!((error.cause, error.certainty), expected);
        assert_eq!(told.request().client_left, reset);
    }
}

#[test]
fn a_reset_that_acknowledges_nothing_is_no_proof_of_an_application_that_closed() {
    let u = upstream(2).opened(1.5);
    for (acked, expected) in [(0, Certainty::Strong), (500, Certainty::Proof)] {
        let x = sent(0, 2.0).errand(1, 0, 100).acked(acked);
        let x = x.ended(End::PeerReset);
        let told = exchange_of(attempt_of(&u, &x, 2.1), 502, 2.2);
        let (cause, certainty, ..) = cause(&told);
        assert_eq!((cause, certainty), (Cause::ClosedBeforeResponse, expected));
    }
}
