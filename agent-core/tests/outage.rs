//! What an outage costs: counted in requests that are looked at, not in time.

mod support;

use agent_core::ProcessKind;
use agent_core::cause::Cause;
use agent_core::event::Request;
use agent_core::observation::ConnectOutcome;
use support::{client, core, errand, know, sent, told, upstream};

/// Requests that wait all the while.
const OPEN: u64 = 10_000;
/// Connects that are refused, in one second.
const REFUSED: u64 = 5_000;

/// Requests that may be looked at for each of them.
const EACH: u64 = 150;

const HAPROXY: u32 = 300;

#[test]
fn what_a_refused_connect_costs_does_not_grow_with_the_requests_that_are_open() {
    for (name, with_errand) in [("nginx", true), ("haproxy", false)] {
        let (explained, each) = outage(name, with_errand);
        println!("{name}: {explained} of {REFUSED} explained, {each} requests looked at for each");
        assert!(each <= EACH, "{name}: {each} for each refused connect");
        assert_eq!(explained, REFUSED, "{name}");
    }
}

/// How many of the refused were told so, and how many requests were looked at for each.
fn outage(name: &str, with_errand: bool) -> (u64, u64) {
    let mut core = core();
    know(&mut core, HAPROXY, name, ProcessKind::Known);
    let mut events = Vec::new();
    let of = Some(HAPROXY);
    for number in 1..=OPEN {
        let waits = client(number).of(of).request(&sent(0, 1.0), "GET", "/slow");
        core.observe(waits, &mut events);
    }
    let mut seen = Vec::new();
    for number in 0..REFUSED {
        let (asker, connect) = (100_000 + 2 * number, 100_001 + 2 * number);
        let at = 1000.0 + number as f64 / 5.0;
        let (asker_sock, asked) = (client(asker).of(of), sent(0, at));
        let reason = with_errand.then(|| errand(asker)).flatten();
        seen.push(asker_sock.request(&asked, "GET", "/"));
        let dead = upstream(connect).of(of).opened(at + 0.02);
        seen.push(dead.connect(at + 0.05, ConnectOutcome::Reset, reason));
        seen.push(asker_sock.response(&asked.answered(502, at + 0.1)));
    }
    let before = core.stats().requests_looked_at;
    let told = told(&mut core, seen);
    let each = (core.stats().requests_looked_at - before) / REFUSED;
    let refused = |request: &Request| {
        request
            .error
            .is_some_and(|failure| failure.cause == Cause::ConnectRefused)
    };
    let requests = told.requests();
    let explained = requests.iter().filter(|request| refused(request)).count();
    (explained as u64, each)
}
