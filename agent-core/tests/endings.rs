//! Endings without an answer, or with one that came all the same.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::observation::{End, Framing, Phase, What};
use support::{Told, attempt_of, client, core, exchange_of, parts, sent, told, upstream};

fn error(told: &Told) -> (Cause, Certainty, Phase, How) {
    parts(told.request().error.expect("the request got an error"))
}

#[test]
fn a_connection_closed_instead_of_an_answer_has_the_attempts_cause() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let u = upstream(2).opened(-9000.0);
    let x = sent(3, 2.0)
        .idle_since(-5000.0)
        .errand(1, 0, 100)
        .acked(0)
        .ended(End::PeerFin);
    let told = told(
        &mut core(),
        [
            c.request(&asked, "GET", "/"),
            u.request(&x, "GET", "/"),
            u.end(3.0, &x),
            c.end(3.1, &asked.ended(End::LocalClose)),
        ],
    );
    let request = told.request();
    assert_eq!((request.code, request.client_left), (None, false));
    assert_eq!(
        request.error.expect("no answer").cause,
        Cause::KeepaliveRace
    );
}

#[test]
fn an_idle_client_that_is_cut_off_before_it_asked_is_no_error() {
    let (c, mut asked) = (client(1), sent(0, 1.0));
    asked.exchange.request_head_bytes = 0;
    let told = told(
        &mut core(),
        [
            c.request(&asked, "GET", "/"),
            c.end(60_000.0, &asked.ended(End::LocalClose)),
        ],
    );
    assert_eq!(told.request().error, None);
}

#[test]
fn a_head_that_stalls_is_a_timeout_whatever_the_status() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .partial_head(30, 3.0)
        .ended(End::LocalClose);
    for code in [502, 504] {
        assert_eq!(
            error(&exchange_of(attempt_of(&u, &x, 5002.0), code, 5002.2)),
            (
                Cause::ResponseTimeout,
                Certainty::Proof,
                Phase::Head,
                How::Timeout
            )
        );
    }
}

#[test]
fn a_proxy_that_has_what_it_needs_may_close_early() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .head(200, 3.0, Framing::Length(9000));
    let told = exchange_of(attempt_of(&u, &x.ended(End::LocalClose), 3.1), 200, 3.2);
    assert_eq!(told.attempt().failure, None);
}

#[test]
fn a_malformed_head_is_invalid_only_when_the_proxy_did_not_pass_it_on() {
    for (code, expected) in [(200, None), (502, Some(Cause::InvalidResponse))] {
        let u = upstream(2).opened(1.5);
        let x = sent(0, 2.0).errand(1, 0, 100).answered(200, 9.0);
        let mut attempt = attempt_of(&u, &x, 9.0);
        if let What::Response {
            head: Some(head), ..
        } = &mut attempt[1].what
        {
            head.malformed = true;
        }
        let told = exchange_of(attempt, code, 9.5);
        assert_eq!(
            told.attempt().failure.map(|failure| failure.cause),
            expected
        );
    }
}

#[test]
fn a_proxy_that_leaves_its_client_without_a_word_ran_into_no_timer() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
    let told = told(
        &mut core(),
        [
            c.request(&asked, "GET", "/"),
            u.request(&x, "GET", "/"),
            u.end(5002.0, &x),
            c.end(5002.1, &asked.ended(End::LocalClose)),
        ],
    );
    let error = told.request().error.expect("no answer");
    assert_eq!(
        (error.cause, error.certainty),
        (Cause::Unattributed, Certainty::Guess)
    );
}

/// Varnish closes at an interim head, nginx at the status of a subrequest: that is not an application
/// that is slow.
#[test]
fn a_proxy_that_closes_sooner_than_any_timer_did_not_time_out() {
    for (closed, expected) in [(2.3, Cause::Unattributed), (1002.0, Cause::ResponseTimeout)] {
        let u = upstream(2).opened(1.5);
        let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
        let told = exchange_of(attempt_of(&u, &x, closed), 503, closed + 0.2);
        assert_eq!(error(&told).0, expected, "closed at {closed} ms");
    }
}
