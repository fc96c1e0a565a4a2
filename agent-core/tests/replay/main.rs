//! Recordings of real proxies, fed to the core again: the verdicts must be those on file.
//!
//! In: `tests/recordings/NAME.jsonl.gz`, made by `why502 run --record`. Out: `NAME.txt` beside
//! it, byte for byte. What a change of the rules does to all of them is then a diff in the same
//! commit: `WHY502_BLESS=1 cargo test -p agent-core --features serde --test replay` writes the
//! texts anew. How recordings are renewed is in `tests/README.md`.
#![allow(clippy::expect_used, reason = "a test may panic")]

#[path = "../support/effort.rs"]
mod effort;
mod losses;
#[path = "../support/random.rs"]
mod random;
mod told;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use agent_core::observation::{Observation, What};
use agent_core::{Core, Input, Limits};
use flate2::read::GzDecoder;

use told::Told;

/// What a recording's first line begins with.
const HEAD: &str = "{\"why502_recording\":2,";

/// What the processes in a recording are called, or how that begins. One that was gone before it
/// was looked at is unknown.
const OURS: [&str; 11] = [
    "nginx",
    "haproxy",
    "httpd",
    "envoy",
    "caddy",
    "varnish",
    "traefik",
    "misbehave",
    "matrix-",
    "keepalive_race-",
    "unknown",
];

/// Differing lines shown at most.
const SHOWN: usize = 40;

#[test]
fn recordings_give_the_verdicts_on_file() {
    let recordings = recordings();
    assert!(!recordings.is_empty(), "there is something to replay");
    let bless = std::env::var_os("WHY502_BLESS").is_some();
    let mut stale = Vec::new();

    for recording in recordings {
        let told = replay(&recording);
        let expected = recording.with_extension("").with_extension("txt");
        if bless {
            fs::write(&expected, told).expect("the verdicts are written");
            continue;
        }
        let committed = fs::read_to_string(&expected).unwrap_or_default();
        if committed != told {
            stale.push(format!(
                "{}\n{}",
                expected.display(),
                difference(&committed, &told)
            ));
        }
    }

    assert!(
        stale.is_empty(),
        "verdicts differ; WHY502_BLESS=1 writes them anew:\n{}",
        stale.join("\n")
    );
}

#[test]
fn recordings_tell_of_the_tests_and_of_nothing_else() {
    for recording in recordings() {
        for line in lines(&recording).skip(1) {
            let input = input(&line).expect("a line is an input");
            match input {
                Input::KnowProcess { info, .. } => assert!(
                    OURS.iter().any(|ours| info.name.starts_with(ours)),
                    "{}: {} was running beside the tests: record again without it",
                    recording.display(),
                    info.name
                ),
                Input::Observe(Observation {
                    what:
                        What::Request {
                            head: Some(head), ..
                        },
                    ..
                }) => assert!(!head.path.contains('?'), "{line}"),
                _ => {}
            }
        }
    }
}

/// What the core tells of a recording.
fn replay(recording: &Path) -> String {
    let mut core = Core::new(Limits::default());
    let mut told = Told::default();
    let mut events = Vec::new();
    let mut lines = lines(recording);
    let head = lines.next().unwrap_or_default();
    assert!(head.starts_with(HEAD), "{}: {head}", recording.display());
    for (number, line) in lines.enumerate() {
        let input = input(&line)
            .unwrap_or_else(|error| panic!("{} {}: {error}", recording.display(), number + 2));
        if let Input::Observe(observation) = &input {
            told.begins_at(observation.socket.time);
        }
        core.feed(input, &mut events);
        for event in events.drain(..) {
            told.take(&event);
        }
    }
    told.text()
}

/// What a line of a recording says. Recordings made before the agent wrote down network and instance
/// of a process are of one proxy in the host's network, over its loopback: all their processes are
/// said to be in one network, and those of one name to be one instance.
fn input(line: &str) -> serde_json::Result<Input> {
    let mut input = serde_json::from_str(line)?;
    if let Input::KnowProcess { info, .. } = &mut input {
        let mut name = DefaultHasher::new();
        info.name.hash(&mut name);
        info.network.get_or_insert(1);
        info.instance.get_or_insert(name.finish());
    }
    Ok(input)
}

fn lines(recording: &Path) -> impl Iterator<Item = String> {
    let file = File::open(recording).expect("a recording is readable");
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines.map(|line| line.expect("a recording is whole"))
}

/// All recordings, by name.
fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let entries = fs::read_dir(&folder).expect("there is a folder of recordings");
    let mut recordings: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.to_string_lossy().ends_with(".jsonl.gz"))
        .collect();
    recordings.sort();
    recordings
}

/// Lines that only one of both has, in their order: enough to see what changed.
fn difference(before: &str, after: &str) -> String {
    let only = |these: &str, those: &str, sign: char| -> Vec<String> {
        let those: std::collections::HashSet<&str> = those.lines().collect();
        let lines = these.lines().filter(|line| !those.contains(line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    let mut lines = only(before, after, '-');
    lines.extend(only(after, before, '+'));
    if lines.is_empty() {
        return "the same lines in another order".to_owned();
    }
    lines.truncate(SHOWN);
    lines.join("\n")
}
