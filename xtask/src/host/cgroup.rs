//! Cgroups (version 2) of our own, for what a task starts: their CPU time is told to the
//! microsecond, for all that ran in them, also when it is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernel;

/// A process that was killed leaves its cgroup a moment later.
const EMPTY: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// One of them. It is removed with this, so what runs in it must end before.
#[derive(Debug)]
pub(crate) struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// Makes one below the root of the hierarchy; `name` says what for.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let root = kernel::mount_point("cgroup2")?.context("no cgroup v2 is mounted")?;
        let folder = root.join(format!("why502-{name}-{}", std::process::id()));
        fs::create_dir(&folder)
            .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The same command, started inside.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
            .arg(self.folder.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// CPU time of all that ever ran inside, seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let path = self.folder.join("cpu.stat");
        let text = read(&path)?;
        parse_usage(&text).with_context(|| format!("{} tells no usage_usec", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let started = Instant::now();
        while let Err(error) = fs::remove_dir(&self.folder) {
            if started.elapsed() > EMPTY {
                eprintln!("warning: {} stays behind: {error}", self.folder.display());
                return;
            }
            thread::sleep(POLL);
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// cpu.stat of cgroup-v2.rst: flat keyed, times in microseconds.
fn parse_usage(stat: &str) -> Option<f64> {
    let usage = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(usage.trim().parse::<u64>().ok()? as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_is_told_in_microseconds() {
        let stat = "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnice_usec 0\n";
        assert_eq!(parse_usage(stat), Some(2.5));
        assert_eq!(parse_usage("user_usec 1\n"), None);
        assert_eq!(parse_usage("usage_usec none\n"), None);
    }

    #[test]
    fn a_command_inside_is_the_same_command_after_a_move() {
        let cgroup = Cgroup {
            folder: "/nowhere/why502-x-1".into(),
        };
        let mut command = Command::new("wrk");
        command.arg("-c64");
        let inside = cgroup.inside(&command);
        let words: Vec<_> = inside.get_args().skip(2).collect();
        assert_eq!(
            words,
            ["/nowhere/why502-x-1/cgroup.procs", "wrk", "-c64"].map(std::ffi::OsStr::new)
        );
    }
}
