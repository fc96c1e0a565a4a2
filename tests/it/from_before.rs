//! Connections that a proxy keeps to upstreams since before the agent, on which no HTTP is spoken: nobody may
//! say that no upstream was tried.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::http;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{Running, need_root};
use e2e::programs::{python, takes_connections};

/// How long a start or a report may take.
const LONG: Duration = Duration::from_secs(20);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn fastcgi() -> (Running, SocketAddr) {
    let address = ports::free(HOST);
    let running = python("fastcgi_kept.py", &[&address.port().to_string()]);
    takes_connections(address);
    (running, address)
}

#[test]
fn an_applications_own_error_on_a_kept_connection_is_not_called_the_proxys() {
    need_root();
    let (_running, app) = fastcgi();
    let front = ports::free(HOST);
    let http = format!(
        "upstream app {{ server {app}; keepalive 1; }}
        server {{
            listen {front};
            location / {{
                fastcgi_pass app;
                fastcgi_keep_conn on;
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param REQUEST_URI $uri;
            }}
        }}"
    );
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    let _nginx = Nginx::start(&config, None);
    let warm = http::get(front, "/warm/200", "*/*").map(|answer| answer.status);
    assert_eq!(warm.ok(), Some(200), "the connection is opened, and kept");
    let agent = Agent::start(&[]);
    let events = agent.events();

    let paths = ["/a/500", "/b/503", "/c/500"];
    one_by_one(front, paths.map(Order::get).into());

    for (path, told) in events.of(paths, LONG) {
        println!("{path}: {:?} {:?}", told.cause, told.certainty);
        assert_eq!(told.cause.as_deref(), Some("unattributed"), "{told:?}");
    }
}
