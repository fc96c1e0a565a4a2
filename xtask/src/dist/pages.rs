//! What packages carry beside the program: manual pages, completions, a changelog.
//!
//! The program writes its own pages; the changelog is the first entry that dpkg wants, and points
//! to the one that people read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{date, version};
use crate::build::static_dir;
use crate::host::command;

/// Shells, and what their files end in.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Writes them where the assets of the package look, as dpkg wants them; the folder.
pub(super) fn write(program: &Path) -> Result<PathBuf> {
    let folder = static_dir().join("package");
    let manual = folder.join("man");
    if folder.exists() {
        // A page of a command that is gone must not stay.
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&manual).with_context(|| format!("cannot make {}", manual.display()))?;
    command::run(Command::new(program).arg("manual-pages").arg(&manual))?;
    for shell in SHELLS {
        let text = command::output(Command::new(program).args(["completions", shell]))?;
        put(&folder.join(format!("why502.{shell}")), text)?;
    }
    fs::copy(program, folder.join("why502")).context("cannot copy the program")?;
    let changelog = folder.join("changelog");
    put(&changelog, first_entry()?)?;
    // Without name and time, so that the same text gives the same bytes.
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "--no-name"]).arg(&changelog);
    for page in fs::read_dir(&manual)? {
        gzip.arg(page?.path());
    }
    command::run(&mut gzip)?;
    Ok(folder)
}

fn first_entry() -> Result<String> {
    let mut words = Command::new("date");
    words.args(["--utc", "--rfc-email", "--date"]);
    let date = command::output(words.arg(format!("@{}", date()?)))?;
    Ok(format!(
        "why502 ({}) unstable; urgency=medium\n\n  \
           * See https://github.com/why502/why502/blob/main/CHANGELOG.md\n\n \
         -- The why502 contributors <why502@users.noreply.github.com>  {}\n",
        version(),
        date.trim()
    ))
}

fn put(path: &Path, text: String) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
