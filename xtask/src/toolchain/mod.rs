//! What builds the eBPF object: a compiler with the source of `core`, and a linker of the
//! same LLVM.
//!
//! The two must match: bpf-linker reads the compiler's bitcode, and LLVM reads bitcode of
//! its own version and older only. So they are looked for in pairs ([`find`]), and when no
//! pair is there the one that this machine can get is installed ([`find_or_install`]).
//! `docs/decisions/0002` has the reasons for the order.

mod compiler;
mod install;
mod linker;
mod llvm;

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub(crate) use compiler::Compiler;
pub(crate) use linker::Linker;

use crate::host::command;

/// A compiler and a linker that fit each other.
#[derive(Debug)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: Linker,
}

impl Toolchain {
    /// A cargo command for the BPF target, in the checkout, with its own target folder: the
    /// host crates' cache is not disturbed by another compiler and other flags.
    pub(crate) fn cargo(&self, verb: &str, target_dir: &Path) -> Result<Command> {
        self.cargo_of(Architecture::X86_64, verb, target_dir)
    }

    /// The same for an object whose programs run on `architecture`.
    pub(crate) fn cargo_of(
        &self,
        architecture: Architecture,
        verb: &str,
        target_dir: &Path,
    ) -> Result<Command> {
        let mut cargo = self.cargo_at(&crate::host::root(), &cargo_home()?, architecture, verb)?;
        cargo.arg("--target-dir").arg(target_dir);
        Ok(cargo)
    }

    /// The same in any checkout, with the dependencies' source in any `CARGO_HOME`.
    pub(crate) fn cargo_at(
        &self,
        checkout: &Path,
        home: &Path,
        architecture: Architecture,
        verb: &str,
    ) -> Result<Command> {
        // As the compiler sees them: it asks the kernel where it is, which follows links.
        let real = |path: &Path| {
            path.canonicalize()
                .with_context(|| format!("cannot find {}", path.display()))
        };
        let (checkout, home) = (&real(checkout)?, &real(home)?);
        let mut flags: Vec<OsString> = architecture.flags().map(OsString::from).into();
        flags.extend(without_places(checkout, home));
        let mut cargo = self.compiler.cargo(verb);
        cargo
            .current_dir(checkout)
            .env("CARGO_HOME", home)
            .env("PATH", command::path_with(self.linker.folder())?)
            // Lets a stable compiler build `core` for a target that has none.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\x1f")))
            .args([
                "-Z",
                "build-std=core",
                "--target",
                "bpfel-unknown-none",
                "--release",
            ]);
        Ok(cargo)
    }

    /// Its cargo for targets other than BPF, in the checkout.
    pub(crate) fn host_cargo(&self, verb: &str) -> Command {
        let mut cargo = self.compiler.cargo(verb);
        cargo.current_dir(crate::host::root());
        cargo
    }

    /// The compiler is of a Debian package.
    pub(crate) fn is_debians(&self) -> bool {
        self.compiler.is_debians()
    }

    /// Makes sure that this compiler has clippy.
    pub(crate) fn ensure_clippy(&self) -> Result<()> {
        self.compiler.ensure_clippy()
    }

    /// One line for the log.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{}, bpf-linker {} with LLVM {}",
            self.compiler.name(),
            linker::VERSION,
            self.linker.llvm()
        )
    }
}

/// Whose kernel runs the probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// x86_64
    X86_64,
    /// aarch64
    Aarch64,
}

impl Architecture {
    /// For aya-ebpf (registers of the traced architecture), and for BTF in the object.
    fn flags(self) -> [&'static str; 3] {
        let architecture = match self {
            Self::X86_64 => "--cfg=bpf_target_arch=\"x86_64\"",
            Self::Aarch64 => "--cfg=bpf_target_arch=\"aarch64\"",
        };
        [architecture, "-Cdebuginfo=2", "-Clink-arg=--btf"]
    }
}

/// Keeps out of the object where on this machine it was built: debug information and BTF name
/// source files. The checkout becomes `.`, so that the linker, which is started there, still
/// finds the source lines that it copies for the verifier's messages.
fn without_places(checkout: &Path, home: &Path) -> [OsString; 2] {
    [(checkout, "."), (home, "/cargo")].map(|(place, name)| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(place);
        flag.push("=");
        flag.push(name);
        flag
    })
}

/// Where cargo keeps the source of dependencies.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    match env::var_os("CARGO_HOME") {
        Some(path) if !path.is_empty() => Ok(crate::host::root().join(path)),
        _ => env::home_dir()
            .map(|home| home.join(".cargo"))
            .context("neither CARGO_HOME nor HOME is set"),
    }
}

/// A pair that is there, or made complete by building the linker; else installs one.
pub(crate) fn find_or_install() -> Result<Toolchain> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the eBPF object is built on x86_64 only so far");
    }
    if let Some((compiler, llvm)) = find() {
        let linker = Linker::find_or_build(&llvm)?;
        return Ok(Toolchain { compiler, linker });
    }
    install::any()?;
    let Some((compiler, llvm)) = find() else {
        bail!("the compiler that was installed for eBPF does not fit any LLVM on this machine");
    };
    let linker = Linker::find_or_build(&llvm)?;
    Ok(Toolchain { compiler, linker })
}

/// The first compiler that has the source of `core` and an LLVM to build its linker with.
fn find() -> Option<(Compiler, llvm::Llvm)> {
    compiler::candidates().into_iter().find_map(|compiler| {
        let llvm = llvm::Llvm::of_version(compiler.llvm())?;
        Some((compiler, llvm))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_checkout_nor_home_stays_in_the_object() {
        let flags = without_places(Path::new("/a/checkout"), Path::new("/b/cargo"));
        assert_eq!(
            flags,
            [
                "--remap-path-prefix=/a/checkout=.",
                "--remap-path-prefix=/b/cargo=/cargo"
            ]
        );
    }
}
