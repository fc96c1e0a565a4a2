//! What each proxy itself says about each mode: code given, code and words logged. What the agent is
//! judged by, `expected.md`, is measured on the machine that judges; and what the agent says that the
//! proxy writes into its log has to be there.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::faults::MODES;
use e2e::faults::expected::Table;
use e2e::faults::observed::Told;
use e2e::faults::play::{lacks, play_all};
use e2e::faults::stage::Stage;
use e2e::load::{Order, Outcome, one_by_one, runtime};
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use serde_json::{Value, json};

/// How long the agent may take to tell a request.
const TELL: Duration = Duration::from_secs(20);

/// Words of a log that fit a line.
const WIDTH: usize = 150;

#[track_caller]
fn says(kind: Kind) {
    need_root();
    let stage = Stage::build();
    let agent = Agent::start_as(kind.name(), &[]);
    let events = agent.events();
    let proxy = Proxy::start(kind, &stage.groups);
    let run = format!("{}", std::process::id());

    let played = runtime().block_on(play_all(&proxy, &stage, &run));

    let asked: Vec<&Outcome> = played.iter().flat_map(|played| &played.outcomes).collect();
    let said = proxy.said_of(asked.iter().map(|outcome| outcome.path.as_str()));
    let told = Told::of(&events, &played);
    let table = Table::read();
    let mut wrong = Vec::new();
    println!("{kind}: mode, what the client got, what the log says");
    for mode in MODES {
        let Some(played) = played.iter().find(|played| played.mode.name == mode.name) else {
            let why = lacks(&proxy, &stage, mode).unwrap_or("not played");
            println!("{:<22}n/a: {why}", mode.name);
            if table.row(mode.name).is_applicable(kind) {
                wrong.push(format!("{} is not applicable: {why}", mode.name));
            }
            continue;
        };
        // The words are those of a cause: whether that is right is asked elsewhere.
        let observed = told.observe(kind, played);
        let row = table.row(mode.name);
        let sure = observed.found.certainty.as_deref() != Some("guess");
        let is_right = sure && row.wrong(kind, observed.code, &observed.found).is_none();
        for outcome in &played.outcomes {
            let said = said.get(&outcome.path).cloned().unwrap_or_default();
            let words: String = said.words.chars().take(WIDTH).collect();
            let status = said
                .status
                .map_or("-".to_owned(), |status| status.to_string());
            let foretold = told.words(&outcome.path);
            println!(
                "{:<22}{:<14}log {status:<5}{words} | {} | {foretold:?}",
                mode.name,
                got(outcome),
                observed.found,
            );
            let has_words = is_right && !takes_for_an_end(kind, mode.name);
            for one in foretold.iter().filter(|_| has_words) {
                if !without_texts(&said.words).contains(&without_texts(one)) {
                    wrong.push(format!("{}: no `{one}` in its log", mode.name));
                }
            }
            if !table.row(mode.name).allows(kind, outcome.status) && mode.times == 1 {
                wrong.push(format!("{}: {}", mode.name, got(outcome)));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{kind} does otherwise than is said: {wrong:#?}"
    );
    let unseen = asked
        .iter()
        .filter(|outcome| outcome.status.is_none() && !outcome.aborted && outcome.error.is_none());
    assert_eq!(unseen.count(), 0, "each request has an outcome");
}

/// A reset behind a body without a length: HAProxy may take it for the end of that, depending on whether
/// it reads the body before the reset comes.
fn takes_for_an_end(kind: Kind, mode: &str) -> bool {
    kind == Kind::HaProxy && mode == "close-cut-rst"
}

/// Without the texts of errnos, which are those of the C library that the proxy was built with.
fn without_texts(words: &str) -> String {
    let mut parts = words.split('(');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part.split(':').next().unwrap_or_default();
        let is_errno = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let rest = part
            .split_once(')')
            .filter(|_| is_errno)
            .map(|(_, rest)| rest);
        match rest {
            Some(rest) => out.push_str(&format!("({number}){rest}")),
            None => out.push_str(&format!("({part}")),
        }
    }
    out
}

/// What a client got, in a word or two.
fn got(outcome: &Outcome) -> String {
    match (outcome.status, outcome.complete, outcome.aborted) {
        (Some(status), true, _) => status.to_string(),
        (Some(status), false, true) => format!("{status} left"),
        (Some(status), false, false) => format!("{status} cut"),
        (None, _, true) => "left".to_owned(),
        (None, _, false) => "none".to_owned(),
    }
}

#[test]
fn nginx_says() {
    says(Kind::Nginx);
}

#[test]
fn haproxy_says() {
    says(Kind::HaProxy);
}

#[test]
fn apache_event_says() {
    says(Kind::ApacheEvent);
}

#[test]
fn apache_prefork_says() {
    says(Kind::ApachePrefork);
}

#[test]
fn envoy_says() {
    says(Kind::Envoy);
}

/// Which of its timers ended a request is known to Envoy alone: what the agent says has to be true of each.
#[test]
fn envoy_says_which_timer_it_was() {
    need_root();
    let upstreams = Upstreams::start(IpAddr::V4(Ipv4Addr::LOCALHOST), &["0"], None);
    let timers = [
        ("route", json!({ "timeout": "1s" })),
        (
            "try",
            json!({ "timeout": "0s", "retry_policy": { "per_try_timeout": "1s", "num_retries": 0 } }),
        ),
        (
            "try_idle",
            json!({ "timeout": "0s", "retry_policy": { "per_try_idle_timeout": "1s", "num_retries": 0 } }),
        ),
        ("idle", json!({ "timeout": "0s", "idle_timeout": "1s" })),
        (
            "duration",
            json!({ "timeout": "0s", "max_stream_duration": { "max_stream_duration": "1s" } }),
        ),
    ];
    let routes: Vec<(Group, Value)> = timers
        .into_iter()
        .map(|(name, fields)| {
            let group = Group::new(name, Target::Servers(upstreams.addresses.clone()));
            (group, fields)
        })
        .collect();
    let agent = Agent::start_as("envoy", &[]);
    let events = agent.events();
    let proxy = Proxy::envoy(&routes);
    let paths: Vec<String> = routes
        .iter()
        .flat_map(|(group, _)| {
            let words = ["hang", "body=9000,cut=1000,by=hang"];
            words.map(|words| format!("/{}/{words}", group.name))
        })
        .collect();

    one_by_one(proxy.address, paths.iter().map(Order::get).collect());

    let told = events.of(paths.iter().map(String::as_str), TELL);
    let said = proxy.said_of(paths.iter().map(String::as_str));
    for path in &paths {
        let (told, said) = (&told[path], &said[path]);
        let attempts = &told.attempts;
        let words = attempts.last().and_then(|attempt| attempt.words.clone());
        println!(
            "{path}: log {:?} {} | {:?} {words:?}",
            said.status,
            said.words,
            attempts.last().and_then(|one| one.cause.clone()),
        );
        let words = words.unwrap_or_else(|| panic!("{path}: no words"));
        assert!(
            said.words.contains(&words),
            "{path}: no `{words}` in its log"
        );
    }
}

#[test]
fn caddy_says() {
    says(Kind::Caddy);
}

#[test]
fn varnish_says() {
    says(Kind::Varnish);
}

#[test]
fn traefik_says() {
    says(Kind::Traefik);
}

#[test]
fn current_nginx_says() {
    says(Kind::NginxCurrent);
}

#[test]
fn current_caddy_says() {
    says(Kind::CaddyCurrent);
}
