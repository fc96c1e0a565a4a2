//! An application that answers an error of its own, beside something else of its that fails: a cache, or where
//! its telemetry goes. That is no sure reason for the error.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use e2e::agent::events::{Line, Request};
use e2e::agent::{Agent, Events};
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::{Running, need_root};
use e2e::programs::{python, takes_connections};
use e2e::wait::eventually;
use socket2::SockRef;

/// How long a start or a report may take.
const LONG: Duration = Duration::from_secs(20);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const REQUESTS: usize = 40;

/// Resets each connection when it has read something.
#[expect(clippy::expect_used, reason = "a test may panic")]
fn resetting() -> SocketAddr {
    let listener = TcpListener::bind((HOST, 0)).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // A client that has left asks nothing.
            let _asked = stream.read(&mut [0; 100]);
            SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .expect("an option can be set");
        }
    });
    address
}

fn application(beside: SocketAddr, how: &str) -> (Running, SocketAddr) {
    let address = ports::free(HOST);
    let [listens, asks] = [address.port(), beside.port()].map(|port| port.to_string());
    let running = python("application.py", &[&listens, &asks, how]);
    takes_connections(address);
    (running, address)
}

/// The requests that `proxy` is reported to have answered with an error.
fn errors(events: &Events, proxy: u32) -> Vec<Request> {
    let requests = events.so_far().into_iter().filter_map(|line| match line {
        Line::Request(request) => Some(*request),
        _ => None,
    });
    let is_its = |request: &Request| request.proxy.pid == proxy;
    requests
        .filter(|request| is_its(request) && request.cause.is_some())
        .collect()
}

/// Asks through nginx; each fourth request is a bug of the application.
#[track_caller]
fn plays(beside: SocketAddr, how: &str) {
    let (running, address) = application(beside, how);
    let front = ports::free(HOST);
    let http =
        format!("server {{ listen {front}; location / {{ proxy_pass http://{address}; }} }}");
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    let nginx = Nginx::start(&config, None);
    let agent = Agent::start(&[]);
    let events = agent.events();
    let orders = (0..REQUESTS).map(|number| {
        let name = if number % 4 == 3 { "bug" } else { "ok" };
        Order::get(format!("/{name}/{number}"))
    });
    one_by_one(front, orders.collect());

    let [worker] = nginx.workers() else {
        panic!("one worker: {:?}", nginx.workers());
    };
    let told = eventually(LONG, "each error is reported of nginx", || {
        let told = errors(&events, *worker);
        if told.len() == REQUESTS / 4 {
            Ok(told)
        } else {
            Err(format!("{} of {}", told.len(), REQUESTS / 4))
        }
    });
    for request in told {
        assert_eq!(
            request.cause.as_deref(),
            Some("upstream_status"),
            "{request:?}"
        );
        assert_eq!(request.certainty.as_deref(), Some("proof"), "{request:?}");
    }
    // Those of the application come with them, if at all.
    let own = errors(&events, running.pid());
    println!("{how}: {} of the application's own are reported", own.len());
    for request in own {
        assert_eq!(request.certainty.as_deref(), Some("guess"), "{request:?}");
    }
}

#[test]
fn what_fails_beside_an_applications_own_error_is_no_sure_reason_for_it() {
    need_root();
    let refusing = Refusing::new(HOST);
    for how in ["cache", "export"] {
        plays(refusing.address, how);
        plays(resetting(), how);
    }
}
