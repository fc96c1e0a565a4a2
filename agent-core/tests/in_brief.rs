//! Exchanges that went well and are told in brief: they are counted as any other, whether more is known of
//! them or not; and who may be told of in this way.

mod support;

use agent_core::Core;
use agent_core::event::Join;
use agent_core::observation::{ConnectOutcome, Observation, Talk, What};
use support::{Ex, PROXY, Sock, client, core, errand, ms, sent, told, upstream};

/// The exchange, told in brief when its last byte came.
fn brief(sock: &Sock, x: &Ex) -> Observation {
    let mut seen = sock.end(0.0, x);
    let exchange = x.exchange.clone();
    seen.socket.time = exchange.last_byte.get().unwrap_or(0);
    seen.what = What::InBrief { exchange };
    seen
}

fn may_be(core: &Core) -> Vec<u32> {
    core.may_be_told_in_brief().collect()
}

/// A request that is passed on and answered well, by `at` ms.
fn passed_on(cookie: u64, at: f64) -> Vec<Observation> {
    let (c, u) = (client(cookie), upstream(1000 + cookie).opened(at));
    let x = sent(0, at);
    let y = sent(0, at + 1.0).errand(cookie, 0, 100);
    vec![
        c.request(&x, "GET", "/orders"),
        u.connect(at + 0.5, ConnectOutcome::Established, errand(cookie)),
        u.request(&y, "GET", "/orders"),
        u.response(&y.answered(200, at + 2.0)),
        c.response(&x.answered(200, at + 3.0)),
    ]
}

#[test]
fn what_is_told_in_brief_is_counted_with_its_times() {
    let (c, u) = (client(1), upstream(2).opened(6.0));
    let x = sent(0, 5.0).answered(404, 19.0);
    let first = sent(0, 8.0).answered(200, 12.0);
    let second = sent(1, 20.0).idle_since(12.0).answered(204, 23.0);

    let told = told(
        &mut core(),
        [
            u.connect(7.0, ConnectOutcome::Established, errand(1)),
            brief(&u, &first),
            brief(&c, &x),
            brief(&u, &second),
            u.close(30.0),
        ],
    );

    let request = told.request();
    assert_eq!((request.code, request.complete), (Some(404), true));
    assert_eq!((request.error, request.attempts.len()), (None, 0));
    assert!(
        (request.seconds - 0.014).abs() < 1e-9,
        "{}",
        request.seconds
    );
    let attempts = told.attempts();
    let [fresh, reused] = &attempts[..] else {
        panic!("{attempts:#?}");
    };
    assert_eq!((fresh.join, fresh.failure), (Join::InBrief, None));
    assert_eq!((fresh.code, fresh.reused), (Some(200), Some(false)));
    let times = [
        fresh.connect_seconds,
        fresh.first_byte_seconds,
        fresh.header_seconds,
        Some(fresh.response_seconds),
        reused.idle_seconds,
        Some(reused.response_seconds),
    ];
    let expected = [0.001, 0.004, 0.006, 0.006, 0.008, 0.003];
    for (time, expected) in times.into_iter().zip(expected) {
        assert!(
            time.is_some_and(|time| (time - expected).abs() < 1e-9),
            "{times:?}"
        );
    }
    assert_eq!((reused.code, reused.reused), (Some(204), Some(true)));
}

#[test]
fn what_is_known_already_ends_as_any_other() {
    let mut seen = passed_on(1, 5.0);
    let (c, u) = (client(1), upstream(1001).opened(5.0));
    let x = sent(0, 5.0).answered(200, 8.0);
    let y = sent(0, 6.0).errand(1, 0, 100).answered(200, 7.0);
    seen.truncate(3);
    seen.extend([brief(&u, &y), brief(&c, &x)]);
    // And nothing is told twice, whatever comes late.
    seen.extend([brief(&c, &x), brief(&u, &y)]);
    seen.extend(passed_on(1, 5.0));

    let told = told(&mut core(), seen);

    let request = told.request();
    assert_eq!((request.code, request.attempts.len()), (Some(200), 1));
    let attempt = told.attempt();
    assert_eq!((attempt.join, attempt.code), (Join::Errand, Some(200)));
}

#[test]
fn who_passes_on_and_fails_at_nothing_may_be_told_of_in_brief() {
    let mut core = core();
    let mut out = Vec::new();
    core.advance(ms(10_000.0), &mut out);
    assert_eq!(may_be(&core), [], "it was not seen to pass anything on");
    for observation in passed_on(1, 10_000.0) {
        core.observe(observation, &mut out);
    }
    assert_eq!(may_be(&core), [PROXY]);

    let mut disturbed = client(9).left(11_000.0);
    disturbed.what = What::Disturbed;
    core.observe(disturbed, &mut out);
    assert_eq!(may_be(&core), []);
    core.advance(ms(11_900.0), &mut out);
    assert_eq!(may_be(&core), []);
    core.advance(ms(12_100.0), &mut out);
    assert_eq!(may_be(&core), [PROXY]);

    // A failure says the same.
    let (c, x) = (client(20), sent(0, 13_000.0));
    let refused = upstream(21).opened(13_001.0);
    for observation in [
        c.request(&x, "GET", "/orders"),
        refused.connect(13_001.0, ConnectOutcome::Reset, errand(20)),
        c.response(&x.answered(502, 13_002.0)),
    ] {
        core.observe(observation, &mut out);
    }
    core.advance(ms(13_300.0), &mut out);
    assert_eq!(may_be(&core), []);
    core.advance(ms(14_100.0), &mut out);
    assert_eq!(may_be(&core), [PROXY]);
}

#[test]
fn who_uses_what_is_not_read_is_told_of_whole() {
    let mut core = core();
    let mut out = Vec::new();
    core.advance(ms(10_000.0), &mut out);
    for observation in passed_on(1, 10_000.0) {
        core.observe(observation, &mut out);
    }
    assert_eq!(may_be(&core), [PROXY]);
    let client = client(5).unread_client(10_010.0, Talk::Tls);
    core.observe(client, &mut out);
    assert_eq!(
        may_be(&core),
        [PROXY],
        "whose clients are not read is another matter"
    );

    let socket = upstream(6).unix_connect(10_020.0, "/run/app.sock", errand(1));
    core.observe(socket, &mut out);

    assert_eq!(may_be(&core), []);
    core.advance(ms(599_000.0), &mut out);
    assert_eq!(may_be(&core), []);
}
