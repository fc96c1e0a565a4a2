//! Which process is a proxy, by what it does.

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{ConnectOutcome, End, Observation, Side, What};
use agent_core::{Core, Limits, ProcessKind};
use support::{Ex, PROXY, client, errand, know, sent, told, upstream};

/// A refusal-free exchange on upstream connection `cookie` for `path`, sent at `at`.
fn served(cookie: u64, at: f64, path: &str, x: Ex) -> Vec<Observation> {
    let u = upstream(cookie).opened(at);
    let x = x.answered(200, at + 5.0);
    vec![u.request(&x, "GET", path), u.response(&x)]
}

#[test]
fn an_unknown_process_that_passes_a_request_on_becomes_a_proxy() {
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "edge", ProcessKind::Unknown);
    let (c, x) = (client(1), sent(0, 1.0));
    let mut seen = vec![c.request(&x, "GET", "/")];
    seen.extend(served(10, 1.5, "/", sent(0, 1.5).errand(1, 0, 100)));
    seen.push(c.response(&x.answered(200, 8.0)));
    assert_eq!(&*told(&mut core, seen).request().proxy.name, "edge");
}

#[test]
fn the_first_error_for_a_failed_attempt_makes_an_unknown_process_a_proxy() {
    // node in front of a database: not one request of its clients was ever passed on.
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "node", ProcessKind::Unknown);
    let (c, x) = (client(1), sent(0, 1.0));
    let database = upstream(10).to("10.0.0.9:5432").opened(1.5);
    let seen = vec![
        c.request(&x, "GET", "/cart"),
        database.connect(1.7, ConnectOutcome::Reset, errand(1)),
        c.response(&x.answered(500, 8.0)),
    ];
    let told = told(&mut core, seen);
    let request = told.request();
    assert_eq!(&*request.proxy.name, "node");
    let error = request.error.expect("500");
    assert_eq!(error.cause, Cause::ConnectRefused);
    assert_eq!(request.attempts.len(), 1);
    // The same failure behind a good answer does not.
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "node", ProcessKind::Unknown);
    let cache = upstream(11).to("10.0.0.9:6379").opened(1.5);
    let (c, x) = (client(2), sent(0, 1.0));
    let seen = vec![
        c.request(&x, "GET", "/cart"),
        cache.connect(1.7, ConnectOutcome::Reset, errand(2)),
        c.response(&x.answered(200, 8.0)),
    ];
    assert_eq!(self::told(&mut core, seen).requests().len(), 0);
}

/// What a process that nobody knows makes of a client's request: it asks a database on a connection that it
/// opens, in which it says something of its own, and answers 500 when that ends so.
fn asks_a_database(end: End, until: f64, touched: bool, answers: f64) -> Vec<Observation> {
    let (c, x) = (client(1), sent(0, 1.0));
    let mut database = upstream(10).to("10.0.0.9:5432").opened(1.5);
    database.socket.side = Side::Unknown;
    let asked = sent(0, 1.8).ended(end);
    let mut used = database.close(until);
    used.what = What::Unread {
        exchange: asked.exchange,
    };
    let by = if touched { errand(1) } else { None };
    vec![
        c.request(&x, "GET", "/cart"),
        database.connect(1.7, ConnectOutcome::Established, by),
        used,
        database.close(until),
        c.response(&x.answered(500, until + answers)),
    ]
}

/// That it was asked for the client is a guess: an application asks a cache, or sends its telemetry.
#[test]
fn the_first_error_for_a_database_that_does_not_answer_makes_an_unknown_process_a_proxy() {
    for (end, until, cause) in [
        (End::PeerReset, 2.5, Cause::ClosedBeforeResponse),
        (End::PeerFin, 2.5, Cause::ClosedBeforeResponse),
        (End::LocalClose, 1001.9, Cause::ResponseTimeout),
    ] {
        let of = |touched: bool| {
            let mut core = Core::new(Limits::default());
            know(&mut core, PROXY, "node", ProcessKind::Unknown);
            told(&mut core, asks_a_database(end, until, touched, 0.3))
        };
        let request = of(true).request();
        let error = request.error.expect("500");
        assert_eq!(error.cause, cause, "{end:?}");
        assert_eq!(error.certainty, Certainty::Guess, "{end:?}");
        // Another thread, which had not read the request, did so for reasons of its own.
        assert_eq!(of(false).requests().len(), 0, "{end:?}");
    }
}

#[test]
fn a_first_error_that_comes_late_is_explained_by_a_guess() {
    // A program that was just started compiles what it does for the first time.
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "node", ProcessKind::Unknown);
    let seen = asks_a_database(End::PeerReset, 2.5, true, 45.0);
    let request = told(&mut core, seen).request();
    let error = request.error.expect("500");
    assert_eq!(error.cause, Cause::ClosedBeforeResponse);
    assert_eq!(error.certainty, Certainty::Guess);
}

#[test]
fn an_application_server_is_no_proxy() {
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "node", ProcessKind::Unknown);
    let (c, x) = (client(1), sent(0, 1.0));
    let mut seen = vec![c.request(&x, "GET", "/")];
    // It calls another service meanwhile, with another request line.
    seen.extend(served(
        10,
        1.5,
        "/v1/charge",
        sent(0, 1.5).errand(1, 0, 100),
    ));
    seen.push(c.response(&x.answered(500, 8.0)));
    assert_eq!(told(&mut core, seen).requests().len(), 0);
    assert_eq!(core.stats().request_ledger.foreign, 1);
}

#[test]
fn an_excluded_process_is_left_alone() {
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "nginx", ProcessKind::Excluded);
    let (c, x) = (client(1), sent(0, 1.0));
    let seen = [
        c.request(&x, "GET", "/"),
        c.response(&x.clone().answered(502, 8.0)),
    ];
    assert_eq!(told(&mut core, seen).events.len(), 0);
    assert_eq!(core.stats().requests, 0);
}

/// An application that fails for a reason of its own while its cache is down: that the cache is why is a
/// guess, however often that was seen.
#[test]
fn a_cache_that_is_down_is_no_sure_reason_for_an_applications_own_error() {
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "node", ProcessKind::Unknown);
    let asked = |n: u64, code: u16, takes: f64| {
        let at = 10.0 + 1000.0 * n as f64;
        let (c, x) = (client(1 + n), sent(0, at));
        let cache = upstream(100 + n).to("10.0.0.9:6379").opened(at + 0.2);
        vec![
            c.request(&x, "GET", "/cart"),
            cache.connect(at + 0.4, ConnectOutcome::Reset, errand(1 + n)),
            c.response(&x.answered(code, at + takes)),
        ]
    };
    let mut seen: Vec<Observation> = (0..4).flat_map(|n| asked(n, 200, 3.0)).collect();
    seen.extend(asked(4, 500, 3.0));
    seen.extend(asked(5, 500, 300.0));
    let told = told(&mut core, seen);
    for request in told.requests() {
        if let Some(error) = request.error {
            assert_eq!(error.certainty, Certainty::Guess, "{request:#?}");
        }
    }
}
