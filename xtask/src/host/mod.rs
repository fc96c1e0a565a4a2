//! This machine, as far as the tasks care: who we are, where the checkout is, what is
//! installed, and how to run a program without leaving it behind.

pub(crate) mod apt;
pub(crate) mod archive;
pub(crate) mod bpf;
pub(crate) mod cargo_deny;
pub(crate) mod cgroup;
pub(crate) mod child;
pub(crate) mod command;
pub(crate) mod interrupt;
pub(crate) mod kernel;
pub(crate) mod net;
pub(crate) mod nginx;
pub(crate) mod scratch;
pub(crate) mod void;
pub(crate) mod wheel;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The files that git tracks or would add, relative to the root of the checkout.
pub(crate) fn checked_in() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "-z",
    ]);
    let listed = command::output(&mut git).context("the list of files comes from git")?;
    let paths = listed.split('\0').filter(|path| !path.is_empty());
    Ok(paths.map(str::to_owned).collect())
}

/// Where build results go: `CARGO_TARGET_DIR`, or `target` in the checkout.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(path) if !path.is_empty() => root().join(path),
        _ => root().join("target"),
    }
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program `name` on `PATH`, or in the system folders that a user's `PATH` may lack.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
