//! Debian packages, installed only when a task needs them, and without starting services.
//!
//! Debian starts a daemon when its package is installed. A test machine must not get an
//! nginx on port 80 that way, so for the time of the installation `policy-rc.d`, the
//! switch that Debian has for this, forbids starting any service; a policy that was there
//! before is left alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{command, is_root, which};

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// exit code 101: "action forbidden by policy" (invoke-rc.d(8)).
const FORBID: &str =
    "#!/bin/sh\n# Written by cargo xtask for the time of one installation.\nexit 101\n";

/// An installation that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// No progress bars, and patience with another apt (a machine that has just booted updates
/// itself).
const OPTIONS: [&str; 5] = [
    "-q",
    "-o",
    "Dpkg::Use-Pty=0",
    "-o",
    "DPkg::Lock::Timeout=300",
];

/// Packages that come with a service, and what the service is called.
const UNITS: [(&str, &str); 8] = [
    ("nginx-light", "nginx"),
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("haproxy", "haproxy"),
    ("caddy", "caddy"),
    ("varnish", "varnish"),
    ("varnish", "varnishncsa"),
    ("php8.2-fpm", "php8.2-fpm"),
];

/// A package, and a program or file that shows that it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// Its name in Debian.
    pub(crate) name: &'static str,
    /// A program on `PATH`, or an absolute path.
    pub(crate) shows: &'static str,
}

impl Package {
    /// Whether what the package gives is there, from wherever it came.
    pub(crate) fn is_there(&self) -> bool {
        match self.shows.strip_prefix('/') {
            Some(_) => Path::new(self.shows).exists(),
            None => which(self.shows).is_some(),
        }
    }
}

/// Whether this machine has apt at all.
pub(crate) fn available() -> bool {
    which("apt-get").is_some()
}

/// Makes sure that every package is there; says what it installs before it does.
pub(crate) fn ensure(packages: &[Package], purpose: &str) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| !package.is_there())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing, purpose)
}

/// The version that apt would install, `None` when it knows no such package.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let text = command::probe(Command::new("apt-cache").args(["policy", package]))?;
    parse_candidate(&text)
}

/// Installs packages by name, whether or not they are there.
pub(crate) fn install(names: &[&str], purpose: &str) -> Result<()> {
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        names.join(" ")
    );
    if !available() {
        bail!(
            "{purpose} needs {}: install what your system calls so",
            names.join(", ")
        );
    }
    if !is_root() {
        bail!("{purpose} needs packages; as root: {line}");
    }
    println!("{purpose}: {line}");
    let fresh = refresh_lists(names)?;
    let _quiet = NoServices::begin()?;
    let mut apt = Command::new("apt-get");
    apt.args(OPTIONS)
        .args(["install", "-y", "--no-install-recommends"])
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive");
    if let Err(error) = command::run_within(&mut apt, LIMIT) {
        if fresh {
            return Err(error);
        }
        // Old lists name versions that the archive no longer has: 404 for each of them.
        println!("that failed, perhaps for old package lists: apt-get update, and once more");
        update_lists()?;
        command::run_within(&mut apt, LIMIT)?;
    }
    keep_from_boot(names)
}

/// A daemon that we have just installed would start at the next boot: switch that off.
/// `update-rc.d` is on every Debian and does it for systemd as well, but for a package that
/// has a systemd unit only: without systemd nothing starts that one.
fn keep_from_boot(installed: &[&str]) -> Result<()> {
    for (package, unit) in UNITS {
        if !installed.contains(&package) {
            continue;
        }
        let mut disable = if Path::new("/etc/init.d").join(unit).exists() {
            let mut update = Command::new("update-rc.d");
            update.args([unit, "disable"]);
            update
        } else if which("systemctl").is_some() {
            let mut systemctl = Command::new("systemctl");
            systemctl.args(["disable", unit]);
            systemctl
        } else {
            continue;
        };
        println!("{unit} stays off at boot: {}", command::line(&disable));
        command::run(&mut disable)?;
    }
    Ok(())
}

/// `apt-get update`, only when apt does not know one of the packages yet: whether that was
/// done.
pub(crate) fn refresh_lists(names: &[&str]) -> Result<bool> {
    if names.iter().all(|name| candidate(name).is_some()) {
        return Ok(false);
    }
    println!("apt does not know them yet: apt-get update");
    update_lists()?;
    Ok(true)
}

fn update_lists() -> Result<()> {
    command::run_within(Command::new("apt-get").args(OPTIONS).arg("update"), LIMIT)
}

/// No service is started while this lives.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = Path::new(POLICY);
        if path.exists() {
            return Ok(Self { ours: false });
        }
        println!("services of these packages are not started ({POLICY}, removed afterwards)");
        fs::write(path, FORBID)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {POLICY}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: {POLICY} stays behind and keeps services from starting: {error}");
        }
    }
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_version_is_read_from_the_policy() {
        let text = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(
            parse_candidate(text).as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(
            parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn a_package_is_there_by_program_or_by_path() {
        assert!(
            Package {
                name: "dash",
                shows: "sh"
            }
            .is_there()
        );
        assert!(
            Package {
                name: "base-files",
                shows: "/etc"
            }
            .is_there()
        );
        assert!(
            !Package {
                name: "none",
                shows: "no-such-program-here"
            }
            .is_there()
        );
        assert!(
            !Package {
                name: "none",
                shows: "/no/such/file"
            }
            .is_there()
        );
    }
}
