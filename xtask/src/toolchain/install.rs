//! Getting a compiler for eBPF onto a machine that has none.
//!
//! Debian's packages first: one step, no other network than apt's, and compiler and LLVM
//! match. Where Debian's release has no compiler that is new enough, rustup's nightly with
//! an LLVM package of the same version. Every step has a time limit: a machine without a
//! network gets an error that says what was tried, not a hang.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::{compiler, llvm};
use crate::host::{apt, command, which};

/// The compiler, its cargo, the source of `core`, and the LLVM it is made of.
const DEBIAN: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];

/// The oldest compiler that our dependencies accept; older `rustc-web` are of LLVM 19.
const DEBIAN_OLDEST: (u32, u32) = (1, 95);

/// A download that takes longer than this will not come.
const DOWNLOAD: Duration = Duration::from_secs(180);

/// A message for when nothing worked.
const BY_HAND: &str = "An eBPF compiler is a rustc with its library source and the LLVM development files of the same version:
  Debian 12:  apt-get install rustc-web cargo-web rust-web-src llvm-22-dev
  elsewhere:  rustup toolchain install nightly --component rust-src, and llvm-N-dev for the N in `rustc +nightly -vV`";

/// Installs the first kind of compiler that this machine can get.
pub(crate) fn any() -> Result<()> {
    println!("no eBPF compiler with a matching LLVM here; looking for one to install");
    let mut tried = Vec::new();
    for (name, route) in [
        ("Debian's packages", debian as fn() -> Result<()>),
        ("rustup", rustup),
    ] {
        match route() {
            Ok(()) => return Ok(()),
            Err(error) => {
                println!("{name}: {error:#}");
                tried.push(name);
            }
        }
    }
    bail!(
        "no eBPF compiler could be installed (tried: {}).\n{BY_HAND}",
        tried.join(", ")
    )
}

/// Adds a component to a rustup toolchain.
pub(crate) fn rustup_component(toolchain: &str, component: &str) -> Result<()> {
    println!("rustup component add {component} --toolchain {toolchain}");
    let mut rustup = command::bare("rustup");
    rustup.args(["component", "add", component, "--toolchain", toolchain]);
    command::run_within(&mut rustup, DOWNLOAD)
}

fn debian() -> Result<()> {
    if !apt::available() {
        bail!("this system has no apt-get");
    }
    // Without package lists there is no candidate: the lists come first.
    apt::refresh_lists(&DEBIAN)?;
    let version = apt::candidate("rustc-web").ok_or_else(|| anyhow!("no package rustc-web"))?;
    if !is_new_enough(&version) {
        bail!("rustc-web is {version} here, and 1.95 is the oldest that works");
    }
    apt::install(&DEBIAN, "building the eBPF object")
}

fn rustup() -> Result<()> {
    if which("rustup").is_none() {
        bail!("rustup is not installed");
    }
    println!("rustup toolchain install nightly --profile minimal --component rust-src");
    let mut rustup = command::bare("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    rustup.args(["--component", "rust-src", "--no-self-update"]);
    command::run_within(&mut rustup, DOWNLOAD)?;
    for compiler in compiler::candidates() {
        let version = compiler.llvm();
        let package = format!("llvm-{version}-dev");
        if llvm::Llvm::of_version(version).is_some() {
            return Ok(());
        }
        if llvm::SUPPORTED.contains(&version) && apt::candidate(&package).is_some() {
            return apt::install(&[&package], "building bpf-linker");
        }
    }
    bail!("no rustup compiler here has an LLVM for which apt offers a package llvm-N-dev")
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= DEBIAN_OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_debian_compiler_is_refused() {
        assert!(is_new_enough("1.96.0+dfsg1-1~deb12u2"));
        assert!(!is_new_enough("1.85.0+dfsg3-1~deb12u3"));
        assert!(!is_new_enough("what"));
    }
}
