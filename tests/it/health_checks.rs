//! Health checks that proxies make by themselves: they are no attempts for requests, and say why no
//! upstream is left. `WHY502_PROXY=caddy` runs one proxy.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::metrics::Metrics;
use e2e::haproxy::Haproxy;
use e2e::load::{Order, one_by_one};
use e2e::ports;
use e2e::process::need_root;
use e2e::proxies::{Checked, Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const CHECKS: &str = "why502_upstream_health_checks_total";
const ANSWERS: &str = "why502_upstream_responses_total";
const FAILURES: &str = "why502_upstream_failures_total";

/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

/// How long HAProxy may take to listen.
const START: Duration = Duration::from_secs(10);

#[track_caller]
fn start(front: SocketAddr, sections: &str) -> Haproxy {
    let mut haproxy = Haproxy::start(sections, None);
    eventually(START, "haproxy listens", || {
        haproxy.assert_runs();
        TcpStream::connect(front)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    haproxy
}

/// Waits until so many checks of this result are counted.
#[track_caller]
fn checked(agent: &Agent, kind: Kind, result: &str, code: &str, count: f64) -> Metrics {
    let with = [("proxy", kind.label()), ("result", result), ("code", code)];
    eventually(TELL, "checks are counted", || {
        let metrics = agent.metrics();
        let checks = metrics.sum(CHECKS, &with);
        let all = metrics.by(CHECKS, &[], &["result", "code", "upstream"]);
        if checks >= count {
            println!("checks {all:?}");
            Ok(metrics)
        } else {
            Err(format!("{checks} {with:?} of {all:?}"))
        }
    })
}

/// HAProxy 2.6 resets the connection when it has read the status.
#[test]
fn healthy_checks_whose_answer_is_not_read_to_its_end_are_no_failures() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let front = ports::free(LOCALHOST);
    let agent = Agent::start(&[]);
    let backend = |number: usize, words: &str| {
        format!(
            "backend b{number}
    option httpchk GET /check/{number}/{words}
    server s{number} {app} check inter 200ms
"
        )
    };
    let kinds = ["until_close,body=400", "chunked,body=3000", "body=60000"];
    let backends: String = (0..)
        .zip(kinds)
        .map(|(number, words)| backend(number, words))
        .collect();
    let _haproxy = start(
        front,
        &format!("frontend front\n    bind {front}\n    default_backend b0\n{backends}"),
    );

    // While a connection of this test is new, one of them may pass for an attempt.
    let before = checked(&agent, Kind::HaProxy, "passed", "200", 20.0);
    let after = checked(&agent, Kind::HaProxy, "passed", "200", 60.0);

    let failures = after.by(FAILURES, &[], &["cause", "upstream"]);
    assert_eq!(after.sum(FAILURES, &[]), 0.0, "{failures:?}");
    let answers = [before, after].map(|metrics| metrics.sum(ANSWERS, &[]));
    println!("{answers:?} answers");
    assert!(
        answers[1] - answers[0] < 1.0,
        "answers to checks are none to requests"
    );
}

/// A server whose health is what it is set to; every other path it answers with 200.
struct Patient {
    address: SocketAddr,
    health: Arc<AtomicU16>,
    /// How often it was asked for it.
    asked: Arc<AtomicUsize>,
}

impl Patient {
    fn new() -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let health = Arc::new(AtomicU16::new(200));
        let asked = Arc::new(AtomicUsize::new(0));
        let own = (Arc::clone(&health), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // Whoever left before its answer needs none.
                let _gone = answer(stream, own.0.load(Ordering::Relaxed), &own.1);
            }
        });
        Self {
            address,
            health,
            asked,
        }
    }

    /// Waits until it was asked so often again. The agent is not asked meanwhile: that is a request
    /// whose process is not known at first, and a check at that moment may be made for it.
    #[track_caller]
    fn asked_again(&self, times: usize) {
        let before = self.asked.load(Ordering::Relaxed);
        eventually(TELL, "a server is asked for its health", || {
            match self.asked.load(Ordering::Relaxed) - before {
                asked if asked >= times => Ok(()),
                asked => Err(format!("{asked} of {times} times")),
            }
        });
    }
}

fn answer(mut stream: TcpStream, health: u16, asked: &AtomicUsize) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let status = if head.starts_with(b"GET /healthz") {
        asked.fetch_add(1, Ordering::Relaxed);
        health
    } else {
        200
    };
    let answer =
        format!("HTTP/1.1 {status} Said\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    stream.write_all(answer.as_bytes())
}

/// Proxies that ask their servers for their health by themselves.
const CHECKING: [Kind; 6] = [
    Kind::HaProxy,
    Kind::Envoy,
    Kind::Caddy,
    Kind::CaddyCurrent,
    Kind::Traefik,
    Kind::Varnish,
];

/// What is asked for it.
const HEALTH: &str = "/healthz";

/// Time between two checks of a server.
const EVERY: Duration = Duration::from_millis(200);

#[test]
fn failing_checks_are_why_no_upstream_is_left() {
    need_root();
    let one = std::env::var("WHY502_PROXY").ok();
    let asked = |kind: &Kind| one.as_deref().is_none_or(|one| one == kind.name());
    for kind in CHECKING.into_iter().filter(asked) {
        println!("{kind}");
        checks_tell_why_none_is_left(kind);
    }
}

#[track_caller]
fn checks_tell_why_none_is_left(kind: Kind) {
    let mut upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let mortal = *upstreams.addresses.first().expect("it was ordered");
    let (sick, well) = (Patient::new(), Patient::new());
    let group = |name: &'static str, server: SocketAddr| {
        let checked = Checked {
            servers: vec![server],
            path: HEALTH,
            every: EVERY,
        };
        Group::new(name, Target::Checked(checked))
    };
    let agent = Agent::start(&[]);
    let events = agent.events();
    let proxy = Proxy::start(
        kind,
        &[
            group("sick", sick.address),
            group("dead", mortal),
            group("well", well.address),
        ],
    );
    let ask = |number: u32| {
        let paths = ["sick", "dead", "well"].map(|name| format!("/{name}/{number}/ok"));
        let orders = paths.iter().map(|path| Order::get(path.clone())).collect();
        let outcomes = one_by_one(proxy.address, orders);
        let status = outcomes
            .iter()
            .map(|outcome| outcome.status)
            .collect::<Vec<_>>();
        (paths, status)
    };
    let checked = |result, code, count| checked(&agent, kind, result, code, count);
    well.asked_again(6);
    checked("passed", "200", 6.0);
    assert_eq!(ask(1).1, [Some(200); 3], "{kind}");

    sick.health.store(404, Ordering::Relaxed);
    upstreams.kill();
    sick.asked_again(6);
    checked("upstream_status", "404", 4.0);
    checked("connect_refused", "none", 4.0);
    let ([of_sick, of_dead, _], status) = ask(2);

    assert_eq!(status, [Some(503), Some(503), Some(200)], "{kind}");
    let mut told = events.of([of_sick.as_str(), of_dead.as_str()], TELL);
    let failures = agent.metrics().by(FAILURES, &[], &["cause", "upstream"]);
    assert_eq!(
        failures.len(),
        0,
        "checks of {kind} are no failed attempts: {failures:?}"
    );
    for path in [of_sick, of_dead] {
        let told = told.remove(path.as_str()).expect("it was waited for");
        println!(
            "{path} {:?} {:?} {:?}",
            told.cause, told.certainty, told.origin_check
        );
        assert_eq!(told.cause.as_deref(), Some("no_live_upstream"), "{kind}");
        // A rule of the proxy may have given the same.
        assert_eq!(told.certainty.as_deref(), Some("guess"), "{kind}");
    }
}
