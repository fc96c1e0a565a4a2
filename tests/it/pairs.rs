//! Two faults that look alike, at once on one proxy: each has to be told from the other, request
//! by request.
//!
//! The same status and the same timer stand for both of each pair, and both are asked for at the
//! same moment by as many clients as there are requests, so that neither the code nor the time
//! gives them away. What was asked for is the judge; at HAProxy a guess may be wrong, and is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Attempt, Line, Request};
use e2e::faults::stage::Stage;
use e2e::load::{Order, run, runtime};
use e2e::process::need_root;
use e2e::proxies::{Kind, Proxy};
use e2e::wait::eventually;

/// Of each kind.
const EACH: usize = 10;

/// How long the agent may take to tell all requests.
const TELL: Duration = Duration::from_secs(20);

/// When a client leaves: before the proxy's timer of 1 s.
const LEAVES_AFTER: Duration = Duration::from_millis(400);

/// Requests of one kind.
struct Asked {
    group: &'static str,
    words: &'static str,
    leaves: bool,
    /// What has to be told of them.
    cause: &'static str,
}

const fn asked(group: &'static str, words: &'static str, cause: &'static str) -> Asked {
    Asked {
        group,
        words,
        leaves: false,
        cause,
    }
}

#[test]
fn a_lost_path_is_told_from_a_slow_server() {
    for kind in [Kind::Nginx, Kind::HaProxy] {
        assert_told_apart(
            kind,
            &[
                asked("lost_fresh", "ok", "path_lost"),
                asked("fresh", "hang", "response_timeout"),
            ],
        );
    }
}

#[test]
fn a_client_that_left_is_told_from_a_slow_server() {
    for kind in [Kind::Nginx, Kind::HaProxy] {
        assert_told_apart(
            kind,
            &[
                Asked {
                    leaves: true,
                    ..asked("fresh", "hang", "client_abort")
                },
                asked("fresh", "hang", "response_timeout"),
            ],
        );
    }
}

#[test]
fn a_full_accept_queue_is_told_from_a_syn_that_nobody_answers() {
    for kind in [Kind::Nginx, Kind::HaProxy] {
        assert_told_apart(
            kind,
            &[
                asked("deaf", "any", "accept_queue_full"),
                asked("dark", "any", "connect_timeout"),
            ],
        );
    }
}

/// HAProxy finds its servers dead and its names unresolved beforehand, which leaves no trace at
/// the request.
#[test]
fn dead_servers_and_a_name_that_does_not_exist_are_told_from_an_answer_of_the_proxys_own() {
    assert_told_apart(
        Kind::Nginx,
        &[
            asked("judged", "any", "no_live_upstream"),
            asked("static", "any", "proxy_generated"),
            asked("dns_nx", "any", "dns_failure"),
        ],
    );
}

#[track_caller]
fn assert_told_apart(kind: Kind, all: &[Asked]) {
    need_root();
    let stage = Stage::build();
    let agent = Agent::start(&[]);
    let events = agent.events();
    let proxy = Proxy::start(kind, &stage.groups);
    let run_id = std::process::id();
    if all.iter().any(|asked| asked.group == "judged") {
        // Fail until the proxy has given the servers up, while another server does well.
        let orders = (0..4)
            .flat_map(|number| {
                [("judged", "any"), ("fresh", "ok")].map(|(group, words)| {
                    Order::get(format!("/{group}/{run_id}/before/{number}/{words}"))
                })
            })
            .collect();
        runtime().block_on(run(proxy.address, orders, 1));
    }

    let mut expected = BTreeMap::new();
    let mut orders = Vec::new();
    // In turn, so that the neighbours of each are of another kind.
    for number in 0..EACH {
        for (which, asked) in all.iter().enumerate() {
            let Asked {
                group,
                words,
                leaves,
                cause,
            } = asked;
            let path = format!("/{group}/{run_id}/{which}/{number}/{words}");
            orders.push(Order {
                abort_after: leaves.then_some(LEAVES_AFTER),
                ..Order::get(path.clone())
            });
            expected.insert(path, *cause);
        }
    }
    let clients = orders.len();
    runtime().block_on(run(proxy.address, orders, clients));

    let told = eventually(TELL, "each request is told", || {
        let mut told: BTreeMap<String, Vec<Request>> = BTreeMap::new();
        for line in events.so_far() {
            if let Line::Request(request) = line {
                let path = request.path.clone().unwrap_or_default();
                told.entry(path).or_default().push(*request);
            }
        }
        match expected
            .keys()
            .filter(|path| !told.contains_key(*path))
            .count()
        {
            0 => Ok(told),
            missing => Err(format!("{missing} of {clients} are not told by {kind}")),
        }
    });
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (path, cause) in &expected {
        let said: Vec<String> = told.get(path).into_iter().flatten().map(found).collect();
        let word = said.join(" and ");
        // Which of several connects that failed at once was whose does not show at HAProxy.
        let guessed = kind == Kind::HaProxy && word.ends_with("(guess)");
        if said.len() != 1 || !guessed && word.split(' ').next() != Some(cause) {
            wrong.push(format!("{path}: {word}, not {cause}"));
        }
        *counts.entry(format!("{cause}: {word}")).or_default() += 1;
    }
    println!("{kind}: {counts:#?}");
    assert!(wrong.is_empty(), "{kind}: {wrong:#?}");
}

/// Cause and certainty of a request, or of its last failed attempt.
fn found(request: &Request) -> String {
    let failed = |attempt: &&Attempt| attempt.cause.is_some();
    let of = |cause: &Option<String>, certainty: &Option<String>| {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        format!("{} ({})", or(cause), or(certainty))
    };
    match request.attempts.iter().rev().find(failed) {
        Some(attempt) if request.cause.is_none() => of(&attempt.cause, &attempt.certainty),
        _ => of(&request.cause, &request.certainty),
    }
}
