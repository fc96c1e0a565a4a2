//! What was told, held against what was done.
//!
//! In: a [`Run`]. Out: counts, and examples of what is not right.

use std::collections::BTreeMap;
use std::fmt;

use e2e::agent::events::{Attempt, Request};

use crate::cases::{Planned, REFUSED};
use crate::run::{Played, Run};

/// Examples kept of each kind of mistake.
const EXAMPLES: usize = 3;

/// Ports with a meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Resets whatever it is asked.
    pub(crate) resetting: u16,
    /// Nobody listens.
    pub(crate) dead: u16,
}

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Score {
    requests: usize,
    unread: Vec<String>,
    seconds: f64,
    /// Requests whose client got 5xx, no answer, or half of one.
    pub(crate) errors: usize,
    /// Errors told with a true cause, by certainty.
    pub(crate) right: BTreeMap<String, usize>,
    /// Errors told with a cause that is not true, by certainty.
    pub(crate) wrong: BTreeMap<String, usize>,
    /// Good requests told with a failed attempt that was not theirs.
    pub(crate) not_theirs: usize,
    pub(crate) unattributed: usize,
    /// Errors told without any cause.
    pub(crate) silent: usize,
    /// Errors not told once.
    pub(crate) not_once: usize,
    /// Good requests not told once.
    pub(crate) good_not_once: usize,
    /// Failed attempts before a success: those that were made, and those that were told.
    pub(crate) masked: usize,
    pub(crate) masked_told: usize,
    /// Requests of which these differ.
    pub(crate) masked_wrong: usize,
    lone: BTreeMap<String, usize>,
    losses: BTreeMap<Vec<String>, u64>,
    examples: BTreeMap<String, Vec<String>>,
}

/// What an agent found of a request.
struct Found {
    cause: String,
    certainty: String,
}

impl Score {
    /// Of a run.
    pub(crate) fn of(run: &Run, ports: Ports) -> Self {
        let mut score = Self {
            requests: run.played.len(),
            unread: run.unread.clone(),
            seconds: run.took.as_secs_f64(),
            lone: run.lone.clone(),
            losses: run.losses.clone(),
            ..Self::default()
        };
        for played in &run.played {
            score.add(played, ports);
        }
        score
    }

    /// Wrong and sure of it.
    pub(crate) fn wrong_as(&self, certainty: &str) -> usize {
        self.wrong.get(certainty).copied().unwrap_or(0)
    }

    fn add(&mut self, played: &Played, ports: Ports) {
        let Played {
            planned,
            outcome,
            served,
            told,
        } = played;
        // Some proxies do not see that a client left, and go on.
        let unnoticed = outcome.aborted && told.iter().all(|request| request.cause.is_none());
        let failed = outcome.status.is_none_or(|status| status >= 500) || !outcome.complete;
        let error = failed && !unnoticed;
        self.errors += usize::from(error);
        let name = planned.case.name;
        let [request] = told.as_slice() else {
            let (count, kind) = if error {
                (&mut self.not_once, "error")
            } else {
                (&mut self.good_not_once, "success")
            };
            *count += 1;
            let kind = format!("{kind} told {} times: {name}", told.len());
            self.example(kind, format!("{outcome:?} {served:?} {told:?}"));
            return;
        };
        let what = || {
            let attempts: Vec<String> = request.attempts.iter().map(brief).collect();
            format!(
                "{} status {:?} complete {} served {:?} told code {:?} {attempts:?}",
                planned.name(),
                outcome.status,
                outcome.complete,
                served
                    .iter()
                    .map(|one| (one.port, one.earlier))
                    .collect::<Vec<_>>(),
                request.code,
            )
        };
        let causes = causes(played, ports);
        match found(request, has_dead_server(planned).then_some(ports.dead)) {
            None if error => {
                self.silent += 1;
                self.example(format!("error without a cause: {name}"), what());
            }
            None => {}
            Some(Found { cause, .. }) if cause == "unattributed" => {
                self.unattributed += 1;
                self.example(format!("unattributed: {name}"), what());
            }
            Some(Found { cause, certainty }) if causes.contains(&cause.as_str()) => {
                *self.right.entry(certainty).or_default() += usize::from(error);
            }
            // That attempt did fail so; it was another's.
            Some(Found { cause, certainty }) if !error => {
                self.not_theirs += 1;
                *self.wrong.entry(certainty).or_default() += 1;
                self.example(format!("{cause} was not its own: {name}"), what());
            }
            Some(Found { cause, certainty }) => {
                *self.wrong.entry(certainty.clone()).or_default() += 1;
                self.example(format!("{cause} ({certainty}) is not true: {name}"), what());
            }
        }
        if error {
            return;
        }
        // Of those that arrived, the last one gave the answer. What did not arrive was refused, and
        // how often that was the servers cannot know.
        let maybe_dead = has_dead_server(planned);
        let masked = served.len().saturating_sub(1);
        let masked_told = match request.attempts.split_last() {
            Some((_, earlier)) => earlier
                .iter()
                .filter(|one| one.cause.is_some() && !(maybe_dead && is_at(one, ports.dead)))
                .count(),
            None => 0,
        };
        self.masked += masked;
        self.masked_told += masked_told;
        if masked != masked_told {
            self.masked_wrong += 1;
            self.example(
                format!("{masked} masked, {masked_told} told: {name}"),
                what(),
            );
        }
    }

    fn example(&mut self, kind: String, what: String) {
        let examples = self.examples.entry(kind).or_default();
        examples.push(what);
    }
}

/// What is true of a request's failure: the last attempt that arrived decides.
fn causes(played: &Played, ports: Ports) -> &'static [&'static str] {
    let Played {
        planned, served, ..
    } = played;
    let case = planned.case;
    match case.name {
        "retry" if served.iter().all(|one| one.port != ports.resetting) => &[],
        // Of a group with a dead server: nothing arrived.
        _ if served.is_empty() => REFUSED,
        _ => case.causes,
    }
}

/// How sure it is that the attempt failed so, and that it was this request's.
fn weaker(attempt: &Attempt) -> &Option<String> {
    let rank = |certainty: &Option<String>| {
        let known = ["guess", "strong", "proof"];
        certainty
            .as_deref()
            .and_then(|word| known.iter().position(|one| *one == word))
    };
    let Attempt {
        certainty,
        join_certainty,
        ..
    } = attempt;
    if rank(join_certainty) < rank(certainty) {
        join_certainty
    } else {
        certainty
    }
}

/// What is said of a request: why it is an error, else why its last failed attempt failed. That
/// a dead server refused is true whatever was asked for.
fn found(request: &Request, dead: Option<u16>) -> Option<Found> {
    let refused = |attempt: &Attempt| {
        dead.is_some_and(|dead| is_at(attempt, dead))
            && attempt.cause.as_deref() == Some("connect_refused")
    };
    let (cause, certainty) = match &request.cause {
        Some(cause) => (cause, &request.certainty),
        None => {
            let failed = |attempt: &&Attempt| attempt.cause.is_some() && !refused(attempt);
            let attempt = request.attempts.iter().rev().find(failed)?;
            (attempt.cause.as_ref()?, weaker(attempt))
        }
    };
    Some(Found {
        cause: cause.clone(),
        certainty: certainty.clone().unwrap_or_default(),
    })
}

/// Whether one of the servers of its group refuses.
fn has_dead_server(planned: &Planned) -> bool {
    planned.order.words.is_some()
}

fn is_at(attempt: &Attempt, port: u16) -> bool {
    attempt.upstream.ends_with(&format!(":{port}"))
}

fn brief(attempt: &Attempt) -> String {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "{} reused {:?} code {:?} join {} cause {} {} {:?} {}",
        attempt.upstream,
        attempt.reused,
        attempt.code,
        or(&attempt.join),
        or(&attempt.cause),
        or(&attempt.certainty),
        attempt.phase,
        attempt.evidence,
    )
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |counts: &BTreeMap<String, usize>| {
            ["proof", "strong", "guess"]
                .map(|certainty| counts.get(certainty).copied().unwrap_or(0).to_string())
                .join("/")
        };
        writeln!(
            f,
            "{} requests in {:.1} s, {} errors; right {}, wrong {} (proof/strong/guess), \
             unattributed {}, without a cause {}, not once {}+{}, not theirs {}; masked {} told {} differ {}",
            self.requests,
            self.seconds,
            self.errors,
            of(&self.right),
            of(&self.wrong),
            self.unattributed,
            self.silent,
            self.not_once,
            self.good_not_once,
            self.not_theirs,
            self.masked,
            self.masked_told,
            self.masked_wrong,
        )?;
        if !self.unread.is_empty() {
            writeln!(f, "  closed on before they were read: {:?}", self.unread)?;
        }
        if !self.lone.is_empty() {
            writeln!(f, "  failed attempts without a request: {:?}", self.lone)?;
        }
        if !self.losses.is_empty() {
            writeln!(f, "  losses: {:?}", self.losses)?;
        }
        for (kind, examples) in &self.examples {
            writeln!(f, "  {:>5} {kind}", examples.len())?;
            for example in examples.iter().take(EXAMPLES) {
                writeln!(f, "        {example}")?;
            }
        }
        Ok(())
    }
}
