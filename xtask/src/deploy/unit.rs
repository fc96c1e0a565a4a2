//! The systemd unit: its words are known, and what it exposes does not grow.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::apt::{self, Package};
use crate::host::scratch::Scratch;
use crate::host::{command, root};

const UNIT: &str = "deploy/systemd/why502.service";

/// Tenths of what `systemd-analyze security` calls the exposure, 0 to 100: 2.6 as measured with
/// systemd 252. Other versions count a little differently.
const MOST: u32 = 30;

const SYSTEMD: Package = Package {
    name: "systemd",
    shows: "systemd-analyze",
};

/// Checks it without a running systemd.
pub(super) fn check() -> Result<()> {
    apt::ensure(&[SYSTEMD], "checking the systemd unit")?;
    let text = fs::read_to_string(root().join(UNIT)).with_context(|| format!("no {UNIT}"))?;
    let folder = Scratch::new("unit")?;
    let unit = folder.path().join("why502.service");
    // It asks for the program, which may not be installed here, and for nothing else of it.
    let installed = text.replace("ExecStart=/usr/bin/why502 ", "ExecStart=/bin/true ");
    if installed == text {
        bail!("{UNIT} does not start /usr/bin/why502, where the package puts it");
    }
    fs::write(&unit, installed).with_context(|| format!("cannot write {}", unit.display()))?;
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output()
        .context("cannot start systemd-analyze")?;
    // An unknown word is a warning and no failure there.
    let said = String::from_utf8_lossy(&verify.stderr);
    let about_us: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("why502"))
        .collect();
    if !verify.status.success() || !about_us.is_empty() {
        bail!("{UNIT}: {}", about_us.join("; "));
    }
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager"]);
    let table = command::output(security.arg(format!("--threshold={MOST}")).arg(&unit))
        .with_context(|| format!("{UNIT} exposes more than {MOST} tenths"))?;
    let overall = table.lines().find(|line| line.contains("exposure level"));
    println!("{UNIT}: {}", overall.unwrap_or_default().trim());
    Ok(())
}
