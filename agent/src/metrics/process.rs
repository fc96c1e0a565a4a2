//! The process families every Prometheus client has, from proc(5).

use std::fmt;
use std::fs;

use prometheus_client::encoding::DescriptorEncoder;

use super::catalogue::{Computed, Kind};
use super::own;

const CPU_SECONDS: Computed = Computed {
    name: "process_cpu_seconds",
    kind: Kind::Counter,
    labels: &[],
    help: "Seconds of CPU time of the agent, user and system",
};
const RESIDENT_BYTES: Computed = Computed {
    name: "process_resident_memory_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Resident memory of the agent in bytes",
};
const OPEN_FDS: Computed = Computed {
    name: "process_open_fds",
    kind: Kind::Gauge,
    labels: &[],
    help: "Open file descriptors of the agent",
};
const START_SECONDS: Computed = Computed {
    name: "process_start_time_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "Start of the agent, seconds since 1970",
};

/// The families of this file.
pub(super) const COMPUTED: [Computed; 4] = [CPU_SECONDS, RESIDENT_BYTES, OPEN_FDS, START_SECONDS];

/// What proc_pid_stat(5) says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: f64,
    /// Since boot.
    start_seconds: f64,
}

/// Writes them; one that cannot be read is left out.
pub(super) fn encode(out: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    if let Some(usage) = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| usage(&stat))
    {
        own::write(out, &CPU_SECONDS, [(Vec::new(), usage.cpu_seconds)])?;
        own::write(out, &RESIDENT_BYTES, [(Vec::new(), usage.resident_bytes)])?;
        if let Some(boot) = boot_seconds() {
            own::write(
                out,
                &START_SECONDS,
                [(Vec::new(), boot + usage.start_seconds)],
            )?;
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let count = u32::try_from(open.count()).unwrap_or(u32::MAX);
        own::write(out, &OPEN_FDS, [(Vec::new(), f64::from(count))])?;
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a sample is a float; ticks and pages stay far below 2^53"
)]
fn usage(stat: &str) -> Option<Usage> {
    // Counted from the third field on, after the name: it may hold anything.
    let fields: Vec<&str> = stat
        .get(stat.rfind(')')? + 2..)?
        .split_ascii_whitespace()
        .collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = system_value(libc::_SC_CLK_TCK)?;
    Some(Usage {
        cpu_seconds: (number(14)? + number(15)?) as f64 / ticks,
        resident_bytes: number(24)? as f64 * system_value(libc::_SC_PAGESIZE)?,
        start_seconds: number(22)? as f64 / ticks,
    })
}

fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "ticks per second and page size are small"
)]
fn system_value(name: libc::c_int) -> Option<f64> {
    // SAFETY: sysconf takes any name and touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    (value > 0).then_some(value as f64)
}

#[cfg(test)]
mod tests {
    use super::usage;

    #[test]
    fn usage_is_read_past_a_name_with_spaces_and_parentheses() {
        let stat =
            "7 (why (502) x) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 4200 20 3 22 23";

        let usage = usage(stat).unwrap();

        assert!((usage.cpu_seconds - 3.0).abs() < 1e-9, "{usage:?}");
        assert!((usage.start_seconds - 42.0).abs() < 1e-9, "{usage:?}");
        assert!(usage.resident_bytes >= 3.0 * 4096.0, "{usage:?}");
    }
}
