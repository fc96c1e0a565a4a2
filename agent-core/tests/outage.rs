//! What an outage costs: counted in what is looked at, not in time.

mod support;

use agent_core::cause::Cause;
use agent_core::event::Request;
use agent_core::observation::{ConnectOutcome, Side};
use agent_core::{Core, ProcessKind};
use support::{client, core, errand, know, sent, told, upstream};

/// Requests that wait all the while.
const OPEN: u64 = 10_000;
/// Connects that are refused, in a second or in some.
const REFUSED: u64 = 5_000;

/// Requests that may be looked at for each of them.
const EACH: u64 = 150;

const HAPROXY: u32 = 300;

#[test]
fn what_a_refused_connect_costs_does_not_grow_with_the_requests_that_are_open() {
    for (name, with_errand, a_ms) in [
        ("nginx", true, 5.0),
        ("haproxy", false, 5.0),
        ("haproxy", true, 5.0),
        // So few that of those looked at many were answered later than at once.
        ("haproxy", false, 1.0),
        ("haproxy", true, 1.0),
    ] {
        let (explained, each) = outage(name, with_errand, a_ms);
        println!("{name}: {explained} of {REFUSED} explained, {each} requests looked at for each");
        assert!(each <= EACH, "{name}: {each} for each refused connect");
        assert_eq!(explained, REFUSED, "{name}");
    }
}

/// How many of the refused were told so, and how many requests were looked at for each.
fn outage(name: &str, with_errand: bool, a_ms: f64) -> (u64, u64) {
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
        let at = 1000.0 + number as f64 / a_ms;
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

/// Connections to upstreams and upstreams that may be looked at for each request that failed.
const EACH_CONNECTION: u64 = 10;

/// One second in which all requests are answered 502 after a refused connect, or without any where
/// `tried` is not; what was looked at for each.
fn failing(core: &mut Core, tried: bool) -> u64 {
    let of = Some(HAPROXY);
    let mut seen = Vec::new();
    for number in 0..REFUSED {
        let (asker, connect) = (100_000 + 2 * number, 100_001 + 2 * number);
        let at = 1000.0 + number as f64 / 5.0;
        let (c, asked) = (client(asker).of(of), sent(0, at));
        seen.push(c.request(&asked, "GET", &format!("/{number}")));
        if tried {
            let dead = upstream(connect).of(of).opened(at + 0.02);
            seen.push(dead.connect(at + 0.05, ConnectOutcome::Reset, errand(asker)));
        }
        seen.push(c.response(&asked.answered(502, at + 0.1)));
    }
    let before = core.stats().connections_looked_at;
    assert_eq!(told(core, seen).requests().len() as u64, REFUSED);
    (core.stats().connections_looked_at - before) / REFUSED
}

#[test]
fn what_a_failed_request_costs_does_not_grow_with_the_upstream_connections_that_are_not_read() {
    for (owned, tried) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut core = core();
        know(&mut core, HAPROXY, "nginx", ProcessKind::Known);
        let mut events = Vec::new();
        for number in 1..=OPEN {
            let of = Some(HAPROXY);
            let waits = client(number).of(of).request(&sent(0, 1.0), "GET", "/slow");
            core.observe(waits, &mut events);
            let mut tls = upstream(1_000_000 + number).of(of).opened(1.1);
            tls.socket.side = Side::Unknown;
            let reason = owned.then(|| errand(number)).flatten();
            let open = tls.connect(1.2, ConnectOutcome::Established, reason);
            core.observe(open, &mut events);
        }
        let each = failing(&mut core, tried);
        println!("owned {owned}, tried {tried}: {each} looked at for each");
        assert!(each <= EACH_CONNECTION, "{owned} {tried}: {each}");
    }
}

#[test]
fn what_a_failed_request_costs_does_not_grow_with_the_upstreams_of_others() {
    let mut core = core();
    know(&mut core, HAPROXY, "nginx", ProcessKind::Known);
    know(&mut core, 301, "envoy", ProcessKind::Known);
    for number in 0..OPEN {
        let c = client(500_000 + number).of(Some(301));
        let x = sent(0, 1.0);
        let address = format!("10.1.{}.{}:80", number >> 8, number & 255);
        let dead = upstream(2_000_000 + number).of(Some(301)).to(&address);
        let reason = errand(500_000 + number);
        let seen = [
            c.request(&x, "GET", "/other"),
            dead.opened(1.1).connect(1.2, ConnectOutcome::Reset, reason),
            c.response(&x.answered(503, 1.4)),
        ];
        let _refused = told(&mut core, seen);
    }
    let each = failing(&mut core, false);
    println!("{each} looked at for each");
    assert!(each <= EACH_CONNECTION, "{each}");
}
