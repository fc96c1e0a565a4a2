//! What the kernel says a process and its eBPF programs have used.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::host::bpf::Program;

/// USER_HZ: the unit of the times in /proc/PID/stat, the same on every Linux of this
/// architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of these processes, seconds; one that is gone counts nothing.
pub(super) fn cpu_seconds(pids: &[u32]) -> f64 {
    let stat = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    pids.iter()
        .filter_map(stat)
        .filter_map(|text| parse_cpu(&text))
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

/// utime and stime are fields 14 and 15, counted after the name, which may hold blanks and
/// brackets: proc_pid_stat(5).
fn parse_cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn parse_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_name_with_brackets() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 1 2 3";
        assert_eq!(parse_cpu(stat), Some(2.0));
        assert_eq!(parse_cpu("nothing"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_bytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(parse_bytes(status, "VmRSS:"), Some(1 << 10));
        assert_eq!(parse_bytes(status, "VmSwap:"), None);
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
