//! Programs that nobody knows by name, in front of a database that fails: the first request that they
//! answer 500 is explained.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use e2e::agent::events::{Line, Request};
use e2e::agent::{Agent, Events};
use e2e::http;
use e2e::ports;
use e2e::process::{Running, command, need_root};
use e2e::programs::{Go, python, takes_connections};
use e2e::wait::eventually;
use socket2::SockRef;

/// How long a start or a report may take.
const LONG: Duration = Duration::from_secs(20);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A gateway in node, or in Python of that kind, and where its clients go.
fn gateway(how: &str, database: SocketAddr) -> (Running, SocketAddr) {
    let address = ports::free(HOST);
    let ports = [address.port(), database.port()].map(|port| port.to_string());
    let [listens, asks] = ports.each_ref().map(String::as_str);
    let running = if how == "node" {
        let mut node = command("node", None);
        Running::start("node", node.args(["-e", NODE, listens, asks]))
    } else {
        python("unknown_gateway.py", &[how, listens, asks])
    };
    takes_connections(address);
    (running, address)
}

/// Asks the database for each request, and waits a second at most.
const NODE: &str = "const net = require('net');
require('http').createServer((request, response) => {
    let code = 500;
    const database = net.connect(Number(process.argv[2]), '127.0.0.1', () => database.write('PING\\r\\n'));
    database.setTimeout(1000, () => database.destroy());
    database.on('data', () => { code = 200; database.destroy(); });
    database.on('error', () => {});
    database.on('close', () => { response.statusCode = code; response.end(); });
}).listen(Number(process.argv[1]), '127.0.0.1');";

/// What a database does when it is asked.
#[derive(Clone, Copy, Debug)]
enum Database {
    /// RST.
    Resets,
    /// FIN.
    Closes,
    /// Nothing.
    IsSilent,
}

impl Database {
    /// Answers the first `well` questions of each connection. Serves until the test ends.
    fn start(self, well: usize) -> SocketAddr {
        let listener = TcpListener::bind((HOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || self.serve(stream, well));
            }
        });
        address
    }

    fn serve(self, mut stream: TcpStream, well: usize) {
        let mut asked = [0; 100];
        for _ in 0..well {
            if matches!(stream.read(&mut asked), Err(_) | Ok(0)) {
                return;
            }
            // A client that has left is answered nothing.
            let _given = stream.write_all(b"+PONG\r\n");
        }
        // A client that has left asks nothing.
        let _asked = stream.read(&mut asked);
        match self {
            Self::Resets => SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .expect("an option can be set"),
            Self::Closes => {}
            Self::IsSilent => {
                // Until the gateway closes.
                let _closed = stream.read(&mut asked);
            }
        }
    }
}

/// The requests for `path` that were reported.
fn reported(lines: Vec<Line>, path: &str) -> Vec<Request> {
    let requests = lines.into_iter().filter_map(|line| match line {
        Line::Request(request) if request.path.as_deref() == Some(path) => Some(*request),
        _ => None,
    });
    requests.collect()
}

/// Asks the gateway once, which answers with an error, and returns what is reported of it.
#[track_caller]
fn first_error(events: &Events, address: SocketAddr, path: &str, status: u16) -> Request {
    let answer = http::get(address, path, "*/*").expect("an answer");
    assert_eq!(answer.status, status);
    eventually(LONG, "the request is reported", || {
        reported(events.so_far(), path)
            .pop()
            .ok_or_else(|| "not yet".to_owned())
    })
}

fn assert_explained(request: &Request, gateway: &Running, upstream: SocketAddr, causes: &[&str]) {
    println!(
        "{} {:?} {:?}",
        request.proxy.name, request.cause, request.certainty
    );
    assert_eq!(request.proxy.pid, gateway.pid(), "{request:?}");
    let cause = request.cause.as_deref().unwrap_or_default();
    assert!(causes.contains(&cause), "{causes:?}: {request:?}");
    assert_eq!(request.upstream, Some(upstream.to_string()), "{request:?}");
}

#[test]
fn the_first_error_of_a_gateway_nobody_knows_is_explained() {
    need_root();
    // Nobody listens there.
    let database = ports::free(HOST);
    let agent = Agent::start(&[]);
    let events = agent.events();
    for how in ["node", "loop", "threads"] {
        let (running, address) = gateway(how, database);
        let request = first_error(&events, address, &format!("/{how}/first"), 500);
        assert_explained(&request, &running, database, &["connect_refused"]);
    }
}

/// What is spoken with the database is not read.
#[test]
fn a_database_that_resets_closes_or_is_silent_is_why() {
    need_root();
    let agent = Agent::start_as("unknown", &[]);
    let events = agent.events();
    for (fault, causes) in [
        (Database::Resets, &["closed_before_response"][..]),
        (Database::Closes, &["closed_before_response"]),
        (Database::IsSilent, &["response_timeout"]),
    ] {
        for how in ["node", "loop", "threads", "kept"] {
            let well = usize::from(how == "kept");
            let database = fault.start(well);
            let (running, address) = gateway(how, database);
            for _ in 0..well {
                let answer = http::get(address, "/well", "*/*").expect("an answer");
                assert_eq!(answer.status, 200);
            }
            let request = first_error(&events, address, &format!("/{how}/{fault:?}"), 500);
            assert_explained(&request, &running, database, causes);
            assert_ne!(request.certainty.as_deref(), Some("proof"), "{request:?}");
        }
    }
}

/// A gateway in Go under a name that nobody knows, whose threads do any client's work.
#[test]
fn the_first_error_of_a_gateway_in_go_is_explained() {
    need_root();
    let (upstream, address) = (ports::free(HOST), ports::free(HOST));
    let agent = Agent::start(&[]);
    let events = agent.events();
    let go = Go::start("frontdoor", address, upstream);
    takes_connections(address);
    let request = first_error(&events, address, "/go/first", 502);
    assert_explained(&request, &go.running, upstream, &["connect_refused"]);
}
