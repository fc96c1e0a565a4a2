//! Compilers on this machine that can build `core` for the BPF target.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::host::apt::{self, Package};
use crate::host::{command, which};

/// Debian's compiler for web browsers: newer than the rest of the release, and shipped
/// together with the LLVM it is made of.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

const CLIPPY: Package = Package {
    name: "rust-web-clippy",
    shows: DEBIAN_CLIPPY,
};

/// A compiler that has the source of `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    origin: Origin,
    /// `rustc 1.96.0`.
    release: String,
    llvm: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Debian,
    Rustup { toolchain: String },
}

impl Compiler {
    /// `cargo VERB` of the cargo that goes with it.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut cargo = match (&self.origin, verb) {
            // Started directly: cargo would look for its subcommand on PATH, and find
            // rustup's.
            (Origin::Debian, "clippy") => command::bare(DEBIAN_CLIPPY),
            (Origin::Debian, _) => command::bare(DEBIAN_CARGO),
            (Origin::Rustup { toolchain }, _) => rustup_run(toolchain, "cargo"),
        };
        if self.origin == Origin::Debian {
            cargo.env("CARGO", DEBIAN_CARGO).env("RUSTC", DEBIAN_RUSTC);
        }
        cargo.arg(verb);
        cargo
    }

    /// It is of a Debian package.
    pub(crate) fn is_debians(&self) -> bool {
        self.origin == Origin::Debian
    }

    /// Major version of its LLVM.
    pub(crate) fn llvm(&self) -> u32 {
        self.llvm
    }

    /// One phrase for the log.
    pub(crate) fn name(&self) -> String {
        match &self.origin {
            Origin::Debian => format!("Debian's {}", self.release),
            Origin::Rustup { toolchain } => format!("{} (rustup: {toolchain})", self.release),
        }
    }

    /// Makes sure that its clippy is there.
    pub(crate) fn ensure_clippy(&self) -> Result<()> {
        match &self.origin {
            Origin::Debian => apt::ensure(&[CLIPPY], "linting the eBPF crate"),
            Origin::Rustup { toolchain } => {
                let mut clippy = rustup_run(toolchain, "cargo");
                if command::probe(clippy.args(["clippy", "--version"])).is_some() {
                    return Ok(());
                }
                super::install::rustup_component(toolchain, "clippy")
            }
        }
    }
}

/// Compilers with the source of `core`, in order of preference.
///
/// Debian's comes first: it and its LLVM come from one release and stay as they are, while
/// a nightly's LLVM moves under the linker. Of rustup's, stable comes before nightly for
/// the same reason.
pub(crate) fn candidates() -> Vec<Compiler> {
    let debian = examine(Origin::Debian, command::bare(DEBIAN_RUSTC));
    let rustup = rustup_toolchains().into_iter().filter_map(|toolchain| {
        let rustc = rustup_run(&toolchain, "rustc");
        examine(Origin::Rustup { toolchain }, rustc)
    });
    debian.into_iter().chain(rustup).collect()
}

/// A rustup toolchain's program, through rustup itself: no shim on `PATH` decides.
fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = command::bare("rustup");
    command.args(["run", toolchain, program]);
    command
}

fn rustup_toolchains() -> Vec<String> {
    if which("rustup").is_none() {
        return Vec::new();
    }
    let mut list = command::bare("rustup");
    let listed = command::probe(list.args(["toolchain", "list"])).unwrap_or_default();
    in_order_of_preference(&listed)
}

fn in_order_of_preference(listed: &str) -> Vec<String> {
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    ["stable-", "nightly-"]
        .iter()
        .flat_map(|channel| names.iter().filter(move |name| name.starts_with(channel)))
        .map(|name| (*name).to_owned())
        .collect()
}

/// `None` when it does not run, or has no source of `core`.
fn examine(origin: Origin, rustc: Command) -> Option<Compiler> {
    let sysroot = command::probe(again(&rustc).args(["--print", "sysroot"]))?;
    if !has_core_source(Path::new(sysroot.trim())) {
        return None;
    }
    let version = command::probe(again(&rustc).arg("-vV"))?;
    let (release, llvm) = parse_version(&version)?;
    Some(Compiler {
        origin,
        release,
        llvm,
    })
}

fn again(command: &Command) -> Command {
    let mut same = command::bare(command.get_program());
    same.args(command.get_args());
    same
}

fn has_core_source(sysroot: &Path) -> bool {
    let library: PathBuf = sysroot.join("lib/rustlib/src/rust/library");
    library.join("core/Cargo.toml").is_file() && library.join("Cargo.lock").is_file()
}

/// Release and LLVM major version in the answer to `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
    let release = format!("rustc {}", field("release: ")?);
    let llvm = field("LLVM version: ")?;
    let major = llvm.split('.').next()?.parse().ok()?;
    Some((release, major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read_from_the_verbose_version() {
        let text =
            "rustc 1.96.0 (abc 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("rustc 1.96.0".into(), 22)));
        assert_eq!(parse_version("rustc 1.96.0\n"), None);
    }

    #[test]
    fn stable_comes_before_nightly_and_others_are_left_out() {
        let listed = "nightly-x86_64-unknown-linux-gnu\nstable-x86_64-unknown-linux-gnu (active, default)\n1.90.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(
            in_order_of_preference(listed),
            [
                "stable-x86_64-unknown-linux-gnu",
                "nightly-x86_64-unknown-linux-gnu"
            ]
        );
    }

    #[test]
    fn a_sysroot_without_source_is_no_candidate() {
        assert!(!has_core_source(Path::new("/no/such/sysroot")));
    }
}
