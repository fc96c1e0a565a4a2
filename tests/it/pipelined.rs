//! Requests that a client sends before the one ahead of them is answered, and whose attempt fails. Some
//! proxies give an error, others close without a word: each such request has its incident, with its
//! attempt. `WHY502_PROXY=haproxy` runs one proxy.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use e2e::agent::events::{Attempt, Line, Request};
use e2e::agent::{Agent, Events};
use e2e::beside;
use e2e::haproxy::Haproxy;
use e2e::ports::{self, Refusing};
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to report a request, and a proxy to answer.
const TELL: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(20);
const START: Duration = Duration::from_secs(10);

/// Proxies at a time: they mostly wait.
const BESIDE: usize = 2;

/// How the second of two requests comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    /// In one segment with the first.
    Together,
    /// In a segment of its own, while the first is under way.
    Apart,
}

/// What a client got for two requests.
#[derive(Debug)]
struct Got {
    client: SocketAddr,
    statuses: Vec<u16>,
}

fn connect(proxy: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(proxy).expect("the proxy listens");
    stream
        .set_read_timeout(Some(ANSWER))
        .expect("a timeout can be set");
    stream.set_nodelay(true).expect("an option can be set");
    stream
}

/// A request after which the connection goes on.
fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// The last one of a connection.
fn last(method: &str, path: &str) -> String {
    let body = if method == "POST" {
        "Content-Length: 5\r\n\r\nhello"
    } else {
        "\r\n"
    };
    format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{body}")
}

/// Reads until the proxy closes.
fn answers(mut stream: TcpStream) -> Got {
    let client = stream.local_addr().expect("it is connected");
    let mut answers = Vec::new();
    match stream.read_to_end(&mut answers) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("no end: {error}"),
        _ => {}
    }
    let text = String::from_utf8_lossy(&answers);
    let statuses = text.split("HTTP/1.1 ").skip(1);
    let statuses = statuses
        .filter_map(|answer| answer.split(' ').next()?.parse().ok())
        .collect();
    Got { client, statuses }
}

/// Asks for both paths on one connection, the second before the first is answered. `method` is that of
/// the second.
fn ask(proxy: SocketAddr, method: &str, paths: [&str; 2], second: Second) -> Got {
    let mut stream = connect(proxy);
    let [one, other] = paths;
    let (one, other) = (get(one), last(method, other));
    match second {
        Second::Together => stream.write_all((one + &other).as_bytes()),
        Second::Apart => stream.write_all(one.as_bytes()).and_then(|()| {
            // The first waits for longer at its upstream.
            std::thread::sleep(Duration::from_millis(50));
            stream.write_all(other.as_bytes())
        }),
    }
    .expect("the connection is open");
    answers(stream)
}

/// What the agent reports of the second request of `client`, once it does.
#[track_caller]
fn second_of(events: &Events, client: SocketAddr) -> Request {
    let [_, second] = all_of(events, client);
    second
}

/// What the agent reports of the requests of `client`, once it reports all.
#[track_caller]
fn all_of<const N: usize>(events: &Events, client: SocketAddr) -> [Request; N] {
    eventually(TELL, "each request is reported", || {
        let lines = events.so_far();
        let of_client: Vec<&Request> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Request(one) if one.client == Some(client.to_string()) => Some(one.as_ref()),
                _ => None,
            })
            .collect();
        let all: Vec<Request> = of_client.into_iter().cloned().collect();
        all.try_into()
            .map_err(|all| format!("{all:#?} of {lines:#?}"))
    })
}

fn failed(request: &Request) -> Option<&Attempt> {
    request.attempts.iter().find(|one| one.cause.is_some())
}

fn verdict(request: &Request) -> String {
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    let attempts: Vec<String> = request
        .attempts
        .iter()
        .map(|one| {
            format!(
                "{} {} {} join {} {}",
                one.upstream,
                word(&one.cause),
                word(&one.certainty),
                word(&one.join),
                word(&one.join_certainty)
            )
        })
        .collect();
    format!(
        "{:?} {} {} {attempts:?}",
        request.code,
        word(&request.cause),
        word(&request.certainty)
    )
}

/// A line of HAProxy's statistics (management guide, 9.1): the value of each named field.
fn statistics<const N: usize>(socket: &Path, name: &str, fields: [&str; N]) -> [u64; N] {
    let mut admin = UnixStream::connect(socket).expect("haproxy has an admin socket");
    admin.write_all(b"show stat\n").expect("it takes commands");
    let lines: Vec<String> = BufReader::new(admin)
        .lines()
        .map_while(Result::ok)
        .collect();
    let names: Vec<&str> = lines[0].trim_start_matches("# ").split(',').collect();
    let line = lines.iter().find(|line| line.starts_with(name));
    let values: Vec<&str> = line.expect("it has that line").split(',').collect();
    fields.map(|field| {
        let at = names.iter().position(|name| *name == field);
        let value = at.and_then(|at| values.get(at)).expect("it has that field");
        value.parse().unwrap_or(0)
    })
}

/// HAProxy closes without a word, and without a line in its log, when the attempt for a request fails
/// that is not the first one on its connection: that its client has to repeat it (before 3.0 wherever
/// the connection to the server comes from).
#[test]
fn haproxy_closes_on_a_pipelined_request_and_that_has_its_incident() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0", "0"], None);
    let nobody = Refusing::new(LOCALHOST);
    let [good, other] = upstreams.addresses.as_slice() else {
        panic!("two upstreams were ordered");
    };
    let folder = tempfile::tempdir().expect("a folder can be made");
    for reuse in ["never", "always"] {
        let (front, socket) = (ports::free(LOCALHOST), folder.path().join(reuse));
        let mut haproxy = Haproxy::start(
            &format!(
                "global
    stats socket {} level admin
defaults tries
    mode http
    log global
    retries 0
    http-reuse {reuse}
    timeout connect 5s
    timeout server 2s
    timeout client 10s
    log-format \"judge\\t%HPO\\t%ST\\t%ts\\t%s\\t%rc\"
frontend front
    bind {front}
    use_backend good if {{ path_beg /good/ }}
    use_backend other if {{ path_beg /other/ }}
    use_backend dead if {{ path_beg /dead/ }}
backend good
    server one {good}
backend other
    server one {other}
backend dead
    server one {}
",
                socket.display(),
                nobody.address
            ),
            None,
        );
        eventually(START, "haproxy listens", || {
            haproxy.assert_runs();
            TcpStream::connect(front).map_err(|error| error.to_string())
        });
        let agent = Agent::start_as(&format!("pipelined-{reuse}"), &[]);
        let events = agent.events();
        let mut silent = Vec::new();
        for (number, (method, words, second)) in [
            ("GET", "good/1/reset", Second::Together),
            ("GET", "good/2/close", Second::Apart),
            ("POST", "good/3/reset", Second::Together),
            ("GET", "other/4/reset", Second::Together),
            ("GET", "other/5/close", Second::Apart),
            ("GET", "other/6/head_cut=20,by=fin", Second::Together),
            ("GET", "dead/7/ok", Second::Together),
            ("GET", "other/8/hang", Second::Together),
        ]
        .into_iter()
        .enumerate()
        {
            let fields = ["req_tot", "hrsp_5xx", "hrsp_other"];
            let before = statistics(&socket, "front,FRONTEND", fields);
            let path = format!("/{words}");
            let first = format!("/good/{number}/first/wait=200");
            let got = ask(front, method, [&first, &path], second);
            let after = statistics(&socket, "front,FRONTEND", fields);
            let [asked, errors, others] = [0, 1, 2].map(|at| after[at] - before[at]);
            let told = second_of(&events, got.client);
            let logged = got.statuses.get(1).map(|_| haproxy.logged(&path));
            println!(
                "http-reuse {reuse} {method} {words} {second:?}: client {:?}, counted {asked} \
                 {errors} {others}, logged {:?}: {}",
                got.statuses,
                logged
                    .as_ref()
                    .map(|line| (line.status, line.state.as_str())),
                verdict(&told)
            );
            assert_eq!(got.statuses.first(), Some(&200), "{words}");
            assert_eq!(asked, 2, "both were asked: {words}");
            let status = got.statuses.get(1).copied();
            let written = logged.as_ref().map(|line| line.status as u16);
            assert_eq!(written, status, "{words}: {logged:?}");
            if status.is_none() {
                silent.push(path.clone());
            }
            assert_eq!(told.code, status, "{words}: {told:#?}");
            let [attempt] = told.attempts.as_slice() else {
                panic!("{words}: one attempt: {told:#?}");
            };
            let upstream = match words.split('/').next() {
                Some("good") => *good,
                Some("other") => *other,
                _ => nobody.address,
            };
            assert_eq!(attempt.upstream, upstream.to_string(), "{words}");
            let causes: &[&str] = match words.rsplit('/').next() {
                Some("reset" | "close") => &["closed_before_response", "keepalive_race"],
                Some("hang") => &["response_timeout"],
                Some("ok") => &["connect_refused"],
                _ => &["truncated_response"],
            };
            let cause = told.cause.as_deref();
            assert!(
                cause.is_some_and(|cause| causes.contains(&cause)),
                "{words}: {told:#?}"
            );
            assert_ne!(
                told.certainty.as_deref(),
                Some("guess"),
                "{words}: {told:#?}"
            );
        }
        assert!(silent.len() >= 3, "haproxy closes without a word");
        let lines = haproxy.requests();
        assert!(
            lines.iter().all(|line| !silent.contains(&line.path)),
            "{lines:?}"
        );
        let metrics = agent.settled(TELL);
        let none = [("proxy", "haproxy"), ("code", "none")];
        for name in [
            "why502_gateway_responses_total",
            "why502_gateway_errors_total",
        ] {
            assert_eq!(metrics.sum(name, &none) as usize, silent.len(), "{name}");
        }
    }
}

/// One request, and then nothing: what a proxy closes then, nobody waits for.
#[test]
fn a_connection_that_is_closed_behind_the_last_answer_leaves_nothing_unanswered() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let group = Group::new("x", Target::Servers(upstreams.addresses.clone())).kept();
    beside::each(&kinds(), BESIDE, |kind| {
        let agent = Agent::start_as(&format!("answered-{kind}"), &[]);
        let proxy = Proxy::start(*kind, std::slice::from_ref(&group));
        for (method, second) in [("GET", Second::Together), ("POST", Second::Apart)] {
            let [one, other] = ["one", "other"].map(|name| format!("/x/{method}/{name}/wait=100"));
            let got = ask(proxy.address, method, [&one, &other], second);
            assert_eq!(got.statuses, [200, 200], "{kind} {method} {second:?}");
        }
        let metrics = agent.settled(TELL);
        let unanswered = metrics.sum("why502_gateway_responses_total", &[("code", "none")]);
        assert_eq!(unanswered, 0.0, "{kind}");
    });
}

fn kinds() -> Vec<Kind> {
    let one = std::env::var("WHY502_PROXY").ok();
    let all = Kind::ALL.into_iter();
    let some = all.filter(|kind| one.as_deref().is_none_or(|one| one == kind.name()));
    some.collect()
}

/// A group that answers as its paths say, and one of which nobody listens.
fn groups(upstreams: &Upstreams, nobody: &Refusing) -> [Group; 2] {
    [
        Group::new("x", Target::Servers(upstreams.addresses.clone())).kept(),
        Group::new("dead", Target::Servers(vec![nobody.address])).kept(),
    ]
}

/// What an upstream does with the second request, and what may be said of it.
const FAULTS: [(&str, &[&str]); 5] = [
    (
        "x/if_reused,reset",
        &["closed_before_response", "keepalive_race"],
    ),
    ("x/if_reused,close", &["closed_before_response"]),
    ("x/reset", &["closed_before_response", "keepalive_race"]),
    ("x/hang", &["response_timeout"]),
    ("dead/ok", &["connect_refused"]),
];

#[test]
fn each_pipelined_request_whose_attempt_fails_has_its_incident() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let nobody = Refusing::new(LOCALHOST);
    let groups = groups(&upstreams, &nobody);
    let wrong = beside::each(&kinds(), BESIDE, |kind| wrong_at(*kind, &groups)).concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The faults that are not reported right at this proxy.
fn wrong_at(kind: Kind, groups: &[Group]) -> Vec<String> {
    let mut wrong = Vec::new();
    let agent = Agent::start_as(&format!("pipelined-{kind}"), &[]);
    let events = agent.events();
    let proxy = Proxy::start(kind, groups);
    for (number, (fault, causes)) in (0..).zip(FAULTS) {
        for (method, second) in [("GET", Second::Together), ("POST", Second::Apart)] {
            let (group, words) = fault.split_once('/').expect("a group and words");
            let path = format!("/{group}/{number}/{method}-{second:?}/{words}");
            let first = format!("/x/{number}/{method}-{second:?}/first/wait=200");
            let got = ask(proxy.address, method, [&first, &path], second);
            let told = second_of(&events, got.client);
            println!(
                "{:<15}{method:<5}{fault:<20}{second:<10?}client {:?}: {}",
                kind.name(),
                got.statuses,
                verdict(&told)
            );
            // A status that differs, or none, is of this request alone.
            let code = got.statuses.get(1).copied();
            let is_error = code.is_none_or(|code| code >= 500);
            let cause = failed(&told).and_then(|one| one.cause.as_deref());
            let right = match cause {
                Some(cause) => causes.contains(&cause),
                // What was not reused went well, or was repeated.
                None => !is_error,
            };
            if !right || told.code != code || (is_error && told.cause.is_none()) {
                wrong.push(format!("{kind} {method} {fault} {second:?}: {told:#?}"));
            }
        }
    }
    wrong
}

/// Of several in one segment only the first two are seen when they come: the others show by their
/// answers, which Apache httpd sends in one segment as well.
#[test]
fn of_several_requests_in_one_segment_the_last_has_its_incident() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let nobody = Refusing::new(LOCALHOST);
    let groups = groups(&upstreams, &nobody);
    beside::each(&kinds(), BESIDE, |kind| {
        let agent = Agent::start_as(&format!("several-{kind}"), &[]);
        let events = agent.events();
        let proxy = Proxy::start(*kind, &groups);
        for (number, words) in [(1, "ok"), (2, "chunked")] {
            let first = format!("/x/{number}/first/wait=200,{words}");
            let second = format!("/x/{number}/second/{words}");
            let mut stream = connect(proxy.address);
            let dead = format!("/dead/{number}/ok");
            let asked = get(&first) + &get(&second) + &last("GET", &dead);
            stream.write_all(asked.as_bytes()).expect("it is open");
            let got = answers(stream);
            let told: [Request; 3] = all_of(&events, got.client);
            let codes = told.each_ref().map(|one| one.code);
            println!("{kind} {words} {:?}: {}", got.statuses, verdict(&told[2]));
            let statuses: Vec<_> = codes.into_iter().flatten().collect();
            assert_eq!(statuses, got.statuses, "{kind}: {told:#?}");
            let cause = failed(&told[2]).and_then(|one| one.cause.as_deref());
            assert_eq!(cause, Some("connect_refused"), "{kind}: {told:#?}");
            assert_eq!(told[2].cause.as_deref(), cause, "{kind}: {told:#?}");
        }
    });
}
