//! Endings without an answer, or with one that came all the same.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::observation::{End, Framing, Observation, Phase, What};
use agent_core::{Core, ProcessKind};
use support::{
    PROXY, Told, attempt_of, client, core, exchange_of, know, parts, sent, told, upstream,
};

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

/// Caddy gives 502 then.
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
                Certainty::Strong,
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
fn an_interim_response_is_invalid_where_the_proxy_is_known_to_take_none_and_gave_an_error() {
    let invalid = Some((Cause::InvalidResponse, Certainty::Guess, Phase::Head));
    for (program, interim, code, expected) in [
        ("varnish", true, 503, invalid),
        ("varnish", true, 200, None),
        ("varnish", false, 503, None),
        ("haproxy", true, 503, None),
    ] {
        let mut core = core();
        know(&mut core, 300, program, ProcessKind::Known);
        // 103 and the whole answer were there before the proxy closed.
        let (a, x) = (sent(0, 1.0), sent(0, 1.6).answered(200, 2.0));
        let client = client(1).of(Some(300));
        let u = upstream(10).of(Some(300)).opened(1.4);
        let mut answer = u.response(&x);
        if let What::Response {
            head: Some(head), ..
        } = &mut answer.what
        {
            head.interim = interim;
        }
        let seen = vec![
            client.request(&a, "GET", "/1"),
            u.request(&x, "GET", "/1"),
            answer,
            client.response(&a.answered(code, 2.2)),
        ];
        let request = told(&mut core, seen).request();
        let failure = request.attempts[0].failure;
        let found = failure.map(|one| (one.cause, one.certainty, one.phase));
        assert_eq!(found, expected, "{program} {interim} {code}");
        if expected.is_some() {
            assert_eq!(
                request.error.map(|error| error.cause),
                failure.map(|one| one.cause)
            );
        }
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

#[test]
fn a_proxy_that_closes_sooner_than_any_timer_did_not_time_out() {
    for (closed, expected) in [(2.3, Cause::Unattributed), (1002.0, Cause::ResponseTimeout)] {
        let u = upstream(2).opened(1.5);
        let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
        let told = exchange_of(attempt_of(&u, &x, closed), 504, closed + 0.2);
        assert_eq!(error(&told).0, expected, "closed at {closed} ms");
    }
}

/// nginx answers 504 when a timer has run out.
#[test]
fn a_proxy_that_gives_another_status_than_after_a_timer_did_not_time_out() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
    let told = exchange_of(attempt_of(&u, &x, 502.0), 503, 502.2);
    let (cause, sure, _, how) = error(&told);
    assert_eq!(
        (cause, sure, how),
        (Cause::Unattributed, Certainty::Guess, How::None)
    );
}

/// nginx closes at the status of a subrequest for authentication.
#[test]
fn a_proxy_that_closes_with_the_head_in_hand_did_not_wait_for_it() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .head(503, 302.0, Framing::Close)
        .ended(End::LocalClose);
    let (cause, sure, ..) = error(&exchange_of(attempt_of(&u, &x, 302.1), 500, 302.2));
    assert_eq!((cause, sure), (Cause::UpstreamStatus, Certainty::Guess));
}

/// Varnish closes at an interim head.
#[test]
fn a_proxy_that_closes_at_what_it_reads_does_not_like_it() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .partial_head(60, 3.0)
        .ended(End::LocalClose);
    let (cause, sure, ..) = error(&exchange_of(attempt_of(&u, &x, 3.3), 503, 3.5));
    assert_eq!((cause, sure), (Cause::InvalidResponse, Certainty::Strong));
}

/// The proxy had a reason of its own: nginx may not write its temporary file.
#[test]
fn a_body_that_the_proxy_cuts_while_it_comes_is_not_called_invalid() {
    for framing in [Framing::Chunked, Framing::Length(90_000)] {
        let (c, asked) = (client(1), sent(0, 1.0));
        let u = upstream(2).opened(1.5);
        let x = sent(0, 2.0)
            .errand(1, 0, 100)
            .head(200, 3.0, framing)
            .body(900, 400.0)
            .ended(End::LocalClose);
        let mut seen = vec![c.request(&asked, "POST", "/orders")];
        seen.extend(attempt_of(&u, &x, 400.1));
        let cut = asked.head(200, 3.1, framing).body(900, 400.1);
        seen.push(c.end(400.2, &cut.ended(End::LocalClose)));
        let told = told(&mut core(), seen);
        let failure = told.attempt().failure.expect("it was cut");
        assert_eq!(failure.cause, Cause::Unattributed, "{framing:?}");
    }
}

/// A proxy that gives the same status after a timer as after everything else.
fn varnish() -> Core {
    let mut core = core();
    know(&mut core, PROXY, "varnish", ProcessKind::Known);
    core
}

/// Request `number` of its own client at `at` ms to `/shop/number`, given up after `age` ms with 503, or
/// answered then.
fn waits(number: u64, at: f64, age: f64, answered: bool) -> Vec<Observation> {
    let c = client(number).opened(at - 0.5);
    let asked = sent(0, at);
    let path = format!("/shop/{number}");
    let u = upstream(1000 + number).opened(at + 0.1);
    let x = sent(0, at + 0.5).errand(number, 0, 100);
    let over = at + 0.5 + age;
    let mut seen = vec![c.request(&asked, "GET", &path), u.request(&x, "GET", &path)];
    if answered {
        seen.push(u.response(&x.answered(200, over)));
        seen.push(c.response(&asked.answered(200, over + 0.1)));
    } else {
        seen.push(u.end(over, &x.ended(End::LocalClose)));
        seen.push(c.response(&asked.answered(503, over + 0.1)));
    }
    seen
}

fn last_error(told: &Told) -> (Cause, Certainty) {
    let requests = told.requests();
    let error = requests.last().expect("it is told").error.expect("503");
    (error.cause, error.certainty)
}

#[test]
fn what_is_given_up_sooner_than_others_lasted_ran_into_no_timer_unless_it_happens_again() {
    let lasted = waits(1, 1.0, 3000.0, true);
    let alone = told(&mut varnish(), waits(2, 4000.0, 500.0, false));
    assert_eq!(last_error(&alone).0, Cause::ResponseTimeout);

    let sooner = lasted.iter().cloned().chain(waits(2, 4000.0, 500.0, false));
    let sooner = told(&mut varnish(), sooner);
    assert_eq!(last_error(&sooner), (Cause::Unattributed, Certainty::Guess));

    let later = lasted
        .iter()
        .cloned()
        .chain(waits(2, 4000.0, 6000.0, false));
    let later = told(&mut varnish(), later);
    assert_eq!(last_error(&later).0, Cause::ResponseTimeout);

    let again = lasted
        .into_iter()
        .chain(waits(2, 4000.0, 500.0, false))
        .chain(waits(3, 5000.0, 510.0, false));
    let again = told(&mut varnish(), again);
    assert_eq!(last_error(&again).0, Cause::ResponseTimeout);
}
