//! The Debian package, by cargo-deb; what is in it stands in `agent/Cargo.toml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{date, version};
use crate::build::TARGET;
use crate::host::{command, target_dir};

/// The release that was tried.
const VERSION: &str = "3.8.0";

/// Builds it into `folder`.
pub(super) fn build(folder: &Path) -> Result<PathBuf> {
    let file = folder.join(format!("why502_{}_amd64.deb", version()));
    let mut cargo_deb = Command::new(ensure()?);
    cargo_deb
        .current_dir(crate::host::root())
        // It asks cargo for the target folder.
        .env("CARGO_TARGET_DIR", target_dir())
        .env("SOURCE_DATE_EPOCH", date()?)
        .args(["--package", "agent", "--target", TARGET])
        .args([
            "--no-build",
            "--no-strip",
            "--no-dbgsym",
            "--locked",
            "--quiet",
        ])
        .arg("--output")
        .arg(&file);
    command::run(&mut cargo_deb).context("the Debian package could not be built")?;
    if !file.is_file() {
        bail!("cargo-deb left no {}", file.display());
    }
    Ok(file)
}

/// cargo-deb in the target folder: the one built before, or a new one.
fn ensure() -> Result<PathBuf> {
    let home = target_dir().join("tools/cargo-deb").join(VERSION);
    let program = home.join("bin/cargo-deb");
    if program.is_file() {
        return Ok(program);
    }
    println!(
        "building cargo-deb {VERSION} into {} (a minute or two)",
        home.display()
    );
    let mut cargo = command::cargo_for_tools();
    cargo
        .args(["install", "cargo-deb", "--version", VERSION, "--locked"])
        // Without the C library for xz: the program `xz` does it as well.
        .args(["--no-default-features", "--quiet", "--root"])
        .arg(&home)
        .arg("--target-dir")
        .arg(home.join("build"));
    command::run(&mut cargo).context("cargo-deb could not be built")?;
    let _ = fs::remove_dir_all(home.join("build"));
    Ok(program)
}
