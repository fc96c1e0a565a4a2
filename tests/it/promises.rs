//! Promises to the operator: payload stays where it was, labels stay bounded, names given are
//! names used.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::http;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NGINX: (&str, &str) = ("proxy", "nginx");
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

fn incidents(agent: &Agent) -> String {
    match http::get(agent.address, "/api/v1/incidents", "*/*") {
        Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
        Err(error) => panic!("the agent does not answer: {error}"),
    }
}

#[test]
fn queries_and_bodies_never_leave_the_agent() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let address = ports::free(LOCALHOST);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let _nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), None);
    let agent = Agent::start(&["--log-level", "trace"]);
    let events = agent.events();

    let mut orders = vec![
        Order::get("/kept/1/ok?token=hidden-in-query"),
        Order::get("/kept/2/reset?token=hidden-in-query"),
        Order::get("/kept/3/cut=3,body=90,by=rst?token=hidden-in-query"),
    ];
    // The client's bodies are 0123456789...; the upstreams' are abcdefghij...
    orders.push(Order::post("/kept/4/close", 4000));
    orders.push(Order::post("/kept/5/body=4000,chunked", 4000));
    one_by_one(address, orders);

    eventually(TELL, "the requests are told", || {
        let text = events.text();
        match (1..=5).find(|n| !text.contains(&format!("/kept/{n}/"))) {
            None => Ok(()),
            Some(n) => Err(format!("request {n} is not in {text}")),
        }
    });
    agent.settled(TELL);
    for (place, text) in [
        ("events", events.text()),
        ("metrics", agent.metrics_text()),
        ("incidents", incidents(&agent)),
        ("log", agent.log()),
    ] {
        for secret in [
            "hidden-in-query",
            "token=",
            "0123456789012345",
            "abcdefghijklmnop",
        ] {
            assert!(!text.contains(secret), "`{secret}` is in the {place}");
        }
    }
}

#[test]
fn upstreams_beyond_the_bound_are_counted_as_other() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0", "0", "0", "0", "0"], None);
    let address = ports::free(LOCALHOST);
    let servers: String = upstreams
        .addresses
        .iter()
        .map(|server| format!("server {server};"))
        .collect();
    let http = format!(
        "upstream many {{ {servers} }}
         server {{ listen {address}; location / {{ proxy_pass http://many; }} }}"
    );
    let nginx = Nginx::start(
        &Config {
            workers: 1,
            ..Config::new(http)
        },
        None,
    );
    let agent = Agent::start(&["--max-upstreams", "2"]);

    let orders = (0..50)
        .map(|n| Order::get(format!("/bound/{n}/ok")))
        .collect();
    one_by_one(address, orders);
    nginx.access_log_of(50);

    let metrics = agent.settled(TELL);
    let answers = metrics.by("why502_upstream_responses_total", &[NGINX], &["upstream"]);
    assert_eq!(answers.len(), 3, "two with names and the rest: {answers:?}");
    assert_eq!(
        answers.get(&vec!["other".to_owned()]),
        Some(&30),
        "{answers:?}"
    );
    assert_eq!(answers.values().sum::<u64>(), 50);
    assert!(
        metrics.sum(
            "why502_agent_label_overflow_total",
            &[("label", "upstream")]
        ) > 0.0
    );
}

#[test]
fn names_given_are_the_names_in_labels_and_events_keep_the_address() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let address = ports::free(LOCALHOST);
    let app: SocketAddr = *upstreams.addresses.first().expect("it was ordered");
    let _nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), None);
    let name = format!("{app}=orders");
    let agent = Agent::start(&["--upstream-name", &name, "--proxy-name", "nginx=edge"]);
    let events = agent.events();

    one_by_one(
        address,
        vec![Order::get("/named/1/ok"), Order::post("/named/2/close", 1)],
    );

    let metrics = agent.settled(TELL);
    let labels = ["proxy", "upstream", "code"];
    let named = |values: [&str; 3]| values.map(str::to_owned).to_vec();
    let answers = metrics.by(
        "why502_upstream_responses_total",
        &[("proxy", "edge")],
        &labels,
    );
    assert_eq!(
        answers,
        BTreeMap::from([(named(["edge", "orders", "200"]), 1)])
    );
    let errors = metrics.by("why502_gateway_errors_total", &[("proxy", "edge")], &labels);
    assert_eq!(
        errors,
        BTreeMap::from([(named(["edge", "orders", "502"]), 1)])
    );
    let text = eventually(TELL, "the requests are told", || {
        let text = events.text();
        if text.contains("/named/2/") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    assert!(
        text.contains(&format!("\"{app}\"")) && text.contains("\"edge\""),
        "{text}"
    );
}
