//! HTTP as no well-meaning program speaks it, from an upstream, from a client, and from both: the
//! agent lives, stays within its bounds, accounts for every record, and proves nothing false.

mod shapes;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Line, Request};
use e2e::agent::metrics::Metrics;
use e2e::http;
use e2e::load::known::assert_covered;
use e2e::load::mix::seed;
use e2e::load::{Order, run, runtime};
use e2e::nginx::access_log::LoggedRequest;
use e2e::nginx::error_log::Words;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::wait::eventually;

use shapes::Shape;
use wire::{Hostile, Then, say};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NGINX: (&str, &str) = ("proxy", "nginx");
const RECORDS: &str = "why502_agent_records_total";
const LOSSES: &str = "why502_agent_losses_total";
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(30);
/// The most memory the agent may use, bytes.
const MEMORY: u64 = 100 << 20;
/// Clients at a time.
const CLIENTS: usize = 16;
/// A large body, bytes.
const BODY: u64 = 1 << 30;
/// An answer that is broken and then ends was cut as well: the agent sees the end of it, nginx the
/// first byte that is wrong.
const BROKEN: [Words; 3] = [Words::InvalidHead, Words::NotHttp, Words::InvalidChunk];
/// Exchanges of random bytes.
const RANDOM: usize = 3000;

/// An agent that leaves the two ends in this process alone: it is nginx that it watches.
fn agent_of_nginx() -> Agent {
    let name = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_default();
    Agent::start(&["--exclude-process", &name])
}

fn nginx(upstream: SocketAddr) -> (Nginx, SocketAddr) {
    let address = ports::free(LOCALHOST);
    let nginx = Nginx::start(
        &Config::new(format!(
            "proxy_http_version 1.1;
proxy_set_header Connection '';
proxy_read_timeout 1s;
proxy_send_timeout 1s;
proxy_next_upstream off;
proxy_buffering off;
proxy_request_buffering off;
client_max_body_size 0;
client_header_timeout 1s;
client_body_timeout 1s;
keepalive_timeout 0;
upstream app {{ server {upstream} max_fails=0; }}
server {{ listen {address} backlog=4096; location / {{ proxy_pass http://app; }} }}"
        )),
        None,
    );
    (nginx, address)
}

/// Asserts that it lives, within its bounds, and that every record is accounted for.
#[track_caller]
fn assert_sound(agent: &Agent) -> Metrics {
    let metrics = agent.settled(TELL);
    let stage = |stage| metrics.by(RECORDS, &[("stage", stage)], &["kind"]);
    let losses = metrics.by(LOSSES, &[], &["stage", "what"]);
    println!(
        "drained {:?}, losses {losses:?}, {} MB at most",
        stage("drained"),
        agent.peak_resident_bytes() >> 20
    );
    assert_eq!(stage("drained"), stage("emitted"), "drained left");
    assert_eq!(stage("decoded"), stage("drained"), "decoded left");
    let others: Vec<_> = losses
        .keys()
        .filter(|key| !key.contains(&"head_too_long".to_owned()))
        .collect();
    assert!(others.is_empty(), "losses: {losses:?}");
    assert!(agent.peak_resident_bytes() <= MEMORY);
    let ready = http::get(agent.address, "/readyz", "*/*").map(|answer| answer.status);
    assert!(matches!(ready, Ok(200)), "{ready:?}");
    assert_covered(&metrics);
    metrics
}

/// Requests that were told, by path.
fn told(agent: &Agent, lines: Vec<Line>) -> BTreeMap<String, Vec<Request>> {
    let mut told: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for line in lines {
        match line {
            Line::Request(request) if request.proxy.name == "nginx" => {
                let path = request.path.clone().unwrap_or_default();
                told.entry(path).or_default().push(*request);
            }
            Line::Lost { events } => panic!("{events} events missed: {}", agent.log()),
            _ => {}
        }
    }
    told
}

/// What nginx logged of each path, and what it said to be wrong.
fn logged(nginx: &Nginx) -> BTreeMap<String, (LoggedRequest, BTreeSet<Words>)> {
    let mut words: BTreeMap<String, BTreeSet<Words>> = BTreeMap::new();
    for line in nginx.error_log() {
        words.entry(line.path).or_default().insert(line.words);
    }
    let lines = nginx.access_log().into_iter();
    lines
        .map(|line| {
            let words = words.remove(&line.path).unwrap_or_default();
            (line.path.clone(), (line, words))
        })
        .collect()
}

/// What is called proven and cannot be, by what nginx wrote.
fn false_proofs(
    told: &BTreeMap<String, Vec<Request>>,
    logged: &BTreeMap<String, (LoggedRequest, BTreeSet<Words>)>,
    name: impl Fn(&str) -> String,
) -> (usize, Vec<String>) {
    let mut proofs = 0;
    let mut wrong = Vec::new();
    for (path, requests) in told {
        for request in requests {
            let (Some(cause), Some("proof")) = (&request.cause, request.certainty.as_deref())
            else {
                continue;
            };
            proofs += 1;
            let holds = logged.get(path).is_some_and(|(line, words)| {
                let from_upstream = cause == "upstream_status"
                    && line
                        .attempts
                        .iter()
                        .any(|attempt| attempt.status == request.code);
                from_upstream
                    || cause == "truncated_response"
                        && words.iter().any(|words| BROKEN.contains(words))
                    || words
                        .iter()
                        .any(|words| words.causes().contains(&cause.as_str()))
            });
            if !holds {
                let said = logged.get(path).map(|(line, words)| (line.status, words));
                let told = (request.code, &request.cause, &request.phase, &request.how);
                wrong.push(format!("{}: told {told:?}, nginx {said:?}", name(path)));
            }
        }
    }
    (proofs, wrong)
}

/// Lines that differ in nothing but the byte, put together.
fn by_kind(lines: &[String]) -> String {
    let mut kinds: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in lines {
        let (name, rest) = line.split_once(':').unwrap_or((line, ""));
        let (kind, byte) = name.split_once(" 0x").unwrap_or((name, ""));
        kinds
            .entry(format!("{kind}:{rest}"))
            .or_default()
            .push(byte);
    }
    let lines: Vec<_> = kinds
        .iter()
        .map(|(kind, bytes)| format!("{} times {kind} ({})", bytes.len(), bytes.join(" ")))
        .collect();
    lines.join("\n")
}

/// Says each shape to a server, so many at a time; how often which status came back.
fn say_all(address: SocketAddr, shapes: Vec<Shape>, then: Then) -> BTreeMap<Option<u16>, usize> {
    let shapes = Arc::new(shapes);
    let next = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (shapes, next) = (Arc::clone(&shapes), Arc::clone(&next));
            std::thread::spawn(move || {
                let mut statuses = Vec::new();
                while let Some(shape) = shapes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    statuses.push(say(address, shape, then));
                }
                statuses
            })
        })
        .collect();
    let mut counts = BTreeMap::new();
    for thread in threads {
        let statuses = thread.join();
        assert!(statuses.is_ok(), "a client does not panic");
        for status in statuses.into_iter().flatten() {
            *counts.entry(status).or_default() += 1;
        }
    }
    counts
}

#[test]
fn hostile_answers_are_told_as_what_nginx_made_of_them() {
    need_root();
    let shapes = shapes::answers(BODY);
    let count = shapes.len();
    let names: Vec<String> = shapes.iter().map(|shape| shape.name.clone()).collect();
    let hostile = Hostile::start(shapes);
    let (nginx, address) = nginx(hostile.address);
    let agent = agent_of_nginx();
    let events = agent.events();
    // Each on a connection of its own: an answer that nginx passes on as it is may look to the
    // client as if the connection lived on.
    let orders = (0..count).map(|number| Order {
        last: true,
        ..Order::get(format!("/a/{number}/x"))
    });

    let outcomes = runtime().block_on(run(address, orders.collect(), CLIENTS));

    let metrics = assert_sound(&agent);
    eventually(TELL, "nginx logs every request", || {
        let paths: BTreeSet<String> = nginx
            .access_log()
            .into_iter()
            .map(|line| line.path)
            .collect();
        let missing = (0..count).filter(|number| !paths.contains(&format!("/a/{number}/x")));
        let missing: Vec<_> = missing
            .filter_map(|number| {
                let path = format!("/a/{number}/x");
                let outcome = outcomes.iter().find(|outcome| outcome.path == path);
                Some((names.get(number)?, outcome?))
            })
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("not logged: {missing:?}"))
        }
    });
    eventually(TELL, "every request is told", || {
        match told(&agent, events.so_far()).len() {
            all if all >= count => Ok(()),
            some => Err(format!("{some} of {count}")),
        }
    });
    let (told, logged) = (told(&agent, events.so_far()), logged(&nginx));
    let name = |path: &str| {
        let number = path
            .split('/')
            .nth(2)
            .and_then(|number| number.parse::<usize>().ok());
        let name = number.and_then(|number| names.get(number));
        name.map_or(path, String::as_str).to_owned()
    };
    let mut wrong: Vec<String> = Vec::new();
    // What nginx passed on as it came, and takes for no answer of its own, has no code to compare.
    let own = |(line, words): &&(LoggedRequest, BTreeSet<Words>)| {
        line.status >= 200 && !words.contains(&Words::NotHttp)
    };
    for (path, (line, words)) in logged.iter().filter(|(_, said)| own(said)) {
        let requests = told.get(path).map(Vec::as_slice).unwrap_or_default();
        let codes: Vec<_> = requests.iter().map(|request| request.code).collect();
        if codes != [line.answered()] {
            wrong.push(format!(
                "{}: told {codes:?}, nginx {} {words:?}",
                name(path),
                line.status
            ));
        }
    }
    let (proofs, false_ones) = false_proofs(&told, &logged, name);
    println!(
        "{count} answers, {proofs} proofs, {} codes told otherwise",
        wrong.len()
    );
    println!("other codes:\n{}", by_kind(&wrong));
    println!(
        "{:?}",
        metrics.by(
            "why502_gateway_errors_total",
            &[NGINX],
            &["cause", "certainty"]
        )
    );
    assert!(
        false_ones.is_empty(),
        "false proofs:\n{}",
        by_kind(&false_ones)
    );
    assert!(wrong.is_empty(), "other codes:\n{}", by_kind(&wrong));
}

#[test]
fn hostile_requests_are_told_as_what_nginx_made_of_them() {
    need_root();
    let hostile = Hostile::start(Vec::new());
    let (nginx, address) = nginx(hostile.address);
    let agent = agent_of_nginx();
    let events = agent.events();
    let shapes = shapes::requests(|number| format!("/r/{number}/x"), BODY);
    let count = shapes.len();

    let statuses = say_all(address, shapes, Then::Wait);

    let metrics = assert_sound(&agent);
    let (told, logged) = (told(&agent, events.so_far()), logged(&nginx));
    let (proofs, false_ones) = false_proofs(&told, &logged, str::to_owned);
    let invented: Vec<_> = told
        .iter()
        .filter(|(path, requests)| {
            let answered = requests
                .iter()
                .any(|request| request.code.is_some_and(|code| code < 400));
            answered && !logged.contains_key(*path)
        })
        .map(|(path, _)| path)
        .collect();
    println!(
        "{count} requests, answered {statuses:?}, told {:?}, {proofs} proofs, {} paths told, {} logged",
        metrics.by("why502_gateway_responses_total", &[NGINX], &["code"]),
        told.len(),
        logged.len()
    );
    assert!(
        false_ones.is_empty(),
        "false proofs:\n{}",
        by_kind(&false_ones)
    );
    assert!(
        invented.is_empty(),
        "answered, and not in nginx's log: {invented:?}"
    );
    let smuggled = |paths: &mut dyn Iterator<Item = &String>| {
        paths.filter(|path| path.contains("smuggled")).count()
    };
    assert!(
        smuggled(&mut told.keys()) <= smuggled(&mut logged.keys()),
        "what is in a body is no request"
    );
}

#[test]
fn hostile_at_both_ends_the_agent_lives() {
    need_root();
    let mut answers = shapes::answers(1 << 20);
    answers.extend(shapes::random(seed(), RANDOM));
    let ask = |number: usize| format!("/b/{number}/x");
    let count = answers.len();
    let hostile = Hostile::start(answers);
    // Both ends are in this process, which looks like a proxy then.
    let agent = Agent::start(&[]);
    let events = agent.events();

    let mut requests = shapes::requests(|number| ask(number % count), 1 << 20);
    requests.extend(shapes::random(seed() ^ 1, RANDOM));
    let many = requests.len();
    let statuses = say_all(hostile.address, requests, Then::End);

    assert_sound(&agent);
    println!(
        "{many} exchanges, answered {} ways, {} lines",
        statuses.len(),
        events.count()
    );
}
