//! What is served is what Prometheus takes: its own linter, and a real server that scrapes.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::http;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{Running, command, need_root};
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use serde_json::Value;
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Prometheus starts, scrapes and answers within this time.
const SCRAPED: Duration = Duration::from_secs(30);

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
fn prometheus_scrapes_counters_and_native_histograms() {
    let (agent, _upstreams, _nginx) = scene();
    let prometheus = Prometheus::start(agent.address);

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

/// A Prometheus that scrapes one target.
struct Prometheus {
    address: SocketAddr,
    _process: Running,
    _folder: TempDir,
}

impl Prometheus {
    #[expect(
        clippy::expect_used,
        reason = "a Prometheus that cannot be made ends the test with a sentence"
    )]
    fn start(target: SocketAddr) -> Self {
        let address = ports::free(LOCALHOST);
        let folder =
            TempDir::with_prefix("e2e-prometheus-").expect("a temporary folder can be made");
        let path = folder.path();
        let config = format!(
            "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\nscrape_configs:\n- job_name: why502\n  \
             static_configs:\n  - targets: ['{target}']\n"
        );
        fs::write(path.join("prometheus.yml"), config).expect("its configuration is written");
        let log = fs::File::create(path.join("log")).expect("its log is made");
        let mut command = command("prometheus", None);
        command
            .arg(format!(
                "--config.file={}",
                path.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                path.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=native-histograms")
            .stderr(log);
        Self {
            address,
            _process: Running::start("prometheus", &mut command),
            _folder: folder,
        }
    }

    /// The one value of a query, once there is one.
    #[track_caller]
    fn value(&self, query: &str) -> f64 {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        eventually(SCRAPED, &format!("Prometheus answers {query}"), || {
            let answer =
                http::get(self.address, &path, "*/*").map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let json: Value =
                serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
            json.pointer("/data/result/0/value/1")
                .and_then(Value::as_str)
                .and_then(|value| value.parse().ok())
                .ok_or(text)
        })
    }
}
