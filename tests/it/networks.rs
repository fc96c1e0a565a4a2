//! Kinds of networks and connections: IPv6, namespaces, WebSockets, many idle connections, an
//! upstream that restarts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Line, Request};
use e2e::load::{Client, Order, one_by_one, run, runtime};
use e2e::misbehave::websocket::accept_of;
use e2e::netns::Netns;
use e2e::nginx::access_log::LoggedRequest;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{need_root, raise_open_files};
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCALHOST6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const NGINX: (&str, &str) = ("proxy", "nginx");
const RESPONSES: &str = "why502_gateway_responses_total";
const ERRORS: &str = "why502_gateway_errors_total";
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

fn good_and_bad(tag: &str) -> Vec<Order> {
    let mut orders: Vec<Order> = (0..20)
        .map(|n| Order::get(format!("/{tag}/{n}/body=3000")))
        .collect();
    orders.extend((0..5).map(|n| Order::post(format!("/{tag}/{n}/close"), 10)));
    orders
}

/// 20 good and 5 closed ones, told as such with this upstream.
#[track_caller]
fn assert_told(agent: &Agent, upstream: SocketAddr) {
    let metrics = agent.settled(TELL);
    println!(
        "answers given {:?}, losses {:?}",
        metrics.by(RESPONSES, &[], &["proxy", "code"]),
        metrics.by("why502_agent_losses_total", &[], &["stage", "what"])
    );
    assert_eq!(metrics.sum(RESPONSES, &[NGINX, ("code", "200")]), 20.0);
    let upstream = upstream.to_string();
    let with = [NGINX, ("code", "502"), ("upstream", &upstream)];
    let errors = metrics.by(ERRORS, &with, &["cause"]);
    assert_eq!(errors.values().sum::<u64>(), 5, "{errors:?} of {upstream}");
    assert!(
        !errors.contains_key(&vec!["unattributed".to_owned()]),
        "{errors:?}"
    );
    let with = [NGINX, ("upstream", upstream.as_str()), ("code", "200")];
    assert_eq!(metrics.sum("why502_upstream_responses_total", &with), 20.0);
}

#[track_caller]
fn requests(agent: &e2e::agent::Events, at_least: usize) -> Vec<Request> {
    eventually(TELL, "the requests are told", || {
        let requests: Vec<Request> = agent
            .so_far()
            .into_iter()
            .filter_map(|line| match line {
                Line::Request(request) if request.proxy.name == "nginx" => Some(*request),
                _ => None,
            })
            .collect();
        if requests.len() >= at_least {
            Ok(requests)
        } else {
            Err(format!("{} told", requests.len()))
        }
    })
}

#[test]
fn ipv6_on_both_sides_is_told_as_ipv4_is() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST6, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let address = ports::free(LOCALHOST6);
    let _nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), None);
    let agent = Agent::start(&[]);
    let events = agent.events();

    one_by_one(address, good_and_bad("six"));

    assert_told(&agent, app);
    for request in requests(&events, 25) {
        let client = request.client.unwrap_or_default();
        assert!(client.starts_with("[::1]:"), "client {client}");
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_told_as_ipv4() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let port = ports::free(LOCALHOST).port();
    let listen = format!("[::]:{port} ipv6only=off");
    let _nginx = Nginx::start(&Config::new(plain(&[listen], app)), None);
    let agent = Agent::start(&[]);
    let events = agent.events();

    one_by_one(SocketAddr::new(LOCALHOST, port), good_and_bad("mapped"));

    assert_told(&agent, app);
    for request in requests(&events, 25) {
        let client = request.client.unwrap_or_default();
        assert!(client.starts_with("127.0.0.1:"), "client {client}");
    }
}

/// With `deferred` the kernel makes a connection only when its first data is there, and those
/// pass no hook of the connection's own.
#[test]
fn the_first_request_of_a_deferred_connection_is_seen() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let address = ports::free(LOCALHOST);
    let listen = format!("{address} deferred");
    let _nginx = Nginx::start(&Config::new(plain(&[listen], app)), None);
    let agent = Agent::start(&[]);
    let events = agent.events();
    // A connection each.
    let orders = good_and_bad("deferred").into_iter().map(|mut order| {
        order.last = true;
        order
    });

    one_by_one(address, orders.collect());

    assert_told(&agent, app);
    for request in requests(&events, 25) {
        assert!(request.path.is_some(), "the head was read: {request:?}");
    }
}

#[test]
fn proxies_in_namespaces_are_seen_from_the_host() {
    need_root();
    for six in [false, true] {
        let (proxy, upstream) = (Netns::new(), Netns::new());
        let inner = upstream.join(Some(&proxy));
        let outer = proxy.join(None);
        let (app, front) = if six {
            (inner.far6, outer.far6)
        } else {
            (inner.far, outer.far)
        };
        let upstreams = Upstreams::start(app, &["9000"], Some(&upstream));
        let app = *upstreams.addresses.first().expect("it was ordered");
        let front = SocketAddr::new(front, 8080);
        let _nginx = Nginx::start(&Config::new(plain(&[front.to_string()], app)), Some(&proxy));
        let agent = Agent::start(&[]);

        one_by_one(front, good_and_bad("veth"));

        assert_told(&agent, app);
    }
}

/// Every pod has a 127.0.0.1, and in each a sidecar may talk to the same port from the same port.
#[test]
fn a_crash_in_another_namespace_explains_nothing_between_the_same_loopback_addresses() {
    need_root();
    let (crashing, closing) = (Netns::new(), Netns::new());
    let app = SocketAddr::new(LOCALHOST, 9000);
    let from = SocketAddr::new(LOCALHOST, 41_000);
    let front = SocketAddr::new(LOCALHOST, 8080);
    let mut crashes = Upstreams::start(LOCALHOST, &["9000"], Some(&crashing));
    let _closes = Upstreams::start(LOCALHOST, &["9000"], Some(&closing));
    let http = format!(
        "server {{ listen {front}; location / {{ proxy_bind {from}; proxy_pass http://{app}; }} }}"
    );
    let _nginx = Nginx::start(&Config::new(http), Some(&closing));
    let agent = Agent::start(&[]);
    let events = agent.events();
    let used = crashing.run(move || {
        runtime().block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(from)?;
            let mut stream = socket.connect(app).await?;
            stream
                .write_all(b"GET /before/0/ok HTTP/1.1\r\nHost: app\r\n\r\n")
                .await?;
            stream.read_exact(&mut [0; 12]).await?;
            Ok::<_, std::io::Error>(stream)
        })
    });
    let open = used.join().expect("a client does not panic");

    crashes.kill();
    let order = vec![Order::get("/after/0/close".to_owned())];
    let asked = closing.run(move || one_by_one(front, order));
    asked.join().expect("a client does not panic");

    let told = requests(&events, 1);
    let cause = told[0].cause.as_deref();
    assert_eq!(cause, Some("closed_before_response"), "{:?}", told[0]);
    drop(open);
}

#[test]
fn a_websocket_is_one_answer_and_its_end_is_no_error() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let address = ports::free(LOCALHOST);
    let nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), None);
    let agent = Agent::start(&[]);

    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    runtime().block_on(async {
        for (number, abrupt) in [false, true, false].into_iter().enumerate() {
            let path = format!("/socket/{number}/websocket");
            let (mut stream, head) = Client::new(address)
                .upgrade(&path, key)
                .await
                .expect("an upgrade");
            assert!(head.contains(&accept_of(key)), "{head}");
            for message in 0..50_u32 {
                // Also bytes that look like HTTP: after the upgrade they are none.
                let text =
                    format!("HTTP/1.1 502 Bad Gateway\r\n\r\nGET /{message} HTTP/1.1\r\n\r\n");
                stream.write_all(text.as_bytes()).await.expect("it is open");
                let mut echo = vec![0; text.len()];
                stream.read_exact(&mut echo).await.expect("it is open");
                assert_eq!(echo, text.as_bytes());
            }
            if abrupt {
                stream.set_zero_linger().expect("a socket can linger");
            }
        }
    });
    nginx.access_log_of(3);

    let metrics = agent.settled(TELL);
    let codes = metrics.by(RESPONSES, &[NGINX], &["code"]);
    assert_eq!(codes, BTreeMap::from([(vec!["101".to_owned()], 3)]));
    let codes = metrics.by("why502_upstream_responses_total", &[NGINX], &["code"]);
    assert_eq!(codes, BTreeMap::from([(vec!["101".to_owned()], 3)]));
    assert_eq!(metrics.sum(ERRORS, &[]), 0.0);
    assert_eq!(metrics.sum("why502_upstream_failures_total", &[]), 0.0);
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_hide_nothing() {
    need_root();
    let connections = 10_000;
    let files = raise_open_files();
    assert!(
        files > connections + 500,
        "only {files} open files are allowed: raise `ulimit -Hn`"
    );
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let address = ports::free(LOCALHOST);
    let config = Config {
        connections: 16_000,
        ..Config::new(plain(&[format!("{address} backlog=4096")], app))
    };
    let _nginx = Nginx::start(&config, None);
    let agent = Agent::start(&[]);
    let runtime = runtime();

    let mut idle = Vec::new();
    for number in 0..connections {
        let mut client = Client::new(address);
        let outcome = runtime.block_on(client.ask(&Order::get(format!("/idle/{number}/ok"))));
        assert!(outcome.is(200), "{outcome:?}");
        idle.push(client);
    }
    one_by_one(
        address,
        (0..10)
            .map(|n| Order::post(format!("/among/{n}/reset"), 5))
            .collect(),
    );

    let metrics = agent.settled(TELL);
    assert_eq!(
        metrics.sum(RESPONSES, &[NGINX, ("code", "200")]),
        connections as f64
    );
    let errors = metrics.by(ERRORS, &[NGINX], &["code"]);
    assert_eq!(errors, BTreeMap::from([(vec!["502".to_owned()], 10)]));
    let megabytes = agent.resident_bytes() / 1_000_000;
    println!("{megabytes} MB with {connections} idle connections");
    assert!(
        megabytes <= 50,
        "{megabytes} MB with {connections} idle connections"
    );
    assert_eq!(metrics.sum("why502_agent_losses_total", &[]), 0.0);
}

#[test]
fn an_upstream_that_restarts_under_load_is_told_as_the_log_tells_it() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let address = ports::free(LOCALHOST);
    let nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), None);
    let agent = Agent::start(&[]);
    let orders: Vec<Order> = (0..3000)
        .map(|n| {
            let words = ["ok", "wait=20", "body=40000", "body=400,piece=50,pause=3"][n % 4];
            Order {
                pause: Duration::from_millis(5),
                ..Order::get(format!("/restart/{n}/{words}"))
            }
        })
        .collect();
    let count = orders.len();

    let load = std::thread::spawn(move || runtime().block_on(run(address, orders, 16)));
    let mut upstreams = Some(upstreams);
    let port = app.port().to_string();
    for round in 1..=4 {
        eventually(Duration::from_secs(30), "traffic goes on", || {
            let lines = nginx.access_log().len();
            if lines >= round * 400 {
                Ok(())
            } else {
                Err(format!("{lines} lines"))
            }
        });
        if let Some(mut upstreams) = upstreams.take() {
            upstreams.kill();
        }
        eventually(Duration::from_secs(30), "requests fail", || {
            let failed = nginx
                .access_log()
                .iter()
                .rev()
                .take(30)
                .filter(|request| request.status == 502)
                .count();
            if failed > 5 {
                Ok(())
            } else {
                Err(format!("{failed} failed"))
            }
        });
        upstreams = Some(Upstreams::start(LOCALHOST, &[&port], None));
    }
    let outcomes = load.join().expect("clients do not panic");
    assert_eq!(outcomes.len(), count);
    let logged = nginx.access_log_of(count);

    let metrics = agent.settled(TELL);
    let mut expected: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for status in logged.iter().filter_map(LoggedRequest::answered) {
        *expected.entry(vec![status.to_string()]).or_default() += 1;
    }
    let causes = metrics.by(ERRORS, &[NGINX], &["code", "cause"]);
    println!("answers {expected:?}, errors {causes:?}");
    assert_eq!(
        metrics.by(RESPONSES, &[NGINX], &["code"]),
        expected,
        "agent left, nginx right"
    );
    let bad = expected
        .get(&vec!["502".to_owned()])
        .copied()
        .unwrap_or_default();
    assert_eq!(metrics.sum(ERRORS, &[NGINX, ("code", "502")]), bad as f64);
    for key in causes.keys() {
        let cause = key.get(1).map_or("", String::as_str);
        let true_ones = [
            "connect_refused",
            "closed_before_response",
            "keepalive_race",
            "truncated_response",
            "upstream_crashed",
        ];
        assert!(
            true_ones.contains(&cause),
            "{cause} is not what a restart does: {causes:?}"
        );
    }
}
