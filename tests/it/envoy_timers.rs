//! Which of Envoy's timers ended a request: what the agent says that Envoy writes has to be in its log.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::load::{Order, one_by_one};
use e2e::process::need_root;
use e2e::proxies::{Besides, Group, Proxy, Target};
use e2e::upstreams::Upstreams;
use serde_json::json;

/// How long the agent may take to tell a request.
const TELL: Duration = Duration::from_secs(20);

/// Which of its timers ended a request is known to Envoy alone: what the agent says has to be true of each.
#[test]
fn envoy_says_which_timer_it_was() {
    need_root();
    let upstreams = Upstreams::start(IpAddr::V4(Ipv4Addr::LOCALHOST), &["0"], None);
    let timers = [
        ("route", json!({ "timeout": "1s" })),
        (
            "try",
            json!({ "timeout": "0s", "retry_policy": { "per_try_timeout": "1s", "num_retries": 0 } }),
        ),
        (
            "try_idle",
            json!({ "timeout": "0s", "retry_policy": { "per_try_idle_timeout": "1s", "num_retries": 0 } }),
        ),
        ("idle", json!({ "timeout": "0s", "idle_timeout": "1s" })),
        (
            "duration",
            json!({ "timeout": "0s", "max_stream_duration": { "max_stream_duration": "1s" } }),
        ),
    ];
    let routes: Vec<(Group, Besides)> = timers
        .into_iter()
        .map(|(name, action)| {
            let group = Group::new(name, Target::Servers(upstreams.addresses.clone()));
            let besides = Besides {
                action,
                ..Besides::default()
            };
            (group, besides)
        })
        .collect();
    let agent = Agent::start_as("envoy", &[]);
    let events = agent.events();
    let proxy = Proxy::envoy(&routes);
    let paths: Vec<String> = routes
        .iter()
        .flat_map(|(group, _)| {
            let words = ["hang", "body=9000,cut=1000,by=hang"];
            words.map(|words| format!("/{}/{words}", group.name))
        })
        .collect();

    one_by_one(proxy.address, paths.iter().map(Order::get).collect());

    let told = events.of(paths.iter().map(String::as_str), TELL);
    let said = proxy.said_of(paths.iter().map(String::as_str));
    for path in &paths {
        let (told, said) = (&told[path], &said[path]);
        let attempts = &told.attempts;
        let words = attempts.last().and_then(|attempt| attempt.words.clone());
        println!(
            "{path}: log {:?} {} | {:?} {words:?}",
            said.status,
            said.words,
            attempts.last().and_then(|one| one.cause.clone()),
        );
        let words = words.unwrap_or_else(|| panic!("{path}: no words"));
        assert!(
            said.words.contains(&words),
            "{path}: no `{words}` in its log"
        );
    }
}
