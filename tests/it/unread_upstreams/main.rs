//! Upstreams whose talk is not read: FastCGI, uwsgi, HTTP over a Unix socket, HTTPS, gRPC. Whatever is
//! spoken, a connection that the proxy opened or used for a request is an attempt: nobody may say that
//! none was made.
//!
//! The judge is what was ordered: each path says what the upstream does. What came of it is in
//! `docs/coverage-unread.md`.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod kinds;
mod page;
mod proxies;
mod stage;

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Attempt, Request};
use e2e::http;
use e2e::process::need_root;
use e2e::wait::eventually;
use kinds::{Fault, Kind, NONE_LIVE, Route};
use page::{Cell, Cells, OK};
use proxies::Proxy;
use stage::Stage;

/// How long the agent may take to tell all requests.
const TELL: Duration = Duration::from_secs(15);

/// Health checks by upstream and result.
const CHECKS: &str = "why502_upstream_health_checks_total";

/// Requests after which a proxy has given up the servers of a group: of each one failed.
const GIVES_UP_AFTER: usize = 2;

/// Cut answers for which no attempt is known, at a proxy whose threads do not tell for whom they act.
/// Fewer: a connect that is seen late fails the run. More: an agent that is silent passes.
const MISSED: usize = 2;

/// What was said of it, and at which upstream; of a cut answer, what is said of its attempt.
fn said(request: &Request, fault: &Fault) -> (Cell, String) {
    let text = |word: &Option<String>| word.clone().unwrap_or_default();
    let code = request.code;
    if fault.is_cut() {
        let attempt = request.attempts.last();
        let cell = Cell {
            code,
            cause: attempt.map_or(String::new(), |attempt| text(&attempt.cause)),
            certainty: attempt.map_or(String::new(), |attempt| text(&attempt.certainty)),
        };
        let upstream = attempt.map(|Attempt { upstream, .. }| upstream.clone());
        return (cell, upstream.unwrap_or_default());
    }
    let cell = Cell {
        code,
        cause: text(&request.cause),
        certainty: text(&request.certainty),
    };
    (cell, text(&request.upstream))
}

/// Has the proxy give up the servers of this route.
fn give_up(proxy: &Proxy, kind: &Kind, route: &Route) {
    for number in 0..GIVES_UP_AFTER {
        http::get(proxy.front, &kind.path(route, &number.to_string()), "*/*")
            .expect("the proxy answers");
    }
}

/// Why what was said of it is wrong.
fn wrong(kind: &Kind, route: &Route, cell: &Cell, upstream: &str, guesses: bool) -> Option<String> {
    let Fault { name, causes, .. } = route.fault;
    let Cell {
        cause, certainty, ..
    } = cell;
    // Where threads do not tell for whom they act, one of several may not be known.
    let vague = guesses && cause == "unattributed";
    let is_its_own = route
        .servers
        .iter()
        .any(|server| upstream.ends_with(server));
    let named = is_its_own || name == NONE_LIVE || vague && ["", "unknown"].contains(&upstream);
    let right = if kind.is_read() && name.starts_with("own") {
        cause == "upstream_status"
    } else {
        causes.contains(&cause.as_str())
    };
    let sold = certainty == "proof" && name != "refused" && !kind.is_read();
    if !right {
        Some(format!("{cause} is not of {name}"))
    } else if !named {
        Some(format!("{upstream} is another upstream"))
    } else {
        sold.then(|| "nobody can prove that".to_owned())
    }
}

/// Waits until the agent knows the health checks of servers that are down. Before, one that falls into a
/// request may be that one's attempt.
fn wait_for_checks(agent: &Agent, proxy: &Proxy) {
    let routes = proxy.kinds.iter().flat_map(|kind| &kind.routes);
    let checked = routes.filter(|route| proxy.checks_servers() && route.fault.name == NONE_LIVE);
    let servers: Vec<&String> = checked.flat_map(|route| &route.servers).collect();
    eventually(TELL, "the checks are known", || {
        let known = agent
            .metrics()
            .by(CHECKS, &[("result", "connect_refused")], &["upstream"]);
        let is_known = |server: &&&String| known.keys().any(|key| key[0].ends_with(**server));
        match servers.iter().find(|server| !is_known(server)) {
            None => Ok(()),
            Some(server) => Err(format!("no check of {server}: {known:?}")),
        }
    });
}

/// Asks for every fault of each kind, and compares what the agent says. `extra` are paths that are
/// asked for as well, behind them.
fn play(proxy: &Proxy, extra: &[&str]) -> BTreeMap<String, Request> {
    let agent = Agent::start(&[]);
    let events = agent.events();
    wait_for_checks(&agent, proxy);
    let mut paths = Vec::new();
    for kind in &proxy.kinds {
        for route in &kind.routes {
            if route.fault.name == NONE_LIVE {
                give_up(proxy, kind, route);
            }
            let path = kind.path(route, "x");
            // Its answer may be cut: what the agent says is what counts.
            let answered = http::get(proxy.front, &path, "*/*");
            paths.push((kind, route, path, answered.is_ok()));
        }
    }
    for path in extra {
        http::get(proxy.front, path, "*/*").expect("the proxy answers");
    }
    let all = paths.iter().map(|(_, _, path, _)| path.as_str());
    let told = events.of(all.chain(extra.iter().copied()), TELL);
    let (mut faults, mut missed) = (Vec::new(), Vec::new());
    let mut cells = Cells::new();
    let guesses = ["haproxy", "caddy"].contains(&proxy.name);
    for (kind, route, path, whole) in &paths {
        let request = &told[path];
        let (mut cell, upstream) = said(request, &route.fault);
        let Route { fault, .. } = route;
        println!(
            "| {} | {} | {} | {cell} | {upstream} |",
            proxy.name, kind.name, fault.name
        );
        // A proxy may hide from its client that the answer was cut.
        let hidden = *whole && route.fault.is_cut() && request.code == Some(200);
        if hidden && request.attempts.is_empty() {
            cell.cause = OK.to_owned();
        }
        cells.insert((kind.name, fault.name), cell.clone());
        if cell.cause == OK {
            continue;
        }
        if guesses && fault.is_cut() && request.attempts.is_empty() {
            missed.push(path.as_str());
        } else if let Some(why) = wrong(kind, route, &cell, &upstream, guesses) {
            faults.push(format!("{path}: {why}: {request:#?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!(
        "{}: cut answers without a known attempt: {missed:?}",
        proxy.name
    );
    assert!(missed.len() <= MISSED, "{missed:?}");
    page::check(proxy, &cells, guesses);
    told
}

#[test]
fn an_upstream_that_is_not_read_is_an_attempt() {
    need_root();
    let mut stage = Stage::new();
    let proxy = proxies::nginx(&mut stage);
    let told = play(&proxy, &["/own/x"]);
    // Beside all these the proxy's own answer is still that.
    let own = &told["/own/x"];
    assert_eq!(own.cause.as_deref(), Some("proxy_generated"), "{own:#?}");
}

#[test]
fn the_same_at_haproxy() {
    need_root();
    let mut stage = Stage::new();
    play(&proxies::haproxy(&mut stage), &[]);
}

#[test]
fn the_same_at_apache() {
    need_root();
    let mut stage = Stage::new();
    play(&proxies::apache(&mut stage), &[]);
}

#[test]
fn the_same_at_caddy() {
    need_root();
    let mut stage = Stage::new();
    play(&proxies::caddy(&mut stage), &[]);
}
