//! Attempts that a proxy makes beside each other for one request: mirrored, hedged.

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{ConnectOutcome, End};
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
