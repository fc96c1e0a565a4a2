//! What is under way, when somebody asks: in order, within a bound, each with its attempts.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::time::Instant;

use agent_core::event::{Join, Upstream};
use agent_core::observation::{ConnectOutcome, Nanos, Observation};
use agent_core::open::{Asker, GoesThere, Open, OpenFilter, OpenList};
use agent_core::{Core, Limits, ProcessKind, Used};
use agent_wire::record::flag;
use support::{PROXY, Sock, client, core, errand, know, ms, sent, upstream};

const OTHER: u32 = 200;

/// Everything that is under way at `now`, ms.
fn all(now: f64) -> OpenFilter<'static> {
    OpenFilter {
        now: ms(now),
        min_age: 0,
        proxy: None,
        limit: 100,
    }
}

fn see(core: &mut Core, observations: impl IntoIterator<Item = Observation>) {
    for observation in observations {
        core.observe(observation, &mut Vec::new());
    }
}

/// A client asks for `path` at `at`, and the proxy sends that to its upstream 1 ms later.
fn passed_on(core: &mut Core, cookie: u64, at: f64, path: &str) {
    see(core, [client(cookie).request(&sent(0, at), "GET", path)]);
    let x = sent(0, at + 1.0).errand(cookie, 0, 100);
    let asks = upstream(1_000_000 + cookie).opened(at + 1.0);
    see(core, [asks.request(&x, "GET", path)]);
}

fn paths(list: &OpenList) -> Vec<&str> {
    let heads = list.open.iter().filter_map(|open| open.head.as_ref());
    heads.map(|head| head.path.as_str()).collect()
}

fn only(list: OpenList) -> Open {
    assert_eq!((list.open.len(), list.matched), (1, 1), "{list:#?}");
    list.open.into_iter().next().expect("there is one")
}

fn inet(address: &str) -> Upstream {
    Upstream::Inet(address.parse().expect("an address"))
}

#[test]
fn a_request_is_listed_with_its_attempt_until_it_is_answered() {
    let mut core = core();
    passed_on(&mut core, 1, 5.0, "/slow");

    let open = only(core.open(&all(60.0), None));

    assert_eq!((&*open.proxy.name, open.proxy.tgid), ("nginx", PROXY));
    let (client_address, cookie, index) = ("10.0.0.9:40000".parse().expect("one"), 1, 0);
    let asker = Asker::Client {
        client: client_address,
        cookie,
        index,
    };
    assert_eq!((open.asker, open.started), (asker, ms(5.0)));
    assert_eq!((open.code, open.earlier), (None, 0));
    assert_eq!(open.elsewhere, Used::Nothing);
    let [attempt] = &open.attempts[..] else {
        panic!("{:#?}", open.attempts);
    };
    assert_eq!(attempt.upstream, inet("10.0.3.17:8080"));
    assert_eq!((attempt.join, attempt.started), (Join::Errand, ms(6.0)));
    assert!(attempt.is_read && !attempt.is_answering);

    let x = sent(0, 5.0).answered(200, 70.0);
    see(&mut core, [client(1).response(&x)]);
    let open = only(core.open(&all(80.0), None));
    assert_eq!(open.asker, Asker::Over, "the attempt goes on without it");
    assert_eq!(open.attempts.len(), 1);
}

#[test]
fn the_oldest_come_first_and_the_rest_is_counted() {
    let mut core = core();
    for (cookie, at) in [(1, 30.0), (2, 10.0), (3, 20.0), (4, 40.0)] {
        passed_on(&mut core, cookie, at, &format!("/{at}"));
    }

    let list = core.open(&all(100.0), None);
    assert_eq!(paths(&list), ["/10", "/20", "/30", "/40"]);

    let few = OpenFilter {
        limit: 2,
        ..all(100.0)
    };
    let list = core.open(&few, None);
    assert_eq!((paths(&list), list.matched), (vec!["/10", "/20"], 4));

    let none = OpenFilter {
        limit: 0,
        ..all(100.0)
    };
    assert_eq!(core.open(&none, None).matched, 4);
}

#[test]
fn only_what_is_asked_for_is_listed() {
    let mut core = core();
    know(&mut core, OTHER, "envoy", ProcessKind::Known);
    passed_on(&mut core, 1, 10.0, "/old");
    passed_on(&mut core, 2, 50.0, "/young");
    let of_other = |sock: Sock| sock.of(Some(OTHER));
    see(
        &mut core,
        [
            of_other(client(3)).request(&sent(0, 20.0), "GET", "/other"),
            of_other(upstream(4).to("10.0.3.18:80").opened(21.0)).request(
                &sent(0, 21.0).errand(3, 0, 100),
                "GET",
                "/other",
            ),
        ],
    );

    let old = OpenFilter {
        min_age: ms(60.0) - ms(20.0),
        ..all(60.0)
    };
    assert_eq!(paths(&core.open(&old, None)), ["/old", "/other"]);
    let envoys = OpenFilter {
        proxy: Some("envoy"),
        ..all(60.0)
    };
    assert_eq!(paths(&core.open(&envoys, None)), ["/other"]);
    let goes = |_: u64, to: &Upstream| *to == inet("10.0.3.17:8080");
    let list = core.open(&all(60.0), Some(&goes));
    assert_eq!(paths(&list), ["/old", "/young"]);
    assert_eq!(list.matched, 2);
}

#[test]
fn who_is_no_proxy_has_nothing_listed() {
    let mut core = core();
    know(&mut core, OTHER, "app", ProcessKind::Unknown);
    let app = client(1).of(Some(OTHER));
    see(&mut core, [app.request(&sent(0, 1.0), "GET", "/")]);

    assert_eq!(core.open(&all(5.0), None).matched, 0);
}

#[test]
fn who_has_a_request_is_known_by_its_attempt_before_its_connection_says_so() {
    let mut core = core();
    let fresh = client(1).of(None);
    see(&mut core, [fresh.request(&sent(0, 1.0), "GET", "/")]);
    assert_eq!(core.open(&all(2.0), None).matched, 0, "nobody's yet");

    let x = sent(0, 2.0).errand(1, 0, 100);
    see(&mut core, [upstream(2).opened(2.0).request(&x, "GET", "/")]);
    // Another worker answers where it arrived.
    know(&mut core, OTHER, "nginx", ProcessKind::Known);
    let (other, y) = (client(3).of(Some(OTHER)), sent(0, 2.1));
    let answered = other.response(&y.clone().answered(200, 2.2));
    see(&mut core, [other.request(&y, "GET", "/other"), answered]);

    let open = only(core.open(&all(3.0), None));
    assert_eq!(open.proxy.tgid, PROXY);
    assert_eq!(open.attempts.len(), 1);
}

#[test]
fn a_failed_attempt_is_counted_and_the_next_one_is_under_way() {
    let mut core = core();
    let refused = upstream(2).opened(1.2);
    let x = sent(0, 2.0).errand(1, 0, 100);
    see(
        &mut core,
        [
            client(1).request(&sent(0, 1.0), "GET", "/"),
            refused.connect(1.4, ConnectOutcome::Reset, errand(1)),
        ],
    );
    let open = only(core.open(&all(1.5), None));
    assert_eq!((open.attempts.len(), open.earlier), (0, 1));

    let next = upstream(3).to("10.0.3.18:80").opened(2.0);
    see(&mut core, [next.request(&x, "GET", "/")]);

    let open = only(core.open(&all(9.0), None));
    assert_eq!(open.earlier, 1);
    assert_eq!(open.attempts[0].upstream, inet("10.0.3.18:80"));
}

#[test]
fn an_attempt_whose_request_is_not_known_is_listed_by_itself() {
    let mut core = core();
    let asks = upstream(2).opened(1.0);
    see(&mut core, [asks.request(&sent(0, 1.0), "POST", "/orders")]);

    let open = only(core.open(&all(3.0), None));

    assert_eq!((open.asker, open.started), (Asker::Unknown, ms(1.0)));
    assert_eq!(open.attempts[0].join, Join::None);
    assert_eq!(open.attempts[0].join_certainty, None);
}

#[test]
fn a_connection_that_is_not_read_is_an_attempt_of_whom_it_was_used_for() {
    let mut core = core();
    let u = upstream(2).to("10.0.3.17:9000").opened(1.2);
    see(
        &mut core,
        [
            client(1).request(&sent(0, 1.0), "GET", "/index.php"),
            u.connect(1.3, ConnectOutcome::Established, errand(1)),
        ],
    );

    let open = only(core.open(&all(500.0), None));

    let [attempt] = &open.attempts[..] else {
        panic!("{open:#?}");
    };
    assert_eq!(attempt.upstream, inet("10.0.3.17:9000"));
    assert!(!attempt.is_read);
    assert_eq!(attempt.cookie, 2);
}

#[test]
fn a_connect_to_a_unix_socket_is_an_attempt_that_is_not_read() {
    let mut core = core();
    let u = upstream(0);
    see(
        &mut core,
        [
            client(1).request(&sent(0, 1.0), "GET", "/index.php"),
            u.unix_connect(1.2, "/run/php.sock", errand(1)),
        ],
    );

    let open = only(core.open(&all(500.0), None));

    let attempts: Vec<_> = open.attempts.iter().map(|one| &one.upstream).collect();
    assert_eq!(attempts, [&Upstream::Unix("/run/php.sock".into())]);
    assert!(!open.attempts[0].is_read);
    assert_eq!(open.earlier, 0);
}

#[test]
fn what_is_used_for_nobody_knows_whom_may_be_where_a_request_is() {
    let mut core = core();
    know(&mut core, PROXY, "haproxy", ProcessKind::Known);
    let u = upstream(2).to("10.0.3.17:9000").opened(1.2);
    let u = u.without_flag(flag::OWN_ERRAND);
    see(
        &mut core,
        [
            client(1).request(&sent(0, 1.0), "GET", "/"),
            u.connect(1.3, ConnectOutcome::Established, None),
        ],
    );

    let open = only(core.open(&all(500.0), None));

    assert_eq!(open.attempts.len(), 0);
    assert_eq!(open.elsewhere, Used::Only(inet("10.0.3.17:9000")));
}

/// What a question costs is counted, and does not grow with what is asked for: 100,000 requests are each
/// looked at once, and so are their attempts.
#[test]
fn a_question_looks_at_each_of_100_000_requests_and_attempts_once() {
    const REQUESTS: u64 = 100_000;
    let mut core = Core::new(Limits {
        connections: 4 * REQUESTS as usize,
        requests: 2 * REQUESTS as usize,
        attempts: 2 * REQUESTS as usize,
        ..Limits::default()
    });
    know(&mut core, PROXY, "nginx", ProcessKind::Known);
    for number in 1..=REQUESTS {
        // In no order of time.
        let at = (number * 7_919 % REQUESTS) as f64;
        passed_on(&mut core, number, at, "/");
    }
    let now = REQUESTS as f64 + 10.0;
    let goes = |_: u64, to: &Upstream| *to == inet("10.0.3.17:8080");
    let questions: [(&str, usize, Option<GoesThere<'_>>, u64); 3] = [
        ("the oldest", 1, None, 2),
        ("1000 of them", 1_000, None, 2),
        ("1000 at an upstream", 1_000, Some(&goes), 3),
    ];
    for (what, limit, goes_there, each) in questions {
        let filter = OpenFilter { limit, ..all(now) };
        let began = Instant::now();
        let list = core.open(&filter, goes_there);
        println!("{what}: {} steps, {:?}", list.looked_at, began.elapsed());
        assert_eq!(list.matched as u64, REQUESTS);
        assert_eq!(list.looked_at as u64, each * REQUESTS);
        let started: Vec<Nanos> = list.open.iter().map(|open| open.started).collect();
        let expected: Vec<Nanos> = (0..limit).map(|at| ms(at as f64)).collect();
        assert_eq!(started, expected, "{what}");
        assert!(list.open.iter().all(|open| open.attempts.len() == 1));
    }
}
