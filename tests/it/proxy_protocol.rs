//! A balancer that sends the PROXY protocol's header before what its clients say (HAProxy `send-proxy`,
//! network load balancers of clouds) and a proxy that reads it: requests behind the header are read as any
//! others, whether they come in one segment with it or after it. The judge is nginx's access log.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::agent::events::{Line, Request};
use e2e::agent::{Agent, Events};
use e2e::haproxy::Haproxy;
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long an answer, and what the agent says of it, may take.
const TELL: Duration = Duration::from_secs(15);

const TEXT: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 80\r\n";
/// 192.0.2.7:56324 to 192.0.2.1:80, and a TLV without meaning.
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\xc0\0\x02\x01\xdc\x04\0\x50\x04\0\x01\0";

/// nginx behind a balancer, and nobody behind nginx.
struct Stage {
    nginx: Nginx,
    address: SocketAddr,
    /// The same, where the kernel waits for data before it makes a socket (TCP_DEFER_ACCEPT).
    deferred: SocketAddr,
    nobody: Refusing,
}

impl Stage {
    fn new() -> Self {
        need_root();
        let nobody = Refusing::new(LOCALHOST);
        let [address, deferred] = [(); 2].map(|()| ports::free(LOCALHOST));
        let server = format!(
            "server {{ listen {address} proxy_protocol; listen {deferred} proxy_protocol deferred; set_real_ip_from 127.0.0.0/8;
             real_ip_header proxy_protocol; keepalive_timeout 30s;
             location / {{ proxy_pass http://{}; }} }}",
            nobody.address
        );
        Self {
            nginx: Nginx::start(&Config::new(server), None),
            address,
            deferred,
            nobody,
        }
    }

    /// Each of `paths` was a refused connect at nginx, in its log and by the agent.
    #[track_caller]
    fn assert_told(&self, events: &Events, paths: &[String]) {
        for path in paths {
            let told = eventually(TELL, "the request is reported", || {
                let told = reported(events, "nginx", path, self.nobody.address);
                told.ok_or_else(|| self.nginx.error_text())
            });
            assert_eq!(told.code, Some(502), "{path}");
            assert_eq!(told.cause.as_deref(), Some("connect_refused"), "{path}");
            assert_eq!(told.certainty.as_deref(), Some("proof"), "{path}");
        }
    }
}

/// The request for `path` at the proxy `name` with an attempt at `upstream`, if it was reported.
fn reported(events: &Events, name: &str, path: &str, upstream: SocketAddr) -> Option<Request> {
    let upstream = upstream.to_string();
    let all = events.so_far().into_iter();
    let mut requests = all.filter_map(|line| match line {
        Line::Request(request) => Some(*request),
        _ => None,
    });
    requests.find(|one| {
        let is_there = one.attempts.iter().any(|it| it.upstream == upstream);
        is_there && one.proxy.name == name && one.path.as_deref() == Some(path)
    })
}

/// Waits until somebody listens there.
fn listens(address: SocketAddr) {
    eventually(TELL, "HAProxy listens", || {
        TcpStream::connect(address).map_err(|error| error.to_string())
    });
}

/// The statuses of `asked`, one after the other on one connection to `to`, the first behind `header`.
fn ask(to: SocketAddr, header: &[u8], asked: &[String]) -> Vec<String> {
    let mut stream = TcpStream::connect(to).expect("it listens");
    let timeout = stream.set_read_timeout(Some(TELL));
    timeout.expect("a timeout can be set");
    let mut before = header;
    let statuses = asked.iter().map(|path| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let all = [std::mem::take(&mut before), request.as_bytes()].concat();
        stream.write_all(&all).expect("the connection is open");
        let mut answer = Vec::new();
        while !answer.ends_with(b"</html>\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer comes");
            answer.extend(byte);
        }
        let answer = String::from_utf8_lossy(&answer);
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    });
    statuses.collect()
}

fn paths(name: &str) -> Vec<String> {
    (0..3).map(|number| format!("/{name}/{number}")).collect()
}

#[test]
fn requests_in_one_segment_with_the_header_are_read() {
    let stage = Stage::new();
    let agent = Agent::start(&[]);
    let events = agent.events();
    let mut all = Vec::new();
    for (name, header) in [("text", TEXT), ("binary", BINARY)] {
        for (to, how) in [(stage.address, "at-once"), (stage.deferred, "deferred")] {
            let asked = paths(&format!("{name}-{how}"));
            assert_eq!(ask(to, header, &asked), ["502"; 3], "{name} {how}");
            all.extend(asked);
        }
    }

    stage.assert_told(&events, &all);
    let unread = agent
        .metrics()
        .sum("why502_agent_unread_clients_total", &[]);
    assert_eq!(unread, 0.0);
}

/// `mode tcp`, as HAProxy's manual has it before servers that end HTTP themselves.
#[test]
fn requests_through_a_balancer_that_sends_the_header_are_read() {
    let stage = Stage::new();
    let [text, binary] = [(); 2].map(|()| ports::free(LOCALHOST));
    let sections = [("text", text, "send-proxy"), ("binary", binary, "send-proxy-v2")].map(
        |(name, listen, send)| {
            let server = stage.address;
            format!("listen {name}\n    mode tcp\n    option tcplog\n    bind {listen}\n    server nginx {server} {send}\n")
        },
    );
    let _balancer = Haproxy::start(&sections.concat(), None);
    for address in [text, binary] {
        listens(address);
    }
    let agent = Agent::start(&[]);
    let events = agent.events();
    let mut all = Vec::new();
    for (name, to) in [("by-text", text), ("by-binary", binary)] {
        let asked = paths(name);
        assert_eq!(ask(to, b"", &asked), ["502"; 3], "{name}");
        all.extend(asked);
    }

    stage.assert_told(&events, &all);
}

/// The header goes to the upstream (`accept-proxy` there): its failures are those of a request that was
/// read, and not of a connection whose talk is unknown.
#[test]
fn attempts_behind_the_header_are_read() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let [front, inner] = [(); 2].map(|()| ports::free(LOCALHOST));
    let _haproxy = Haproxy::start(
        &format!(
            "frontend front\n    bind {front}\n    default_backend inner\n\
             backend inner\n    server inner {inner} send-proxy-v2\n\
             listen inner\n    mode tcp\n    option tcplog\n    bind {inner} accept-proxy\n    server app {app}\n"
        ),
        None,
    );
    for address in [front, inner] {
        listens(address);
    }
    let agent = Agent::start(&[]);
    let events = agent.events();
    let path = "/one/1/1/close";
    let mut stream = TcpStream::connect(front).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let sent = stream.write_all(request.as_bytes());
    sent.expect("the connection is open");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    read.expect("an answer comes");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");

    let told = eventually(TELL, "the request is reported", || {
        reported(&events, "haproxy", path, inner).ok_or_else(|| events.text())
    });
    assert_eq!(told.code, Some(502));
    assert_eq!(told.cause.as_deref(), Some("closed_before_response"));
    // Of what is not read it would be strong at most.
    assert_eq!(told.certainty.as_deref(), Some("proof"));
}
