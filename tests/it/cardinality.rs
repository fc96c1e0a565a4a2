//! Many upstreams: the series stay within their bound, whatever a proxy is asked for.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::metrics::Metrics;
use e2e::load::{Order, run, runtime};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::upstreams::Upstreams;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(60);
const RESPONSES: &str = "why502_upstream_responses_total";
const FAILURES: &str = "why502_upstream_failures_total";
const OVERFLOW: &str = "why502_agent_label_overflow_total";
/// Upstreams that are asked for.
const MANY: u32 = 5000;
/// Upstreams that have series of their own.
const BOUND: usize = 100;

/// nginx that goes wherever the path says: `/at/1/2/` to 127.88.1.2, `/port/9/` to port 9.
#[track_caller]
fn stage() -> (Upstreams, Nginx, SocketAddr) {
    need_root();
    let upstreams = Upstreams::start(IpAddr::V4(Ipv4Addr::UNSPECIFIED), &["0"], None);
    let port = upstreams.addresses.first().expect("it was ordered").port();
    let front = ports::free(LOCALHOST);
    let http = format!(
        "server {{ listen {front}; keepalive_requests 1000000;\n\
         location ~ ^/at/(\\d+)/(\\d+)/ {{ proxy_pass http://127.88.$1.$2:{port}; }}\n\
         location ~ ^/port/(\\d+)/ {{ proxy_pass http://127.89.0.1:$1; }}\n}}"
    );
    (upstreams, Nginx::start(&Config::new(http), None), front)
}

/// 5,000 addresses that answer.
fn everywhere() -> Vec<Order> {
    (0..MANY)
        .map(|n| Order::get(format!("/at/{}/{}/ok", n / 250, n % 250 + 1)))
        .collect()
}

/// A scan of ports where next to nobody listens.
fn scan() -> Vec<Order> {
    (0..MANY)
        .map(|n| Order::get(format!("/port/{}/ok", 20_000 + n)))
        .collect()
}

fn series(metrics: &Metrics) -> usize {
    let names = [
        RESPONSES,
        FAILURES,
        "why502_gateway_errors_total",
        "why502_tcp_connects_total",
        "why502_upstream_connect_seconds_count",
        "why502_upstream_response_seconds_count",
    ];
    names.iter().map(|name| metrics.of(name, &[]).count()).sum()
}

fn upstreams_of(metrics: &Metrics, name: &str) -> BTreeSet<String> {
    metrics
        .by(name, &[], &["upstream"])
        .into_keys()
        .flatten()
        .collect()
}

#[test]
fn five_thousand_upstreams_and_a_scan_of_ports_stay_within_the_bound() {
    let (_upstreams, _nginx, front) = stage();
    let agent = Agent::start(&["--max-upstreams", &BOUND.to_string()]);

    runtime().block_on(run(front, everywhere(), 8));
    let filled = agent.settled(TELL);
    let told = upstreams_of(&filled, RESPONSES);
    let text = agent.metrics_text().len();
    runtime().block_on(run(front, scan(), 8));
    let scanned = agent.settled(TELL);

    // All are counted, a hundred by their own name.
    assert_eq!(filled.sum(RESPONSES, &[]), f64::from(MANY));
    assert_eq!(told.len(), BOUND + 1, "{told:?}");
    assert!(told.contains("other"));
    let other = filled.sum(RESPONSES, &[("upstream", "other")]);
    assert_eq!(other, f64::from(MANY) - BOUND as f64);
    assert!(filled.sum(OVERFLOW, &[("label", "upstream")]) >= other);
    // The scan finds no room: it adds to `other`, and a few series of it.
    let failed = scanned.by(FAILURES, &[("cause", "connect_refused")], &["upstream"]);
    assert_eq!(
        failed.keys().flatten().collect::<Vec<_>>(),
        ["other"],
        "{failed:?}"
    );
    assert!(
        failed.values().sum::<u64>() > u64::from(MANY) * 9 / 10,
        "{failed:?}"
    );
    assert!(
        series(&scanned) <= series(&filled) + 10,
        "{} series, then {}",
        series(&filled),
        series(&scanned)
    );
    let grown = agent.metrics_text().len();
    assert!(grown < text + text / 10, "{text} bytes, then {grown}");
    let overflow = |metrics: &Metrics| metrics.sum(OVERFLOW, &[("label", "upstream")]);
    assert!(overflow(&scanned) >= overflow(&filled) + f64::from(MANY) * 0.9);
}

/// A network that has a name is one upstream, however many addresses it has.
#[test]
fn a_network_with_a_name_is_one_upstream() {
    let (_upstreams, _nginx, front) = stage();
    let agent = Agent::start(&[
        "--max-upstreams",
        "2",
        "--upstream-name",
        "127.88.0.0/16=fleet",
        "--upstream-name",
        "127.88.7.0/24=canary",
    ]);

    runtime().block_on(run(front, everywhere(), 8));

    let metrics = agent.settled(TELL);
    let told = metrics.by(RESPONSES, &[], &["upstream"]);
    let count = |name: &str| told.get(&vec![name.to_owned()]).copied();
    assert_eq!(count("canary"), Some(250), "{told:?}");
    assert_eq!(count("fleet"), Some(u64::from(MANY) - 250), "{told:?}");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(metrics.sum(OVERFLOW, &[]), 0.0);
}

/// A host's name stands for what it resolves to.
#[test]
fn a_host_with_a_name_is_what_it_resolves_to() {
    let (upstreams, _nginx, _) = stage();
    let app = SocketAddr::new(LOCALHOST, upstreams.addresses[0].port());
    let front = ports::free(LOCALHOST);
    let http = format!("server {{ listen {front}; location / {{ proxy_pass http://{app}; }} }}");
    let _nginx = Nginx::start(&Config::new(http), None);
    let name = format!("localhost:{}=home", app.port());
    let agent = Agent::start(&[
        "--upstream-name",
        &name,
        "--upstream-name",
        "no-such-host.invalid:80=nobody",
    ]);

    // The first lookup is over when the agent is ready, or soon after.
    let asked = e2e::wait::eventually(TELL, "the name is known", || {
        runtime().block_on(run(front, vec![Order::get("/one/ok")], 1));
        let metrics = agent.settled(TELL);
        match metrics.sum(RESPONSES, &[("upstream", "home")]) {
            0.0 => Err("not yet".to_owned()),
            count => Ok(count),
        }
    });

    assert!(asked >= 1.0);
    let log = agent.log();
    assert_eq!(log.matches("does not resolve").count(), 1, "{log}");
}
