//! Many clients at a time, and faults among good answers: whose failure was whose.
//!
//! In the first test each request says by its path what shall happen, so that a wrong join shows
//! as a wrong cause. In the second all requests have one path, and only threads and times are left
//! to tell them apart: what is called proven has to be right even then. What really happened is
//! known from the client, and from the servers' own record of what arrived.
//! `WHY502_PROXY=haproxy` runs one proxy; `--nocapture` shows the counts, and examples of what is
//! not right.

mod cases;
mod run;
mod score;

use e2e::load::mix::seed;
use e2e::process::need_root;
use e2e::proxies::Kind;

use cases::{ASKED_AGAIN, BY_PATH, Case, LEAVING, by_header, by_path};
use run::{Paths, Stage};
use score::Score;

/// Proxies that are told apart by how they serve: event loops, a thread for each request, and
/// many threads for one.
const PROXIES: [Kind; 8] = [
    Kind::Nginx,
    Kind::HaProxy,
    Kind::Envoy,
    Kind::ApacheEvent,
    Kind::Caddy,
    Kind::Traefik,
    Kind::NginxCurrent,
    Kind::CaddyCurrent,
];

/// Requests with a path of their own, and clients at a time.
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 64;

/// The same where paths are rewritten: requests one at a time, and several at a time.
const REWRITING: [Kind; 9] = [
    Kind::HaProxy,
    Kind::Caddy,
    Kind::Varnish,
    Kind::Nginx,
    Kind::Envoy,
    Kind::ApacheEvent,
    Kind::Traefik,
    Kind::NginxCurrent,
    Kind::CaddyCurrent,
];
const REWRITTEN: [(usize, usize); 2] = [(200, 1), (2_000, 16)];

/// Of the errors of a proxy that rewrites paths, so many have to be told with a true cause.
const RIGHT: f64 = 0.95;

/// Requests with one path, for each way to connect, and clients at a time.
const ALIKE: usize = 1_000;
const ALIKE_CLIENTS: usize = 16;

/// So many of all errors may be without a cause.
const UNATTRIBUTED: f64 = 0.005;

#[test]
fn each_error_of_many_clients_at_a_time_is_told_once_with_its_own_cause() {
    need_root();
    let seed = seed();
    let mut mistakes = Vec::new();
    for kind in proxies() {
        let mut stage = Stage::build(kind, Paths::Kept);
        let run = stage.play(by_path(seed, REQUESTS, &cases(kind)), CLIENTS);
        let score = Score::of(&run, stage.ports());
        println!("{kind}: {score}");
        mistakes.extend(mistakes_of(&score).map(|mistake| format!("{kind}: {mistake}")));
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn errors_are_told_with_their_causes_where_the_proxy_rewrites_path_and_host() {
    need_root();
    let seed = seed();
    let mut mistakes = Vec::new();
    for kind in only(&REWRITING) {
        let mut stage = Stage::build(kind, Paths::Rewritten);
        for (requests, clients) in REWRITTEN {
            let planned = by_path(seed.wrapping_add(clients as u64), requests, &cases(kind));
            let run = stage.play(planned, clients);
            let score = Score::of(&run, stage.ports());
            println!("{kind} {clients} at a time: {score}");
            let right: usize = score.right.values().sum();
            let share = if clients == 1 { 1.0 } else { RIGHT };
            let enough = (score.errors as f64 * share) as usize;
            let found = [
                ("wrong causes called proven", score.wrong_as("proof")),
                ("wrong causes called strong", score.wrong_as("strong")),
                ("errors not told right", enough.saturating_sub(right)),
            ];
            let found = found.into_iter().filter(|(_, count)| *count > 0);
            mistakes.extend(found.map(|(what, count)| {
                format!("{kind}, {clients} at a time: {what}: {count} more than allowed")
            }));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn where_all_paths_are_one_nothing_wrong_is_called_proven() {
    need_root();
    let seed = seed();
    let mut mistakes = Vec::new();
    for kind in proxies() {
        let mut stage = Stage::build(kind, Paths::Kept);
        for (group, kept) in [("same", false), ("same_kept", true)] {
            let run = stage.play(by_header(seed, ALIKE, group, kept), ALIKE_CLIENTS);
            let score = Score::of(&run, stage.ports());
            println!("{kind} {group}: {score}");
            if score.wrong_as("proof") > 0 {
                mistakes.push(format!(
                    "{kind} {group}: {} causes called proven are wrong",
                    score.wrong_as("proof")
                ));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

/// What is asked of a proxy.
fn cases(kind: Kind) -> Vec<&'static Case> {
    // Where they were measured.
    let (again, leaving): (&[Case], &[Case]) = match kind {
        Kind::NginxCurrent => (ASKED_AGAIN, LEAVING),
        Kind::CaddyCurrent | Kind::Traefik => (&[], LEAVING),
        _ => (&[], &[]),
    };
    BY_PATH.iter().chain(again).chain(leaving).collect()
}

fn proxies() -> impl Iterator<Item = Kind> {
    only(&PROXIES)
}

/// Those of `kinds` that are to be run.
fn only(kinds: &[Kind]) -> impl Iterator<Item = Kind> {
    let one = std::env::var("WHY502_PROXY").ok();
    kinds
        .iter()
        .copied()
        .filter(move |kind| one.as_deref().is_none_or(|one| one == kind.name()))
}

fn mistakes_of(score: &Score) -> impl Iterator<Item = String> {
    let allowed = (score.errors as f64 * UNATTRIBUTED) as usize;
    [
        ("errors not told once", score.not_once, 0),
        ("wrong causes called proven", score.wrong_as("proof"), 0),
        ("wrong causes called strong", score.wrong_as("strong"), 0),
        ("errors without a cause", score.silent, 0),
        (
            "failures told of requests that had none",
            score.not_theirs,
            0,
        ),
        ("unattributed", score.unattributed, allowed),
        (
            "requests whose masked failures are miscounted",
            score.masked_wrong,
            0,
        ),
    ]
    .into_iter()
    .filter(|(_, found, allowed)| found > allowed)
    .map(|(what, found, allowed)| format!("{what}: {found}, {allowed} allowed"))
}
