//! The agent comes and goes in the middle of traffic, and neither it nor the traffic minds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::kernel::{bpf_objects, bpf_objects_of};
use e2e::load::traffic::Traffic;
use e2e::load::{Client, Order, Outcome, runtime};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use rustix::process::Signal;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NGINX: (&str, &str) = ("proxy", "nginx");
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

fn scene() -> (Upstreams, Nginx, SocketAddr) {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let address = ports::free(LOCALHOST);
    let app = *upstreams.addresses.first().unwrap_or(&address);
    let nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), None);
    (upstreams, nginx, address)
}

fn traffic(address: SocketAddr) -> Traffic {
    Traffic::start(address, 16, |client, number| {
        let words = ["ok", "wait=30", "body=20000", "body=3000,chunked"];
        let words = words.get(number % words.len()).unwrap_or(&"ok");
        Order::get(format!("/{client}/{number}/{words}"))
    })
}

/// Ends it; how many there were, and what failed.
fn stop(traffic: Traffic) -> (usize, Vec<Outcome>) {
    let mut outcomes = traffic.stop();
    let asked = outcomes.len();
    outcomes.retain(|outcome| !outcome.is(200));
    (asked, outcomes)
}

#[test]
fn connections_from_before_the_start_are_right_from_their_next_message_on() {
    let (upstreams, _nginx, address) = scene();
    let runtime = runtime();
    let each = |clients: &mut Vec<Client>, round: usize, requests: usize| {
        let mut outcomes = Vec::new();
        for (number, client) in clients.iter_mut().enumerate() {
            for request in 0..requests {
                let order = Order::get(format!("/{round}/{number}/{request}/body=500"));
                outcomes.push(runtime.block_on(client.ask(&order)));
            }
        }
        assert!(
            outcomes.iter().all(|outcome| outcome.is(200)),
            "{outcomes:?}"
        );
        outcomes.len() as f64
    };
    let mut clients: Vec<Client> = (0..16).map(|_| Client::new(address)).collect();
    each(&mut clients, 1, 5);

    let agent = Agent::start(&[]);
    let asked = each(&mut clients, 2, 10);

    let metrics = agent.settled(TELL);
    let upstream = upstreams
        .addresses
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let answered = metrics.by("why502_gateway_responses_total", &[NGINX], &["code"]);
    assert_eq!(
        answered.into_values().sum::<u64>() as f64,
        asked,
        "answers given"
    );
    let with = [NGINX, ("upstream", upstream.as_str()), ("code", "200")];
    assert_eq!(
        metrics.sum("why502_upstream_responses_total", &with),
        asked,
        "answers received"
    );
    assert_eq!(metrics.sum("why502_gateway_errors_total", &[]), 0.0);
    assert_eq!(metrics.sum("why502_upstream_failures_total", &[]), 0.0);
}

#[test]
fn starting_in_the_middle_of_traffic_tells_no_false_error() {
    let (_upstreams, _nginx, address) = scene();
    for _ in 0..3 {
        let traffic = traffic(address);
        traffic.goes_on(200);

        let agent = Agent::start(&[]);
        traffic.goes_on(1000);
        let (_, failed) = stop(traffic);

        assert!(failed.is_empty(), "{failed:?}");
        let metrics = agent.settled(TELL);
        let errors = metrics.by(
            "why502_gateway_errors_total",
            &[],
            &["code", "cause", "upstream"],
        );
        assert!(errors.is_empty(), "false errors: {errors:?}");
        let failures = metrics.by("why502_upstream_failures_total", &[], &["cause", "phase"]);
        assert!(failures.is_empty(), "false failures: {failures:?}");
        assert!(metrics.sum("why502_gateway_responses_total", &[NGINX, ("code", "200")]) >= 1000.0);
    }
}

#[test]
fn ten_starts_and_stops_under_load_leave_traffic_whole_and_the_kernel_clean() {
    let (_upstreams, _nginx, address) = scene();
    let traffic = traffic(address);

    for round in 0..10 {
        traffic.goes_on(100);
        let agent = Agent::start(&[]);
        let held = bpf_objects_of(agent.pid());
        assert!(
            held.iter().any(|(kind, _)| *kind == "link"),
            "the agent holds links: {held:?}"
        );
        traffic.goes_on(100);
        if round % 2 == 0 {
            let status = agent.stop(Signal::TERM);
            assert!(
                status.is_some_and(|status| status.success()),
                "stopped with {status:?}"
            );
        } else {
            agent.stop(Signal::KILL);
        }
        // The kernel frees programs after a grace period of RCU.
        eventually(Duration::from_secs(10), "the kernel is clean", || {
            let left: Vec<_> = bpf_objects().intersection(&held).copied().collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("left: {left:?}"))
            }
        });
    }

    let (asked, failed) = stop(traffic);
    assert!(
        failed.is_empty(),
        "{} of {asked} requests failed: {failed:?}",
        failed.len()
    );
}
