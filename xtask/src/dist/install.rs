//! The Debian package, installed and removed by the real dpkg.
//!
//! In: the package. Out: nothing, or what is wrong. The root is this system under an overlay that
//! is thrown away, so its scripts run as they would and nothing stays.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::{command, is_root, which};

/// `$1` is the package. Mounts are of this shell's own namespace and end with it.
const SCRIPT: &str = r#"
top=$(mktemp -d)
trap 'umount -R "$top"; rmdir "$top"' EXIT
mount -t tmpfs none "$top"
mkdir "$top/upper" "$top/work" "$top/system"
mount -t overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" none "$top/system"
cp "$1" "$top/system/why502.deb"
chroot "$top/system" sh -euc '
    export DEBIAN_FRONTEND=noninteractive
    # One that is installed here for real would be upgraded, which is another test.
    dpkg --purge why502 2>/dev/null || true
    dpkg --install /why502.deb
    dpkg --verify why502
    why502 run --config /etc/why502/config.toml --print-config > /configured
    why502 run --print-config > /defaults
    diff /defaults /configured
    zcat /usr/share/man/man1/why502-run.1.gz | grep -q print
    bash -n /usr/share/bash-completion/completions/why502
    test -f /usr/lib/systemd/system/why502.service -o -f /lib/systemd/system/why502.service
    # A service that looks into every process is switched on by its operator.
    test ! -e /etc/systemd/system/multi-user.target.wants/why502.service
    dpkg --purge why502
    test ! -e /etc/why502
    test ! -e /usr/bin/why502
' >&2
"#;

/// Installs, looks, removes.
pub(super) fn check(package: &Path) -> Result<()> {
    if !is_root() || which("dpkg").is_none() {
        bail!("installing the package to try it needs root and dpkg");
    }
    let mut shell = Command::new("unshare");
    shell
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-eu",
            "-c",
            SCRIPT,
        ])
        .arg("sh")
        .arg(package);
    command::run(&mut shell)
        .with_context(|| format!("{} does not install or remove well", package.display()))?;
    println!("{}: installs, runs and is purged", package.display());
    lintian(package)
}

/// Debian's own judge, where it is installed.
fn lintian(package: &Path) -> Result<()> {
    if which("lintian").is_none() {
        println!("lintian NOT asked: it is not installed");
        return Ok(());
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    command::run(lintian.arg(package)).context("lintian says what is wrong, above")?;
    println!("lintian: no error, no warning");
    Ok(())
}
