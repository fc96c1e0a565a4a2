//! What is served is what Prometheus takes: its own linter, and a real server that scrapes.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::http;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::prometheus::{Prometheus, Setup};
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An agent that has seen 30 good and 4 failed requests.
fn scene() -> (Agent, Upstreams, Nginx) {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let address = ports::free(LOCALHOST);
    let app = *upstreams.addresses.first().unwrap_or(&address);
    let nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), None);
    let agent = Agent::start(&[]);
    let mut orders: Vec<Order> = (0..30)
        .map(|n| Order::get(format!("/p/{n}/wait=2,body=100")))
        .collect();
    orders.extend((0..4).map(|n| Order::post(format!("/p/{n}/reset"), 3)));
    one_by_one(address, orders);
    agent.settled(Duration::from_secs(20));
    (agent, upstreams, nginx)
}

#[test]
fn promtool_finds_nothing_to_say_about_the_text_form() {
    let (agent, _upstreams, _nginx) = scene();
    let answer = http::get(agent.address, "/metrics", "text/plain; version=0.0.4")
        .expect("the agent answers");
    assert_eq!(answer.status, 200);

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian package `prometheus`)");
    promtool
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(&answer.body)
        .expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");

    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "{}: {said}",
        answer.content_type
    );
}

#[test]
fn the_form_is_as_asked_for() {
    let (agent, _upstreams, _nginx) = scene();
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    for (accept, expected) in [
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text",
        ),
        (protobuf, "application/vnd.google.protobuf"),
    ] {
        let answer = http::get(agent.address, "/metrics", accept).expect("the agent answers");
        assert_eq!(answer.status, 200);
        assert!(
            answer.content_type.starts_with(expected),
            "{accept} gives {}",
            answer.content_type
        );
    }
    assert!(agent.metrics_text().ends_with("# EOF\n"));
}

#[test]
fn what_the_agent_is_asked_itself_leaves_no_request_behind() {
    need_root();
    // Elsewhere packets of its own are seen where they share a cgroup with those of a proxy.
    let agent = Agent::start(&["--attach", "everywhere"]);
    for _ in 0..20 {
        agent.metrics();
    }
    eventually(Duration::from_secs(10), "they are given up", || {
        let metrics = agent.metrics();
        let given_up = [("what", "request"), ("fate", "foreign")];
        let given_up = metrics.sum("why502_agent_exchanges_total", &given_up);
        let open = metrics.sum("why502_agent_tracked", &[("what", "requests")]);
        // None of them was read any further.
        let ignored = [("kind", "ignored"), ("stage", "decoded")];
        let ignored = metrics.sum("why502_agent_records_total", &ignored);
        // The last may be under way.
        if given_up >= 20.0 && ignored >= 20.0 && open <= 1.0 {
            Ok(())
        } else {
            Err(format!(
                "of 20 {given_up} given up, {ignored} left alone, {open} open"
            ))
        }
    });
}

#[test]
fn prometheus_scrapes_counters_and_native_histograms() {
    let (agent, _upstreams, _nginx) = scene();
    let prometheus = Prometheus::start(agent.address, &Setup::default());

    assert_eq!(prometheus.value("up"), 1.0);
    assert_eq!(
        prometheus.value(r#"sum(why502_gateway_responses_total{proxy="nginx",code="200"})"#),
        30.0
    );
    assert_eq!(
        prometheus.value(r#"sum(why502_gateway_errors_total{proxy="nginx",code="502"})"#),
        4.0
    );
    // These functions take native histograms only.
    let count =
        prometheus.value(r#"sum(histogram_count(why502_gateway_request_seconds{proxy="nginx"}))"#);
    assert_eq!(count, 34.0);
    let median = prometheus
        .value(r#"histogram_quantile(0.5, sum(why502_gateway_request_seconds{proxy="nginx"}))"#);
    assert!(
        (0.001..0.2).contains(&median),
        "half of the requests took {median} s"
    );
}
