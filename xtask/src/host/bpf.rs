//! eBPF programs as the kernel lists them, through bpftool.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::command;

/// The kernel frees a program this long after its last user, at most.
const FREED: Duration = Duration::from_secs(5);

/// An eBPF program and what it has used since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Id in the kernel.
    pub(crate) id: u32,
    /// Name, cut by the kernel at 15 bytes.
    #[serde(default)]
    pub(crate) name: String,
    /// Time in it, ns; counted only while statistics are on.
    #[serde(default)]
    pub(crate) run_time_ns: u64,
    /// How often it ran.
    #[serde(default)]
    pub(crate) run_cnt: u64,
}

/// The eBPF programs that a process holds open.
pub(crate) fn programs_of(pid: u32) -> Result<Vec<Program>> {
    let ids = ids_held_by(pid)?;
    if ids.is_empty() {
        bail!("process {pid} holds no eBPF program");
    }
    Ok(all()?
        .into_iter()
        .filter(|program| ids.contains(&program.id))
        .collect())
}

/// All programs of the machine.
pub(crate) fn all() -> Result<Vec<Program>> {
    let text = command::output(Command::new("bpftool").args(["--json", "prog", "show"]))?;
    serde_json::from_str(&text).context("bpftool's list of programs is not as expected")
}

/// Waits until the kernel has freed these programs, which it does some time after their last
/// user is gone; an error when any is still there after that.
pub(crate) fn wait_until_gone(programs: &[Program]) -> Result<()> {
    let ids: BTreeSet<u32> = programs.iter().map(|program| program.id).collect();
    let started = Instant::now();
    loop {
        let left = all()?
            .iter()
            .filter(|program| ids.contains(&program.id))
            .count();
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() > FREED {
            bail!("{left} eBPF programs are left behind");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn ids_held_by(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    Ok(texts.filter_map(|text| parse_program_id(&text)).collect())
}

/// Both a program's and a link's fdinfo have the line.
fn parse_program_id(fdinfo: &str) -> Option<u32> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("prog_id:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_id_is_read_from_fdinfo() {
        assert_eq!(
            parse_program_id("pos:\t0\nprog_type:\t8\nprog_id:\t42\n"),
            Some(42)
        );
        assert_eq!(parse_program_id("pos:\t0\n"), None);
    }
}
