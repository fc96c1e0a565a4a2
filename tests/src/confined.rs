//! The agent as someone who may little: no root, few capabilities, a file system that is
//! read-only.
//!
//! In: which capabilities. Out: commands that end with the agent's binary, a copy of it that
//! everybody may run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::agent::binary;
use crate::process::command;

/// What `docs/security.md` lists for any host.
const EVERYWHERE: [&str; 5] = [
    "bpf",
    "perfmon",
    "net_admin",
    "dac_read_search",
    "sys_ptrace",
];

/// Nobody, as on most systems.
pub const NOBODY: u32 = 65534;

/// What `docs/security.md` lists for this host.
pub fn documented() -> Vec<&'static str> {
    let mut capabilities = EVERYWHERE.to_vec();
    // Before 5.11, where maps are locked memory.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 11) {
        capabilities.push("sys_resource");
    }
    // Values that Debian's and Ubuntu's kernels know.
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    if paranoid.trim().parse::<i32>().is_ok_and(|value| value > 2) {
        capabilities.push("sys_admin");
    }
    capabilities
}

/// A copy of the agent.
#[derive(Debug)]
pub struct Copy {
    folder: TempDir,
}

impl Copy {
    /// Makes it.
    #[track_caller]
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("e2e-confined-").expect("a temporary folder can be made");
        let copy = Self { folder };
        fs::copy(binary(), copy.path()).expect("the agent can be copied");
        for path in [copy.folder.path(), &copy.path()] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
        }
        copy
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("why502")
    }

    /// A folder that nobody else uses.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// It, run by nobody with these ambient capabilities and no others.
    pub fn ambient(&self, capabilities: &[&str]) -> Command {
        let mut command = command("setpriv", None);
        command.args(nobody(capabilities)).arg(self.path());
        command
    }

    /// As [`Copy::ambient`], with the root file system read-only.
    pub fn read_only(&self, capabilities: &[&str]) -> Command {
        let mut command = command("unshare", None);
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg("mount -o remount,bind,ro / && exec setpriv \"$@\"");
        command.arg("sh").args(nobody(capabilities));
        command.arg(self.path());
        command
    }

    /// It, run by nobody, with what its file gives.
    pub fn by_file(&self) -> Command {
        let mut command = command("setpriv", None);
        command.args(nobody_without()).arg(self.path());
        command
    }
}

impl Default for Copy {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

fn nobody(capabilities: &[&str]) -> Vec<String> {
    let list: String = capabilities
        .iter()
        .map(|name| format!(",+{name}"))
        .collect();
    let mut words = nobody_without();
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        words.push(format!("--{set}=-all{list}"));
    }
    words
}

fn nobody_without() -> Vec<String> {
    [
        "--pdeathsig=KILL",
        &format!("--reuid={NOBODY}"),
        &format!("--regid={NOBODY}"),
        "--clear-groups",
    ]
    .map(str::to_owned)
    .to_vec()
}
