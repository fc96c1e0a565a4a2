//! Programs that nobody knows by name, in front of a database that fails: the first request that they
//! answer 500 is explained.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Line, Request};
use e2e::http;
use e2e::ports;
use e2e::process::{Running, command, need_root};
use e2e::wait::eventually;

/// How long a start or a report may take.
const LONG: Duration = Duration::from_secs(20);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A gateway in Python, and where its clients go.
fn gateway(how: &str, database: SocketAddr) -> (Running, SocketAddr) {
    let address = ports::free(HOST);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("it/unknown_gateway.py");
    let mut python = command("python3", None);
    python.arg(script).arg(how);
    python.args([address.port(), database.port()].map(|port| port.to_string()));
    let running = Running::start("python3", &mut python);
    eventually(LONG, "the gateway listens", || {
        std::net::TcpStream::connect(address)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    (running, address)
}

/// The requests for `path` that were reported.
fn reported(lines: Vec<Line>, path: &str) -> Vec<Request> {
    let requests = lines.into_iter().filter_map(|line| match line {
        Line::Request(request) if request.path.as_deref() == Some(path) => Some(*request),
        _ => None,
    });
    requests.collect()
}

#[test]
fn the_first_error_of_a_gateway_nobody_knows_is_explained() {
    need_root();
    // Nobody listens there.
    let database = ports::free(HOST);
    let agent = Agent::start(&[]);
    let events = agent.events();
    for how in ["loop", "threads"] {
        let (running, address) = gateway(how, database);
        let path = format!("/{how}/first");
        let answer = http::get(address, &path, "*/*").expect("an answer");
        assert_eq!(answer.status, 500);
        let request = eventually(LONG, "the request is reported", || {
            reported(events.so_far(), &path)
                .pop()
                .ok_or_else(|| "not yet".to_owned())
        });
        println!("{how}: {} {:?}", request.proxy.name, request.cause);
        assert_eq!(request.proxy.pid, running.pid(), "{request:?}");
        assert_eq!(
            request.cause.as_deref(),
            Some("connect_refused"),
            "{request:?}"
        );
        assert_eq!(request.upstream, Some(database.to_string()), "{request:?}");
    }
}
