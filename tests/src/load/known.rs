//! Random requests through nginx of which a word in the path says what is true.
//!
//! In: a seed. Out: orders, what each of them must be told as, and an nginx that makes it so. No
//! request is tried twice, so that what happens to it is what was ordered.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use fastrand::Rng;

use super::{Order, Outcome};
use crate::agent::events::{Line, Request};
use crate::agent::metrics::Metrics;

/// Of a hundred requests, so many go wrong.
const FAULTS: usize = 5;

/// Counts by label value, as [`Metrics::by`] gives them for one label.
pub type Counts = BTreeMap<Vec<String>, u64>;

/// An `http` block with the locations that the orders are for.
pub fn http_block(listen: SocketAddr, servers: &[SocketAddr], refusing: SocketAddr) -> String {
    let servers: String = servers
        .iter()
        .map(|server| format!("server {server} max_fails=0; "))
        .collect();
    format!(
        "proxy_http_version 1.1;
proxy_set_header Connection '';
proxy_next_upstream off;
keepalive_requests 1000000;
upstream good {{ {servers} keepalive 64; }}
upstream refused {{ server {refusing} max_fails=0; }}
server {{
    listen {listen} backlog=4096;
    location /one/ {{ proxy_pass http://good; }}
    location /refused/ {{ proxy_pass http://refused; }}
}}"
    )
}

/// One of them.
pub fn order(rng: &mut Rng, number: usize) -> Order {
    let path = |group: &str, words: &str| format!("/{group}/{number}/{words}");
    if rng.usize(0..100) >= FAULTS {
        let words = format!("body={}", rng.usize(10..4000));
        return Order::get(path("one", &words));
    }
    match rng.u8(0..4) {
        0 => Order::get(path("refused", "ok")),
        1 => Order::post(path("one", "close"), 10),
        2 => Order::post(path("one", "head_cut=20"), 10),
        _ => Order::get(path("one", "status=503")),
    }
}

/// So many of them.
pub fn orders(seed: u64, count: usize) -> Vec<Order> {
    let mut rng = Rng::with_seed(seed);
    (0..count).map(|number| order(&mut rng, number)).collect()
}

/// The one true cause of what a path orders, `None` for what goes well.
pub fn cause(path: &str) -> Option<&'static str> {
    Some(match path.rsplit('/').next()? {
        "ok" => "connect_refused",
        "close" => "closed_before_response",
        "head_cut=20" => "truncated_response",
        "status=503" => "upstream_status",
        _ => return None,
    })
}

/// How often each cause is true.
pub fn causes<'a>(paths: impl IntoIterator<Item = &'a str>) -> Counts {
    counted(paths.into_iter().filter_map(cause).map(str::to_owned))
}

/// How often clients got each code.
pub fn codes<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Counts {
    counted(outcomes.into_iter().map(|outcome| {
        let status = outcome.status.map(|status| status.to_string());
        status.unwrap_or_else(|| "none".to_owned())
    }))
}

/// How many of these lines call something proven, and each that does so wrongly.
pub fn proofs(lines: &[Line]) -> (usize, Vec<String>) {
    let mut proofs = 0;
    let mut wrong = Vec::new();
    for line in lines {
        let mut judge = |path: Option<&str>, said: Option<&str>, certainty: Option<&str>| {
            if certainty == Some("proof") {
                proofs += 1;
                if path.is_some_and(|path| cause(path) != said) {
                    wrong.push(format!("{path:?} is told as {said:?}: {line:?}"));
                }
            }
        };
        match line {
            Line::Request(request) => {
                let Request {
                    path,
                    cause,
                    certainty,
                    attempts,
                    ..
                } = request.as_ref();
                judge(path.as_deref(), cause.as_deref(), certainty.as_deref());
                for attempt in attempts {
                    judge(
                        path.as_deref(),
                        attempt.cause.as_deref(),
                        attempt.certainty.as_deref(),
                    );
                }
            }
            Line::Attempt(attempt) => judge(
                attempt.path.as_deref(),
                attempt.attempt.cause.as_deref(),
                attempt.attempt.certainty.as_deref(),
            ),
            Line::Lost { .. } | Line::Other => {}
        }
    }
    (proofs, wrong)
}

/// Asserts that the errors that clients were given are those that were explained and those that
/// were not, by each of the three that count them. A client that is not read counts as one more that was
/// not explained.
#[track_caller]
pub fn assert_covered(metrics: &Metrics) {
    let fate = |fate| metrics.sum("why502_agent_explanations_total", &[("fate", fate)]);
    let [seen, explained, unattributed] = ["seen", "explained", "unattributed"].map(fate);
    let share = metrics.sum("why502_agent_coverage", &[]);
    println!("{seen} errors, {explained} explained, {unattributed} unattributed: {share}");
    assert_eq!(seen, explained + unattributed, "seen left");
    let unread = metrics.sum("why502_agent_unread_clients_total", &[]);
    let all = seen + unread;
    let expected = if all > 0.0 { explained / all } else { 1.0 };
    assert!((share - expected).abs() < 1e-9, "{share} of {expected}");
    // Of closed connections only those count as errors that a client waited for.
    let of = |name: &str, is_its: fn(&String) -> bool| -> f64 {
        let series = metrics.of(name, &[]);
        let its = series.filter(|(labels, _)| labels.get("code").is_some_and(is_its));
        its.map(|(_, value)| value).sum()
    };
    let errors = "why502_gateway_errors_total";
    let given = of(errors, |code| code.starts_with('5') || code == "none");
    assert_eq!(given, seen, "errors left, seen right");
    let is_5xx = |code: &String| code.starts_with('5');
    assert_eq!(
        of("why502_gateway_responses_total", is_5xx),
        of(errors, is_5xx),
        "answers left, errors right"
    );
}

fn counted(words: impl Iterator<Item = String>) -> Counts {
    let mut counts = Counts::new();
    for word in words {
        *counts.entry(vec![word]).or_default() += 1;
    }
    counts
}
