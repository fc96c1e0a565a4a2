//! Why an upstream closed a connection that was kept: it was reloaded, or its keep-alive timeout ended.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::agent::events::{Attempt, Request};
use e2e::load::{Client, Order, runtime};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::signal;
use e2e::proxies::{Group, Kind, Proxy, Target};
use rustix::process::Signal;

use super::{LOCALHOST, TELL};

/// Tries to meet the moment. Fewer: a busy machine fails. More: what never happens shows late.
const ROUNDS: usize = 8;

/// How long an upstream may take to close.
const PATIENCE: Duration = Duration::from_secs(10);

/// The upstream's keep-alive timeout: as long as a common one.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long before its end the request comes.
const BEFORE: Duration = Duration::from_millis(60);

/// It is a proxy to the agent as well: what it is asked for has another path.
fn upstream(rest: &str) -> (Nginx, SocketAddr) {
    let app = ports::free(LOCALHOST);
    let http = format!("server {{ listen {app}; return 200; {rest} }}");
    (Nginx::start(&Config::new(http), None), app)
}

/// Asks twice on a connection to `app` that is kept, the second time after `pause`, while the proxy is
/// held still until `close` has made the upstream close.
fn race(proxy: &Proxy, app: SocketAddr, path: &str, pause: Duration, close: impl Fn()) {
    runtime().block_on(async {
        let mut client = Client::new(proxy.address);
        let served = client.ask(&Order::get(format!("{path}/first"))).await;
        assert!(served.is(200), "{served:?}");
        tokio::time::sleep(pause).await;
        let held = proxy.hold();
        let order = Order::post(path, 10);
        let let_go = async {
            // The request has to be there before the close.
            tokio::time::sleep(Duration::from_millis(10)).await;
            close();
            let started = Instant::now();
            while !has_close_waiting(app) && started.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            drop(held);
        };
        let (got, ()) = tokio::join!(client.ask(&order), let_go);
        println!("{path}: {got:?}");
    });
}

/// Whether a connection to `upstream` was closed by it and not yet by the proxy (CLOSE_WAIT).
fn has_close_waiting(upstream: SocketAddr) -> bool {
    let port = format!(":{:04X}", upstream.port());
    fs::read_to_string("/proc/net/tcp").is_ok_and(|table| {
        table.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(2).is_some_and(|remote| remote.ends_with(&port))
                && fields.get(3) == Some(&"08")
        })
    })
}

/// The attempt that lost a race, once one did.
#[track_caller]
fn lost(agent: &Agent, path: impl Fn(usize) -> String, play: impl Fn(&str)) -> Attempt {
    let events = agent.events();
    for round in 0..ROUNDS {
        let path = path(round);
        play(&path);
        let told: Option<Request> = events.of([path.as_str()], TELL).remove(&path);
        let attempts = told.into_iter().flat_map(|told| told.attempts);
        for attempt in attempts {
            println!(
                "  {:?} {:?} idle {:?} {:?}",
                attempt.cause, attempt.certainty, attempt.idle_seconds, attempt.case
            );
            if attempt.cause.as_deref() == Some("keepalive_race") && attempt.case.is_some() {
                return attempt;
            }
        }
    }
    panic!("no race in {ROUNDS} rounds")
}

/// An nginx that keeps its connections to `app`.
fn keeping(app: SocketAddr) -> Proxy {
    let group = Group::new("app", Target::Servers(vec![app]));
    Proxy::start(Kind::Nginx, &[group.kept().rewritten()])
}

#[test]
fn a_connection_that_a_reload_closed_was_not_closed_for_idleness() {
    e2e::process::need_root();
    let agent = Agent::start(&[]);
    let (upstream, app) = upstream("keepalive_timeout 75s;");
    let proxy = keeping(app);

    let attempt = lost(
        &agent,
        |round| format!("/app/reload/{round}"),
        |path| {
            race(&proxy, app, path, Duration::ZERO, || {
                signal(upstream.pid(), Signal::HUP);
            });
        },
    );

    let case = attempt.case.expect("it has one");
    assert_eq!(case.name, "closed_soon_after_use");
    assert_eq!(case.facts["carried"], "1");
    let fix = case.meaning;
    assert!(fix.contains("sooner than for idleness"), "{fix}");
    assert_eq!(attempt.evidence["carried_requests"], 1);
}

#[test]
fn a_connection_that_was_idle_for_the_upstreams_timeout_is_told_with_it() {
    e2e::process::need_root();
    let agent = Agent::start(&[]);
    let seconds = TIMEOUT.as_secs();
    let (_upstream, app) = upstream(&format!("keepalive_timeout {seconds}s;"));
    let proxy = keeping(app);

    for (time, sure) in [("first", "guess"), ("again", "strong")] {
        let attempt = lost(
            &agent,
            |round| format!("/app/idle-{time}/{round}"),
            |path| race(&proxy, app, path, TIMEOUT - BEFORE, || {}),
        );

        let case = attempt.case.expect("it has one");
        assert_eq!(
            (case.name.as_str(), case.certainty.as_str()),
            ("idle_timeout", sure)
        );
        assert_eq!(case.facts["timeout"], seconds.to_string());
        let fix = attempt.fix.unwrap_or_default();
        assert!(fix.contains(&format!("below {seconds} s")), "{fix}");
    }
}
