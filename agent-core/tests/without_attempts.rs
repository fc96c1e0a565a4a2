//! Errors for which the proxy tried no upstream: none was left, the name did not resolve, or it is
//! the proxy's own.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{
    ConnectOutcome, DnsAnswer, End, Lookup, Observation, Opening, RequestHead, TlsHandshake, What,
};
use agent_core::{Input, ProcessInfo, ProcessKind};
use support::{
    PROXY, Told, client, core, errand, exchange_of, know, ms, process, sent, told, upstream,
};

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

/// An attempt at `to` that began at `at` ms and was answered until `until`.
fn answered(
    cookie: u64,
    client: u64,
    at: f64,
    path: &str,
    to: &str,
    until: f64,
) -> Vec<Observation> {
    let x = sent(0, at + 0.1)
        .errand(client, 0, 100)
        .answered(200, until);
    let u = upstream(cookie).to(to).opened(at);
    vec![u.request(&x, "GET", path), u.response(&x)]
}

/// Requests for `path` that one upstream refuses, 10 ms apart from `since` ms on.
fn all_refused(count: u64, path: &str, since: f64) -> Vec<Observation> {
    let one = |number: u64| {
        let (client, at) = (20 + number, since + 10.0 * number as f64);
        let attempts = vec![refused(100 + number, client, at + 0.1, "10.0.3.17:8080")];
        asked(client, at, path, attempts, 502, at + 1.0)
    };
    (0..count).flat_map(one).collect()
}

fn last(told: &Told) -> (Cause, Certainty, Option<Cause>) {
    let request = told.requests().last().cloned().expect("a request is told");
    let error = request.error.expect("it got an error");
    (error.cause, error.certainty, request.origin)
}

fn lookup(at: f64, client: u64, answer: Option<DnsAnswer>) -> Input {
    Input::LookUp(Lookup {
        time: ms(at),
        tgid: PROXY,
        errand: errand(client),
        asked: ms(2.0),
        id: None,
        answer,
    })
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
            Certainty::Guess,
            Some(Cause::ConnectRefused)
        )
    );
}

/// Both upstreams of `/shop/` refuse, and then there is an error at 900 ms without an attempt.
fn given_up() -> Vec<Observation> {
    let both = vec![
        refused(10, 1, 1.1, "10.0.3.17:8080"),
        refused(11, 1, 1.5, "10.0.3.18:8080"),
    ];
    let mut seen = asked(1, 1.0, "/shop/a", both, 502, 2.0);
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 502, 900.1));
    seen
}

/// What is told of the request for `/shop/b`.
#[track_caller]
fn of_b(told: &Told) -> (Cause, Certainty) {
    let mut requests = told.requests().into_iter();
    let is_b = |head: &RequestHead| &*head.path == "/shop/b";
    let request = requests.find(|request| request.head.as_ref().is_some_and(is_b));
    let error = request.expect("reported").error.expect("it got an error");
    (error.cause, error.certainty)
}

#[track_caller]
fn assert_no_live(told: &Told) {
    assert_eq!(of_b(told), (Cause::NoLiveUpstream, Certainty::Guess));
}

#[test]
fn an_upstream_that_is_back_soon_after_the_error_was_not_when_it_was_given() {
    let answers = answered(12, 3, 950.1, "/shop/c", "10.0.3.17:8080", 953.0);
    let mut seen = given_up();
    seen.extend(asked(3, 950.0, "/shop/c", answers, 200, 953.0));
    assert_no_live(&told(&mut core(), seen));
}

#[test]
fn an_attempt_under_way_that_began_after_the_error_does_not_show_a_live_upstream() {
    let x = sent(0, 950.2).errand(3, 0, 100);
    let u = upstream(12).to("10.0.3.17:8080").opened(950.1);
    let mut seen = given_up();
    seen.push(client(3).request(&sent(0, 950.0), "GET", "/shop/c"));
    seen.push(u.request(&x, "GET", "/shop/c"));
    assert_no_live(&told(&mut core(), seen));
}

#[test]
fn an_upstream_that_fails_all_the_time_failed_before_the_error_too() {
    let mut seen = given_up();
    seen.extend(all_refused(10, "/other/c", 901.0));
    assert_no_live(&told(&mut core(), seen));
}

#[test]
fn a_proxy_that_goes_on_trying_what_failed_may_have_given_it_up() {
    let one = |cookie, client, at| vec![refused(cookie, client, at, "10.0.3.17:8080")];
    let mut seen = asked(1, 1.0, "/shop/a", one(10, 1, 1.1), 502, 2.0);
    seen.extend(asked(3, 500.0, "/shop/c", one(11, 3, 500.1), 502, 501.0));
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 502, 900.1));
    let (cause, certainty, _) = last(&told(&mut core(), seen));
    assert_eq!(
        (cause, certainty),
        (Cause::NoLiveUpstream, Certainty::Guess)
    );
}

#[test]
fn failures_told_in_another_order_than_they_happened_are_no_sign_of_life() {
    let one = |cookie, client, at| {
        vec![
            refused(cookie, client, at, "10.0.3.17:8080"),
            refused(cookie + 10, client, at, "10.0.3.18:8080"),
        ]
    };
    let after = |first: f64, second: f64| {
        let mut seen = asked(3, 1.0, "/shop/c", one(11, 3, second), 502, second + 1.0);
        seen.extend(asked(
            1,
            1.0,
            "/shop/a",
            one(10, 1, first),
            502,
            second + 2.0,
        ));
        seen.extend(asked(2, 900.0, "/shop/b", vec![], 502, 900.1));
        assert_no_live(&told(&mut core(), seen));
    };
    // One after the other, and side by side.
    after(1.1, 5.1);
    after(1.1, 1.2);
}

#[test]
fn a_failure_told_late_does_not_hide_that_the_upstream_answered_since() {
    let first = client(1);
    let asked_first = sent(0, 1.0);
    let mut seen = vec![
        first.request(&asked_first, "GET", "/shop/a"),
        refused(10, 1, 1.1, "10.0.3.17:8080"),
    ];
    for number in 0..5 {
        let (client, at) = (20 + number, 10.0 + 100.0 * number as f64);
        let to = "10.0.3.17:8080";
        let answers = answered(100 + number, client, at + 0.1, "/shop/d", to, at + 1.0);
        seen.extend(asked(client, at, "/shop/d", answers, 200, at + 1.0));
    }
    // The proxy tried another one, and that took its time.
    seen.extend(answered(11, 1, 1.5, "/shop/a", "10.0.3.18:8080", 490.0));
    seen.push(first.response(&asked_first.answered(200, 491.0)));
    seen.extend(asked(2, 492.0, "/shop/b", vec![], 503, 492.1));
    let told = told(&mut core(), seen);
    let (cause, ..) = last(&told);
    assert_eq!(cause, Cause::ProxyGenerated);
}

#[test]
fn what_fails_after_the_error_is_not_why() {
    let good = answered(10, 1, 1.1, "/shop/a", "10.0.3.17:8080", 3.0);
    for failures in [1, 20] {
        let mut seen = asked(1, 1.0, "/shop/a", good.clone(), 200, 3.0);
        seen.extend(asked(2, 900.0, "/shop/b", vec![], 503, 900.1));
        seen.extend(all_refused(failures, "/shop/c", 910.0));
        let told = told(&mut core(), seen);
        assert_eq!(of_b(&told), (Cause::ProxyGenerated, Certainty::Strong));
    }
}

#[test]
fn an_upstream_that_was_added_after_the_error_was_not_there_to_be_tried() {
    let answers = answered(12, 3, 950.1, "/shop/c", "10.0.3.19:8080", 953.0);
    let mut seen = given_up();
    seen.extend(asked(3, 950.0, "/shop/c", answers, 200, 953.0));
    assert_no_live(&told(&mut core(), seen));
}

#[test]
fn a_route_whose_upstream_answers_gets_its_errors_from_the_proxy() {
    let good = answered(10, 1, 1.1, "/shop/a", "10.0.3.17:8080", 3.0);
    let mut seen = asked(1, 1.0, "/shop/a", good, 200, 3.0);
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 503, 900.1));
    assert_eq!(
        last(&told(&mut core(), seen)),
        (Cause::ProxyGenerated, Certainty::Strong, None)
    );
}

/// nginx with `fail_timeout=30s`, of which nothing is seen but what it does.
#[test]
fn an_upstream_that_never_succeeded_since_counts_as_given_up_however_long_ago_it_failed() {
    for at in [20_000.0, 60_000.0] {
        let both = vec![
            refused(10, 1, 1.1, "10.0.3.17:8080"),
            refused(11, 1, 1.5, "10.0.3.18:8080"),
        ];
        let mut seen = asked(1, 1.0, "/shop/a", both, 502, 2.0);
        seen.extend(asked(2, at, "/shop/b", vec![], 502, at + 0.1));
        assert_eq!(
            last(&told(&mut core(), seen)),
            (
                Cause::NoLiveUpstream,
                Certainty::Guess,
                Some(Cause::ConnectRefused)
            )
        );
    }
}

/// nginx answers 502 if no upstream is left, and 503 by `return` or a limit.
#[test]
fn a_status_that_the_proxy_does_not_give_for_that_is_no_sign_that_no_upstream_is_left() {
    let mut seen = asked(
        1,
        1.0,
        "/shop/a",
        vec![
            refused(10, 1, 1.1, "10.0.3.17:8080"),
            refused(11, 1, 1.5, "10.0.3.18:8080"),
        ],
        502,
        2.0,
    );
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 503, 900.1));
    assert_eq!(
        last(&told(&mut core(), seen)),
        (Cause::ProxyGenerated, Certainty::Guess, None)
    );
}

/// `ngx_http_upstream_get_round_robin_peer`, `peers->single`.
#[test]
fn nginx_that_has_a_single_upstream_goes_on_trying_it() {
    let one = vec![refused(10, 1, 1.1, "10.0.3.17:8080")];
    let mut seen = asked(1, 1.0, "/shop/a", one, 502, 2.0);
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 502, 900.1));
    let (cause, certainty, _) = last(&told(&mut core(), seen));
    assert_eq!(
        (cause, certainty),
        (Cause::NoLiveUpstream, Certainty::Guess)
    );
}

/// Of `before` and `after` 900 ms, when `/static` is answered without an attempt by a proxy that has
/// another location with these failures.
fn of_static(before: bool, after: bool) -> (Cause, Certainty) {
    let dead = |client, at: f64| {
        let both = vec![
            refused(2 * client, client, at + 0.1, "10.0.3.17:8080"),
            refused(2 * client + 1, client, at + 0.5, "10.0.3.18:8080"),
        ];
        asked(client, at, "/dead", both, 502, at + 1.0)
    };
    let mut seen = Vec::new();
    if before {
        seen.extend(dead(20, 800.0));
    }
    seen.extend(asked(2, 900.0, "/static", vec![], 503, 900.1));
    if after {
        seen.extend(dead(30, 905.0));
    }
    let told = told(&mut core(), seen);
    let mut requests = told.requests().into_iter();
    let is_static = |head: &RequestHead| &*head.path == "/static";
    let request = requests.find(|request| request.head.as_ref().is_some_and(is_static));
    let error = request.expect("reported").error.expect("it got an error");
    (error.cause, error.certainty)
}

#[test]
fn what_fails_at_another_location_is_not_why() {
    for (before, after) in [(false, true), (true, false), (true, true)] {
        assert_eq!(
            of_static(before, after),
            (Cause::ProxyGenerated, Certainty::Guess),
            "before {before}, after {after}"
        );
    }
}

/// Two of that name on one host; the second has never tried the upstreams of the first.
#[test]
fn what_failed_at_another_instance_of_the_proxy_is_not_why() {
    const OTHER: u32 = 101;
    let mut core = core();
    let instance = |instance| ProcessInfo {
        instance: Some(instance),
        ..process("nginx", ProcessKind::Known)
    };
    core.know_process(PROXY, instance(1));
    core.know_process(OTHER, instance(2));
    let both = vec![
        refused(10, 1, 1.1, "10.0.3.17:8080"),
        refused(11, 1, 1.5, "10.0.3.18:8080"),
    ];
    let mut seen = asked(1, 1.0, "/shop/a", both, 502, 2.0);
    let (c, x) = (client(2).of(Some(OTHER)), sent(0, 900.0));
    seen.push(c.request(&x, "GET", "/shop/b"));
    seen.push(c.response(&x.answered(502, 900.1)));
    assert_eq!(
        last(&told(&mut core, seen)),
        (Cause::ProxyGenerated, Certainty::Guess, None)
    );
}

#[test]
fn a_worker_has_what_another_worker_of_its_instance_saw() {
    const WORKER: u32 = 101;
    let mut core = core();
    for tgid in [PROXY, WORKER] {
        let info = ProcessInfo {
            instance: Some(1),
            ..process("nginx", ProcessKind::Known)
        };
        core.know_process(tgid, info);
    }
    let both = vec![
        refused(10, 1, 1.1, "10.0.3.17:8080"),
        refused(11, 1, 1.5, "10.0.3.18:8080"),
    ];
    let mut seen = asked(1, 1.0, "/shop/a", both, 502, 2.0);
    let (c, x) = (client(2).of(Some(WORKER)), sent(0, 900.0));
    seen.push(c.request(&x, "GET", "/shop/b"));
    seen.push(c.response(&x.answered(502, 900.1)));
    let (cause, certainty, _) = last(&told(&mut core, seen));
    assert_eq!(
        (cause, certainty),
        (Cause::NoLiveUpstream, Certainty::Guess)
    );
}

/// Envoy leaves an upstream alone with outlier detection only, httpd not with `retry=0`: the second
/// error may be of a rule for its path.
#[test]
fn that_one_connect_was_refused_is_no_strong_reason_where_the_proxy_may_go_on_trying() {
    for program in ["envoy", "httpd"] {
        let mut core = core();
        know(&mut core, PROXY, program, ProcessKind::Known);
        let dead = refused(50, 1, 1.1, "10.0.3.17:8080");
        let mut seen = asked(1, 1.0, "/app/x", vec![dead], 503, 1.4);
        seen.extend(asked(2, 501.0, "/app/limited", vec![], 503, 501.2));
        let found = last(&told(&mut core, seen));
        let origin = Some(Cause::ConnectRefused);
        assert_eq!(found, (Cause::NoLiveUpstream, Certainty::Guess, origin));
    }
}

/// Envoy's outlier detection (`consecutive_5xx`, 5 by default).
#[test]
fn an_upstream_with_nothing_but_errors_of_its_own_may_be_left_alone_for_them() {
    let after = |errors: u64| {
        let mut core = core();
        know(&mut core, PROXY, "envoy", ProcessKind::Known);
        let mut seen = Vec::new();
        for number in 0..errors {
            let (client, at) = (20 + number, 10.0 * number as f64);
            let x = sent(0, at + 0.1)
                .errand(client, 0, 100)
                .answered(503, at + 1.0);
            let u = upstream(100 + number).to("10.0.3.17:8080").opened(at);
            let attempt = vec![u.request(&x, "GET", "/shop/a"), u.response(&x)];
            seen.extend(asked(client, at, "/shop/a", attempt, 503, at + 1.0));
        }
        seen.extend(asked(2, 900.0, "/shop/b", vec![], 503, 900.1));
        last(&told(&mut core, seen))
    };
    assert_eq!(
        after(5),
        (
            Cause::NoLiveUpstream,
            Certainty::Guess,
            Some(Cause::UpstreamStatus)
        )
    );
    assert_eq!(after(1), (Cause::ProxyGenerated, Certainty::Guess, None));
}

/// `proxy_next_upstream http_502`: the next upstream is asked, and the one that answered counts as failed.
#[test]
fn an_upstream_whose_error_made_nginx_ask_the_next_one_may_be_left_alone_for_it() {
    let after = |program: &str, next: bool| {
        let mut core = core();
        know(&mut core, PROXY, program, ProcessKind::Known);
        let x = sent(0, 1.2).errand(1, 0, 100).answered(502, 1.4);
        let u = upstream(10).to("10.0.3.18:8080").opened(1.1);
        let mut attempts = vec![u.request(&x, "GET", "/shop/a"), u.response(&x)];
        attempts.extend(next.then(|| refused(11, 1, 1.5, "10.0.3.17:8080")));
        let code = if program == "nginx" { 502 } else { 503 };
        let mut seen = asked(1, 1.0, "/shop/a", attempts, code, 2.0);
        seen.extend(asked(2, 900.0, "/shop/b", vec![], code, 900.1));
        last(&told(&mut core, seen))
    };
    let origin = Some(Cause::ConnectRefused);
    let left_alone = (Cause::NoLiveUpstream, Certainty::Guess, origin);
    assert_eq!(after("nginx", true), left_alone);
    let (cause, ..) = after("nginx", false);
    assert_eq!(cause, Cause::ProxyGenerated);
    // Its checks decide, whatever `retry-on` says.
    let (cause, ..) = after("haproxy", true);
    assert_eq!(cause, Cause::ProxyGenerated);
}

#[test]
fn a_route_nobody_used_gives_a_guess_only() {
    let told = exchange_of(vec![], 503, 2.0);
    assert_eq!(last(&told), (Cause::ProxyGenerated, Certainty::Guess, None));
    assert_eq!(told.request().error_attempt, None);
}

/// The verdict on a request that is answered `code` after the process looked names up.
fn looked_up(lookups: Vec<Input>, code: u16) -> (Cause, Certainty, Option<Cause>) {
    let mut core = core();
    let mut seen = asked(1, 1.0, "/shop/a", vec![], code, 4.0).into_iter();
    let (mut inputs, mut events) = (Vec::new(), Vec::new());
    inputs.extend(seen.next().map(Input::Observe));
    inputs.extend(lookups);
    inputs.extend(seen.map(Input::Observe));
    inputs.push(Input::Finish);
    for input in inputs {
        core.feed(input, &mut events);
    }
    last(&Told { events })
}

#[test]
fn a_name_that_does_not_resolve_is_dns_failure() {
    let no_such_name = DnsAnswer {
        rcode: 3,
        records: 0,
    };
    for answer in [Some(no_such_name), None] {
        let mut lookups = vec![lookup(2.0, 1, None)];
        lookups.extend(answer.map(|answer| lookup(3.0, 1, Some(answer))));
        assert_eq!(
            looked_up(lookups, 502),
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
    let lookups = vec![lookup(2.0, 1, None), lookup(3.0, 1, Some(found))];
    let (cause, _, _) = looked_up(lookups, 503);
    assert_eq!(cause, Cause::ProxyGenerated);
}

/// A connection to an upstream inside TLS is open and kept, and then `/shop/b` gets an error at
/// `until` ms.
fn beside_tls(until: f64) -> Vec<Observation> {
    let tls = upstream(10).opened(0.1);
    let done = TlsHandshake {
        end: End::Complete,
        hello: ms(0.4),
        reply: Some(ms(0.5)),
        peer_fin: None,
        finished: None,
        reply_is_tls: Some(true),
        opening: Some(Opening::Tls),
        alert: None,
        acked: true,
        said_goodbye: false,
    };
    let mut seen = vec![
        tls.connect(0.3, ConnectOutcome::Established, None),
        tls.tls(0.6, done, 0),
    ];
    seen.extend(asked(2, 900.0, "/shop/b", vec![], 502, until));
    seen
}

#[test]
fn a_proxy_with_connections_nobody_can_read_is_not_blamed_for_an_error() {
    let mut haproxy = core();
    know(&mut haproxy, PROXY, "haproxy", ProcessKind::Known);
    let told = told(&mut haproxy, beside_tls(900.1));
    assert_eq!(of_b(&told), (Cause::Unattributed, Certainty::Guess));
}

#[test]
fn a_proxy_that_shows_when_it_uses_them_is_unless_it_took_its_time() {
    let at_once = told(&mut core(), beside_tls(900.1));
    assert_eq!(of_b(&at_once), (Cause::ProxyGenerated, Certainty::Guess));
    let late = told(&mut core(), beside_tls(1400.0));
    assert_eq!(of_b(&late), (Cause::Unattributed, Certainty::Guess));
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
