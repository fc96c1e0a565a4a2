//! An attempt keeps its endpoint, whatever begins later between the same ends.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::haproxy::Haproxy;
use e2e::load::{Order, one_by_one};
use e2e::nat::Nat;
use e2e::netns::{Netns, Veth};
use e2e::ports::Refusing;
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use socket2::{Domain, Socket, Type};

/// How long the agent may take to tell what happened.
const SOON: Duration = Duration::from_secs(30);
/// From which HAProxy goes to the service.
const PORT: u16 = 20_000;

/// HAProxy is refused by one endpoint of a service and then waits for another server. Meanwhile
/// somebody else connects from the same port to the same service, and gets the other endpoint.
#[test]
fn the_endpoint_is_that_of_the_attempt_and_not_of_what_begins_later() {
    need_root();
    let network = Netns::new();
    let veth = network.join(None);
    let Veth { near, far, .. } = veth;
    network.ip(&format!("route add default via {near}"));
    let endpoints = [Refusing::new(near), Refusing::new(near)];
    let [first, second] = [endpoints[0].address, endpoints[1].address];
    let service = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 77, 10)), 80);
    let _nat = Nat::new(&[(service, &[first, second])]);
    let upstreams = Upstreams::start(near, &["0"], None);
    let front = SocketAddr::new(far, 8080);
    let sections = format!(
        "listen late
    bind {front}
    timeout server 3s
    balance roundrobin
    retries 1
    option redispatch 1
    server first {service} source {far}:{PORT}
    server second {}
",
        upstreams.addresses[0]
    );
    let mut haproxy = Haproxy::start(&sections, Some(&network));
    eventually(SOON, "HAProxy listens", || {
        TcpStream::connect(front)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    let agent = Agent::start(&["--conntrack", "on"]);
    let events = agent.events();

    let path = "/late/hang";
    let client = std::thread::spawn(move || one_by_one(front, vec![Order::get(path)]));
    eventually(SOON, "the second server has the request", || {
        let served = upstreams.served().into_iter();
        let mut served = served.filter(|served| served.target == path);
        served.next().map(drop).ok_or_else(|| "not yet".to_owned())
    });
    // A scrape shows all that was recorded before it: what led where has been looked up by then. Of
    // two that begin in the same round none has an endpoint.
    agent.metrics();
    let other = network.run(move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(far, PORT).into())?;
        socket.connect(&service.into())
    });
    let refused = other.join().unwrap().map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    let outcomes = client.join().unwrap();
    assert!(outcomes[0].is(504), "{outcomes:?}");

    haproxy.assert_runs();

    let told = events.of([path], SOON);
    let attempts = &told[path].attempts;
    let told: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt.upstream.clone(), attempt.endpoint.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (service.to_string(), Some(first.to_string())),
            (upstreams.addresses[0].to_string(), None),
        ],
        "the other one led to {second}"
    );
}
