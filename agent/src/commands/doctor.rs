//! `why502 doctor`: what this machine allows, what is off, and what to do about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::identity::conntrack::{Translations, Unavailable};
use crate::kernel::{self, Capability, KernelError, Options, Verified, version_2};
use crate::privileges::{self, Necessity, Need, Needs};

/// Everything works.
const EXIT_GOOD: u8 = 0;
/// `why502 run` works with abilities off.
const EXIT_DEGRADED: u8 = 1;
/// `why502 run` cannot work.
const EXIT_BROKEN: u8 = 2;

/// The ability without which nothing is seen.
const NEEDED: &str = "packets";

/// Whether it is needed is known once a program was loaded.
const READS_TRACEFS: &str = "DAC_READ_SEARCH";

/// What `--help` says first.
pub(super) const LONG_ABOUT: &str = "\
Say what this kernel and these rights allow, and what to do about the rest.

The probes are loaded, and some attached for a moment, to see what the kernel takes; nothing stays. Exit code: 0 when \
all is well, 1 when `why502 run` works with abilities off, 2 when it cannot work.";

/// What `--help` says last.
pub(super) const EXAMPLES: &str = "\
Examples:
  sudo why502 doctor
  sudo why502 doctor --cgroup /sys/fs/cgroup/system.slice
  sudo why502 doctor --conntrack
  sudo why502 doctor --json    the same for machines, and what each program cost to verify";

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Look at this cgroup v2 directory, as `run` would
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
    /// Count it as an ability that is off when connection tracking cannot be heard, as `run
    /// --conntrack on` does
    #[arg(long)]
    conntrack: bool,
    /// Print JSON, with what the verifier says of each program
    #[arg(long)]
    json: bool,
}

/// Everything, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// `ok`, `off` (works with abilities off) or `FAIL`.
    state: State,
    findings: &'a [Finding],
    /// How to give the capabilities that are missing.
    how_to_give: Vec<String>,
    programs: Vec<Program>,
}

/// One program of the probes.
#[derive(Debug, Serialize)]
struct Program {
    name: &'static str,
    /// The ability it is for.
    capability: &'static str,
    /// The kernel took it.
    loaded: bool,
    /// Instructions the verifier walked; none before 5.16, which does not tell.
    verified_instructions: Option<u32>,
    load_seconds: f64,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: String,
    /// It is an ability of the agent, not a property of the machine.
    ability: bool,
    state: State,
    words: String,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum State {
    #[serde(rename = "ok")]
    Good,
    #[serde(rename = "off")]
    Off,
    #[serde(rename = "FAIL")]
    Broken,
}

/// Looks at everything and prints a table.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Looked {
        abilities,
        programs,
        uses_tracepoints,
        why_tracepoints,
    } = look(arguments);
    let needs = Needs::here(uses_tracepoints);
    let mut findings = rights(&needs);
    findings.extend([cgroup(arguments.cgroup.as_deref()), btf()]);
    findings.extend(uses_tracepoints.then(tracefs));
    findings.push(statistics());
    findings.extend(why_tracepoints.map(|reason| connects(&reason)));
    findings.extend(abilities);
    findings.push(conntrack(Translations::open().err(), arguments.conntrack));
    let (code, verdict) = verdict(&findings);
    if arguments.json {
        let report = Report {
            state: worst(&findings),
            findings: &findings,
            how_to_give: needs.how_to_give(),
            programs: programs.into_iter().map(Program::from).collect(),
        };
        // Strings and numbers only: it cannot fail.
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        print!("{}", table(&findings));
        let ways = needs.how_to_give();
        if !ways.is_empty() {
            println!(
                "\nGive what is missing in one of these ways, or run it as root (sudo why502 doctor):"
            );
            for way in &ways {
                println!("  {way}");
            }
            if !programs.iter().any(|program| program.loaded) && !needs.wants(READS_TRACEFS) {
                println!("perhaps CAP_{READS_TRACEFS} as well: run it again then");
            }
        }
        println!("\n{verdict}");
    }
    ExitCode::from(code)
}

impl From<Verified> for Program {
    fn from(verified: Verified) -> Self {
        let Verified {
            name,
            capability,
            loaded,
            instructions,
            took,
        } = verified;
        Self {
            name,
            capability,
            loaded,
            verified_instructions: instructions,
            load_seconds: took.as_secs_f64(),
        }
    }
}

/// A line for each capability that is of use here.
fn rights(needs: &Needs) -> Vec<Finding> {
    let mut findings: Vec<Finding> = needs.iter().filter_map(right).collect();
    if privileges::is_in_user_namespace() {
        findings.push(broken(
            "user namespace",
            "capabilities count in this one only, and the probes belong to the host's: run it outside (hostUsers: true in Kubernetes, no --userns in containers)",
        ));
    }
    findings
}

fn right(need: &Need) -> Option<Finding> {
    let Need {
        name,
        purpose,
        without,
        necessity,
        held,
    } = need;
    let name = format!("CAP_{name}");
    match (necessity, held) {
        (Necessity::NotHere, _) => None,
        (_, true) => Some(good(name, *purpose)),
        (Necessity::Required, false) => Some(broken(
            name,
            format!("missing, so {without}; needed to {purpose}"),
        )),
        (Necessity::Useful, false) => Some(off(
            name,
            format!("missing, so {without}; needed to {purpose}"),
        )),
    }
}

fn cgroup(wanted: Option<&Path>) -> Finding {
    if let Some(path) = wanted {
        return match version_2(path) {
            Some(path) => good("cgroup", format!("{} is watched", path.display())),
            None => broken(
                "cgroup",
                format!(
                    "{} is no cgroup v2 directory: choose one with --cgroup",
                    path.display()
                ),
            ),
        };
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mount_of(&mounts, "cgroup2") {
        Some(path) => good("cgroup", format!("v2 mounted at {path}")),
        None => broken(
            "cgroup",
            "no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        good("kernel types (BTF)", "/sys/kernel/btf/vmlinux")
    } else {
        broken(
            "kernel types (BTF)",
            "none: a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed",
        )
    }
}

fn tracefs() -> Finding {
    const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let events = |path: &str| fs::read_dir(Path::new(path).join("events"));
    // Inside debugfs it is mounted when first looked at.
    if let Some(path) = ROOTS.into_iter().find(|path| events(path).is_ok()) {
        return good("tracefs", format!("mounted at {path}"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mount_of(&mounts, "tracefs") {
        Some(path) => {
            let why = events(&path).err().map_or_else(
                || format!("looked for at {}", ROOTS.join(" and ")),
                |error| error.to_string(),
            );
            off(
                "tracefs",
                format!("mounted at {path}, but its events cannot be read: {why}"),
            )
        }
        None => off(
            "tracefs",
            "not mounted, so tracepoints cannot be attached: mount -t tracefs none /sys/kernel/tracing",
        ),
    }
}

/// No fault: all is seen, at a price.
fn connects(reason: &str) -> Finding {
    good("connects", format!("seen at tracepoints: {reason}"))
}

fn statistics() -> Finding {
    let on = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")
        .is_ok_and(|value| value.trim() == "1");
    // Off is the usual and the cheaper state: no fault.
    good(
        "cost of probes",
        if on {
            "counted by the kernel"
        } else {
            "not counted; sysctl kernel.bpf_stats_enabled=1 counts it"
        },
    )
}

/// What the kernel says.
#[derive(Default)]
struct Looked {
    abilities: Vec<Finding>,
    programs: Vec<Verified>,
    uses_tracepoints: bool,
    why_tracepoints: Option<String>,
}

fn look(arguments: &Arguments) -> Looked {
    let Arguments {
        cgroup,
        conntrack: _,
        json: _,
    } = arguments;
    let options = Options {
        cgroup: cgroup.clone(),
        ..Options::default()
    };
    match kernel::survey(&options) {
        Ok(survey) => {
            let kernel::Survey {
                capabilities,
                programs,
                uses_tracepoints,
                why_tracepoints,
            } = survey;
            Looked {
                abilities: capabilities.into_iter().map(ability).collect(),
                programs,
                uses_tracepoints,
                why_tracepoints,
            }
        }
        Err(error) => {
            let is_known = Needs::here(false).refusal().is_some();
            // Of its two reasons it is the one that is known.
            let words = match error {
                KernelError::NotPermitted if is_known => {
                    "cannot be looked at without what is missing above".to_owned()
                }
                error => error.to_string(),
            };
            Looked {
                abilities: vec![broken("probes", words)],
                ..Looked::default()
            }
        }
    }
}

/// Off is a fault only for who wants it.
fn conntrack(failed: Option<Unavailable>, wanted: bool) -> Finding {
    const NAME: &str = "conntrack";
    const PURPOSE: &str = "where translated addresses lead, such as a Service's ClusterIP";
    match failed {
        None => good(NAME, PURPOSE),
        Some(reason) if wanted => off(NAME, format!("{PURPOSE}: off, {reason}")),
        Some(reason) => good(
            NAME,
            format!("{PURPOSE}: not asked for (--conntrack), and would be off: {reason}"),
        ),
    }
}

fn ability(ability: Capability) -> Finding {
    let Capability {
        name,
        purpose,
        available,
        reason,
    } = ability;
    let found = if available {
        good(name, purpose)
    } else {
        refused(name, purpose, reason.as_deref())
    };
    Finding {
        ability: true,
        ..found
    }
}

fn refused(name: &str, purpose: &str, reason: Option<&str>) -> Finding {
    let reason = reason.unwrap_or("the kernel does not say why");
    let words = format!("{purpose}: off, {reason}");
    if name == NEEDED {
        broken(name, words)
    } else {
        off(name, words)
    }
}

/// Where a file system of this type is mounted (proc_pid_mountinfo(5)).
fn mount_of(mounts: &str, kind: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        (after.split(' ').next()? == kind).then(|| point.to_owned())
    })
}

fn table(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or(0);
    findings
        .iter()
        .map(
            |Finding {
                 name, state, words, ..
             }| { format!("{:<4}  {name:<width$}  {words}\n", state.word()) },
        )
        .collect()
}

fn worst(findings: &[Finding]) -> State {
    let states = findings.iter().map(|finding| finding.state);
    states.max().unwrap_or(State::Good)
}

fn verdict(findings: &[Finding]) -> (u8, &'static str) {
    match worst(findings) {
        State::Good => (
            EXIT_GOOD,
            "All is well: `sudo why502 run` watches everything it can.",
        ),
        State::Off => (
            EXIT_DEGRADED,
            "`sudo why502 run` works; what is off above is not seen.",
        ),
        State::Broken => (
            EXIT_BROKEN,
            "`why502 run` cannot work here until what fails above is put right.",
        ),
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Off => "off",
            Self::Broken => "FAIL",
        }
    }
}

fn good(name: impl Into<String>, words: impl Into<String>) -> Finding {
    Finding {
        name: name.into(),
        ability: false,
        state: State::Good,
        words: words.into(),
    }
}

fn off(name: impl Into<String>, words: impl Into<String>) -> Finding {
    Finding {
        name: name.into(),
        ability: false,
        state: State::Off,
        words: words.into(),
    }
}

fn broken(name: impl Into<String>, words: impl Into<String>) -> Finding {
    Finding {
        name: name.into(),
        ability: false,
        state: State::Broken,
        words: words.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Capability, Necessity, Need, State, Unavailable, ability, broken, connects, conntrack,
        good, mount_of, off, right, table, verdict,
    };

    #[test]
    fn the_exit_code_is_that_of_the_worst_finding() {
        assert_eq!(verdict(&[good("a", "")]).0, 0);
        assert_eq!(verdict(&[good("a", ""), off("b", "")]).0, 1);
        assert_eq!(
            verdict(&[off("b", ""), broken("c", ""), good("a", "")]).0,
            2
        );
    }

    #[test]
    fn a_missing_right_is_named_with_what_is_off_without_it() {
        let need = |necessity, held| Need {
            name: "BPF",
            purpose: "load",
            without: "nothing is seen",
            necessity,
            held,
        };

        let missing = right(&need(Necessity::Required, false)).unwrap();
        assert_eq!(missing.state, State::Broken);
        assert_eq!(missing.name, "CAP_BPF");
        assert_eq!(missing.words, "missing, so nothing is seen; needed to load");

        let state = |need: &Need| right(need).map(|finding| finding.state);
        assert_eq!(state(&need(Necessity::Useful, false)), Some(State::Off));
        assert_eq!(state(&need(Necessity::Required, true)), Some(State::Good));
        assert_eq!(state(&need(Necessity::NotHere, false)), None);
    }

    #[test]
    fn mounts_are_found_by_their_type() {
        let mounts = "24 29 0:22 / /proc rw - proc proc rw\n31 24 0:27 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";

        assert_eq!(
            mount_of(mounts, "cgroup2").as_deref(),
            Some("/sys/fs/cgroup")
        );
        assert_eq!(mount_of(mounts, "tracefs"), None);
    }

    #[test]
    fn the_one_needed_ability_is_no_degradation() {
        let without = |name| {
            ability(Capability {
                name,
                purpose: "p",
                available: false,
                reason: None,
            })
        };

        assert_eq!(without("packets").state, State::Broken);
        assert_eq!(without("tcp_retransmit").state, State::Off);
    }

    #[test]
    fn tracepoints_instead_of_functions_are_no_degradation() {
        let found =
            connects("programs at functions are refused: Operation not permitted (os error 1)");
        assert_eq!(found.state, State::Good);
        assert_eq!(
            found.words,
            "seen at tracepoints: programs at functions are refused: Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn connection_tracking_is_missed_by_who_wants_it() {
        let failed = || Some(Unavailable::SwitchedOff);
        assert_eq!(conntrack(None, true).state, State::Good);
        assert_eq!(conntrack(failed(), true).state, State::Off);
        let unwanted = conntrack(failed(), false);
        assert_eq!(unwanted.state, State::Good);
        assert!(unwanted.words.contains("set it to 1"), "{unwanted:?}");
    }

    #[test]
    fn the_table_lines_up() {
        assert_eq!(
            table(&[good("rights", "yes"), off("socket errors", "off: no")]),
            "ok    rights         yes\noff   socket errors  off: no\n"
        );
    }
}
