//! What a proxy does for others while a request waits, which is not to be taken for what it does for this one.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Event, Join, Request, Upstream};
use agent_core::observation::{ConnectOutcome, End, Errand, Framing, Observation, Side, What};
use agent_core::{Core, ProcessKind};
use support::{Ex, PROXY, Sock, Told, client, core, errand, know, ms, sent, upstream};

fn core_of(program: &str) -> Core {
    let mut core = core();
    know(&mut core, PROXY, program, ProcessKind::Known);
    core
}

/// Observes in the order of the times, in ms, and lets time pass in between.
fn observed(program: &str, mut seen: Vec<(f64, Observation)>) -> Told {
    seen.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let (mut core, mut events) = (core_of(program), Vec::new());
    for (at, observation) in seen {
        core.advance(ms(at), &mut events);
        core.observe(observation, &mut events);
    }
    core.finish(&mut events);
    Told { events }
}

fn request_of(told: &Told, path: &str) -> Arc<Request> {
    let mut requests = told.requests().into_iter();
    let is_it = |one: &Request| one.head.as_ref().is_some_and(|head| head.path == path);
    requests.find(|one| is_it(one)).expect("it is reported")
}

/// A request of client `cookie` at `from` ms that got `code` at `until`.
fn asked(cookie: u64, path: &str, (from, until): (f64, f64), code: u16) -> Vec<(f64, Observation)> {
    let (c, x) = (client(cookie), sent(0, from));
    let answer = c.response(&x.clone().answered(code, until));
    vec![(from, c.request(&x, "GET", path)), (until, answer)]
}

/// A connection whose talk is not read, used from `from` to `until` ms for nobody knows whom.
fn used_unread((from, until): (f64, f64)) -> Vec<(f64, Observation)> {
    let mut u = upstream(70).to("10.0.3.17:9443").opened(from);
    u.socket.side = Side::Unknown;
    let of = |x: Ex, at: f64| {
        let mut seen = u.close(at);
        let exchange = x.exchange;
        seen.socket.side = Side::Unknown;
        seen.what = What::Unread { exchange };
        seen
    };
    let x = sent(0, from + 0.1);
    vec![
        (from, u.connect(from, ConnectOutcome::Established, None)),
        (from + 0.1, of(x.clone(), from + 0.1)),
        (until, of(x.ended(End::LocalClose), until)),
        (until, u.close(until)),
    ]
}

/// HAProxy's connect timeout of a second, beside a connection to an upstream that speaks TLS.
fn given_up_beside(unread: (f64, f64)) -> (Cause, Certainty) {
    let dark = upstream(10).to("10.0.9.9:9001").opened(1000.2);
    let given_up = dark.connect(2000.1, ConnectOutcome::ClosedByUs, errand(1));
    let mut seen = asked(1, "/dark/a", (1000.0, 2000.0), 503);
    seen.push((2000.1, given_up));
    seen.extend(used_unread(unread));
    let request = request_of(&observed("haproxy", seen), "/dark/a");
    let error = request.error.expect("it got 503");
    (error.cause, error.certainty)
}

#[test]
fn what_is_not_read_competes_only_where_it_may_have_failed_for_the_request() {
    let own = (Cause::ConnectTimeout, Certainty::Strong);
    assert_eq!(given_up_beside((1400.0, 1700.0)), own, "over before");
    assert_eq!(given_up_beside((1400.0, 2900.0)), own, "began later");
    let either = (Cause::Unattributed, Certainty::Guess);
    assert_eq!(given_up_beside((1400.0, 2000.0)), either, "ends with it");
    assert_eq!(given_up_beside((1000.3, 2900.0)), either, "begins with it");
}

/// What HAProxy tries again after a second: its first connect is refused at 1300.2 ms, while another
/// request waits in a queue, until 1340 ms.
fn tried_again(age_us: u32) -> Told {
    let why = errand(2).map(|errand| Errand { age_us, ..errand });
    let dead = |number: u64, at: f64| upstream(number).to("10.0.3.18:8080").opened(at);
    let first = dead(10, 1300.1).connect(1300.2, ConnectOutcome::Reset, why);
    let second = dead(11, 2300.3).connect(2300.4, ConnectOutcome::Reset, None);
    let mut seen = asked(1, "/limited/a", (1040.0, 1340.0), 503);
    seen.extend(asked(2, "/dead/a", (1300.0, 2300.5), 503));
    seen.extend([(1300.2, first), (2300.4, second)]);
    observed("haproxy", seen)
}

#[test]
fn a_first_try_is_of_the_request_that_came_last_and_of_none_that_got_its_error_meanwhile() {
    let told = tried_again(100);
    let limited = request_of(&told, "/limited/a");
    assert_eq!(limited.attempts.len(), 0);
    let cause = limited.error.expect("it got 503").cause;
    assert_eq!(cause, Cause::ProxyGenerated);

    let dead = request_of(&told, "/dead/a");
    let joins = dead
        .attempts
        .iter()
        .map(|one| (one.join, one.join_certainty));
    let (guess, strong) = (Some(Certainty::Guess), Some(Certainty::Strong));
    let expected = [(Join::Waiting, guess), (Join::Waiting, strong)];
    assert_eq!(joins.collect::<Vec<_>>(), expected);

    // Not read just then: a timer may have made it.
    let told = tried_again(10_000);
    assert_eq!(request_of(&told, "/limited/a").attempts.len(), 0);
    assert_eq!(request_of(&told, "/dead/a").attempts.len(), 1);
}

/// Checks of a server that fail, at those ms, the last one beside a request that waits, whose client was
/// read `age_us` before.
fn checks_beside(age_us: u32, at: [f64; 3]) -> usize {
    let refused = |number: u64, at: f64, why: Option<Errand>| {
        let u = upstream(100 + number).to("10.0.3.19:8080").opened(at);
        (at + 0.1, u.connect(at + 0.1, ConnectOutcome::Reset, why))
    };
    let why = errand(1).map(|errand| Errand { age_us, ..errand });
    let mut seen = asked(1, "/limited/a", (at[2] - 10.0, at[2] + 290.0), 503);
    seen.extend([
        refused(0, at[0], None),
        refused(1, at[1], None),
        refused(2, at[2], why),
    ]);
    let told = observed("haproxy", seen);
    let checks = |event: &&Event| matches!(event, Event::Check(_));
    told.events.iter().filter(checks).count()
}

#[test]
fn what_is_known_for_checks_only_is_checked_in_whatever_rhythm() {
    // First `inter`, then `downinter`.
    let slower = [5000.0, 10_800.0, 16_000.0];
    assert_eq!(checks_beside(3_000, slower), 3);
    assert_eq!(checks_beside(100, slower), 2, "its client may have asked");
    let late = |ms: f64| [14_000.0, 15_000.0, 16_000.0 + ms];
    assert_eq!(checks_beside(100, late(120.0)), 3, "it had no CPU");
    assert_eq!(
        checks_beside(100, late(200.0)),
        2,
        "its client may have asked"
    );
}

/// Where requests of a route go is known while the first of them is served.
#[test]
fn a_route_is_known_as_soon_as_it_is_used() {
    let (c, x) = (client(5), sent(0, 19_000.0));
    let u = upstream(60).to("10.0.3.18:8080").opened(19_000.1);
    let y = sent(0, 19_000.2).errand(5, 0, 100).answered(200, 19_900.0);
    let refused = |number: u64| {
        let at = 1000.0 + 2000.0 * number as f64;
        let u = upstream(100 + number).to("10.0.3.19:8080").opened(at);
        (at + 0.1, u.connect(at + 0.1, ConnectOutcome::Reset, None))
    };
    for served in [true, false] {
        let mut seen = asked(6, "/limited/b", (19_100.0, 19_400.0), 503);
        seen.extend((0..8).map(refused));
        if served {
            seen.extend([
                (19_000.0, c.request(&x, "GET", "/limited/a")),
                (19_000.2, u.request(&y, "GET", "/limited/a")),
                (19_900.0, u.response(&y)),
                (19_900.1, c.response(&x.clone().answered(200, 19_900.1))),
            ]);
        }
        let request = request_of(&observed("haproxy", seen), "/limited/b");
        let cause = request.error.expect("it got 503").cause;
        let expected = if served {
            Cause::ProxyGenerated
        } else {
            Cause::NoLiveUpstream
        };
        assert_eq!(cause, expected);
    }
}

/// A request to `/shop/NUMBER` of which nothing came back: its proxy gave it up after a second.
fn given_up(number: u64, at: f64, code: u16) -> Vec<(f64, Observation)> {
    let u = upstream(1000 + number).opened(at + 0.1);
    let x = sent(0, at + 0.5).errand(number, 0, 100);
    let path = format!("/shop/{number}");
    let mut seen = asked(number, &path, (at, at + 1000.6), code);
    seen.push((at + 0.5, u.request(&x, "GET", &path)));
    let over = at + 1000.5;
    seen.push((over, u.end(over, &x.ended(End::LocalClose))));
    seen
}

/// Another one is under way for longer, of which no head is known: its bytes may come one by one.
#[test]
fn what_may_get_its_head_in_drips_does_not_speak_against_a_proxys_word_for_timers() {
    for (program, code, expected) in [
        ("httpd", 502, Cause::ResponseTimeout),
        ("gateway", 502, Cause::Unattributed),
    ] {
        let (c, x) = (client(50), sent(0, 1.0));
        let u: Sock = upstream(51).opened(1.1);
        let y = sent(0, 1.5).errand(50, 0, 100);
        let mut seen = vec![
            (1.0, c.request(&x, "GET", "/shop/50")),
            (1.5, u.request(&y, "GET", "/shop/50")),
        ];
        seen.extend(given_up(1, 2500.0, code));
        // A look at what is under way takes time to pass.
        let tick = sent(0, 2400.0);
        seen.push((2400.0, client(52).request(&tick, "GET", "/tick")));
        seen.push((3520.0, client(53).request(&tick, "GET", "/tock")));
        let request = request_of(&observed(program, seen), "/shop/1");
        let cause = request.error.expect("it got 502").cause;
        assert_eq!(cause, expected, "{program}");
    }
}

/// HAProxy passes a head on whose length no number holds, and closes both ends at once.
#[test]
fn a_malformed_head_that_was_passed_on_and_cut_is_invalid_perhaps() {
    for (malformed, expected) in [(true, Cause::InvalidResponse), (false, Cause::Unattributed)] {
        let (c, x) = (client(1), sent(0, 1.0));
        let u = upstream(10).opened(1.1);
        let length = Framing::Length(u64::MAX >> 1);
        let y = sent(0, 1.2).errand(1, 0, 100).head(200, 2.0, length);
        let mut head = u.response(&y);
        if let What::Response {
            head: Some(head), ..
        } = &mut head.what
        {
            head.malformed = malformed;
        }
        let cut = x.clone().head(200, 2.1, length).ended(End::LocalClose);
        let seen = vec![
            (1.0, c.request(&x, "GET", "/a")),
            (1.2, u.request(&y, "GET", "/a")),
            (2.0, head),
            (2.1, c.response(&cut)),
            (2.2, u.end(2.2, &y.ended(End::LocalClose))),
            (5000.0, c.end(5000.0, &cut)),
        ];
        let told = observed("haproxy", seen);
        let failure = told.attempt().failure.expect("it was cut");
        let found = (failure.cause, failure.certainty);
        assert_eq!(found, (expected, Certainty::Guess));
    }
}

/// The peer's FIN, then data of this end, then the RST that a kernel gives to that: it acknowledges
/// nothing.
#[test]
fn a_reset_behind_a_fin_is_of_the_peer_that_closed() {
    for (errno, sure) in [(32, Certainty::Proof), (104, Certainty::Strong)] {
        let u = upstream(10).opened(1.1).errno(errno);
        let x = sent(0, 1.2)
            .errand(1, 0, 100)
            .acked(0)
            .ended(End::KernelError);
        let mut seen = asked(1, "/a", (1.0, 1.6), 502);
        seen.push((1.2, u.request(&x, "GET", "/a")));
        seen.push((1.5, u.end(1.5, &x)));
        let told = observed("httpd", seen);
        let failure = told.attempt().failure.expect("it failed");
        let found = (failure.cause, failure.certainty);
        assert_eq!(found, (Cause::ClosedBeforeResponse, sure), "{errno}");
    }
}

/// Two connects are refused before the only error, the first of them a check that is not known yet.
#[test]
fn of_two_refused_connects_the_one_that_the_error_followed_is_its_own_as_a_guess() {
    let check = upstream(10).to("10.0.3.19:8080").opened(1008.0);
    let own = upstream(11).to("10.0.3.18:8080").opened(1012.0);
    let mut seen = asked(1, "/dead/a", (1000.0, 1012.4), 503);
    // Another waits, so that neither is of the only one.
    seen.extend(asked(2, "/slow/a", (990.0, 1400.0), 200));
    seen.push((1008.1, check.connect(1008.1, ConnectOutcome::Reset, None)));
    let why = errand(1);
    seen.push((1012.2, own.connect(1012.2, ConnectOutcome::Reset, why)));
    let request = request_of(&observed("haproxy", seen), "/dead/a");
    let upstreams = request.attempts.iter().map(|one| one.upstream.clone());
    let expected = Upstream::Inet("10.0.3.18:8080".parse().expect("an address"));
    assert_eq!(upstreams.collect::<Vec<_>>(), [expected]);
    let error = request.error.expect("it got 503");
    assert_eq!(
        (error.cause, error.certainty),
        (Cause::ConnectRefused, Certainty::Guess)
    );
}

/// A request to a server that speaks TLS gets that server's own 502 over a connection that is kept, and so
/// is not over; one that came 6 ms before is refused at another, and tried again a second later.
#[test]
fn what_is_used_late_and_not_over_may_be_why_too() {
    let mut tls = upstream(70).to("10.0.3.17:9443").opened(500.0);
    tls.socket.side = Side::Unknown;
    let mut used = tls.close(1300.0);
    let exchange = sent(0, 1300.0).exchange;
    used.socket.side = Side::Unknown;
    used.what = What::Unread { exchange };
    let dead = upstream(10).to("10.0.3.18:8080").opened(1394.2);
    let refused = dead.connect(1394.3, ConnectOutcome::Reset, errand(2));
    let mut seen = asked(1, "/tls/a", (1000.0, 1400.0), 502);
    seen.extend(asked(2, "/dead/a", (1394.0, 3000.0), 503));
    seen.extend([
        (500.1, tls.connect(500.1, ConnectOutcome::Established, None)),
        (1300.0, used),
        (1394.3, refused),
    ]);
    let request = request_of(&observed("haproxy", seen), "/tls/a");
    let error = request.error.expect("it got 502");
    assert_eq!(error.certainty, Certainty::Guess, "{request:#?}");
}

/// A connect that a thread makes at once for the client it has just read from is that client's, also just
/// when a check of its server is due.
#[test]
fn a_connect_for_the_client_just_read_is_no_check_that_is_due() {
    let at_server = |number: u64, at: f64, outcome, why| {
        let u = upstream(100 + number).to("10.0.3.19:8080").opened(at);
        (at + 0.1, u.connect(at + 0.1, outcome, why))
    };
    let mut seen: Vec<(f64, Observation)> = Vec::new();
    for number in 0..5_u64 {
        let at = 2000.0 * (number + 1) as f64;
        let (at, opened) = at_server(number, at, ConnectOutcome::Established, None);
        let u = upstream(100 + number).to("10.0.3.19:8080").opened(at);
        seen.extend([(at, opened), (at + 0.1, u.close(at + 0.1))]);
    }
    let why = errand(1).map(|errand| Errand {
        age_us: 100,
        ..errand
    });
    seen.push(at_server(9, 12_000.0, ConnectOutcome::Reset, why));
    seen.extend(asked(1, "/shop/a", (11_999.9, 12_000.4), 503));
    seen.extend(asked(2, "/slow/a", (11_990.0, 12_400.0), 200));
    let request = request_of(&observed("haproxy", seen), "/shop/a");
    let error = request.error.expect("it got 503");
    assert_eq!(error.cause, Cause::ConnectRefused, "{request:#?}");
    assert_eq!(request.attempts.len(), 1);
}

/// A check that goes on failing is due just when the thread has read from a client, whose request gets an
/// error at once: the check is no attempt of that request.
#[test]
fn a_check_that_goes_on_failing_is_no_attempt_of_the_client_just_read() {
    let refused = |number: u64, at: f64, why| {
        let u = upstream(100 + number).to("10.0.3.19:8080").opened(at);
        (at + 0.1, u.connect(at + 0.1, ConnectOutcome::Reset, why))
    };
    let mut seen: Vec<_> = (0..5_u64)
        .map(|number| refused(number, 2000.0 * (number + 1) as f64, None))
        .collect();
    let why = errand(1).map(|errand| Errand {
        age_us: 100,
        ..errand
    });
    seen.push(refused(9, 12_000.0, why));
    seen.extend(asked(1, "/shop/a", (11_999.9, 12_000.4), 503));
    seen.extend(asked(2, "/slow/a", (11_990.0, 12_400.0), 200));
    let request = request_of(&observed("haproxy", seen), "/shop/a");
    assert!(request.attempts.is_empty(), "{request:#?}");
    let error = request.error.expect("it got 503");
    assert_eq!(
        (error.cause, error.certainty),
        (Cause::NoLiveUpstream, Certainty::Guess)
    );
}

/// HAProxy answers and then closes upstream; its CPU is taken away in between. No other proxy is known to.
#[test]
fn a_connect_that_haproxy_gives_up_behind_its_answer_may_be_why() {
    let with = |program, late: f64| {
        let u = upstream(10).to("10.0.3.18:8080").opened(1000.1);
        let mut seen = asked(1, "/dark/a", (1000.0, 2001.0), 503);
        let at = 2001.0 + late;
        seen.push((at, u.connect(at, ConnectOutcome::ClosedByUs, errand(1))));
        let request = request_of(&observed(program, seen), "/dark/a");
        let error = request.error.expect("it got 503");
        (error.cause, error.certainty)
    };
    for late in [1.3, 120.0] {
        let found = with("haproxy", late);
        assert_eq!(found, (Cause::ConnectTimeout, Certainty::Guess), "{late}");
        for program in ["caddy", "varnish", "traefik"] {
            let (cause, sure) = with(program, late);
            assert_ne!(sure, Certainty::Proof, "{program} {late}");
            assert_ne!((cause, sure), (Cause::ConnectTimeout, Certainty::Strong));
        }
    }
}

/// HAProxy tries a server again after a second that it had only checked before.
#[test]
fn tries_at_a_server_that_had_checks_only_are_no_checks() {
    let at_server = |number: u64, at: f64, why| {
        let u = upstream(100 + number).to("10.0.3.19:8080").opened(at);
        (at + 0.1, u.connect(at + 0.1, ConnectOutcome::Reset, why))
    };
    // Its checks failed before, and passed since.
    let mut seen: Vec<_> = (0..4_u64)
        .map(|number| at_server(number, 5000.0 * (number + 1) as f64, None))
        .collect();
    for number in 0..4_u64 {
        let age_us = 100 + 1_000_000 * number as u32;
        let why = errand(1).map(|errand| Errand { age_us, ..errand });
        seen.push(at_server(
            10 + number,
            22_000.1 + 1000.0 * number as f64,
            why,
        ));
    }
    seen.extend(asked(1, "/shop/a", (22_000.0, 25_000.4), 503));
    let request = request_of(&observed("haproxy", seen), "/shop/a");
    let error = request.error.expect("it got 503");
    assert_eq!(error.cause, Cause::ConnectRefused, "{request:#?}");
    assert_eq!(request.attempts.len(), 4, "{request:#?}");
}

/// Nobody has answered on the route yet.
#[test]
fn an_upstream_under_its_first_request_is_not_known_to_be_well() {
    let (c, x) = (client(5), sent(0, 1000.0));
    let u = upstream(60).to("10.0.3.18:8080").opened(1000.1);
    let y = sent(0, 1000.2).errand(5, 0, 100);
    let mut seen = asked(6, "/shop/b", (1100.0, 1100.3), 502);
    seen.push((1000.0, c.request(&x, "GET", "/shop/a")));
    seen.push((1000.2, u.request(&y, "GET", "/shop/a")));
    let request = request_of(&observed("nginx", seen), "/shop/b");
    let error = request.error.expect("it got 502");
    let found = (error.cause, error.certainty);
    assert_eq!(found, (Cause::ProxyGenerated, Certainty::Guess));
}

/// A client waited in vain for longer, and left.
#[test]
fn what_another_client_waited_in_vain_for_counts_when_it_has_left() {
    let (c, x) = (client(50), sent(0, 1.0));
    let u = upstream(51).opened(1.1);
    let y = sent(0, 1.5).errand(50, 0, 100);
    let left = x.clone().peer_fin(9000.0).ended(End::PeerFin);
    let mut seen = vec![
        (1.0, c.request(&x, "GET", "/shop/50")),
        (1.5, u.request(&y, "GET", "/shop/50")),
        (9000.0, c.end(9000.0, &left)),
        (9000.3, u.end(9000.3, &y.ended(End::LocalClose))),
    ];
    seen.extend(given_up(1, 20_000.0, 502));
    let request = request_of(&observed("gateway", seen), "/shop/1");
    let cause = request.error.expect("it got 502").cause;
    assert_eq!(cause, Cause::Unattributed);
}

/// A thread that has read from nobody yet checks a server, just before a rule of the proxy's answers 503.
#[test]
fn a_connect_of_a_thread_that_has_read_from_nobody_explains_an_error_as_a_guess() {
    let check = upstream(10).to("10.0.3.19:8080").opened(995.0);
    let mut seen = asked(1, "/static/a", (990.0, 1000.0), 503);
    seen.push((995.1, check.connect(995.1, ConnectOutcome::Reset, None)));
    let request = request_of(&observed("haproxy", seen), "/static/a");
    let error = request.error.expect("it got 503");
    assert_eq!(error.certainty, Certainty::Guess);
}

/// The connect of a request that waits for its next try is refused; another request gets an error of the
/// proxy's own at that moment, and has no attempt.
#[test]
fn a_refusal_beside_a_request_that_waits_is_a_guess_for_another_one() {
    for program in ["caddy", "traefik", "varnish", "haproxy"] {
        let refused = upstream(10).to("10.0.9.9:9001").opened(1001.0);
        let refused = refused
            .errno(111)
            .connect(1001.2, ConnectOutcome::Reset, None);
        let mut seen = asked(1, "/app", (1000.0, 2010.0), 200);
        seen.push((1001.2, refused));
        seen.extend(asked(2, "/tarpit", (1000.5, 1016.0), 503));
        let request = request_of(&observed(program, seen), "/tarpit");
        let error = request.error.expect("it got 503");
        assert_eq!(error.certainty, Certainty::Guess, "{program}");
    }
}
