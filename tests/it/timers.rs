//! nginx goes upstream by timer (limit_req holds requests back): the thread has read from other
//! clients since, and a connect that fails has no request line to be known by.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Line, Request};
use e2e::load::{Order, run, runtime};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{Refusing, free};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

/// Requests of each kind.
const EACH: usize = 100;
const CLIENTS: usize = 40;
const TELL: Duration = Duration::from_secs(20);

#[test]
fn a_connect_that_a_timer_began_is_not_laid_at_another_requests_door() {
    need_root();
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let upstreams = Upstreams::start(localhost, &["0"], None);
    let (alive, dead) = (upstreams.addresses[0], Refusing::new(localhost));
    let listen = free(localhost);
    // All requests in one queue, one leaves every 5 ms.
    let http = format!(
        "limit_req_zone $server_addr zone=all:1m rate=200r/s;
server {{
    listen {listen};
    limit_req zone=all burst=1000;
    location /alive/ {{ proxy_pass http://{alive}; }}
    location /dead/ {{ proxy_pass http://{}; }}
}}",
        dead.address
    );
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    let nginx = Nginx::start(&config, None);
    let agent = Agent::start(&[]);
    let events = agent.events();
    let paths: Vec<String> = (0..EACH)
        .flat_map(|number| [format!("/alive/{number}/ok"), format!("/dead/{number}/ok")])
        .collect();

    let orders = paths.iter().cloned().map(Order::get).collect();
    runtime().block_on(run(listen, orders, CLIENTS));

    let logged = nginx.access_log_of(paths.len());
    let refused = logged.iter().filter(|one| one.status == 502).count();
    assert_eq!(refused, EACH, "the log says so");
    let told = eventually(TELL, "each request is told", || {
        let mut told: BTreeMap<String, Request> = BTreeMap::new();
        for line in events.so_far() {
            if let Line::Request(request) = line {
                told.insert(request.path.clone().unwrap_or_default(), *request);
            }
        }
        match paths
            .iter()
            .filter(|path| !told.contains_key(*path))
            .count()
        {
            0 => Ok(told),
            missing => Err(format!("{missing} are not told")),
        }
    });
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (path, request) in &told {
        let kind = if path.starts_with("/dead/") {
            "dead"
        } else {
            "alive"
        };
        let refused = request.attempts.iter().find(|one| one.cause.is_some());
        let of = |request: &Request| {
            let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            match refused {
                Some(one) if request.cause.is_none() => {
                    format!("{} ({})", word(&one.cause), word(&one.certainty))
                }
                _ => format!("{} ({})", word(&request.cause), word(&request.certainty)),
            }
        };
        let said = of(request);
        let right = match kind {
            "dead" => said.starts_with("connect_refused") || said.ends_with("(guess)"),
            _ => said.starts_with("none") || said.ends_with("(guess)"),
        };
        if !right {
            wrong.push(format!("{path}: {said}"));
        }
        *counts.entry(format!("{kind}: {said}")).or_default() += 1;
    }
    println!("{counts:#?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
