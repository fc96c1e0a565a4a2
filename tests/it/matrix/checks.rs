//! Health checks of a dead server run in the threads that also serve clients: they are
//! attempts of no request.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::faults::observed::Told;
use e2e::load::{Order, run, runtime};
use e2e::ports::Refusing;
use e2e::process::need_root;
use e2e::proxies::{Checked, Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

/// Often enough that some fall into each request.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Two checks make a server known as checked, while no request waits: one that the agent is asked
/// itself, until it is known to be the agent's, is such a request.
const KNOWN_AFTER: f64 = 4.0;

const REQUESTS: usize = 60;

/// How long the agent may take to tell all requests.
const TELL: Duration = Duration::from_secs(10);

#[test]
fn health_checks_of_a_dead_server_are_attempts_of_no_request() {
    need_root();
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut wrong = Vec::new();
    for kind in [
        Kind::HaProxy,
        Kind::Envoy,
        Kind::Varnish,
        Kind::Traefik,
        Kind::Caddy,
        Kind::CaddyCurrent,
    ] {
        let upstreams = Upstreams::start(localhost, &["0"], None);
        let dead = Refusing::new(localhost);
        let groups = [
            Group::new("live", Target::Servers(upstreams.addresses.clone())),
            Group::new(
                "checked",
                Target::Checked(Checked {
                    servers: vec![dead.address],
                    path: "/health",
                    every: CHECK_EVERY,
                }),
            ),
        ];
        let agent = Agent::start(&[]);
        let events = agent.events();
        let proxy = Proxy::start(kind, &groups);
        // The first connects to a server may be a request's, for all that can be seen.
        let upstream = dead.address.to_string();
        eventually(TELL, "the server is checked while nobody asks", || {
            let refused = [("upstream", upstream.as_str()), ("result", "refused")];
            match agent.metrics().sum("why502_tcp_connects_total", &refused) {
                seen if seen >= KNOWN_AFTER => Ok(()),
                seen => Err(format!("{kind} has connected to {upstream} {seen} times")),
            }
        });
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
        let mistaken = told.tried(&upstream);
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
