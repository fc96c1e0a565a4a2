//! Failures that are hard to join to their requests: on connections that Apache httpd uses again behind
//! another path, of pipelined requests, of a request that the upstream stops reading, of Varnish's
//! first attempt. Each has an incident of its own request.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use e2e::agent::events::{Attempt, Request};
use e2e::agent::{Agent, binary};
use e2e::load::{Order, Outcome, one_by_one};
use e2e::ports::Refusing;
use e2e::process::{need_root, output_of};
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(15);

/// Bytes of a request that its upstream stops reading: more than both sides' buffers take.
const LARGE: usize = 12 << 20;

fn servers(addresses: &[SocketAddr]) -> Target {
    Target::Servers(addresses.to_vec())
}

/// The attempt that failed, if one did.
fn failed(request: &Request) -> Option<&Attempt> {
    let mut attempts = request.attempts.iter();
    attempts.find(|attempt| attempt.cause.is_some())
}

/// What a fault is, in the words of [`e2e::misbehave`], and what may be said of it; nothing where
/// nothing is wrong.
const SERIES: [(&str, &[&str]); 14] = [
    ("ok", &[]),
    // `HTTP/1.1 abc`
    ("bad_status", &["invalid_response"]),
    ("ok,chunked,body=9", &[]),
    ("cookies=50", &["header_too_big"]),
    ("body=9", &[]),
    ("pad=20000", &["header_too_big"]),
    ("close", &["closed_before_response"]),
    ("ok", &[]),
    (
        "if_reused,reset",
        &["closed_before_response", "keepalive_race"],
    ),
    ("head_cut=20,by=fin", &["truncated_response"]),
    ("ok", &[]),
    ("body=9000,cut=1000,by=rst", &["truncated_response"]),
    ("bad_header", &["invalid_response"]),
    ("hang", &["response_timeout"]),
];

#[test]
fn each_of_a_series_of_faults_behind_apache_has_its_incident() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let group = Group::new("x", servers(&upstreams.addresses))
        .kept()
        .rewritten();
    for kind in [Kind::ApacheEvent, Kind::ApachePrefork] {
        let agent = Agent::start_as(kind.name(), &[]);
        let events = agent.events();
        let proxy = Proxy::start(kind, std::slice::from_ref(&group));
        let orders: Vec<_> = (0..)
            .zip(SERIES)
            .map(|(number, (words, _))| Order::get(format!("/x/{kind}/{number}/{words}")))
            .collect();
        let outcomes = one_by_one(proxy.address, orders);
        let paths = outcomes.iter().map(|outcome| outcome.path.as_str());
        let told = events.of(paths, TELL);
        let mut wrong = Vec::new();
        for (outcome, (words, causes)) in outcomes.iter().zip(SERIES) {
            let request = &told[&outcome.path];
            let cause = failed(request).and_then(|attempt| attempt.cause.as_deref());
            println!("{kind} {words}: {:?} {cause:?}", outcome.status);
            // What Apache took is none to it.
            let took = outcome.is(200) && cause.is_none();
            let right = match cause {
                Some(cause) => causes.contains(&cause),
                None => causes.is_empty() || took,
            };
            if !right || outcome.status != request.code {
                wrong.push(format!("{words}: {request:#?}"));
            }
        }
        assert!(wrong.is_empty(), "{kind}: {}", wrong.join("\n"));
    }
}

/// Sends two requests at once on one connection, and reads what comes.
fn pipelined(proxy: SocketAddr, paths: [&str; 2]) -> String {
    let mut stream = TcpStream::connect(proxy).expect("the proxy listens");
    let requests = paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let [first, second] = requests;
    let second = second.replace("Host: a", "Host: a\r\nConnection: close");
    stream
        .write_all((first + &second).as_bytes())
        .expect("the connection is open");
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).expect("the proxy answers");
    String::from_utf8_lossy(&answers).into_owned()
}

#[test]
fn a_pipelined_request_whose_attempt_fails_has_its_incident() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let nobody = Refusing::new(LOCALHOST);
    let groups = [
        Group::new("good", servers(&upstreams.addresses)),
        Group::new("dead", servers(&[nobody.address])),
    ];
    for kind in [Kind::Nginx, Kind::HaProxy] {
        let agent = Agent::start_as(kind.name(), &[]);
        let events = agent.events();
        let proxy = Proxy::start(kind, &groups);
        let first = format!("/good/{kind}/wait=200");
        let said = pipelined(proxy.address, [&first, &format!("/dead/{kind}/second")]);
        let answers = said.split("HTTP/1.1 ").skip(1);
        let statuses: Vec<&str> = answers
            .filter_map(|answer| answer.split(' ').next())
            .collect();
        assert_eq!(statuses.len(), 2, "{said}");
        let code: u16 = statuses[1].parse().expect("a status");
        assert!(code >= 500, "{said}");
        // Of a pipelined request only the answer is read.
        let told = e2e::wait::eventually(TELL, "both are told", || {
            let requests: Vec<Request> = events
                .so_far()
                .into_iter()
                .filter_map(|line| match line {
                    e2e::agent::events::Line::Request(request) => Some(*request),
                    _ => None,
                })
                .collect();
            let error = requests.iter().find(|request| request.code == Some(code));
            error.cloned().ok_or_else(|| format!("{requests:#?}"))
        });
        let upstream = told.upstream.clone().unwrap_or_default();
        println!("{kind}: {:?} {:?} {upstream}", told.cause, told.certainty);
        assert_eq!(told.cause.as_deref(), Some("connect_refused"), "{told:#?}");
        assert_eq!(upstream, nobody.address.to_string(), "{told:#?}");
    }
}

#[test]
fn a_request_that_the_upstream_stops_reading_has_its_incident_at_haproxy() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let agent = Agent::start(&[]);
    let events = agent.events();
    let group = Group::new("x", servers(&upstreams.addresses));
    let proxy = Proxy::start(Kind::HaProxy, &[group]);
    let path = "/x/1/stall_body";

    let outcomes = one_by_one(proxy.address, vec![Order::post(path, LARGE)]);

    let told = events.of([path], TELL).remove(path);
    let told = told.expect("it was waited for");
    let status = outcomes.first().and_then(|outcome| outcome.status);
    println!("{status:?}: {:?} {:?}", told.cause, told.certainty);
    assert_eq!(told.cause.as_deref(), Some("request_stalled"), "{told:#?}");
    assert_eq!(told.attempts.len(), 1, "{told:#?}");
}

/// Of the first requests that reach `kind` some go to nobody first. Each has both attempts, and no refusal
/// is of none.
#[track_caller]
fn each_first_attempt_is_of_its_request(kind: Kind) {
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let nobody = Refusing::new(LOCALHOST);
    let good = *upstreams.addresses.first().expect("it was ordered");
    let agent = Agent::start_as(kind.name(), &[]);
    let events = agent.events();
    // It takes turns: of two requests one goes to nobody first.
    let group = Group::new("x", servers(&[nobody.address, good])).retried();
    let proxy = Proxy::start(kind, &[group]);
    let paths = ["/x/1/ok", "/x/2/ok", "/x/3/ok", "/x/4/ok"];

    let outcomes = one_by_one(proxy.address, paths.map(Order::get).into());

    assert!(outcomes.iter().all(|outcome| outcome.is(200)));
    let told = events.of(paths, TELL);
    let masked: Vec<&Request> = told
        .values()
        .filter(|request| failed(request).is_some())
        .collect();
    println!("{kind}: {} of {} were repeated", masked.len(), told.len());
    assert!(!masked.is_empty(), "{told:#?}");
    for request in masked {
        let [first, second] = request.attempts.as_slice() else {
            panic!("two attempts: {request:#?}");
        };
        assert_eq!(first.upstream, nobody.address.to_string());
        assert_eq!(first.cause.as_deref(), Some("connect_refused"));
        assert_eq!(
            (second.upstream.as_str(), second.code),
            (good.to_string().as_str(), Some(200))
        );
    }
    let refused = agent.settled(TELL).sum(
        "why502_upstream_failures_total",
        &[("proxy", kind.label()), ("cause", "connect_refused")],
    );
    let repeated = told.values().filter(|one| failed(one).is_some()).count();
    assert_eq!(refused as usize, repeated, "each refusal is of a request");
}

#[test]
fn the_first_attempt_that_varnish_repeats_elsewhere_is_of_its_request() {
    need_root();
    each_first_attempt_is_of_its_request(Kind::Varnish);
}

#[test]
fn the_first_attempt_that_other_proxies_repeat_elsewhere_is_of_its_request() {
    need_root();
    for kind in [Kind::HaProxy, Kind::Caddy, Kind::Traefik] {
        each_first_attempt_is_of_its_request(kind);
    }
}

/// Closed with the request unread, long after it came.
fn left_unread(proxy: &Proxy) -> Vec<Outcome> {
    let order = Order::post("/x/2/wait=300,if_reused,unread", 50);
    one_by_one(proxy.address, vec![Order::get("/x/1/ok"), order])
}

#[test]
fn a_request_left_unread_on_a_connection_that_is_closed_late_is_a_race() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let agent = Agent::start(&[]);
    let events = agent.events();
    let group = Group::new("x", servers(&upstreams.addresses)).kept();
    let proxy = Proxy::start(Kind::Nginx, &[group]);

    let outcomes = left_unread(&proxy);

    let path = outcomes.last().map(|outcome| outcome.path.as_str());
    let path = path.expect("it was asked");
    let told = events.of([path], TELL).remove(path);
    let told = told.expect("it was waited for");
    let attempt = failed(&told).expect("one failed");
    assert_eq!(attempt.reused, Some(true), "{told:#?}");
    let address = agent.address.to_string();
    let said = output_of(Command::new(binary()).args(["explain", "--agent", &address]));
    println!("{said}");
    let words: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!words.contains("with the request in hand"), "{said}");
    // Before Linux 6.10 the kernel does not say that it was unread.
    if attempt.evidence["reset_reason"].as_str() == Some("tcp_abort_on_close") {
        assert_eq!(told.cause.as_deref(), Some("keepalive_race"), "{told:#?}");
        assert_eq!(told.certainty.as_deref(), Some("strong"), "{told:#?}");
        assert!(words.contains("it closed with data unread"), "{said}");
    }
}
