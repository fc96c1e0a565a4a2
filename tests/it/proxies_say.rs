//! What each proxy itself says about each mode: code given, code and words logged. What the agent is
//! judged by, `expected.md`, is measured on the machine that judges; and what the agent says that the
//! proxy writes into its log has to be there.

use e2e::agent::Agent;
use e2e::faults::MODES;
use e2e::faults::expected::Table;
use e2e::faults::observed::Told;
use e2e::faults::play::{lacks, play_all};
use e2e::faults::stage::Stage;
use e2e::load::{Outcome, runtime};
use e2e::process::need_root;
use e2e::proxies::{Kind, Proxy};

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
        let is_right = row.wrong(kind, observed.code, &observed.found).is_none();
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
            for one in foretold.iter().filter(|_| is_right) {
                if !said.words.contains(*one) {
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
