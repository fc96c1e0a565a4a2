//! Containers of proxy and upstream in what the agent tells, against what podman says.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::Request;
use e2e::http;
use e2e::load::{Order, one_by_one};
use e2e::netns::Netns;
use e2e::nginx::{Config, Nginx};
use e2e::podman::Podman;
use e2e::process::need_root;
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

/// Asks for these paths one after the other and gives what is told of each, in order.
#[track_caller]
fn told(agent: &Agent, front: SocketAddr, paths: &[&str]) -> Vec<Request> {
    let events = agent.events();
    one_by_one(front, paths.iter().map(|path| Order::get(*path)).collect());
    let mut told = events.of(paths.iter().copied(), TELL);
    paths.iter().filter_map(|path| told.remove(*path)).collect()
}

/// The containers of both sides of the last attempt.
#[track_caller]
fn sides(request: &Request) -> (Option<&str>, Option<&str>) {
    let attempt = request.attempts.last().expect("an attempt was made");
    (
        request.proxy.container.as_deref(),
        attempt.peer.container.as_deref(),
    )
}

#[test]
fn both_sides_of_an_incident_have_the_container_that_podman_says() {
    need_root();
    let (outside, inside) = (Netns::new(), Netns::new());
    let inner = inside.join(Some(&outside));
    let outer = outside.join(None);
    let podman = Podman::new();
    let app = SocketAddr::new(inner.far, 9000);
    let front = SocketAddr::new(outer.far, 8080);
    let upstream = podman.misbehave(&[app], &inside);
    let proxy = podman.nginx(&plain(&[front.to_string()], app), &outside);
    assert!(proxy.holds(proxy.pid) && upstream.holds(upstream.pid));
    assert_ne!(proxy.id, upstream.id);
    let agent = Agent::start(&[]);

    let faults = [
        "/c/1/close",
        "/c/2/reset",
        "/c/3/hang",
        "/c/4/ok",
        "/c/5/status=503",
    ];
    let requests = told(&agent, front, &faults);

    let expected = (Some(proxy.id.as_str()), Some(upstream.id.as_str()));
    for request in &requests {
        assert_eq!(sides(request), expected, "{request:?}");
        assert!(proxy.holds(request.proxy.pid), "{request:?}");
    }
    let codes: Vec<_> = requests.iter().map(|request| request.code).collect();
    assert_eq!(
        codes,
        [Some(502), Some(502), Some(504), Some(200), Some(503)]
    );
    // The same of what is kept: four were errors.
    let kept = http::get(agent.address, "/api/v1/incidents", "*/*").expect("it answers");
    let kept = String::from_utf8(kept.body).expect("JSON is text");
    for id in [&proxy.id, &upstream.id] {
        assert_eq!(kept.matches(id.as_str()).count(), 4, "{kept}");
    }
}

#[test]
fn an_address_that_another_container_takes_over_is_not_the_first_any_more() {
    need_root();
    let inside = Netns::new();
    let veth = inside.join(None);
    let podman = Podman::new();
    let app = SocketAddr::new(veth.far, 9000);
    let front = e2e::ports::free(LOCALHOST);
    let nginx = Nginx::start(&Config::new(plain(&[front.to_string()], app)), None);
    let agent = Agent::start(&[]);

    let first = podman.misbehave(&[app], &inside);
    let first_id = first.id.clone();
    let of_first = told(&agent, front, &["/first/1/close", "/first/2/reset"]);
    drop(first);
    let of_none = told(&agent, front, &["/none/1/ok"]);
    let second = podman.misbehave(&[app], &inside);
    let of_second = told(&agent, front, &["/second/1/close", "/second/2/reset"]);

    assert_ne!(first_id, second.id);
    for request in &of_first {
        assert_eq!(
            sides(request),
            (None, Some(first_id.as_str())),
            "{request:?}"
        );
    }
    // nginx itself is in no container, and nobody is behind an address that refuses.
    for request in &of_none {
        assert_eq!(request.cause.as_deref(), Some("connect_refused"));
        assert_eq!(sides(request), (None, None), "{request:?}");
    }
    for request in &of_second {
        assert_eq!(
            sides(request),
            (None, Some(second.id.as_str())),
            "{request:?}"
        );
    }
    drop(nginx);
}

/// A server that is no proxy is not read for long; then its own socket says nothing any more.
#[test]
fn a_busy_server_stays_known_when_it_is_no_longer_read() {
    need_root();
    let inside = Netns::new();
    let veth = inside.join(None);
    let podman = Podman::new();
    let app = SocketAddr::new(veth.far, 9000);
    let front = e2e::ports::free(LOCALHOST);
    let _nginx = Nginx::start(&Config::new(plain(&[front.to_string()], app)), None);
    let upstream = podman.misbehave(&[app], &inside);
    let agent = Agent::start(&["--bystander-exchanges", "5", "--log-level", "debug"]);
    let busy = (0..50).map(|n| Order::get(format!("/busy/{n}/last")));
    one_by_one(front, busy.collect());
    eventually(TELL, "the server is left alone", || {
        let log = agent.log();
        if log.contains("is no proxy") {
            Ok(())
        } else {
            Err(log)
        }
    });

    let requests = told(
        &agent,
        front,
        &["/after/1/close", "/after/2/reset", "/after/3/hang"],
    );

    for request in requests {
        assert_eq!(
            sides(&request),
            (None, Some(upstream.id.as_str())),
            "{request:?}"
        );
    }
}

/// The containers of a pod share a network, and 127.0.0.1:9000 is someone else in each pod and
/// on the host.
#[test]
fn loopback_is_another_place_in_each_namespace() {
    need_root();
    let podman = Podman::new();
    let app = SocketAddr::new(LOCALHOST, 9000);
    let pods = [Netns::new(), Netns::new()];
    let fronts = pods
        .each_ref()
        .map(|pod| SocketAddr::new(pod.join(None).far, 8080));
    let upstreams = pods.each_ref().map(|pod| podman.misbehave(&[app], pod));
    let proxies =
        [0, 1].map(|at: usize| podman.nginx(&plain(&[fronts[at].to_string()], app), &pods[at]));
    let on_host = Upstreams::start(LOCALHOST, &["9000"], None);
    let front = e2e::ports::free(LOCALHOST);
    let nginx = Nginx::start(&Config::new(plain(&[front.to_string()], app)), None);
    let agent = Agent::start(&[]);

    for round in 0..3 {
        for at in [0, 1] {
            let path = format!("/pod/{round}/{at}/close");
            for request in told(&agent, fronts[at], &[&path]) {
                let expected = (
                    Some(proxies[at].id.as_str()),
                    Some(upstreams[at].id.as_str()),
                );
                assert_eq!(sides(&request), expected, "{request:?}");
            }
        }
        let path = format!("/host/{round}/close");
        for request in told(&agent, front, &[&path]) {
            assert_eq!(sides(&request), (None, None), "{request:?}");
        }
    }
    drop((on_host, nginx));
}

/// In a container without the host's pid namespace the ids that the kernel tells are not those
/// of `/proc`.
#[test]
fn an_agent_that_does_not_see_the_hosts_processes_says_so_and_names_none() {
    need_root();
    let inside = Netns::new();
    let veth = inside.join(None);
    let podman = Podman::new();
    let app = SocketAddr::new(veth.far, 9000);
    let front = e2e::ports::free(LOCALHOST);
    let _nginx = Nginx::start(&Config::new(plain(&[front.to_string()], app)), None);
    let _upstream = podman.misbehave(&[app], &inside);
    let agent = Agent::start_apart(&[]);

    let requests = told(&agent, front, &["/apart/1/ok", "/apart/2/close"]);

    for request in requests {
        assert_eq!(request.proxy.name, "unknown", "{request:?}");
        assert_eq!(sides(&request), (None, None), "{request:?}");
    }
    assert!(agent.log().contains("hostPID"), "{}", agent.log());
}
