//! Clients whose talk is not read, TLS most often: that one has left shows all the same.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::ProcessKind;
use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{End, Observation};
use support::{PROXY, client, core, know, sent, told, upstream};

/// An attempt at 2 ms on the errand of client 1, which is not read, given up at `until` ms; `others` are
/// what else is seen.
fn given_up(program: &str, until: f64, others: Vec<Observation>) -> (Cause, Certainty) {
    let mut core = core();
    know(&mut core, PROXY, program, ProcessKind::Known);
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100);
    let mut seen = vec![u.request(&x, "GET", "/slow")];
    seen.extend(others);
    seen.push(u.end(until, &x.ended(End::LocalClose)));
    let told = told(&mut core, seen);
    let failure = told.attempt().failure.expect("it got no answer");
    (failure.cause, failure.certainty)
}

#[test]
fn a_client_that_left_before_its_proxy_closed_is_why() {
    let left = || vec![client(1).left(302.0)];
    let abort = Cause::ClientAbort;
    assert_eq!(given_up("nginx", 302.2, left()), (abort, Certainty::Strong));
    // It goes on waiting. Its thread may have read from others before it acted.
    assert_eq!(
        given_up("haproxy", 1002.0, left()),
        (abort, Certainty::Guess)
    );
    assert_eq!(
        given_up("haproxy", 302.2, left()),
        (abort, Certainty::Guess)
    );
}

#[test]
fn where_the_thread_says_nothing_a_client_that_left_right_before_is_a_guess() {
    let other = |at| vec![client(7).left(at)];
    let guess = (Cause::ClientAbort, Certainty::Guess);
    assert_eq!(given_up("caddy", 302.2, other(302.0)), guess);
    let timer = (Cause::ResponseTimeout, Certainty::Guess);
    assert_eq!(given_up("caddy", 302.2, other(250.0)), timer);
    // A busy proxy takes its time; whom it closed for does not show where several left.
    assert_eq!(given_up("caddy", 302.2, other(280.0)), guess);
    let several = vec![client(7).left(280.0), client(8).left(290.0)];
    assert_eq!(given_up("caddy", 302.2, several), timer);
    let of_another = vec![client(7).of(Some(300)).left(302.0)];
    assert_eq!(given_up("caddy", 302.2, of_another), timer);
}

#[test]
fn a_client_that_stays_or_leaves_afterwards_is_not_why() {
    let timer = (Cause::ResponseTimeout, Certainty::Guess);
    assert_eq!(given_up("nginx", 1002.0, vec![]), timer);
    let mut core = core();
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100);
    let seen = [
        u.request(&x, "GET", "/slow"),
        u.end(1002.0, &x.ended(End::LocalClose)),
        client(1).left(1002.1),
    ];
    let told = told(&mut core, seen);
    let failure = told.attempt().failure.expect("it got no answer");
    assert_eq!((failure.cause, failure.certainty), timer);
}
