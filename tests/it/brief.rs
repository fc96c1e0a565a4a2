//! `--brief true`: exchanges of a proxy that go well are counted without being followed, and what goes wrong
//! in the middle of them is explained as it is where all are followed.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::metrics::Metrics;
use e2e::http;
use e2e::load::known::{codes, http_block};
use e2e::load::traffic::Traffic;
use e2e::load::{Client, Order, Outcome, one_by_one, runtime};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use serde_json::Value;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NGINX: (&str, &str) = ("proxy", "nginx");

/// How long the agent may take to see what was done, and to trust a proxy again.
const TELL: Duration = Duration::from_secs(30);

/// Clients that ask for what goes well.
const CLIENTS: usize = 8;

/// Of that, so much is done before each fault.
const BETWEEN: usize = 2_000;

/// What goes wrong, one after the other: path, whether it has a body, cause, and its certainty where all
/// requests are followed.
const FAULTS: [(&str, bool, &str, &str); 4] = [
    ("/refused/0/ok", false, "connect_refused", "proof"),
    ("/one/1/close", true, "closed_before_response", "strong"),
    ("/one/3/head_cut=20", true, "truncated_response", "proof"),
    ("/one/4/status=503", false, "upstream_status", "proof"),
];

/// An nginx in front of applications and of a port at which nobody listens.
struct Scene {
    address: SocketAddr,
    upstreams: Upstreams,
    _refusing: Refusing,
    _nginx: Nginx,
}

impl Scene {
    fn start() -> Self {
        let upstreams = Upstreams::start(LOCALHOST, &["0", "0"], None);
        let refusing = Refusing::new(LOCALHOST);
        let address = ports::free(LOCALHOST);
        let http = http_block(address, &upstreams.addresses, refusing.address);
        let http = format!("proxy_read_timeout 1h;\n{http}");
        Self {
            address,
            upstreams,
            _nginx: Nginx::start(&Config::new(http), None),
            _refusing: refusing,
        }
    }

    /// Clients ask for what goes well until they are stopped.
    fn go_well(&self) -> Traffic {
        Traffic::start(self.address, CLIENTS, |client, number| {
            Order::get(format!("/one/{client}-{number}/body={}", number % 4000))
        })
    }
}

fn briefs(agent: &Agent) -> f64 {
    of_kind(&agent.metrics(), "brief")
}

fn of_kind(metrics: &Metrics, kind: &str) -> f64 {
    let labels = [("kind", kind), ("stage", "decoded")];
    metrics.sum("why502_agent_records_total", &labels)
}

/// Waits until what goes well is told in brief.
#[track_caller]
fn is_told_in_brief(agent: &Agent) {
    let before = briefs(agent);
    eventually(TELL, "exchanges are told in brief", || {
        let now = briefs(agent);
        if now > before {
            Ok(())
        } else {
            Err(now.to_string())
        }
    });
}

fn fault((path, has_body, ..): (&str, bool, &str, &str)) -> Order {
    if has_body {
        Order::post(path, 10)
    } else {
        Order::get(path)
    }
}

#[test]
fn what_fails_in_the_middle_of_what_goes_well_is_explained_and_all_is_counted() {
    need_root();
    let scene = Scene::start();
    let agent = Agent::start(&["--brief", "true"]);
    let traffic = scene.go_well();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for one in FAULTS {
        is_told_in_brief(&agent);
        traffic.goes_on(BETWEEN);
        outcomes.extend(one_by_one(scene.address, vec![fault(one)]));
    }
    is_told_in_brief(&agent);
    outcomes.extend(traffic.stop());
    let metrics = agent.settled(TELL);

    let in_brief = of_kind(&metrics, "brief");
    println!(
        "{} requests, {in_brief} exchanges told in brief",
        outcomes.len()
    );
    assert!(in_brief > BETWEEN as f64, "{in_brief}");
    let losses = metrics.by("why502_agent_losses_total", &[], &["stage", "what"]);
    assert!(losses.is_empty(), "losses: {losses:?}");
    let told = metrics.by("why502_gateway_responses_total", &[NGINX], &["code"]);
    assert_eq!(told, codes(&outcomes), "agent left, clients right");
    let told = metrics.by(
        "why502_gateway_errors_total",
        &[NGINX],
        &["cause", "certainty"],
    );
    let one = |cause: &str, certainty: &str| (vec![cause.to_owned(), certainty.to_owned()], 1);
    let expected: BTreeMap<_, _> = FAULTS.map(|(_, _, cause, sure)| one(cause, sure)).into();
    assert_eq!(told, expected, "agent left, what was ordered right");
    // One attempt each: all of them are counted, at their upstream.
    let attempts = metrics.sum("why502_agent_attempts_total", &[]);
    assert!(
        (attempts - outcomes.len() as f64).abs() < f64::EPSILON,
        "{attempts}"
    );
    let incidents = incidents(&agent);
    for (path, _, cause, _) in FAULTS {
        let incident = incidents.iter().find(|one| one["path"] == path);
        let incident = incident.unwrap_or_else(|| panic!("{path}: {incidents:?}"));
        assert_eq!(incident["cause"], cause, "{incident:#}");
        assert_eq!(
            incident["attempts"].as_array().map(Vec::len),
            Some(1),
            "{incident:#}"
        );
    }
}

#[test]
fn what_hangs_in_the_middle_of_what_goes_well_is_listed() {
    need_root();
    let scene = Scene::start();
    let agent = Agent::start(&["--brief", "true"]);
    let traffic = scene.go_well();
    is_told_in_brief(&agent);
    let mut client = TcpStream::connect(scene.address).expect("the proxy listens");
    // The first request of a connection is told whole: nobody has read from it before.
    let path = "/one/0/hang";
    write!(client, "GET {path} HTTP/1.1\r\nHost: hangs\r\n\r\n").expect("the proxy reads");

    let upstreams = scene.upstreams.addresses.iter().map(ToString::to_string);
    let upstreams: Vec<Value> = upstreams.map(Value::from).collect();
    eventually(TELL, "it is listed with its upstream", || {
        let list = get(&agent, "/api/v1/open");
        let open = list["open"].as_array().expect("a list");
        let open = open.iter().find(|one| one["path"] == path);
        match open {
            Some(one) if upstreams.contains(&one["upstream"]) => Ok(()),
            _ => Err(list.to_string()),
        }
    });
    is_told_in_brief(&agent);
    let under_way = agent
        .metrics()
        .sum("why502_upstream_outstanding_requests", &[NGINX]);
    assert!(under_way >= 1.0, "{under_way}");
    traffic.goes_on(BETWEEN);

    drop(client);
    eventually(TELL, "it is over", || {
        let list = get(&agent, "/api/v1/open");
        let open = list["open"].as_array().expect("a list");
        if open.iter().any(|one| one["path"] == path) {
            Err(list.to_string())
        } else {
            Ok(())
        }
    });
    traffic.stop();
}

#[test]
fn whoever_wants_all_requests_gets_them_whole() {
    need_root();
    let scene = Scene::start();
    let agent = Agent::start(&["--brief", "true"]);
    let traffic = scene.go_well();
    is_told_in_brief(&agent);

    let events = agent.events();
    eventually(TELL, "nothing is told in brief any more", || {
        let before = briefs(&agent);
        traffic.goes_on(BETWEEN);
        let now = briefs(&agent);
        if now > before {
            Err(now.to_string())
        } else {
            Ok(())
        }
    });
    let path = "/one/last/body=77";
    runtime().block_on(async { Client::new(scene.address).ask(&Order::get(path)).await });
    eventually(TELL, "the request is told with its attempt", || {
        let text = events.text();
        let told = text.lines().find(|line| line.contains(path));
        let told = told.filter(|line| line.contains("\"join\":\"errand\""));
        told.map(|_| ())
            .ok_or_else(|| text.lines().count().to_string())
    });
    traffic.stop();
}

fn incidents(agent: &Agent) -> Vec<Value> {
    let list = get(agent, "/api/v1/incidents");
    list["incidents"].as_array().expect("a list").clone()
}

fn get(agent: &Agent, path: &str) -> Value {
    let answer = http::get(agent.address, path, "*/*").expect("the agent answers");
    serde_json::from_slice(&answer.body).expect("it is JSON")
}
