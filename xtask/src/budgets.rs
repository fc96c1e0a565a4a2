//! `budgets`: what the probes take of this kernel, against `docs/budgets.md`.
//!
//! The measuring is a test of the agent, where the loader is; here is what it needs: root, the
//! object, and the name of the compiler, whose next version may well need other numbers.
//! `WHY502_BLESS=1` passes through and writes the page.

use anyhow::Result;

use crate::host::{apt, command, kernel, target_dir};
use crate::toolchain::Toolchain;
use crate::{build, setup};

/// Loads the object and compares.
pub(crate) fn run(toolchain: &Toolchain) -> Result<()> {
    kernel::require()?;
    apt::ensure(&[setup::BPFTOOL], "measuring the probes")?;
    build::object(toolchain)?;
    let _tracefs = kernel::Tracefs::ensure()?;
    let mut cargo = command::cargo();
    cargo
        .env("WHY502_BUDGETS_COMPILER", toolchain.describe())
        .args(["test", "--quiet", "--package", "agent", "--lib"])
        .arg("--target-dir")
        .arg(target_dir())
        .args(["kernel::budgets", "--", "--ignored", "--nocapture"]);
    command::run(&mut cargo)
}
