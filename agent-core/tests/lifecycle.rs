//! Records that are late, doubled or lost; silence; bounds.

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Event, Upstream};
use agent_core::observation::{ConnectOutcome, End, Observation, Phase, ResetDirection, What};
use agent_core::{Core, Input, Limits, ProcessKind};
use agent_wire::record::flag;
use support::{PROXY, Told, client, core, errand, know, ms, sent, told, upstream};

/// A request refused upstream and answered with 502.
fn refused() -> Vec<Observation> {
    let (c, x) = (client(1), sent(0, 1.0));
    vec![
        c.request(&x, "GET", "/"),
        upstream(2)
            .opened(1.2)
            .connect(1.4, ConnectOutcome::Reset, errand(1)),
        c.response(&x.answered(502, 1.6)),
    ]
}

#[test]
fn an_error_without_an_attempt_is_told_after_the_grace() {
    let mut core = core();
    let mut out = Vec::new();
    let (c, x) = (client(1), sent(0, 1.0));
    core.observe(c.request(&x, "GET", "/"), &mut out);
    core.observe(c.response(&x.answered(502, 2.0)), &mut out);
    core.advance(ms(200.0), &mut out);
    assert_eq!(out.len(), 0, "an attempt may still turn up");
    core.advance(ms(440.0), &mut out);
    assert_eq!(out.len(), 0, "and wait for it in turn");
    core.advance(ms(460.0), &mut out);
    assert_eq!(out.len(), 1);
}

/// HAProxy answers, and then resets what it had sent upstream: the attempt is over later, and waits for its
/// request as long as that has waited for it. Nothing but the answer joins them, for the request was
/// pipelined.
#[test]
fn time_that_passes_between_two_waits_does_not_part_a_request_from_its_attempt() {
    for apart in [0.3, 3.0, 18.0, 150.0] {
        let mut core = core();
        know(&mut core, PROXY, "haproxy", ProcessKind::Known);
        let a = client(1).flag(flag::PIPELINED);
        let (first, used) = (sent(0, 1.0), upstream(10).opened(1.1));
        let x = sent(0, 1.2).errand(1, 0, 100).answered(200, 49.8);
        let y = sent(1, 50.2).idle_since(49.8).errand(1, 1, 260);
        let mut second = sent(1, 1050.0).idle_since(50.0).answered(504, 1050.0);
        second.exchange.request_bytes = 0;
        second.exchange.request_head_bytes = 0;
        let ended = 1050.0 + apart;
        let seen = [
            a.request(&first, "GET", "/slow"),
            used.request(&x, "GET", "/slow"),
            used.response(&x),
            a.response(&first.answered(200, 50.0)),
            used.request(&y, "GET", "/next"),
            a.flag(flag::NO_REQUEST).response(&second),
            used.end(ended, &y.ended(End::LocalReset)),
        ];
        let mut events = Vec::new();
        for observation in seen {
            core.advance(observation.socket.time, &mut events);
            core.observe(observation, &mut events);
        }
        let grace = 250.0;
        core.advance(ms(1050.0 + grace + apart / 2.0), &mut events);
        core.advance(ms(3000.0), &mut events);
        let requests = Told { events }.requests();
        let last = requests.last().and_then(|request| request.error);
        let cause = last.map(|error| error.cause);
        assert_eq!(
            cause,
            Some(Cause::ResponseTimeout),
            "{apart}: {requests:#?}"
        );
    }
}

/// Varnish goes on to the next request that its client pipelined in another thread, and the one that sends
/// the answer ahead has no CPU: by that answer alone is it known when the next one began.
#[test]
fn an_attempt_for_a_pipelined_request_may_begin_before_the_answer_ahead_has_left() {
    let mut core = core();
    know(&mut core, PROXY, "varnishd", ProcessKind::Known);
    let a = client(1).flag(flag::PIPELINED);
    let (first, used) = (sent(0, 1.0), upstream(10).opened(1.1));
    let x = sent(0, 1.2).errand(7, 0, 100).answered(200, 49.8);
    let y = sent(1, 50.2)
        .idle_since(49.8)
        .errand(7, 1, 50_000)
        .ended(End::LocalClose);
    let mut second = sent(1, 1051.0).idle_since(62.0).answered(503, 1051.0);
    second.exchange.request_bytes = 0;
    second.exchange.request_head_bytes = 0;
    let told = told(
        &mut core,
        [
            a.request(&first, "GET", "/slow"),
            used.request(&x, "GET", "/slow"),
            used.response(&x),
            used.request(&y, "GET", "/next"),
            a.response(&first.answered(200, 62.0)),
            used.end(1050.0, &y),
            a.flag(flag::NO_REQUEST).response(&second),
        ],
    );
    let requests = told.requests();
    let last = requests.last().and_then(|request| request.error);
    let cause = last.map(|error| error.cause);
    assert_eq!(cause, Some(Cause::ResponseTimeout), "{requests:#?}");
}

#[test]
fn an_attempt_that_never_ends_does_not_hold_its_request_up() {
    let mut core = core();
    let mut out = Vec::new();
    let (c, x) = (client(1), sent(0, 1.0));
    let (u, y) = (upstream(2).opened(1.5), sent(0, 2.0).errand(1, 0, 100));
    core.observe(c.request(&x, "GET", "/"), &mut out);
    core.observe(u.request(&y, "GET", "/"), &mut out);
    core.observe(c.response(&x.clone().answered(504, 5000.0)), &mut out);
    core.advance(ms(5500.0), &mut out);
    assert!(matches!(&out[..], [Event::Request(request)] if request.attempts.is_empty()));
    out.clear();
    core.observe(u.end(9000.0, &y.ended(End::LocalClose)), &mut out);
    let attempt = match &out[..] {
        [Event::Tcp(_), Event::LoneAttempt(attempt)] => attempt,
        other => panic!("{other:#?}"),
    };
    assert_eq!(attempt.masked, Some(false), "its request is remembered");
}

#[test]
fn of_a_bystander_no_connection_is_kept_that_rests() {
    for (enough, kept) in [(2, 1), (0, 3)] {
        let mut core = Core::new(Limits {
            bystander_exchanges: enough,
            ..Limits::default()
        });
        know(&mut core, PROXY, "app", ProcessKind::Unknown);
        for cookie in 1..=3 {
            let (c, x) = (client(cookie), sent(0, 1.0));
            let seen = [c.request(&x, "GET", "/"), c.response(&x.answered(200, 2.0))];
            told(&mut core, seen);
        }
        // The first was over before it was called one.
        assert_eq!(core.stats().connections, kept, "{enough}");
    }
}

#[test]
fn a_bystander_that_is_looked_at_again_is_none_until_it_shows_it_again() {
    let mut core = Core::new(Limits {
        bystander_exchanges: 2,
        ..Limits::default()
    });
    know(&mut core, PROXY, "app", ProcessKind::Unknown);
    let serve = |core: &mut Core, cookie| {
        let (c, x) = (client(cookie), sent(0, 1.0));
        let seen = [c.request(&x, "GET", "/"), c.response(&x.answered(200, 2.0))];
        told(core, seen);
        core.take_bystanders()
    };
    assert_eq!(
        [1, 2, 3].map(|cookie| serve(&mut core, cookie)).concat(),
        [PROXY]
    );

    core.feed(Input::LookAgain { tgid: PROXY }, &mut Vec::new());

    assert_eq!(serve(&mut core, 4), []);
    assert_eq!(serve(&mut core, 5), [PROXY]);
}

#[test]
fn a_process_shows_that_it_is_a_bystander_however_often_it_is_asked_who_it_is() {
    let mut core = Core::new(Limits {
        bystander_exchanges: 3,
        ..Limits::default()
    });
    for cookie in 1..=3 {
        know(&mut core, PROXY, "app", ProcessKind::Unknown);
        let (c, x) = (client(cookie), sent(0, 1.0));
        let seen = [c.request(&x, "GET", "/"), c.response(&x.answered(200, 2.0))];
        told(&mut core, seen);
    }
    assert_eq!(core.take_bystanders(), [PROXY]);
}

#[test]
fn every_record_may_come_twice() {
    let mut core = core();
    let doubled = refused().into_iter().flat_map(|seen| [seen.clone(), seen]);
    let told = told(&mut core, doubled);
    assert_eq!(told.requests().len(), 1);
    assert_eq!(told.attempts().len(), 1);
    assert!(core.stats().repeated >= 3);
}

#[test]
fn a_late_record_of_a_connection_that_is_gone_tells_nothing_again() {
    let mut core = core();
    let c = client(1);
    let x = sent(0, 1.0).answered(200, 2.0);
    let mut seen = vec![c.request(&x, "GET", "/"), c.response(&x), c.close(3.0)];
    seen.push(c.response(&x));
    seen.push(c.request(&x, "GET", "/"));
    assert_eq!(told(&mut core, seen).requests().len(), 1);
}

#[test]
fn a_request_whose_first_record_was_lost_is_told_from_its_end() {
    let mut seen = refused();
    seen.remove(0);
    let request = told(&mut core(), seen).request();
    assert_eq!((request.code, request.head.as_ref()), (Some(502), None));
    assert_eq!(request.started, ms(1.0));
}

#[test]
fn an_exchange_whose_end_was_lost_without_a_status_is_counted_and_not_told() {
    let mut core = core();
    let c = client(1);
    let seen = [c.request(&sent(0, 1.0), "GET", "/"), c.close(9.0)];
    assert_eq!(told(&mut core, seen).requests().len(), 0);
    assert_eq!(core.stats().request_ledger.ends_lost, 1);
    assert_eq!(core.stats().connections, 0);
}

#[test]
fn the_next_request_on_a_connection_gives_the_one_before_up() {
    let mut core = core();
    let mut out = Vec::new();
    let u = upstream(2).opened(0.5);
    core.observe(u.request(&sent(0, 1.0), "GET", "/"), &mut out);
    core.observe(
        u.request(&sent(1, 50.0).idle_since(40.0), "GET", "/"),
        &mut out,
    );
    core.advance(ms(400.0), &mut out);
    assert_eq!(core.stats().attempts, 1);
    assert_eq!(core.stats().attempt_ledger.ends_lost, 1);
}

#[test]
fn known_losses_make_errors_less_sure() {
    let mut core = core();
    let mut out = Vec::new();
    for (at, seen) in refused().into_iter().enumerate() {
        if at == 2 {
            core.records_lost();
        }
        core.observe(seen, &mut out);
    }
    let request = Told { events: out }.request();
    let error = request.error.expect("502");
    assert_eq!(
        (error.cause, error.certainty),
        (Cause::ConnectRefused, Certainty::Strong)
    );
}

#[test]
fn an_answer_long_after_the_last_known_attempt_is_not_surely_its_doing() {
    let mut seen = refused();
    seen[2] = client(1).response(&sent(0, 1.0).answered(502, 61_000.0));
    let request = told(&mut core(), seen).request();
    assert_eq!(request.error.expect("502").certainty, Certainty::Guess);
}

#[test]
fn an_idle_connection_is_swept_and_taken_up_again_without_error() {
    let mut core = core();
    let mut out = Vec::new();
    let u = upstream(2).opened(0.5);
    let first = sent(0, 1.0).answered(200, 2.0);
    core.observe(u.request(&first, "GET", "/"), &mut out);
    core.observe(u.response(&first), &mut out);
    assert_eq!(core.stats().connections, 1);
    core.advance(ms(700_000.0), &mut out);
    assert_eq!(
        (core.stats().connections, core.stats().connections_swept),
        (0, 1)
    );
    out.clear();
    let second = sent(1, 700_001.0).idle_since(2.0).answered(200, 700_002.0);
    core.observe(u.request(&second, "GET", "/"), &mut out);
    core.observe(u.response(&second), &mut out);
    let attempt = Told { events: out }.attempt();
    assert_eq!((attempt.reused, attempt.failure), (Some(true), None));
}

#[test]
fn a_long_request_is_swept_late_and_still_told_at_its_end() {
    let mut core = core();
    let mut out = Vec::new();
    let u = upstream(2).opened(0.5);
    let x = sent(0, 1.0);
    core.observe(u.request(&x, "GET", "/"), &mut out);
    core.advance(ms(1_800_000.0), &mut out);
    assert_eq!(core.stats().attempts, 1, "half an hour is not stuck");
    core.advance(ms(7_200_000.0), &mut out);
    assert_eq!(
        (core.stats().attempts, core.stats().attempt_ledger.swept),
        (0, 1)
    );
    core.observe(u.response(&x.answered(200, 7_300_000.0)), &mut out);
    assert_eq!(Told { events: out }.attempt().code, Some(200));
}

#[test]
fn tables_stay_within_their_bounds_and_count_what_they_refuse() {
    let limits = Limits {
        connections: 4,
        requests: 2,
        attempts: 3,
        attempts_per_request: 2,
        closed: 8,
        ..Limits::default()
    };
    let mut core = Core::new(limits);
    know(&mut core, PROXY, "nginx", ProcessKind::Known);
    let mut out = Vec::new();
    for cookie in 1..=10 {
        core.observe(client(cookie).request(&sent(0, 1.0), "GET", "/"), &mut out);
        let u = upstream(100 + cookie).opened(1.2);
        core.observe(u.connect(1.3, ConnectOutcome::Reset, errand(1)), &mut out);
        let stats = core.stats();
        assert!(stats.connections <= 4 && stats.requests <= 2 && stats.attempts <= 3);
    }
    let stats = core.stats();
    assert!(stats.requests_refused > 0 && stats.connections_refused > 0);
    assert!(stats.attempts_crowded_out > 0);
}

#[test]
fn outstanding_requests_are_summed_by_proxy_and_upstream() {
    let mut core = core();
    let mut out = Vec::new();
    for (cookie, at) in [(2, 5.0), (3, 4.0)] {
        let u = upstream(cookie).opened(at);
        core.observe(u.request(&sent(0, at), "GET", "/"), &mut out);
    }
    let sums: Vec<_> = core.outstanding().collect();
    assert_eq!(sums.len(), 1);
    assert_eq!((sums[0].count, sums[0].oldest), (2, ms(4.0)));
    assert_eq!(
        sums[0].upstream,
        Upstream::Inet("10.0.3.17:8080".parse().expect("address"))
    );
}

#[test]
fn resets_and_retransmissions_of_outgoing_connections_are_told() {
    let mut core = core();
    let u = upstream(2).opened(0.5);
    let mut reset = u.close(9.0);
    reset.what = What::Reset {
        direction: ResetDirection::Received,
        phase: Phase::Idle,
        reason: None,
    };
    let seen = [
        u.connect(0.7, ConnectOutcome::Established, None),
        reset,
        u.clone().retransmits(3).close(9.1),
    ];
    let told = told(&mut core, seen);
    assert!(
        told.events
            .iter()
            .any(|event| matches!(event, Event::Reset(_)))
    );
    assert!(told.events.iter().any(|event| matches!(
        event,
        Event::Tcp(tcp) if tcp.retransmits == 3 && tcp.rtt_seconds == Some(0.0002)
    )));
    assert_eq!(core.stats().connections, 0);
}

#[test]
fn a_tunnel_succeeds_at_its_head() {
    let (c, x) = (client(1), sent(0, 1.0));
    let mut x = x.answered(101, 2.0);
    x.exchange.end = Some(End::Tunnel);
    let seen = [c.request(&x, "GET", "/socket"), c.end(2.0, &x)];
    let request = told(&mut core(), seen).request();
    assert_eq!(
        (request.code, request.complete, request.error),
        (Some(101), true, None)
    );
}

#[test]
fn an_exchange_superseded_before_any_answer_is_not_told() {
    let mut core = core();
    let (c, u) = (client(1), upstream(2).opened(0.5));
    let x = sent(0, 1.0).ended(End::Superseded);
    let seen = [
        c.request(&x, "GET", "/"),
        c.end(5.0, &x),
        u.request(&x, "GET", "/"),
        u.end(5.0, &x),
    ];
    let told = told(&mut core, seen);
    assert_eq!((told.requests().len(), told.attempts().len()), (0, 0));
    assert_eq!(core.stats().request_ledger.ends_lost, 1);
    assert_eq!(core.stats().attempt_ledger.ends_lost, 1);
}
