//! Thousands of requests, many of which go wrong, through a real nginx: what the agent counts
//! and explains must be what nginx wrote into its own logs, and what was done on purpose.

mod report;
mod run;

use std::collections::BTreeMap;

use e2e::agent::events::{Attempt, Request};
use e2e::load::mix::Planned;
use e2e::nginx::access_log::{LoggedAttempt, LoggedRequest};

use report::Report;
use run::RUN;

const NGINX: (&str, &str) = ("proxy", "nginx");

/// nginx's clock steps by 1 ms and is read at both ends, seconds.
const CLOCK: f64 = 0.002;

/// nginx reads its clock once per turn of its loop: a turn that takes long shifts what it
/// logs. So many of the times may be off by more. Fewer: a machine whose CPUs are taken away for
/// an eighth of the time fails, for each theft shifts what is under way. More: wrong times pass.
const OFF: f64 = 0.05;

/// Attempts that may be joined wrongly, each of them called a guess. nginx that gets a CPU back
/// reads what has come from several clients before it goes upstream. Fewer: a busy machine fails.
/// More: an agent that guesses passes.
const GUESSES: usize = 3;

#[test]
fn nothing_was_lost() {
    let mut lost = RUN
        .metrics
        .by("why502_agent_losses_total", &[], &["stage", "what"]);
    // Heads beyond what the agent reads were sent on purpose; the upstream's socket and
    // nginx's see each of them.
    let long = RUN
        .planned
        .values()
        .filter(|planned| planned.case.name == "too_big")
        .count();
    let told = lost.remove(&vec!["probes".to_owned(), "head_too_long".to_owned()]);
    assert!(lost.is_empty(), "losses: {lost:?}");
    assert!(
        told.unwrap_or(0) <= 2 * long as u64,
        "{told:?} heads too long, {long} were sent"
    );
    assert_eq!(RUN.missed, 0, "events missed by a slow reader");
}

#[test]
fn every_request_is_told_once() {
    let mut report = Report::default();
    for path in RUN.logged.keys() {
        report.looked();
        match RUN.told.get(path).map_or(0, Vec::len) {
            1 => {}
            times => report.add(format!("told {times} times: {}", RUN.case(path)), path),
        }
    }
    for path in RUN
        .told
        .keys()
        .filter(|path| !RUN.logged.contains_key(*path))
    {
        report.add("told and not in the log", path);
    }
    for attempt in &RUN.lone_attempts {
        report.add("attempt without its request", attempt);
    }
    report.finish();
}

#[test]
fn answers_to_clients_per_code_equal_the_access_log() {
    let expected = counted(
        RUN.logged
            .values()
            .filter_map(LoggedRequest::answered)
            .map(|status| vec![status.to_string()]),
    );
    let mut found = RUN
        .metrics
        .by("why502_gateway_responses_total", &[NGINX], &["code"]);
    found.remove(&vec!["none".to_owned()]);
    for (planned, logged, told) in RUN
        .pairs()
        .filter(|(_, logged, told)| logged.answered() != told.code)
    {
        println!(
            "{}: nginx {:?}, agent {:?}: {}",
            planned.case.name,
            logged.answered(),
            told.code,
            logged.path
        );
    }
    assert_eq!(found, expected, "agent left, nginx right");
}

#[test]
fn connections_closed_instead_of_an_answer_are_counted_as_none() {
    let expected = RUN
        .logged
        .values()
        .filter(|logged| logged.answered().is_none() && logged.status != 499)
        .count();
    let name = "why502_gateway_responses_total";
    let found = RUN.metrics.sum(name, &[NGINX, ("code", "none")]);
    assert_eq!(found, expected as f64, "agent left, nginx right");
}

#[test]
fn answers_of_upstreams_per_code_equal_the_access_log() {
    let attempts = || RUN.logged.values().flat_map(LoggedRequest::tried);
    let expected = counted(attempts().filter_map(|attempt| {
        Some(vec![
            attempt.upstream.clone(),
            attempt.answered()?.to_string(),
        ])
    }));
    let found = RUN.metrics.by(
        "why502_upstream_responses_total",
        &[NGINX],
        &["upstream", "code"],
    );
    for (name, _, logged, told) in
        attempt_pairs().filter(|(_, _, logged, told)| logged.answered() != told.code)
    {
        println!(
            "{name}: nginx {:?}, agent {:?}: {told:?}",
            logged.answered(),
            told.code
        );
    }
    assert_eq!(found, expected, "agent left, nginx right");
}

#[test]
fn attempts_are_those_of_the_access_log_in_its_order() {
    let mut report = Report::default();
    let guesses = guessed_wrong().count();
    println!("{guesses} attempts are guessed wrong");
    assert!(guesses <= GUESSES, "{guesses} attempts are guessed wrong");
    for (planned, logged, told) in sure_pairs() {
        report.looked();
        let expected: Vec<&str> = logged
            .tried()
            .map(|attempt| attempt.upstream.as_str())
            .collect();
        if !is_joined_right(logged, told) {
            let found: Vec<_> = told
                .attempts
                .iter()
                .map(|attempt| (&attempt.upstream, attempt.reused, &attempt.join))
                .collect();
            report.add(
                planned.case.name,
                format!("nginx {expected:?}, agent {found:?}: {}", logged.path),
            );
        }
    }
    report.finish();
}

#[test]
fn times_of_attempts_agree_within_two_milliseconds() {
    let mut all = 0;
    let mut off: Vec<(f64, String)> = Vec::new();
    let mut missing = Report::default();
    let mut compare =
        |name: &str, what: &str, path: &str, logged: Option<f64>, told: Option<f64>| {
            let Some(logged) = logged else {
                return;
            };
            missing.looked();
            let Some(told) = told else {
                missing.add(format!("no {what} time: {name}"), path);
                return;
            };
            all += 1;
            let by = (logged - told).abs();
            if by > CLOCK {
                off.push((
                    by,
                    format!("{what}: nginx {logged:.3}, agent {told:.6}: {name} {path}"),
                ));
            }
        };
    for (name, path, logged, told) in attempt_pairs() {
        if told.reused == Some(false) {
            compare(
                name,
                "connect",
                path,
                logged.connect_seconds,
                told.connect_seconds,
            );
        }
        let head = logged.answered().and(logged.header_seconds);
        compare(name, "header", path, head, told.header_seconds);
        compare(
            name,
            "response",
            path,
            logged.response_seconds,
            told.duration_seconds,
        );
    }
    for (planned, logged, told) in RUN.pairs() {
        compare(
            planned.case.name,
            "request",
            &logged.path,
            Some(logged.request_seconds),
            told.request_seconds,
        );
    }
    off.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!(
        "{} of {all} times are off by more than {CLOCK} s; the worst (nginx's clock stands still \
         while its worker is busy, and the agent's does not):",
        off.len()
    );
    for (by, what) in off.iter().take(20) {
        println!("    {by:.4} {what}");
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (_, what) in &off {
        let name = what.split(' ').nth(5).unwrap_or_default();
        let kind = what.split(':').next().unwrap_or_default();
        *kinds.entry(format!("{kind} {name}")).or_default() += 1;
    }
    println!("    by kind: {kinds:?}");
    missing.finish();
    assert!(
        off.len() as f64 <= all as f64 * OFF,
        "{} of {all} times are off by more than {CLOCK} s",
        off.len()
    );
}

#[test]
fn every_gateway_error_is_counted_once_with_its_code() {
    let expected = counted(
        RUN.logged
            .values()
            .filter_map(LoggedRequest::answered)
            .filter(|status| *status >= 500)
            .map(|status| vec![status.to_string()]),
    );
    let mut found = RUN
        .metrics
        .by("why502_gateway_errors_total", &[NGINX], &["code"]);
    found.remove(&vec!["none".to_owned()]);
    assert_eq!(found, expected, "agent left, nginx right");
}

#[test]
fn a_gateway_error_has_the_cause_of_what_happened() {
    let mut report = Report::default();
    for (planned, logged, told) in sure_pairs() {
        if logged.answered().is_none_or(|status| status < 500) {
            continue;
        }
        report.looked();
        let own = logged.attempts.last().and_then(LoggedAttempt::answered) == logged.answered();
        let tried = logged.tried().next().is_some();
        let allowed: &[&str] = match (own, tried) {
            (true, _) => &["upstream_status"],
            (false, true) => planned.case.causes,
            (false, false) if planned.case.name == "static" => &["proxy_generated", "unattributed"],
            (false, false) => &["no_live_upstream", "unattributed"],
        };
        let cause = told.cause.as_deref().unwrap_or("none");
        if !allowed.contains(&cause) {
            report.add(
                format!("{} is told as {cause}", planned.case.name),
                format!("{told:?}"),
            );
        }
    }
    report.finish();
}

#[test]
fn causes_of_attempts_agree_with_the_error_log() {
    let mut report = Report::default();
    for (planned, logged, told) in sure_pairs() {
        let none = Vec::new();
        let lines = RUN.errors.get(&logged.path).unwrap_or(&none);
        for line in lines {
            let (causes, Some(upstream)) = (line.words.causes(), &line.upstream) else {
                continue;
            };
            if causes.is_empty() || upstream.parse::<std::net::SocketAddr>().is_err() {
                continue;
            }
            report.looked();
            let agrees = told.attempts.iter().any(|attempt| {
                let cause = attempt.cause.as_deref().unwrap_or("none");
                &attempt.upstream == upstream && causes.contains(&cause)
            });
            if !agrees {
                let joined = if is_joined_right(logged, told) {
                    ""
                } else {
                    " (joined wrongly)"
                };
                report.add(
                    format!(
                        "{} of {}: {:?}{joined}",
                        line.words,
                        planned.case.name,
                        causes_of(told)
                    ),
                    format!("{} {:?}", line.line, told.attempts),
                );
            }
        }
    }
    report.finish();
}

#[test]
fn causes_of_attempts_are_what_was_done_and_nothing_false_is_called_proof() {
    let mut report = Report::default();
    for (planned, logged, told) in sure_pairs() {
        for attempt in &told.attempts {
            report.looked();
            let Some(cause) = attempt.cause.as_deref() else {
                continue;
            };
            let by_upstream =
                cause == "upstream_status" && attempt.code.is_some_and(|code| code >= 500);
            let right = planned.case.causes.contains(&cause) || by_upstream;
            if !right {
                let joined = if is_joined_right(logged, told) {
                    ""
                } else {
                    " (joined wrongly)"
                };
                let certainty = attempt.certainty.as_deref().unwrap_or("no certainty");
                report.add(
                    format!(
                        "{} is called {cause}, {certainty}{joined}",
                        planned.case.name
                    ),
                    format!("{attempt:?} {}", logged.path),
                );
            }
            let raced = planned.case.name == "race";
            if cause == "keepalive_race" && !raced && attempt.certainty.as_deref() == Some("proof")
            {
                report.add(
                    format!("{} is proven to be a race", planned.case.name),
                    format!("{attempt:?} {}", logged.path),
                );
            }
        }
        let failed = told
            .attempts
            .iter()
            .filter(|attempt| attempt.cause.is_some())
            .count();
        let must_fail = !planned.case.causes.is_empty()
            && !["race", "masked"].contains(&planned.case.name)
            && logged.tried().next().is_some();
        if must_fail && failed == 0 {
            let joined = if is_joined_right(logged, told) {
                ""
            } else {
                " (joined wrongly)"
            };
            report.add(
                format!("{} is not told as a failure{joined}", planned.case.name),
                format!("{told:?}"),
            );
        }
    }
    report.finish();
}

#[test]
fn failures_counted_are_failures_told() {
    let told = counted(
        RUN.told
            .values()
            .flatten()
            .flat_map(|request| &request.attempts)
            .filter_map(|attempt| {
                let cause = attempt.cause.clone()?;
                let counted = !["client_abort", "upstream_status"].contains(&cause.as_str());
                counted.then(|| vec![attempt.upstream.clone(), cause])
            }),
    );
    let found = RUN.metrics.by(
        "why502_upstream_failures_total",
        &[NGINX],
        &["upstream", "cause"],
    );
    assert_eq!(found, told, "metrics left, events right");
}

#[test]
fn a_failed_attempt_of_a_request_that_succeeded_is_masked() {
    let expected = RUN
        .logged
        .values()
        .filter(|logged| logged.answered() == Some(200))
        .map(|logged| {
            logged
                .tried()
                .filter(|attempt| attempt.answered().is_none())
                .count()
        })
        .sum::<usize>();
    println!(
        "failures by masked, phase and cause: {:?}",
        RUN.metrics.by(
            "why502_upstream_failures_total",
            &[NGINX],
            &["masked", "phase", "cause"]
        )
    );
    // A body that was cut came with a 200 too, and failed all the same: its own test.
    let cut = ["body", "tail"];
    let found: f64 = RUN
        .metrics
        .of(
            "why502_upstream_failures_total",
            &[NGINX, ("masked", "true")],
        )
        .filter(|(labels, _)| {
            labels
                .get("phase")
                .is_none_or(|phase| !cut.contains(&phase.as_str()))
        })
        .map(|(_, value)| value)
        .sum();
    assert_eq!(found, expected as f64, "agent left, nginx right");
}

/// Each attempt that nginx logged with the one that was told, where both know as many.
fn attempt_pairs() -> impl Iterator<
    Item = (
        &'static str,
        &'static str,
        &'static LoggedAttempt,
        &'static Attempt,
    ),
> {
    RUN.pairs().flat_map(|(planned, logged, told)| {
        let same = logged.tried().count() == told.attempts.len();
        logged
            .tried()
            .zip(&told.attempts)
            .filter(move |(logged, told)| same && logged.upstream == told.upstream)
            .map(|(attempt, told)| (planned.case.name, logged.path.as_str(), attempt, told))
    })
}

/// The attempts told are those of this request, as far as their upstreams show.
fn is_joined_right(logged: &LoggedRequest, told: &Request) -> bool {
    let upstreams = told.attempts.iter().map(|attempt| &attempt.upstream);
    logged
        .tried()
        .map(|attempt| &attempt.upstream)
        .eq(upstreams)
}

/// Attempts at an upstream that nginx does not name for the request, where the agent says that it
/// guessed whose they are.
fn guessed_wrong() -> impl Iterator<Item = &'static Attempt> {
    RUN.pairs().flat_map(|(_, logged, told)| {
        told.attempts.iter().filter(|attempt| {
            let is_guess = attempt.join_certainty.as_deref() == Some("guess");
            is_guess
                && logged
                    .tried()
                    .all(|logged| logged.upstream != attempt.upstream)
        })
    })
}

/// The pairs without those who got such an attempt, and without those who miss one: no more than
/// there are of the first.
fn sure_pairs() -> impl Iterator<Item = (&'static Planned, &'static LoggedRequest, &'static Request)>
{
    let mut missed: Vec<&str> = guessed_wrong().map(|it| it.upstream.as_str()).collect();
    let mut pairs: Vec<_> = RUN.pairs().collect();
    pairs.retain(|(_, logged, told)| {
        let count = |upstream: &str| {
            let told = told.attempts.iter().filter(|it| it.upstream == upstream);
            let logged = logged.tried().filter(|it| it.upstream == upstream);
            (told.count(), logged.count())
        };
        let got = told.attempts.iter().any(|attempt| {
            let is_guess = attempt.join_certainty.as_deref() == Some("guess");
            is_guess && count(&attempt.upstream).1 == 0
        });
        let lacks = missed.iter().position(|upstream| {
            let (told, logged) = count(upstream);
            told < logged
        });
        if let Some(lacks) = lacks {
            missed.swap_remove(lacks);
        }
        !got && lacks.is_none()
    });
    pairs.into_iter()
}

fn causes_of(request: &Request) -> Vec<Option<&str>> {
    request
        .attempts
        .iter()
        .map(|attempt| attempt.cause.as_deref())
        .collect()
}

fn counted(keys: impl Iterator<Item = Vec<String>>) -> BTreeMap<Vec<String>, u64> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}
