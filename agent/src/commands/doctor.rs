//! `why502 doctor`: what this machine allows, what is off, and what to do about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::kernel::{self, Capability, Options, Verified};

/// Everything works.
const EXIT_GOOD: u8 = 0;
/// `why502 run` works with abilities off.
const EXIT_DEGRADED: u8 = 1;
/// `why502 run` cannot work.
const EXIT_BROKEN: u8 = 2;

/// Bits of `CapEff` (linux/capability.h) and their names.
const CAPABILITIES: [(u32, &str); 3] =
    [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN")];
/// The bit that stood for all of them before 5.8, and still does.
const CAP_SYS_ADMIN: u32 = 21;

/// The ability without which nothing is seen.
const NEEDED: &str = "packets";

/// What `--help` says first.
pub(super) const LONG_ABOUT: &str = "\
Say what this kernel and these rights allow, and what to do about the rest.

The probes are loaded to see what the kernel takes, and nothing stays attached. Exit code: 0 when \
all is well, 1 when `why502 run` works with abilities off, 2 when it cannot work.";

/// What `--help` says last.
pub(super) const EXAMPLES: &str = "\
Examples:
  sudo why502 doctor
  sudo why502 doctor --cgroup /sys/fs/cgroup/system.slice
  sudo why502 doctor --json    the same for machines, and what each program cost to verify";

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Look at this cgroup v2 directory, as `run` would
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
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
    let mut findings = vec![
        rights(),
        cgroup(arguments.cgroup.as_deref()),
        btf(),
        tracefs(),
        statistics(),
    ];
    let (abilities, programs) = abilities(arguments);
    findings.extend(abilities);
    let (code, verdict) = verdict(&findings);
    if arguments.json {
        let report = Report {
            state: worst(&findings),
            findings: &findings,
            programs: programs.into_iter().map(Program::from).collect(),
        };
        // Strings and numbers only: it cannot fail.
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        print!("{}", table(&findings));
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

fn rights() -> Finding {
    let effective = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| effective(&status));
    rights_from(effective)
}

fn rights_from(effective: Option<u64>) -> Finding {
    let has = |bit: u32| effective.is_some_and(|set| set & (1 << bit) != 0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| !has(*bit))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() || has(CAP_SYS_ADMIN) && has(12) {
        good("rights", "may load and attach probes")
    } else {
        broken(
            "rights",
            format!(
                "{} missing: run as root (sudo why502 doctor), or grant them",
                missing.join(", ")
            ),
        )
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn cgroup(wanted: Option<&Path>) -> Finding {
    if let Some(path) = wanted {
        return if path.join("cgroup.procs").exists() {
            good("cgroup", format!("{} is watched", path.display()))
        } else {
            broken(
                "cgroup",
                format!(
                    "{} is no cgroup v2 directory: choose one with --cgroup",
                    path.display()
                ),
            )
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
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Inside debugfs it is mounted when first looked at.
    let found = mount_of(&mounts, "tracefs").or_else(|| {
        ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .into_iter()
            .find(|path| Path::new(path).join("events").is_dir())
            .map(str::to_owned)
    });
    match found {
        Some(path) => good("tracefs", format!("mounted at {path}")),
        None => off(
            "tracefs",
            "not mounted, so tracepoints cannot be attached: mount -t tracefs none /sys/kernel/tracing",
        ),
    }
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

fn abilities(arguments: &Arguments) -> (Vec<Finding>, Vec<Verified>) {
    let Arguments { cgroup, json: _ } = arguments;
    let options = Options {
        cgroup: cgroup.clone(),
        ..Options::default()
    };
    match kernel::survey(&options) {
        Ok(survey) => {
            let kernel::Survey {
                capabilities,
                programs,
            } = survey;
            (capabilities.into_iter().map(ability).collect(), programs)
        }
        Err(error) => (vec![broken("probes", error.to_string())], Vec::new()),
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
        Capability, State, ability, broken, effective, good, mount_of, off, rights_from, table,
        verdict,
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
    fn missing_rights_are_named() {
        let none = rights_from(effective("Name:\twhy502\nCapEff:\t0000000000000000\n"));
        assert_eq!(none.state, State::Broken);
        assert!(
            none.words.contains("CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"),
            "{}",
            none.words
        );

        let root = rights_from(effective("CapEff:\t000001ffffffffff\n"));
        assert_eq!(root.state, State::Good);
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
    fn the_table_lines_up() {
        assert_eq!(
            table(&[good("rights", "yes"), off("socket errors", "off: no")]),
            "ok    rights         yes\noff   socket errors  off: no\n"
        );
    }
}
