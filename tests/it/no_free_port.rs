//! No free port: the proxy holds as many connections to its upstream as the namespace has ports,
//! and the next connect(2) fails at once, without a packet.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Attempt, Request};
use e2e::haproxy::Haproxy;
use e2e::load::{Order, one_by_one, run, runtime};
use e2e::netns::Netns;
use e2e::nginx::error_log::Words;
use e2e::nginx::{Config, Nginx};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use tokio::runtime::Runtime;

/// All that the proxy's namespace has.
const PORTS: std::ops::RangeInclusive<u16> = 40_000..=40_003;

const LISTENS: u16 = 8080;

/// How long the agent may take to tell all requests.
const TELL: Duration = Duration::from_secs(10);

/// Requests of which at least one has to be told with all of its attempts. Fewer: a busy machine fails.
/// More: HAProxy lets the connections go that hold the ports, after 10 s.
const ASKED: usize = 2;

/// EADDRNOTAVAIL
const NO_PORT: u64 = 99;

/// A proxy's namespace with few ports, and an upstream at the other end of its link.
struct Scene {
    proxy: Netns,
    front: SocketAddr,
    upstreams: Upstreams,
    app: SocketAddr,
    _upstream: Netns,
}

impl Scene {
    fn build() -> Self {
        need_root();
        let (proxy, upstream) = (Netns::new(), Netns::new());
        let far = upstream.join(Some(&proxy)).far;
        let front = SocketAddr::new(proxy.join(None).far, LISTENS);
        let upstreams = Upstreams::start(far, &["9001"], Some(&upstream));
        let [app] = *upstreams.addresses.as_slice() else {
            panic!("one server was ordered");
        };
        let ports = format!("{} {}", PORTS.start(), PORTS.end());
        proxy.set("ipv4/ip_local_port_range", &ports);
        Self {
            proxy,
            front,
            upstreams,
            app,
            _upstream: upstream,
        }
    }

    /// Requests that hang hold all ports, as long as what is given back lives.
    #[must_use]
    fn take_ports(&self) -> Runtime {
        let runtime = runtime();
        let held = (0..PORTS.count())
            .map(|number| Order::get(format!("/held/{number}/hang")))
            .collect();
        let (front, clients) = (self.front, PORTS.count());
        runtime.spawn(async move { run(front, held, clients).await });
        eventually(TELL, "all ports are taken", || {
            match self.upstreams.served().len() {
                served if served == clients => Ok(()),
                served => Err(format!("{served} of {clients}")),
            }
        });
        runtime
    }

    fn ask(&self, path: &str) -> Option<u16> {
        let asked = one_by_one(self.front, vec![Order::get(path)]);
        asked.first().and_then(|outcome| outcome.status)
    }
}

/// Of how many attempts it is told.
#[track_caller]
fn assert_told(request: &Request, code: u16) -> usize {
    println!(
        "agent {:?} {:?} {:?}",
        request.code, request.cause, request.certainty
    );
    for attempt in &request.attempts {
        println!(
            "  {:?} {:?} {:?} {:?} {}",
            attempt.join, attempt.cause, attempt.certainty, attempt.how, attempt.evidence
        );
    }
    assert_eq!(request.code, Some(code));
    assert_eq!(request.cause.as_deref(), Some("connect_local_error"));
    for attempt in &request.attempts {
        let Attempt {
            cause,
            certainty,
            phase,
            how,
            evidence,
            ..
        } = attempt;
        let words = [cause, certainty, phase, how].map(|word| word.as_deref().unwrap_or_default());
        assert_eq!(words, ["connect_local_error", "proof", "connect", "errno"]);
        let number = |name: &str| evidence.get(name).and_then(serde_json::Value::as_u64);
        assert_eq!(number("errno"), Some(NO_PORT), "{evidence}");
        assert_eq!(number("syns"), Some(0), "{evidence}");
    }
    request.attempts.len()
}

#[test]
fn nginx_that_has_no_free_port_is_told_with_its_errno() {
    let scene = Scene::build();
    let (front, app) = (scene.front, scene.app);
    let config = Config {
        // One line of waiting requests.
        workers: 1,
        ..Config::new(format!(
            "upstream app {{ server {app} max_fails=0; }}
server {{ listen {front}; location / {{ proxy_pass http://app; }} }}"
        ))
    };
    let nginx = Nginx::start(&config, Some(&scene.proxy));
    let agent = Agent::start(&[]);
    let events = agent.events();

    let path = "/free/ok";
    let _held = scene.take_ports();
    let status = scene.ask(path);

    let told = events.of([path], TELL);
    let errors = nginx.error_log();
    let said = errors.iter().find(|line| line.path == path);
    println!("client {status:?}, nginx {said:?}");
    assert_eq!(status, Some(502));
    let said = said.map(|line| (line.words, line.errno));
    assert_eq!(said, Some((Words::LocalError, Some(99))));
    assert_eq!(assert_told(&told[path], 502), 1);
    assert_eq!(told[path].certainty.as_deref(), Some("proof"));
}

#[test]
fn haproxy_that_has_no_free_port_is_told_with_its_errno() {
    let scene = Scene::build();
    let (front, app) = (scene.front, scene.app);
    let haproxy = Haproxy::start(
        &format!("listen app\n    bind {front}\n    server app {app}\n"),
        Some(&scene.proxy),
    );
    let agent = Agent::start(&[]);
    let events = agent.events();

    let _held = scene.take_ports();
    // A machine that is busy elsewhere between read and connect leaves doubt whose tries the
    // earlier ones were.
    let all_tries_known = (0..ASKED).any(|number| {
        let path = format!("/free/{number}/ok");
        let status = scene.ask(&path);
        let told = events.of([path.as_str()], TELL);
        let logged = haproxy.logged(&path);
        println!("client {status:?}, haproxy {logged:?}");
        assert_eq!(status, Some(503));
        assert_eq!((logged.status, logged.state.as_str()), (503, "SC"));
        let attempts = assert_told(&told[&path], 503);
        assert!(attempts <= 4, "{attempts} attempts");
        attempts == 4
    });
    assert!(all_tries_known, "not once of {ASKED}");
}
