//! What fails while a request is open that gets an error: it may be its own, and had not failed before.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::Join;
use agent_core::observation::{ConnectOutcome, End, Observation};
use agent_core::{Core, Limits, ProcessKind};
use support::{PROXY, Told, client, errand, know, ms, sent, upstream};

/// Observes at their times, in ms, and lets time pass in between.
fn observed(mut core: Core, seen: Vec<(f64, Observation)>) -> Told {
    let mut events = Vec::new();
    let mut clock = 1.0;
    for (at, observation) in seen {
        while clock < at {
            core.advance(ms(clock), &mut events);
            clock += 1.0;
        }
        core.observe(observation, &mut events);
    }
    core.finish(&mut events);
    Told { events }
}

/// A core to which the process is new.
fn core_of(kind: ProcessKind) -> Core {
    let mut core = Core::new(Limits::default());
    core.advance(ms(0.5), &mut Vec::new());
    know(&mut core, PROXY, "node", kind);
    core
}

/// node, of which nothing is known: it reads its first request at 1 ms, connects at `connects`, is
/// refused, and answers at 49.5 ms, having loaded code. What it does 278 ms later makes it a proxy.
fn first_request(connects: f64) -> Told {
    let (a, b) = (client(1).of(None), client(2).of(None));
    let (x, y) = (sent(0, 1.0), sent(0, 279.0));
    let z = sent(0, 279.8).errand(2, 0, 100).ended(End::PeerFin);
    let dead = upstream(10).to("127.0.0.1:18089").opened(connects);
    let up = upstream(11).to("127.0.0.1:18081").opened(279.5);
    let mut why = errand(1);
    if let Some(why) = &mut why {
        why.age_us = ((connects - 1.0) * 1000.0) as u32;
    }
    let refused = dead.connect(connects + 0.2, ConnectOutcome::Reset, why);
    let seen = vec![
        (1.0, a.request(&x, "GET", "/refused/x")),
        (connects + 0.2, refused),
        (49.5, client(1).response(&x.answered(502, 49.5))),
        (279.0, b.request(&y, "GET", "/api/close")),
        (279.8, up.request(&z, "GET", "/close")),
        (280.6, up.end(280.6, &z)),
        (281.0, client(2).response(&y.answered(502, 281.0))),
    ];
    observed(core_of(ProcessKind::Unknown), seen)
}

#[test]
fn the_first_request_of_a_gateway_has_the_connect_that_failed_while_it_was_open() {
    // Right before the answer, and well before it.
    for connects in [48.0, 12.0, 8.0] {
        let told = first_request(connects);
        let requests = told.requests();
        let is_first = |path: &str| path == "/refused/x";
        let mut first = requests
            .iter()
            .filter(|one| one.head.as_ref().is_some_and(|head| is_first(&head.path)));
        let request = first.next().expect("it is reported");
        let error = request.error.expect("it got 502");
        let found = (error.cause, error.certainty, request.attempts.len());
        let guess = (Cause::ConnectRefused, Certainty::Guess, 1);
        assert_eq!(found, guess, "{connects}");
        assert_eq!(request.attempts[0].join, Join::Answer);
    }
}

/// A gateway whose connect is refused at 30 ms, and that answers at 260 ms, when that is told already;
/// with another that was refused before the request if `before`.
fn answered_late(before: bool) -> (Cause, Certainty, Option<Cause>) {
    let refused = |cookie, at: f64| {
        let dead = upstream(cookie).to("127.0.0.1:18089").opened(at);
        let seen = dead.connect(at + 0.2, ConnectOutcome::Reset, None);
        (at + 0.2, seen)
    };
    let mut seen = Vec::new();
    if before {
        seen.push(refused(9, 10.0));
    }
    let x = sent(0, 1000.0);
    seen.push((1000.0, client(1).request(&x, "GET", "/refused/x")));
    seen.push(refused(10, 1030.0));
    seen.push((1260.0, client(1).response(&x.answered(502, 1260.0))));
    let told = observed(core_of(ProcessKind::Known), seen);
    let request = told.request();
    let error = request.error.expect("it got 502");
    (error.cause, error.certainty, request.origin)
}

#[test]
fn what_failed_while_the_request_was_open_had_not_failed_before() {
    let own = answered_late(false);
    assert_eq!(own, (Cause::Unattributed, Certainty::Guess, None));
    let origin = Some(Cause::ConnectRefused);
    let both = answered_late(true);
    assert_eq!(both, (Cause::NoLiveUpstream, Certainty::Guess, origin));
}
