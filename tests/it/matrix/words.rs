//! What the agent says that a proxy writes into its log has to be there.
//!
//! Judged where the verdict is right and no guess: the words are those of a cause.

use std::collections::BTreeMap;

use e2e::faults::observed::Told;
use e2e::faults::play::Played;
use e2e::proxies::{Kind, Said};

/// What a cell says where words are missing.
pub(crate) const MISSING: &str = "in its log";

/// Words of a log that fit a line.
const WIDTH: usize = 100;

/// What the agent says of these requests and the log does not have.
pub(crate) fn missing(
    kind: Kind,
    played: &Played,
    said: &BTreeMap<String, Said>,
    told: &Told,
) -> Option<String> {
    if takes_for_an_end(kind, played.mode.name) {
        return None;
    }
    played.outcomes.iter().find_map(|outcome| {
        let log = said.get(&outcome.path).map_or("", |said| &said.words);
        let words = told.words(&outcome.path);
        let mut missing = words
            .iter()
            .filter(|one| !without_texts(log).contains(&without_texts(one)));
        missing.next().map(|one| format!("no `{one}` {MISSING}"))
    })
}

/// What the log says of the first of these requests: status and words.
pub(crate) fn of_log(played: &Played, said: &BTreeMap<String, Said>) -> String {
    let first = played.outcomes.first();
    let said = first.and_then(|outcome| said.get(&outcome.path));
    said.map_or(String::new(), |said| {
        let words: String = said.words.chars().take(WIDTH).collect();
        let status = said.status.map_or("-".to_owned(), |it| it.to_string());
        format!("log {status} {words}")
    })
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
