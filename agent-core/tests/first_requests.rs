//! Requests of which nobody knows yet whose they are: the first that arrive at an address. The proxy here
//! fetches in another thread than the one that has read the request, so that the thread tells nothing.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::Join;
use agent_core::observation::{ConnectOutcome, End, Observation};
use agent_core::{Core, ProcessKind};
use support::{Sock, client, core, know, sent, told, upstream};

const VARNISH: u32 = 300;
const APP: u32 = 400;

const GOOD: &str = "10.0.3.18:8080";

fn varnish() -> Core {
    let mut core = core();
    know(&mut core, VARNISH, "varnish", ProcessKind::Known);
    know(&mut core, APP, "app", ProcessKind::Unknown);
    core
}

/// A connection on which a request came that nobody has read yet.
fn unread(cookie: u64) -> Sock {
    client(cookie).of(None)
}

fn read(cookie: u64) -> Sock {
    client(cookie).of(Some(VARNISH))
}

fn sends(cookie: u64, at: f64) -> Sock {
    upstream(cookie).of(Some(VARNISH)).opened(at)
}

/// An upstream on this host gets the request with this path at `at`, and nobody has answered there yet.
fn arrives(cookie: u64, at: f64, server: &str, path: &str) -> Observation {
    let mut app = client(cookie).of(None);
    app.socket.local = server.parse().expect("address");
    app.request(&sent(0, at), "GET", path)
}

#[test]
fn the_first_request_has_the_attempt_that_failed_and_the_one_that_followed() {
    for path in ["/x/1", "/1"] {
        let mut core = varnish();
        let (a, x) = (sent(0, 1.0), sent(0, 1.6).answered(200, 3.0));
        let seen = vec![
            unread(1).request(&a, "GET", "/x/1"),
            sends(10, 1.2)
                .errno(111)
                .connect(1.3, ConnectOutcome::Reset, None),
            sends(11, 1.4)
                .to(GOOD)
                .connect(1.5, ConnectOutcome::Established, None),
            sends(11, 1.4).to(GOOD).request(&x, "GET", path),
            arrives(20, 1.7, GOOD, path),
            sends(11, 1.4).to(GOOD).response(&x),
            read(1).response(&a.answered(200, 3.1)),
        ];
        let told = told(&mut core, seen);
        let request = told.request();
        let [first, second] = request.attempts.as_slice() else {
            panic!("two attempts: {request:#?}");
        };
        let failure = first.failure.expect("it was refused");
        assert_eq!(failure.cause, Cause::ConnectRefused);
        assert_eq!(first.join, Join::Retry);
        assert_eq!(first.masked, Some(true));
        assert_eq!(second.code, Some(200));
        assert_eq!(second.join_certainty, Some(Certainty::Strong));
        assert_eq!(core.stats().attempts_unmatched, 0);
    }
}

/// A connection to another program on this host, of which the process may not be known.
fn other(tgid: Option<u32>) -> Sock {
    let mut other = client(2).of(tgid);
    other.socket.local = "10.0.0.1:9000".parse().expect("address");
    other
}

#[test]
fn an_attempt_that_was_joined_to_the_first_request_of_another_program_goes_on_without_it() {
    // Both clients ask for the same, and what the other program is asked for came first.
    let mut core = varnish();
    let (a, b) = (sent(0, 1.0), sent(0, 1.05));
    let x = sent(0, 1.2).ended(End::PeerFin);
    let seen = vec![
        other(None).request(&a, "GET", "/1"),
        sends(10, 1.1).request(&x, "GET", "/1"),
        // The record of the proxy's own request comes late.
        read(1).request(&b, "GET", "/1"),
        other(Some(APP)).response(&a.answered(200, 2.0)),
        sends(10, 1.1).end(3.0, &x),
        read(1).response(&b.answered(503, 3.1)),
    ];
    let told = told(&mut core, seen);
    let request = told.request();
    assert_eq!(request.cookie, 1, "the other is of no proxy");
    let error = request.error.expect("503");
    assert_eq!(error.cause, Cause::ClosedBeforeResponse);
}

#[test]
fn what_is_over_before_another_program_answers_is_looked_at_anew() {
    let mut core = varnish();
    let (a, b) = (sent(0, 1.0), sent(0, 1.05));
    let x = sent(0, 1.2).ended(End::PeerFin);
    let seen = vec![
        other(None).request(&a, "GET", "/1"),
        sends(10, 1.1).request(&x, "GET", "/1"),
        read(1).request(&b, "GET", "/1"),
        sends(10, 1.1).end(3.0, &x),
        other(Some(APP)).response(&a.answered(200, 3.05)),
        read(1).response(&b.answered(503, 3.1)),
    ];
    let request = told(&mut core, seen).request();
    let error = request.error.expect("503");
    assert_eq!(error.cause, Cause::ClosedBeforeResponse);
}

#[test]
fn a_request_that_waits_at_the_upstream_itself_is_none_of_the_proxys() {
    // Another worker's, at the same upstream, which has not answered anybody yet.
    let mut core = varnish();
    let x = sent(0, 1.2).answered(200, 3.0);
    let seen = vec![
        arrives(20, 1.0, GOOD, "/1"),
        sends(10, 1.1).to(GOOD).request(&x, "GET", "/1"),
        sends(10, 1.1).to(GOOD).response(&x),
    ];
    assert_eq!(told(&mut core, seen).attempt().join, Join::None);
}

#[test]
fn a_request_of_the_process_goes_before_one_of_nobody() {
    let mut core = varnish();
    let (a, b, x) = (sent(0, 1.0), sent(0, 1.1), sent(0, 1.2).answered(200, 3.0));
    let seen = vec![
        arrives(20, 1.0, "10.0.0.1:9000", "/1"),
        read(1).request(&a, "GET", "/1"),
        sends(10, 1.15).request(&x, "GET", "/1"),
        sends(10, 1.15).response(&x),
        read(1).response(&a.answered(200, 3.1)),
        // Nor is it weighed against another of the process.
        read(2).request(&b, "GET", "/2"),
    ];
    let told = told(&mut core, seen);
    assert_eq!(told.request().attempts.len(), 1);
}

#[test]
fn a_check_is_one_even_if_another_program_was_asked_for_the_same() {
    let mut core = varnish();
    let mut seen = Vec::new();
    for number in 0..8 {
        let at = 1.0 + 1000.0 * f64::from(number);
        let (a, x) = (sent(0, at), sent(0, at + 0.2).answered(200, at + 2.0));
        let cookie = u64::try_from(number).expect("a small number");
        let server = format!("10.0.0.1:{}", 9000 + number);
        let mut other = client(100 + cookie).of(None);
        other.socket.local = server.parse().expect("address");
        let probe = sends(200 + cookie, at + 0.1);
        seen.extend([
            other.request(&a, "GET", "/health"),
            probe.request(&x, "GET", "/health"),
            probe.response(&x),
            other.of(Some(APP)).response(&a.answered(200, at + 3.0)),
        ]);
    }
    let told = told(&mut core, seen);
    assert!(told.requests().is_empty(), "{:#?}", told.events);
    let alone = told.attempts().len();
    assert!(alone < 4, "{alone} of 8 checks are reported as attempts");
}
