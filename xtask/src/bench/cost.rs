//! What the kernel says a process and its eBPF programs have used.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::host::bpf::Program;

/// USER_HZ: the unit of the times in /proc/stat, the same on every Linux of this
/// architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the CPUs of this machine did, seconds of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Machine {
    /// For whomever; not what another machine on the same hardware took.
    pub(super) busy: f64,
    /// Nothing.
    pub(super) idle: f64,
    /// Nothing, for the hypervisor gave them to somebody else.
    pub(super) stolen: f64,
}

impl Machine {
    /// Since it started.
    pub(super) fn so_far() -> Result<Self> {
        let path = "/proc/stat";
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&text).with_context(|| format!("{path} does not begin with a line of all CPUs"))
    }

    /// Since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy - earlier.busy,
            idle: self.idle - earlier.idle,
            stolen: self.stolen - earlier.stolen,
        }
    }

    /// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<f64> = line
            .split_whitespace()
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        let idle: f64 = ticks.get(3..5)?.iter().sum();
        let stolen = *ticks.get(7)?;
        Some(Self {
            busy: (ticks.iter().sum::<f64>() - idle - stolen) / TICKS_PER_SECOND,
            idle: idle / TICKS_PER_SECOND,
            stolen: stolen / TICKS_PER_SECOND,
        })
    }
}

/// Voluntary context switches of all threads of a process; one that is gone counts nothing.
pub(super) fn wakeups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .filter_map(|status| parse_number(&status, "voluntary_ctxt_switches:"))
        .sum()
}

/// Resident memory of a process, bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Memory {
    /// Now.
    pub(super) now: u64,
    /// The most it has had.
    pub(super) peak: u64,
}

/// That of this process.
pub(super) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let of = |name: &str| parse_bytes(&text, name).with_context(|| format!("{path} has no {name}"));
    Ok(Memory {
        now: of("VmRSS:")?,
        peak: of("VmHWM:")?,
    })
}

/// What each program used between two readings.
pub(super) fn difference(before: &[Program], after: &[Program]) -> Vec<Program> {
    let earlier: BTreeMap<u32, &Program> = before.iter().map(|p| (p.id, p)).collect();
    let used = |program: &Program| {
        let (time, runs) = earlier
            .get(&program.id)
            .map_or((0, 0), |p| (p.run_time_ns, p.run_cnt));
        Program {
            id: program.id,
            name: program.name.clone(),
            run_time_ns: program.run_time_ns.saturating_sub(time),
            run_cnt: program.run_cnt.saturating_sub(runs),
        }
    };
    after.iter().map(used).collect()
}

fn parse_bytes(status: &str, name: &str) -> Option<u64> {
    let kilobytes: u64 = parse(status, name)?.strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn parse_number(status: &str, name: &str) -> Option<u64> {
    parse(status, name)?.parse().ok()
}

fn parse<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_waits_for_a_disk_is_idle_and_one_that_was_stolen_is_neither() {
        let stat = "cpu  100 50 200 300 100 20 30 40 5 5\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let machine = Machine {
            busy: 4.0,
            idle: 4.0,
            stolen: 0.4,
        };
        assert_eq!(Machine::parse(stat), Some(machine));
        assert_eq!(Machine::parse("cpu0 1 2 3 4 5 6 7 8 9"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_bytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(parse_bytes(status, "VmRSS:"), Some(1 << 10));
        assert_eq!(parse_bytes(status, "VmSwap:"), None);
        let status = "voluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(parse_number(status, "voluntary_ctxt_switches:"), Some(12));
    }

    #[test]
    fn a_program_that_was_not_there_before_counts_from_zero() {
        let program = |id, time, runs| Program {
            id,
            name: "packet_in".into(),
            run_time_ns: time,
            run_cnt: runs,
        };
        let used = difference(
            &[program(1, 100, 10)],
            &[program(1, 400, 12), program(2, 7, 1)],
        );
        assert_eq!(used, [program(1, 300, 2), program(2, 7, 1)]);
    }
}
