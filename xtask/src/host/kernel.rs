//! What the agent needs of the running kernel, and the two things a task may change for
//! the time it runs: a tracefs mount and the switch for BPF run-time statistics.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::is_root;

const TRACEFS: &str = "/sys/kernel/tracing";
const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// An error that says in one sentence what this machine lacks for running the agent.
pub(crate) fn require() -> Result<()> {
    if !is_root() {
        bail!("loading eBPF programs needs root: run this again as root (sudo -E cargo xtask ...)");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "this kernel has no type information (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF"
        );
    }
    if mount_point("cgroup2")?.is_none() {
        bail!("no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified");
    }
    Ok(())
}

/// Where a file system of this type is mounted.
pub(crate) fn mount_point(kind: &str) -> Result<Option<PathBuf>> {
    let text =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(find_mount(&text, kind))
}

/// tracefs, mounted by us for as long as this lives when nobody else had.
#[derive(Debug)]
pub(crate) struct Tracefs {
    ours: bool,
}

impl Tracefs {
    /// Makes sure that tracefs is mounted, and says so when it had to.
    pub(crate) fn ensure() -> Result<Self> {
        if mount_point("tracefs")?.is_some() {
            return Ok(Self { ours: false });
        }
        mount("nodev", TRACEFS, "tracefs", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount tracefs on {TRACEFS}"))?;
        println!("mounted tracefs on {TRACEFS} (unmounted at the end)");
        Ok(Self { ours: true })
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = unmount(TRACEFS, UnmountFlags::empty())
        {
            eprintln!("warning: {TRACEFS} stays mounted: {error}");
        }
    }
}

/// BPF run-time statistics, switched on for as long as this lives.
#[derive(Debug)]
pub(crate) struct BpfStats {
    before: String,
}

impl BpfStats {
    /// Switches them on.
    pub(crate) fn enable() -> Result<Self> {
        let before =
            fs::read_to_string(BPF_STATS).with_context(|| format!("cannot read {BPF_STATS}"))?;
        fs::write(BPF_STATS, "1").with_context(|| format!("cannot write {BPF_STATS}"))?;
        Ok(Self { before })
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        if let Err(error) = fs::write(BPF_STATS, self.before.trim()) {
            eprintln!("warning: {BPF_STATS} stays switched on: {error}");
        }
    }
}

/// Fields of a mountinfo line: proc_pid_mountinfo(5). The mount point is the fifth, and
/// the type is the first after the lone dash.
fn find_mount(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let found = after.split(' ').next()?;
        (found == kind).then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
24 30 0:22 / /proc rw,relatime - proc proc rw
31 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
36 24 0:31 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_mount_point_is_found_by_type_not_by_place() {
        assert_eq!(
            find_mount(MOUNTINFO, "cgroup2"),
            Some("/sys/fs/cgroup/unified".into())
        );
        assert_eq!(find_mount(MOUNTINFO, "tracefs"), None);
    }
}
