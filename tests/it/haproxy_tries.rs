//! HAProxy as it comes: four tries to connect, a second apart, and the last one at another server
//! when it may. Each try is an attempt of its request, and HAProxy's log says how many there were.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Attempt, Request};
use e2e::haproxy::{Haproxy, LoggedRequest};
use e2e::load::{Order, one_by_one};
use e2e::ports::{self, Refusing};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to tell a request.
const TELL: Duration = Duration::from_secs(10);

/// How long HAProxy may take to listen.
const START: Duration = Duration::from_secs(10);

/// Between two tries at one server (`min(1s, timeout connect)`), seconds.
const APART: f64 = 1.0;

#[test]
fn every_try_is_an_attempt_of_its_request() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let good = *upstreams.addresses.first().expect("it was ordered");
    let refusing = [(); 3].map(|()| Refusing::new(LOCALHOST));
    let [lone, shared, stuck] = refusing.each_ref().map(|refusing| refusing.address);
    let front = ports::free(LOCALHOST);
    let mut haproxy = Haproxy::start(
        &format!(
            "frontend front
    bind {front}
    use_backend %[path,field(2,/)]
backend lone
    server dead {lone}
backend shared
    option redispatch
    server dead {shared}
    server good {good}
backend stuck
    option redispatch
    cookie S
    http-request set-header Cookie S=d
    server dead {stuck} cookie d
    server good {good} cookie g
"
        ),
        None,
    );
    eventually(START, "haproxy listens", || {
        haproxy.assert_runs();
        match TcpStream::connect(front) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
    let agent = Agent::start(&[]);
    let events = agent.events();
    let ask = |path: &str| {
        let asked = one_by_one(front, vec![Order::get(path)]);
        let told = events.of([path], TELL).remove(path);
        let told = told.expect("each path was waited for");
        let logged = haproxy.logged(path);
        let status = asked.first().and_then(|outcome| outcome.status);
        assert_eq!(told.code, status, "{path}");
        assert_eq!(told.code, u16::try_from(logged.status).ok(), "{path}");
        show(path, &logged, &told);
        (logged, told)
    };

    let (logged, told) = ask("/lone/ok");
    assert_eq!((logged.state.as_str(), logged.retries), ("SC", 3));
    assert_eq!(told.code, Some(503));
    assert_eq!(told.cause.as_deref(), Some("connect_refused"));
    assert_eq!(told.certainty.as_deref(), Some("strong"));
    assert_tries(&told, lone, 4);
    assert_waited(&told, 3.0 * APART);

    // Taken over at once, for the group takes turns.
    let (logged, told) = ask("/shared/ok");
    assert_rescued(&logged, &told, 1);
    assert_tries(&told, shared, 1);

    // Its cookie keeps it at the dead server, and then the last try is made at once.
    let (logged, told) = ask("/stuck/ok");
    assert_rescued(&logged, &told, 3);
    assert_tries(&told, stuck, 3);
    assert_waited(&told, 2.0 * APART);
}

fn show(path: &str, logged: &LoggedRequest, told: &Request) {
    println!("{path}: haproxy {logged:?}");
    println!(
        "  agent {:?} {:?} {:?} after {:?} s",
        told.code, told.cause, told.certainty, told.request_seconds
    );
    for attempt in &told.attempts {
        println!(
            "    {} by {:?}: {:?} {:?} {:?} {:?}",
            attempt.upstream,
            attempt.join,
            attempt.cause,
            attempt.certainty,
            attempt.how,
            attempt.code
        );
    }
}

/// The first `count` attempts were refused by `dead`.
#[track_caller]
fn assert_tries(told: &Request, dead: std::net::SocketAddr, count: usize) {
    let refused: Vec<&Attempt> = told
        .attempts
        .iter()
        .take_while(|attempt| attempt.cause.is_some())
        .collect();
    assert_eq!(refused.len(), count);
    for attempt in refused {
        assert_eq!(attempt.upstream, dead.to_string());
        assert_eq!(attempt.cause.as_deref(), Some("connect_refused"));
        assert_eq!(attempt.certainty.as_deref(), Some("proof"));
        assert_eq!(attempt.how.as_deref(), Some("rst"));
    }
}

/// After `retries` more tries HAProxy got an answer, and no error is told.
#[track_caller]
fn assert_rescued(logged: &LoggedRequest, told: &Request, retries: u32) {
    assert_eq!((logged.server.as_str(), logged.retries), ("good", retries));
    assert!(logged.redispatched, "{logged:?}");
    assert_eq!((told.code, told.cause.as_deref()), (Some(200), None));
    let last = told.attempts.last();
    assert_eq!(last.and_then(|attempt| attempt.code), Some(200));
    assert_eq!(told.attempts.len(), retries as usize + 1);
}

/// It took as long as the waits between its tries, seconds.
#[track_caller]
fn assert_waited(told: &Request, waits: f64) {
    let took = told.request_seconds.unwrap_or_default();
    assert!(took >= waits - 0.1, "{took} s with waits of {waits} s");
}
