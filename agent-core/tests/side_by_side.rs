//! Attempts that a proxy makes beside each other for one request: mirrored, hedged.

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{ConnectOutcome, End, Framing};
use support::{errand, exchange_of, sent, upstream};

#[test]
fn of_attempts_side_by_side_the_one_whose_status_was_passed_on_is_the_cause() {
    // The mirror is asked first and refuses; it must not be blamed.
    let mirror = upstream(2).opened(1.2).to("10.0.3.18:8080");
    let refused = upstream(4).opened(1.7).to("10.0.3.18:8080");
    let main = upstream(3).opened(1.5);
    let answered = sent(0, 2.0).errand(1, 0, 900).answered(503, 9.0);
    let mut attempts = vec![main.request(&answered, "POST", "/orders")];
    let slow = sent(0, 2.0).errand(1, 0, 900).ended(End::PeerReset);
    attempts.push(mirror.request(&slow, "POST", "/orders"));
    attempts.push(refused.connect(1.8, ConnectOutcome::Reset, errand(1)));
    attempts.push(mirror.end(8.0, &slow));
    attempts.push(main.response(&answered));
    let told = exchange_of(attempts, 503, 9.5);
    let failure = told.request().error.expect("503");
    assert_eq!(
        (failure.cause, failure.certainty),
        (Cause::UpstreamStatus, Certainty::Strong)
    );
}

#[test]
fn of_attempts_side_by_side_none_of_which_was_passed_on_the_cause_is_a_guess() {
    let (one, other) = (upstream(2).opened(1.2), upstream(3).opened(1.5));
    let reset = sent(0, 2.0).errand(1, 0, 900).ended(End::PeerReset);
    let closed = sent(0, 2.1).errand(1, 0, 900).answered(503, 8.5);
    let attempts = vec![
        one.request(&reset, "POST", "/orders"),
        other.request(&closed, "POST", "/orders"),
        other.response(&closed),
        one.end(9.0, &reset),
    ];
    let told = exchange_of(attempts, 502, 9.5);
    let failure = told.request().error.expect("502");
    assert_eq!(
        (failure.cause, failure.certainty),
        (Cause::ClosedBeforeResponse, Certainty::Guess)
    );
}

/// nginx `mirror`: the client is not kept waiting for the copy.
#[test]
fn what_an_upstream_did_after_the_answer_is_not_why_it_was_given() {
    let (real, copy) = (upstream(2).opened(1.2), upstream(3).opened(1.3));
    let answered = sent(0, 2.0).errand(1, 0, 900).answered(502, 2.6);
    for late in [
        sent(0, 2.1).errand(1, 0, 900).answered(502, 9.8),
        sent(0, 2.1).errand(1, 0, 900).answered(503, 9.8),
    ] {
        let attempts = vec![
            real.request(&answered, "POST", "/orders"),
            copy.request(&late, "POST", "/orders"),
            real.response(&answered),
            copy.response(&late),
        ];
        let told = exchange_of(attempts, 502, 2.7);
        let request = told.request();
        let failure = request.error.expect("502");
        assert_eq!(failure.cause, Cause::UpstreamStatus);
        assert_eq!(request.error_attempt, Some(0), "the real one");
    }
}

/// Which of them the client got is not known.
#[test]
fn of_two_upstreams_that_gave_the_same_status_each_is_a_guess() {
    let (real, copy) = (upstream(2).opened(1.2), upstream(3).opened(1.3));
    let copy = copy.to("10.0.3.18:8080");
    let answered = sent(0, 2.0).errand(1, 0, 900).answered(502, 2.6);
    let also = sent(0, 2.1).errand(1, 0, 900).answered(502, 2.65);
    let attempts = vec![
        real.request(&answered, "POST", "/orders"),
        copy.request(&also, "POST", "/orders"),
        real.response(&answered),
        copy.response(&also),
    ];
    let told = exchange_of(attempts, 502, 2.7);
    let failure = told.request().error.expect("502");
    assert_eq!(
        (failure.cause, failure.certainty),
        (Cause::UpstreamStatus, Certainty::Guess)
    );
}

/// The member of the copy's group is dead.
#[test]
fn a_copy_that_is_refused_is_not_why_the_answer_of_another_was_passed_on() {
    let real = upstream(2).opened(1.2);
    let answered = sent(0, 2.0).errand(1, 0, 900).answered(503, 2.6);
    // Before the client had its answer, and after.
    for (began, refused) in [(2.61, 2.65), (2.61, 8.0)] {
        let copy = upstream(3).opened(began).to("10.0.3.18:8080");
        let attempts = vec![
            real.request(&answered, "POST", "/orders"),
            real.response(&answered),
            copy.connect(refused, ConnectOutcome::Reset, errand(1)),
        ];
        let told = exchange_of(attempts, 503, 2.7);
        let failure = told.request().error.expect("503");
        assert_eq!(failure.cause, Cause::UpstreamStatus, "{refused}");
    }
}

/// nginx `proxy_next_upstream http_503`: the page that its client got is its own.
#[test]
fn a_next_upstream_that_refuses_is_why_the_proxy_gives_its_own_error() {
    let (one, next) = (upstream(2).opened(1.2), upstream(3).opened(2.61));
    let answered = sent(0, 2.0)
        .errand(1, 0, 900)
        .head(502, 2.6, Framing::Length(4))
        .body(4, 2.6)
        .ended(End::Complete);
    let attempts = vec![
        one.request(&answered, "POST", "/orders"),
        one.response(&answered),
        next.connect(2.65, ConnectOutcome::Reset, errand(1)),
    ];
    let told = exchange_of(attempts, 502, 2.7);
    let failure = told.request().error.expect("502");
    assert_eq!(
        (failure.cause, failure.certainty),
        (Cause::ConnectRefused, Certainty::Proof)
    );
}

/// The one that was answered for was not seen.
#[test]
fn what_came_after_the_answer_alone_may_not_be_why_it_was_given() {
    let copy = upstream(3).opened(1.3);
    let late = sent(0, 2.1).errand(1, 0, 900).answered(502, 9.8);
    let attempts = vec![copy.request(&late, "POST", "/orders"), copy.response(&late)];
    let told = exchange_of(attempts, 502, 2.7);
    let failure = told.request().error.expect("502");
    assert_eq!(failure.certainty, Certainty::Guess);
}
