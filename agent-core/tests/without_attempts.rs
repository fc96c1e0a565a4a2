//! Errors for which the proxy tried no upstream: none was left, the name did not resolve, or it is
//! the proxy's own.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{ConnectOutcome, DnsAnswer, End, Observation, TlsHandshake, What};
use support::{PROXY, Told, client, core, errand, exchange_of, ms, sent, told, upstream};

/// A request of client `cookie` at `at` ms for `path`, with the records of its attempts, answered
/// 1 ms after `until`.
fn asked(
    cookie: u64,
    at: f64,
    path: &str,
    attempts: Vec<Observation>,
    code: u16,
    until: f64,
) -> Vec<Observation> {
    let (c, x) = (client(cookie), sent(0, at));
    let mut seen = vec![c.request(&x, "GET", path)];
    seen.extend(attempts);
    seen.push(c.response(&x.answered(code, until + 1.0)));
    seen
}

fn refused(cookie: u64, client: u64, at: f64, to: &str) -> Observation {
    upstream(cookie)
        .to(to)
        .opened(at)
        .connect(at + 0.2, ConnectOutcome::Reset, errand(client))
}

fn last(told: &Told) -> (Cause, Certainty, Option<Cause>) {
    let request = told.requests().last().cloned().expect("a request is told");
    let error = request.error.expect("it got an error");
    (error.cause, error.certainty, request.origin)
}

fn dns(at: f64, client: u64, answer: Option<DnsAnswer>) -> Observation {
    let mut seen = upstream(0).close(at);
    seen.what = What::Dns {
        errand: errand(client),
        asked: ms(2.0),
        answer,
    };
    seen
}

#[test]
fn after_both_upstreams_of_a_route_failed_the_next_error_is_no_live_upstream() {
    let both = vec![
        refused(10, 1, 1.1, "10.0.3.17:8080"),
        refused(11, 1, 1.5, "10.0.3.18:8080"),
    ];
    let mut seen = asked(1, 1.0, "/shop/a", both, 502, 2.0);
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 502, 900.1));
    assert_eq!(
        last(&told(&mut core(), seen)),
        (
            Cause::NoLiveUpstream,
            Certainty::Strong,
            Some(Cause::ConnectRefused)
        )
    );
}

#[test]
fn a_route_whose_upstream_answers_gets_its_errors_from_the_proxy() {
    let x = sent(0, 1.2).errand(1, 0, 100).answered(200, 3.0);
    let u = upstream(10).opened(1.1);
    let good = vec![u.request(&x, "GET", "/shop/a"), u.response(&x)];
    let mut seen = asked(1, 1.0, "/shop/a", good, 200, 3.0);
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 503, 900.1));
    assert_eq!(
        last(&told(&mut core(), seen)),
        (Cause::ProxyGenerated, Certainty::Strong, None)
    );
}

#[test]
fn long_after_the_fail_window_no_upstream_counts_as_given_up() {
    let one = vec![refused(10, 1, 1.1, "10.0.3.17:8080")];
    let mut seen = asked(1, 1.0, "/shop/a", one, 502, 2.0);
    seen.extend(asked(2, 60_000.0, "/shop/b", vec![], 503, 60_000.1));
    let (cause, certainty, _) = last(&told(&mut core(), seen));
    assert_eq!(
        (cause, certainty),
        (Cause::ProxyGenerated, Certainty::Strong)
    );
}

#[test]
fn a_route_nobody_used_gives_a_guess_only() {
    let told = exchange_of(vec![], 503, 2.0);
    assert_eq!(last(&told), (Cause::ProxyGenerated, Certainty::Guess, None));
    assert_eq!(told.request().error_attempt, None);
}

#[test]
fn a_name_that_does_not_resolve_is_dns_failure() {
    let no_such_name = DnsAnswer {
        rcode: 3,
        records: 0,
    };
    for answer in [Some(no_such_name), None] {
        let mut lookup = vec![dns(2.0, 1, None)];
        lookup.extend(answer.map(|answer| dns(3.0, 1, Some(answer))));
        let seen = asked(1, 1.0, "/shop/a", lookup, 502, 4.0);
        assert_eq!(
            last(&told(&mut core(), seen)),
            (Cause::DnsFailure, Certainty::Strong, None)
        );
    }
}

#[test]
fn a_name_that_resolves_is_no_dns_failure() {
    let found = DnsAnswer {
        rcode: 0,
        records: 1,
    };
    let lookup = vec![dns(2.0, 1, None), dns(3.0, 1, Some(found))];
    let seen = asked(1, 1.0, "/shop/a", lookup, 503, 4.0);
    let (cause, _, _) = last(&told(&mut core(), seen));
    assert_eq!(cause, Cause::ProxyGenerated);
}

#[test]
fn a_proxy_with_connections_nobody_can_read_is_not_blamed_for_an_error() {
    let tls = upstream(10).opened(0.1);
    let done = TlsHandshake {
        end: End::Complete,
        hello: ms(0.4),
        reply: Some(ms(0.5)),
        peer_fin: None,
        finished: None,
        reply_is_tls: Some(true),
        alert: None,
        acked: true,
    };
    let mut seen = vec![
        tls.connect(0.3, ConnectOutcome::Established, None),
        tls.tls(0.6, done, 0),
    ];
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 502, 900.1));
    let (cause, certainty, _) = last(&told(&mut core(), seen));
    assert_eq!((cause, certainty), (Cause::Unattributed, Certainty::Guess));
}

#[test]
fn a_connection_closed_instead_of_an_answer_says_nothing_of_upstreams() {
    let c = client(1);
    let x = sent(0, 1.0);
    let seen = vec![
        c.request(&x, "GET", "/shop/a"),
        c.end(2.0, &x.clone().ended(End::LocalClose)),
    ];
    let told = told(&mut core(), seen);
    assert_eq!(last(&told), (Cause::Unattributed, Certainty::Guess, None));
    assert_eq!(told.request().proxy.tgid, PROXY);
}

#[test]
fn a_failure_of_another_thread_is_joined_to_the_error_that_followed_it_at_once() {
    let mut unjoined = refused(10, 9, 1.1, "10.0.3.17:8080");
    if let What::Connect { errand, .. } = &mut unjoined.what {
        *errand = None;
    }
    let told = exchange_of(vec![unjoined], 503, 1.5);
    let request = told.request();
    let error = request.error.expect("an error");
    assert_eq!(error.cause, Cause::ConnectRefused);
    assert!(error.certainty > Certainty::Proof, "{error:?}");
    assert_eq!(request.attempts.len(), 1);
}

#[test]
fn a_failure_that_fits_two_errors_explains_neither_of_them_for_sure() {
    let mut unjoined = refused(10, 9, 1.2, "10.0.3.17:8080");
    if let What::Connect { errand, .. } = &mut unjoined.what {
        *errand = None;
    }
    let (one, other) = (client(1), client(2));
    let x = sent(0, 1.0);
    let told = told(
        &mut core(),
        vec![
            one.request(&x, "GET", "/shop/a"),
            other.request(&x, "GET", "/shop/b"),
            unjoined,
            one.response(&x.clone().answered(503, 1.5)),
            other.response(&x.answered(503, 1.6)),
        ],
    );
    for request in told.requests() {
        let error = request.error.expect("an error");
        assert_eq!(error.certainty, Certainty::Guess, "{error:?}");
    }
}
