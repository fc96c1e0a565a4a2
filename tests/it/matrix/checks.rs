//! Health checks of a dead server run in the threads that also serve clients: they are
//! attempts of no request.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::faults::observed::Told;
use e2e::load::{Order, run, runtime};
use e2e::ports::Refusing;
use e2e::process::need_root;
use e2e::proxies::{Group, Judged, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

/// Often enough that some fall into each request.
const CHECK_EVERY: Duration = Duration::from_millis(50);

const REQUESTS: usize = 60;

/// How long the agent may take to tell all requests.
const TELL: Duration = Duration::from_secs(10);

#[test]
fn health_checks_of_a_dead_server_are_attempts_of_no_request() {
    need_root();
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut wrong = Vec::new();
    for kind in [Kind::HaProxy, Kind::Envoy, Kind::Varnish] {
        let upstreams = Upstreams::start(localhost, &["0"], None);
        let dead = Refusing::new(localhost);
        let groups = [
            Group::new("live", Target::Servers(upstreams.addresses.clone())),
            Group::new(
                "judged",
                Target::Judged(Judged {
                    servers: vec![dead.address],
                    check_every: CHECK_EVERY,
                }),
            ),
        ];
        let agent = Agent::start(&[]);
        let events = agent.events();
        let proxy = Proxy::start(kind, &groups);
        let orders = (0..REQUESTS)
            .map(|number| Order::get(format!("/live/{number}/wait=60,close")))
            .collect();

        let outcomes = runtime().block_on(run(proxy.address, orders, 4));

        let paths: Vec<&str> = outcomes.iter().map(|one| one.path.as_str()).collect();
        let told = eventually(TELL, "each request is told", || {
            let told = Told::new(events.so_far());
            match paths.iter().filter(|path| !told.has(path)).count() {
                0 => Ok(told),
                missing => Err(format!("{missing} of {REQUESTS} are not told by {kind}")),
            }
        });
        let dead = dead.address.to_string();
        let mistaken = told.tried(&dead);
        if !mistaken.is_empty() {
            wrong.push(format!(
                "{kind}: {} of {REQUESTS}: {mistaken:?}",
                mistaken.len()
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "requests that a server was tried for which only health checks were sent to: {wrong:#?}"
    );
}
