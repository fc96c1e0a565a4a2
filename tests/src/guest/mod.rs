//! One kernel, asked by a real nginx, upstreams that misbehave and the agent: what works here?
//!
//! In: a machine with nothing else on it, such as a virtual one of which this is the first
//! process ([`machine`]), or a network namespace. Out: an [`Answer`] for whoever compares
//! kernels. It judges nothing but what must hold everywhere: metrics and events agree.

pub mod machine;
mod metrics;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::agent::{self, Agent, Events};
use crate::confined::{Copy, documented};
use crate::faults::expected::code;
use crate::faults::observed::Told;
use crate::faults::play::{Played, play};
use crate::faults::stage::Stage;
use crate::faults::{MODES, Mode};
use crate::load::runtime;
use crate::process::output_of;
use crate::proxies::{Kind, Proxy};

/// An address that is sent to the loopback interface and belongs to nobody: what arrives there
/// is dropped (RFC 2544 has the range).
const DARK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);
/// From where it is reached.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

/// How long the agent may take to tell the end of it; an emulated machine is slow.
const TELL: Duration = Duration::from_secs(30);
/// No event for so long, and what was not told will not be.
const SILENCE: Duration = Duration::from_secs(6);

/// What is played: one of each thing that tells kernels apart.
const PLAYED: [&str; 21] = [
    "ok",
    "ok-404",
    "refused",
    "no-route",
    "unix-refused",
    "fresh-rst",
    "fresh-fin",
    "accept-fin",
    "reused-fin-late-post",
    "race-post",
    "head-cut-rst",
    "length-cut-fin",
    "bad-status",
    "status-503",
    "static-503",
    "retry-refused",
    "none-live",
    "hang",
    "syn-swallowed",
    "accept-queue-full",
    "killed",
];

/// What a kernel answers.
#[derive(Debug, Default, Serialize)]
pub struct Answer {
    /// Its release, as `uname -r` says.
    pub release: String,
    /// What `why502 doctor --json` says.
    pub doctor: Value,
    /// What came of each fault.
    pub faults: Vec<Fault>,
    /// What is wrong on any kernel; empty when all is well.
    pub wrong: Vec<String>,
}

/// What came of one fault.
#[derive(Debug, Serialize)]
pub struct Fault {
    /// Which.
    pub name: &'static str,
    /// What happens in it.
    pub what: &'static str,
    /// Status that the client got, or `none`.
    pub client: String,
    /// Cause and certainty, or `ok`; after `masked` when a later attempt saved the request.
    pub agent: String,
}

/// Asks. Panics with a sentence where the machine lacks what the question needs.
#[track_caller]
pub fn ask() -> Answer {
    machine::network(NEAR, DARK);
    let doctor = doctor();
    let stage = Stage::local(DARK);
    // Nobody, with the rights that are documented: what works so works for root.
    let copy = Copy::new();
    // The most that the probes can be asked for, so that all of it is verified here.
    let agent = Agent::start_by(copy.ambient(&documented()), &["--brief", "true"]);
    let events = agent.events();
    let proxy = Proxy::start(Kind::Nginx, &stage.groups);
    let run = std::process::id().to_string();
    let mut played = Vec::new();
    for mode in modes() {
        played.push(runtime().block_on(play(&proxy, &stage, mode, &run)));
    }
    let told = all_told(&events, &played);
    let metrics = agent.settled(TELL);
    let mut wrong = metrics::disagreements(&metrics, &told);
    wrong.extend(not_off_for_want_of_rights(&doctor, &agent.log()));
    let faults = played
        .iter()
        .map(|played| {
            let observed = told.observe(Kind::Nginx, played);
            let name = played.mode.name;
            wrong.extend(observed.faults.iter().map(|what| format!("{name}: {what}")));
            Fault {
                name,
                what: played.mode.what,
                client: code(observed.code),
                agent: observed.found.to_string(),
            }
        })
        .collect();
    Answer {
        release: machine::release(),
        doctor,
        faults,
        wrong,
    }
}

/// Abilities that nobody lacks and root has, and rights that the agent misses.
fn not_off_for_want_of_rights(doctor: &Value, log: &str) -> Vec<String> {
    let findings = doctor.get("findings").and_then(Value::as_array);
    let off_for_root = |name: &str| {
        findings.into_iter().flatten().any(|finding| {
            finding.get("name").and_then(Value::as_str) == Some(name)
                && finding.get("state").and_then(Value::as_str) == Some("off")
        })
    };
    log.lines()
        .filter(|line| line.contains("WARN"))
        .filter(|line| {
            let ability = line.split("ability=\"").nth(1);
            let name = ability.and_then(|rest| rest.split('"').next());
            !name.is_some_and(off_for_root)
        })
        .map(|line| format!("nobody with the documented rights: {line}"))
        .collect()
}

fn modes() -> impl Iterator<Item = &'static Mode> {
    PLAYED
        .iter()
        .filter_map(|name| MODES.iter().find(|mode| mode.name == *name))
}

/// The doctor's word, whatever its exit code: it is 1 where abilities are off.
#[track_caller]
fn doctor() -> Value {
    let output = Command::new(agent::binary())
        .args(["doctor", "--json"])
        .output()
        .unwrap_or_else(|error| panic!("why502 doctor does not start: {error}"));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("why502 doctor --json is no JSON: {error}; it says: {errors}")
    })
}

fn all_told(events: &Events, played: &[Played]) -> Told {
    let started = Instant::now();
    let mut last = (0, Instant::now());
    loop {
        let told = Told::new(events.so_far());
        if told.requests() != last.0 {
            last = (told.requests(), Instant::now());
        }
        let mut outcomes = played.iter().flat_map(|played| &played.outcomes);
        let complete = outcomes.all(|outcome| told.has(&outcome.path));
        if complete || last.1.elapsed() > SILENCE || started.elapsed() > TELL {
            return told;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs `ip` with these words.
#[track_caller]
fn ip(words: &str) {
    output_of(Command::new("ip").args(words.split_whitespace()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_that_root_does_not_get_is_wrong() {
        let doctor = serde_json::json!({"findings": [
            {"name": "socket_error", "state": "off"},
            {"name": "process_death", "state": "ok"},
        ]});
        let told = |log| not_off_for_want_of_rights(&doctor, log).len();
        assert_eq!(told("x WARN an ability is off ability=\"socket_error\""), 0);
        assert_eq!(
            told("x WARN an ability is off ability=\"process_death\""),
            1
        );
        assert_eq!(told("x WARN a right is missing"), 1);
        assert_eq!(told("x INFO watching"), 0);
    }

    #[test]
    fn what_is_played_is_known() {
        assert_eq!(modes().count(), PLAYED.len());
    }
}
