//! The case of a failed attempt: what the evidence at hand says beyond the attempt's cause, and so
//! a meaning and a fix of this failure instead of those of its cause in general.
//!
//! In: an attempt as the core judged it, and what this host knows of its upstream ([`Peer`]). Out: a
//! [`Case`], or nothing where the evidence separates no case. The cause stays what it is: metrics
//! know nothing of cases.
//!
//! A case is added as a [`Kind`] in one of the files here, and a line in [`ALL`]: the first that
//! finds itself is told. Its texts are data, printed into `docs/diagnosing.md` as well. Facts that it
//! needs come from [`agent_core::event::Evidence`] where the wire tells them, from [`Peer`] where
//! this host does.

mod address;
mod handshake;
mod idle;
mod protocol;
mod service;
mod upload;
mod worker;

use std::collections::BTreeMap;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Attempt, Upstream};

use crate::identity::Peer;
use crate::names;

/// All cases, the most exact first.
pub const ALL: [&Kind; 29] = [
    &service::NO_READY_ENDPOINT,
    &address::MOVED,
    &address::LOOPBACK_ONLY,
    &address::OTHER_ADDRESS,
    &address::LISTENS_BY_NOW,
    &address::OTHER_NETWORK,
    &address::SERVER_ENDED,
    &address::ANSWERED_BEFORE,
    &protocol::TLS_TO_PLAIN_HTTP,
    &protocol::PLAIN_HTTP_TO_TLS,
    &upload::ANSWERED_EARLY,
    &worker::EXITED,
    &worker::KILLED,
    &worker::STOPPED,
    &worker::FAILED,
    &idle::LIMIT_OF_REQUESTS,
    &upload::CLOSED_DURING_UPLOAD,
    &protocol::CLOSES_EACH_REQUEST,
    &handshake::SERVER_NAME_UNKNOWN,
    &handshake::NO_SERVER_NAME,
    &handshake::NO_COMMON_TLS_VERSION,
    &handshake::REFUSED_BY_UPSTREAM,
    &handshake::CERTIFICATE_NOT_TRUSTED,
    &handshake::CERTIFICATE_EXPIRED,
    &handshake::CERTIFICATE_REFUSED,
    &idle::CLOSED_SOON_AFTER_USE,
    &idle::IDLE_TIMEOUT,
    &worker::NEVER_READ,
    &worker::READ_AND_SLOW,
];

/// What is known of one case beforehand.
#[derive(Debug)]
pub struct Kind {
    /// Its public name.
    pub name: &'static str,
    /// Causes that it can be a case of.
    pub causes: &'static [Cause],
    /// What the agent saw when it says so.
    pub evidence: &'static str,
    /// What it means, one sentence. A fact's name in braces stands for the fact.
    pub meaning: &'static str,
    /// What fixes it, one line, with facts in it as well.
    pub fix: &'static str,
    /// Whether an attempt with one of these causes is such a case.
    find: fn(&Scene<'_>) -> Option<Found>,
}

/// A failed attempt, and what this host knows of its upstream.
#[derive(Clone, Copy, Debug)]
struct Scene<'a> {
    attempt: &'a Attempt,
    peer: &'a Peer,
}

/// That it is such a case.
#[derive(Debug)]
struct Found {
    certainty: Certainty,
    facts: Facts,
    /// More sentences of the meaning, of facts that not every such case has.
    more: Vec<String>,
}

/// Facts by their names; the names are public.
pub type Facts = BTreeMap<&'static str, String>;

/// The case of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Public name.
    pub name: &'static str,
    /// How sure it is; as a guess it is one possibility among others.
    pub certainty: Certainty,
    /// What it means here.
    pub meaning: String,
    /// What fixes it here.
    pub fix: String,
    /// What it was found by.
    pub facts: Facts,
}

/// The case of this attempt; `None` where it did not fail, or nothing separates one.
pub fn of(attempt: &Attempt, peer: &Peer) -> Option<Case> {
    let failure = attempt.failure?;
    let scene = Scene { attempt, peer };
    ALL.iter()
        .filter(|kind| kind.causes.contains(&failure.cause))
        .find_map(|kind| kind.told(&scene))
}

/// What is known of the case of this name.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    ALL.into_iter().find(|kind| kind.name == name)
}

impl Kind {
    fn told(&self, scene: &Scene<'_>) -> Option<Case> {
        let Found {
            certainty,
            facts,
            more,
        } = (self.find)(scene)?;
        let mut meaning = filled(self.meaning, &facts);
        for sentence in more {
            meaning.push(' ');
            meaning.push_str(&sentence);
        }
        Some(Case {
            name: self.name,
            certainty,
            meaning,
            fix: filled(self.fix, &facts),
            facts,
        })
    }
}

impl Scene<'_> {
    /// The address that the proxy asked for.
    fn asked(&self) -> String {
        names::address(&self.attempt.upstream)
    }

    /// That is a loopback address.
    fn is_loopback(&self) -> bool {
        matches!(self.attempt.upstream, Upstream::Inet(address) if address.ip().is_loopback())
    }
}

impl Found {
    fn new(certainty: Certainty) -> Self {
        Self {
            certainty,
            facts: Facts::new(),
            more: Vec::new(),
        }
    }

    /// With a fact.
    fn fact(mut self, name: &'static str, value: impl ToString) -> Self {
        self.facts.insert(name, value.to_string());
        self
    }

    /// With a fact and a sentence about it, where there is one.
    fn more<T: ToString>(
        mut self,
        name: &'static str,
        value: Option<T>,
        sentence: impl FnOnce(&str) -> String,
    ) -> Self {
        if let Some(value) = value {
            let value = value.to_string();
            self.more.push(sentence(&value));
            self.facts.insert(name, value);
        }
        self
    }
}

/// The text with facts in place of their names in braces.
fn filled(text: &str, facts: &Facts) -> String {
    facts.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), value)
    })
}

/// The text with the names of facts as a page shows them: `{asked}` is `ASKED`.
pub fn in_general(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in text.split(['{', '}']).enumerate() {
        // Every second part was in braces.
        if at % 2 == 1 {
            out.push_str(&part.to_uppercase());
        } else {
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ALL, in_general};

    #[test]
    fn every_case_has_a_name_of_its_own_and_texts_for_a_line() {
        let mut names = BTreeSet::new();
        for kind in ALL {
            let name = kind.name;
            assert!(names.insert(name), "{name} twice");
            assert!(!kind.causes.is_empty(), "{name}: causes");
            assert!(!kind.evidence.is_empty(), "{name}: evidence");
            for text in [kind.meaning, kind.fix] {
                assert!(!text.is_empty() && text.len() <= 240, "{name}: {text}");
                assert!(!text.contains('\n'), "{name}: {text}");
            }
        }
    }

    #[test]
    fn a_page_shows_the_names_of_facts() {
        assert_eq!(
            in_general("at {asked}, not {listens}."),
            "at ASKED, not LISTENS."
        );
    }
}
