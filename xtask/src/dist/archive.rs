//! The archive for everything that is not Debian: program, unit, settings, pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{date, version};
use crate::host::{command, root};

/// What it takes from the checkout, and under which name.
const FILES: [(&str, &str); 6] = [
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("deploy/why502.example.toml", "why502.example.toml"),
    ("deploy/systemd/why502.service", "why502.service"),
];

/// Builds it into `folder`.
pub(super) fn build(folder: &Path, program: &Path, package: &Path) -> Result<PathBuf> {
    let name = format!("why502-{}-x86_64-linux", version());
    let stage = folder.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot empty {}", stage.display()))?;
    }
    fs::create_dir_all(stage.join("man"))
        .with_context(|| format!("cannot make {}", stage.display()))?;
    copy(program, &stage.join("why502"))?;
    for (from, to) in FILES {
        copy(&root().join(from), &stage.join(to))?;
    }
    for shell in ["why502.bash", "why502.zsh", "why502.fish"] {
        copy(&package.join(shell), &stage.join(shell))?;
    }
    for page in fs::read_dir(package.join("man"))? {
        let page = page?;
        copy(&page.path(), &stage.join("man").join(page.file_name()))?;
    }
    let file = folder.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    // Sorted, with one owner and one time: the same files give the same bytes.
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0"])
        .args([
            "--numeric-owner",
            "--mode=u=rwX,go=rX",
            "--use-compress-program=gzip -9n",
        ])
        .arg(format!("--mtime=@{}", date()?))
        .arg("--directory")
        .arg(folder)
        .arg("--file")
        .arg(&file)
        .arg(&name);
    command::run(&mut tar).context("the archive could not be made")?;
    fs::remove_dir_all(&stage).with_context(|| format!("cannot empty {}", stage.display()))?;
    Ok(file)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
