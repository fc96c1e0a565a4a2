//! Health checks: attempts that a proxy makes by itself.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Check, Event, Upstream};
use agent_core::observation::{ConnectOutcome, End, Framing, Observation, Talk};
use agent_core::{Core, ProcessKind};
use support::{Ex, PROXY, Told, client, core, errand, know, sent, told, upstream};

const APP: &str = "10.0.3.17:8080";

fn core_of(program: &str) -> Core {
    let mut core = core();
    know(&mut core, PROXY, program, ProcessKind::Known);
    core
}

fn checks(told: &Told) -> Vec<Arc<Check>> {
    let check = |event: &Event| match event {
        Event::Check(check) => Some(Arc::clone(check)),
        _ => None,
    };
    told.events.iter().filter_map(check).collect()
}

/// A check at `at` ms that is answered with `status`, of whose body the proxy reads a part.
fn answered(number: u64, at: f64, status: u16) -> Vec<Observation> {
    let u = upstream(100 + number).to(APP).opened(at);
    let x = sent(0, at + 0.1)
        .head(status, at + 0.5, Framing::Close)
        .body(16_000, at + 0.6)
        .ended(End::LocalReset);
    vec![
        u.connect(at + 0.05, ConnectOutcome::Established, None),
        u.request(&x, "GET", "/healthz"),
        u.response(&x),
        u.end(at + 0.7, &x),
    ]
}

fn refused(number: u64, at: f64) -> Observation {
    let u = upstream(100 + number).to(APP).opened(at);
    u.connect(at + 0.1, ConnectOutcome::Reset, None)
}

#[test]
fn a_check_whose_answer_is_not_read_to_its_end_passes() {
    let seen = (0..4).flat_map(|number| answered(number, 2000.0 * number as f64, 200));
    let told = told(&mut core_of("haproxy"), seen);

    let checks = checks(&told);
    assert_eq!(checks.len(), 4, "{:#?}", told.events);
    for check in checks {
        assert_eq!((check.failure, check.code), (None, Some(200)));
        assert_eq!(check.path.as_deref(), Some("/healthz"));
    }
    assert_eq!(
        told.attempts().len(),
        0,
        "a check is no attempt for a request"
    );
}

#[test]
fn a_check_fails_by_its_status_too() {
    let told = told(&mut core_of("haproxy"), answered(0, 0.0, 404));
    let checks = checks(&told);
    assert_eq!(checks.len(), 1, "{:#?}", told.events);
    assert_eq!(checks[0].failure, Some(Cause::UpstreamStatus));
    assert_eq!(checks[0].code, Some(404));
}

/// So many tries at an address where nobody listens, so far apart in ms, for a client that speaks TLS.
fn tries_for_tls(program: &str, count: u64, apart: f64) -> Told {
    let mut seen = vec![client(9).unread_client(99.0, Talk::Tls)];
    seen.extend((0..count).map(|number| {
        let at = 100.0 + apart * number as f64;
        let u = upstream(100 + number).to(APP).opened(at);
        let why = errand(9).filter(|_| number == 0);
        u.connect(at + 0.05, ConnectOutcome::Reset, why)
    }));
    told(&mut core_of(program), seen)
}

#[test]
fn tries_by_a_timer_for_a_client_that_is_not_read_are_no_checks() {
    // `retries 3` of HAProxy with its pause of 1 s; `lb_try_duration` of Caddy.
    for (program, count, apart) in [("haproxy", 4, 1001.5), ("caddy", 12, 250.6)] {
        let told = tries_for_tls(program, count, apart);
        let found = (checks(&told).len(), told.attempts().len() as u64);
        assert_eq!(found, (0, count), "{program}");
    }
}

/// HAProxy answers `/shop/b` after the checks `seen` of the only upstream of that route.
fn error_after(mut seen: Vec<Observation>) -> Told {
    let x = sent(0, 1.1).errand(1, 0, 100).answered(200, 2.0);
    let u = upstream(10).to(APP).opened(1.0);
    let (a, b) = (client(1), client(2));
    let (first, second) = (sent(0, 1.0), sent(0, 9000.0));
    let mut all = vec![
        a.request(&first, "GET", "/shop/a"),
        u.request(&x, "GET", "/shop/a"),
        u.response(&x),
        a.response(&first.answered(200, 2.1)),
    ];
    all.append(&mut seen);
    all.push(b.request(&second, "GET", "/shop/b"));
    all.push(b.response(&second.answered(503, 9000.1)));
    told(&mut core_of("haproxy"), all)
}

#[test]
fn checks_that_fail_are_why_no_upstream_is_left() {
    let every_2_s = |number: u64| 1000.0 + 2000.0 * number as f64;
    let by_status = error_after(
        (0..3)
            .flat_map(|n| answered(n, every_2_s(n), 404))
            .collect(),
    );
    let by_connect = error_after((0..3).map(|n| refused(n, every_2_s(n))).collect());
    for (told, origin, code) in [
        (by_status, Cause::UpstreamStatus, Some(404)),
        (by_connect, Cause::ConnectRefused, None),
    ] {
        let requests = told.requests();
        let request = requests.last().expect("it is reported");
        let error = request.error.expect("it got 503");
        assert_eq!(
            (error.cause, error.certainty, request.origin),
            (Cause::NoLiveUpstream, Certainty::Guess, Some(origin))
        );
        let check = request.origin_check.as_ref().expect("a check failed");
        assert_eq!((check.code, check.failure), (code, Some(origin)));
    }
}

#[test]
fn one_check_that_fails_is_not_enough_to_be_sure_and_one_that_passes_is_no_sign() {
    let one = error_after(vec![refused(0, 5000.0)]);
    let error = one.requests().last().and_then(|request| request.error);
    let told = error.map(|error| (error.cause, error.certainty));
    assert_eq!(told, Some((Cause::NoLiveUpstream, Certainty::Guess)));

    let mut back = vec![refused(0, 3000.0), refused(1, 5000.0)];
    back.extend(answered(2, 7000.0, 200));
    let error = error_after(back)
        .requests()
        .last()
        .and_then(|one| one.error);
    assert_eq!(error.map(|error| error.cause), Some(Cause::ProxyGenerated));
}

/// What a request that nothing is known to go with gets from `program` after so many checks of a server
/// failed, which began before the agent. Requests for another route are answered by another server.
fn of_sick_route(program: &str, failed: u64, code: u16, more: Vec<Observation>) -> Told {
    let x = sent(0, 1.1).errand(1, 0, 100).answered(200, 2.0);
    let u = upstream(10).to("10.0.3.18:8080").opened(1.0);
    let (a, b) = (client(1), client(2));
    let (first, second) = (sent(0, 1.0), sent(0, 20_000.0));
    let mut seen = vec![
        a.request(&first, "GET", "/ok/a"),
        u.request(&x, "GET", "/ok/a"),
        u.response(&x),
        a.response(&first.answered(200, 2.1)),
    ];
    let check = |number: u64| {
        let at = 1000.0 + 2000.0 * number as f64;
        if program == "varnish" {
            return answered(number, at, 503);
        }
        vec![refused(number, at)]
    };
    seen.extend((0..failed).flat_map(check));
    seen.extend(more);
    seen.push(b.request(&second, "GET", "/shop/a"));
    seen.push(b.response(&second.answered(code, 20_000.1)));
    told(&mut core_of(program), seen)
}

#[test]
fn a_server_whose_checks_failed_from_the_start_may_be_the_one_of_a_route_that_nobody_knows() {
    for (program, origin) in [
        ("haproxy", Cause::ConnectRefused),
        ("caddy", Cause::ConnectRefused),
        ("varnish", Cause::UpstreamStatus),
    ] {
        let told = of_sick_route(program, 8, 503, vec![]);
        let requests = told.requests();
        let request = requests.last().expect("it is reported");
        let error = request.error.expect("it got 503");
        assert_eq!(
            (error.cause, error.certainty, request.origin),
            (Cause::NoLiveUpstream, Certainty::Guess, Some(origin)),
            "{program}"
        );
        let check = request.origin_check.as_ref().expect("a check failed");
        assert_eq!(check.failure, Some(origin));
    }
}

#[test]
fn a_server_whose_checks_fail_is_not_why_where_it_has_requests_of_its_own_or_would_be_tried() {
    let passes = answered(50, 17_000.0, 200);
    let (c, x) = (client(3), sent(0, 18_000.0));
    let u = upstream(60).to(APP).opened(18_000.1);
    let used = vec![
        c.request(&x, "GET", "/orders/a"),
        u.connect(18_000.3, ConnectOutcome::Reset, errand(3)),
        c.response(&x.answered(503, 18_000.5)),
    ];
    for (told, why) in [
        (of_sick_route("haproxy", 2, 503, vec![]), "two checks"),
        (of_sick_route("haproxy", 8, 502, vec![]), "another status"),
        (
            of_sick_route("envoy", 8, 503, vec![]),
            "Envoy goes on trying",
        ),
        (of_sick_route("haproxy", 8, 503, passes), "it is back"),
        (of_sick_route("haproxy", 8, 503, used), "of another route"),
    ] {
        let error = told.requests().last().and_then(|one| one.error);
        let found = error.map(|error| (error.cause, error.certainty));
        let own = Some((Cause::ProxyGenerated, Certainty::Guess));
        assert_eq!(found, own, "{why}");
    }
}

/// Its thread has read from that client just before.
#[test]
fn an_attempt_for_a_client_that_is_not_read_is_no_check() {
    let for_client = |number: u64| {
        let at = 2000.0 * number as f64;
        let u = upstream(100 + number).to(APP).opened(at);
        let x = sent(0, at + 0.1).errand(9, 0, 100).ended(End::LocalClose);
        [u.request(&x, "GET", "/orders"), u.end(at + 1000.0, &x)]
    };
    for program in ["haproxy", "nginx", "envoy", "caddy"] {
        let told = told(&mut core_of(program), (0..4).flat_map(for_client));
        assert_eq!(checks(&told).len(), 0, "{program}");
        assert_eq!(told.attempts().len(), 4, "{program}");
    }
}

/// Caddy's and Traefik's goroutines change threads, so that it is not known what they have read.
#[test]
fn an_attempt_of_a_go_program_is_a_check_from_the_third_in_even_intervals_on() {
    let seen = (0..5).flat_map(|number| answered(number, 2000.0 * number as f64, 500));
    let told = told(&mut core_of("caddy"), seen);
    assert_eq!(checks(&told).len(), 3, "{:#?}", told.events);
    assert_eq!(told.attempts().len(), 2);
}

/// The first connect that is refused has no request line by which it would be known. It is late where the
/// proxy had no CPU when it was due.
#[test]
fn a_check_that_is_refused_is_known_by_the_time_at_which_it_is_due() {
    for (interval, late) in [(2000.0, 0.0), (200.0, 120.0)] {
        let mut seen: Vec<Observation> = (0..4)
            .flat_map(|number| answered(number, interval * number as f64, 200))
            .collect();
        let at = 4.0 * interval + late;
        seen.extend([refused(4, at), refused(5, at + interval)]);
        let told = told(&mut core_of("caddy"), seen);
        let failed = checks(&told)
            .into_iter()
            .filter(|check| check.failure == Some(Cause::ConnectRefused));
        assert_eq!(failed.count(), 2, "{late} ms late: {:#?}", told.events);
    }
}

/// A request to a process that is left alone, the agent's own scrape say, is not the proxy's, once that
/// process has read from a client there: until it reads, nobody knows whose a request is.
#[test]
fn a_check_that_is_refused_while_the_agent_is_scraped_is_one() {
    let scrape = |cookie: u64, at: f64, read: f64| {
        let mut unread = client(cookie).of(None);
        unread.socket.local = "127.0.0.1:9502".parse().expect("address");
        let ignored = unread.clone().of(Some(900)).ignored(read);
        vec![
            (at, unread.request(&sent(0, at), "GET", "/metrics")),
            (read, ignored),
        ]
    };
    for program in ["caddy", "traefik", "varnish"] {
        let mut seen: Vec<(f64, Observation)> = (0..4)
            .flat_map(|number| {
                let at = 200.0 * number as f64;
                answered(number, at, 200)
                    .into_iter()
                    .map(move |one| (at, one))
            })
            .collect();
        seen.extend(scrape(1, 20.0, 20.3));
        // The agent had no CPU for a while.
        seen.extend(scrape(2, 799.0, 850.0));
        seen.push((800.1, refused(4, 800.0)));
        seen.push((1000.1, refused(5, 1000.0)));
        seen.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let mut core = core_of(program);
        know(&mut core, 900, "why502", ProcessKind::Excluded);
        let told = told(&mut core, seen.into_iter().map(|(_, one)| one));
        let failed = checks(&told)
            .into_iter()
            .filter(|check| check.failure == Some(Cause::ConnectRefused));
        assert_eq!(failed.count(), 2, "{program}: {:#?}", told.events);
    }
}

/// A server that is checked each 10 s is asked in the background (`proxy_cache_background_update`, grace of
/// Varnish), for a client that was answered from the cache.
#[test]
fn an_attempt_that_is_not_due_is_no_check() {
    for program in ["nginx", "varnish", "caddy", "traefik"] {
        let mut seen: Vec<Observation> = (0..4)
            .flat_map(|number| answered(number, 10_000.0 * number as f64, 200))
            .collect();
        let (a, x) = (client(1), sent(0, 35_000.0).answered(200, 35_000.5));
        seen.extend([a.request(&x, "GET", "/shop/a"), a.response(&x)]);
        let u = upstream(104).to(APP).opened(35_001.0);
        seen.push(u.connect(35_001.1, ConnectOutcome::Reset, errand(1)));
        let told = told(&mut core_of(program), seen);
        let attempts = told.attempts();
        let failed = attempts.iter().filter(|one| one.failure.is_some());
        assert_eq!(failed.count(), 1, "{program}: {:#?}", told.events);
    }
}

/// What a thread read last is the end of a connection whose client was read.
#[test]
fn a_check_by_a_thread_that_read_the_end_of_a_connection_is_one() {
    let passed = |number: u64, own: Ex| {
        let at = 2000.0 * number as f64;
        let u = upstream(100 + number).to(APP).opened(at);
        let x = own.answered(200, at + 1.0);
        [
            u.connect(at + 0.05, ConnectOutcome::Established, None),
            u.request(&x, "GET", "/healthz"),
            u.response(&x),
        ]
    };
    let at = |number: u64| 2000.0 * number as f64 + 0.1;
    let mut seen: Vec<Observation> = (0..4)
        .flat_map(|number| passed(number, sent(0, at(number))))
        .collect();
    let (a, x) = (client(1), sent(0, 7990.0).answered(503, 7991.0));
    seen.extend([
        a.request(&x, "GET", "/shop/a"),
        a.response(&x),
        a.close(7992.0),
    ]);
    seen.extend(passed(4, sent(0, at(4)).errand(1, 1, 100)));
    let told = told(&mut core_of("caddy"), seen);
    assert_eq!(checks(&told).len(), 3, "{:#?}", told.events);
}

/// Three checks that pass, and then one every 2 s that is refused; the thread of the latter had touched
/// the request `(1, 0)` last, which was answered before.
fn refused_after_a_request(program: &str) -> Told {
    let mut seen: Vec<Observation> = (0..4)
        .flat_map(|number| answered(number, 2000.0 * number as f64, 200))
        .collect();
    let (a, x) = (client(1), sent(0, 6500.0).answered(200, 6501.0));
    let (u, own) = (
        upstream(10).to(APP).opened(6500.1),
        sent(0, 6500.2).errand(1, 0, 100),
    );
    let own = own.answered(200, 6500.9);
    seen.extend([
        a.request(&x, "GET", "/shop/a"),
        u.request(&own, "GET", "/shop/a"),
        u.response(&own),
        a.response(&x),
    ]);
    for number in 4..7 {
        let at = 2000.0 * number as f64;
        let u = upstream(100 + number).to(APP).opened(at);
        seen.push(u.connect(at + 0.1, ConnectOutcome::Reset, errand(1)));
    }
    told(&mut core_of(program), seen)
}

/// Go's threads do the work of any goroutine: that of a request, and then that of checks.
#[test]
fn a_refused_check_by_a_thread_that_served_a_request_before_is_one() {
    for program in ["caddy", "traefik", "haproxy"] {
        let told = refused_after_a_request(program);
        let refused = |attempt: &&Arc<agent_core::event::Attempt>| attempt.failure.is_some();
        let attempts = told.attempts();
        assert_eq!(
            attempts.iter().filter(refused).count(),
            0,
            "{program}: {attempts:#?}"
        );
        let failed = checks(&told).into_iter();
        let failed = failed.filter(|check| check.failure == Some(Cause::ConnectRefused));
        assert_eq!(failed.count(), 3, "{program}");
    }
}

#[test]
fn a_retry_for_a_client_that_is_not_read_is_no_check() {
    let u = upstream(100).to(APP);
    let first = sent(0, 0.1).errand(9, 0, 100).ended(End::LocalClose);
    let v = upstream(101).to("10.0.3.18:8080").opened(1001.0);
    let second = sent(0, 1001.1).answered(200, 1002.0);
    let seen = [
        u.request(&first, "GET", "/orders"),
        u.end(1000.1, &first),
        // Its waiting is over, and it is told.
        client(5).request(&sent(0, 1500.0), "GET", "/other"),
        v.request(&second, "GET", "/orders"),
        v.response(&second),
    ];
    let mut core = core_of("haproxy");
    let mut events = Vec::new();
    for (number, observation) in seen.into_iter().enumerate() {
        if number == 2 {
            core.advance(support::ms(1000.9), &mut events);
        }
        core.observe(observation, &mut events);
    }
    core.finish(&mut events);
    assert_eq!(checks(&Told { events }).len(), 0);
}

#[test]
fn a_check_that_only_connects_is_known_when_it_comes_again() {
    let one = |number: u64| {
        let at = 2000.0 * number as f64;
        let u = upstream(100 + number).to(APP).opened(at);
        let mut close = u.close(at + 0.2);
        close.what = agent_core::observation::What::Close { talked: false };
        close.socket.side = agent_core::observation::Side::Unknown;
        [
            u.connect(at + 0.1, ConnectOutcome::Established, None),
            close,
        ]
    };
    let told = told(&mut core_of("haproxy"), (0..5).flat_map(one));
    let checks = checks(&told);
    assert_eq!(checks.len(), 3, "{:#?}", told.events);
    assert!(
        checks
            .iter()
            .all(|check| check.failure.is_none() && check.path.is_none())
    );
}

/// Requests wait all the time, each for a server that does not answer its SYN. Some of the checks of
/// another backend's dead server end just before an answer.
#[test]
fn checks_beside_requests_are_known_by_their_rhythm_and_belong_to_none() {
    let dark = "10.0.9.9:9001";
    let mut seen: Vec<(f64, Observation)> = (0..30)
        .map(|number| {
            let at = 190.0 + 200.0 * number as f64;
            (at + 0.1, refused(number, at))
        })
        .collect();
    for number in 0..6_u64 {
        let at = 1001.0 * number as f64;
        let (c, x) = (client(1 + number), sent(0, at));
        let u = upstream(50 + number).to(dark).opened(at + 0.1);
        let path = format!("/dark/{number}");
        seen.push((at, c.request(&x, "GET", &path)));
        let given_up = u.connect(at + 1000.0, ConnectOutcome::ClosedByUs, None);
        seen.push((at + 1000.0, given_up));
        seen.push((at + 1000.1, c.response(&x.answered(503, at + 1000.1))));
    }
    seen.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut core = core_of("haproxy");
    let mut events = Vec::new();
    for (at, observation) in seen {
        core.advance(support::ms(at), &mut events);
        core.observe(observation, &mut events);
    }
    core.finish(&mut events);
    let told = Told { events };

    let requests = told.requests();
    assert_eq!(requests.len(), 6);
    // Nothing is known yet while the first ones wait.
    for request in &requests[2..] {
        let error = request.error.expect("it got 503");
        assert_eq!(error.cause, Cause::ConnectTimeout, "{request:#?}");
        let upstreams = request.attempts.iter().map(|one| one.upstream.clone());
        let own = Upstream::Inet(dark.parse().expect("an address"));
        assert_eq!(upstreams.collect::<Vec<_>>(), [own]);
    }
    let checks = checks(&told).len();
    assert!(checks >= 20, "{checks}");
}

/// What HAProxy does with `on-marked-down shutdown-sessions`: a request that is under way ends when the
/// third check has failed, at `closed` ms, with `code`.
fn ends_after_checks(closed: f64, code: u16) -> (Cause, Certainty, Option<Cause>) {
    let (c, asked) = (client(1), sent(0, 4500.0));
    let u = upstream(10).to(APP).opened(4500.1);
    let x = sent(0, 4500.2).errand(1, 0, 100);
    let mut seen: Vec<Observation> = (0..3)
        .flat_map(|n| answered(n, 2000.0 * n as f64, 200))
        .collect();
    seen.push(c.request(&asked, "GET", "/shop/a"));
    seen.push(u.request(&x, "GET", "/shop/a"));
    seen.extend(answered(3, 6000.0, 503));
    seen.push(c.response(&asked.answered(code, closed)));
    seen.push(u.end(closed + 0.1, &x.ended(End::LocalClose)));
    let told = told(&mut core_of("haproxy"), seen);
    let requests = told.requests();
    let request = requests.last().expect("it is reported");
    let error = request.error.expect("it got an error");
    let check = request.origin_check.as_ref();
    assert_eq!(request.origin.is_some(), check.is_some());
    (error.cause, error.certainty, request.origin)
}

#[test]
fn a_request_that_ends_with_its_servers_health_check_ran_into_no_timer() {
    let status = Some(Cause::UpstreamStatus);
    assert_eq!(
        ends_after_checks(6001.0, 503),
        (Cause::NoLiveUpstream, Certainty::Strong, status)
    );
    let (cause, _, origin) = ends_after_checks(6001.0, 504);
    assert_eq!((cause, origin), (Cause::ResponseTimeout, None));
    let (cause, _, origin) = ends_after_checks(6500.0, 503);
    assert_eq!((cause, origin), (Cause::Unattributed, None));
}
