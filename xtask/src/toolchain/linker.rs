//! bpf-linker, built into the target folder against one LLVM, and stamped with both
//! versions so that a change of either builds it again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::llvm::Llvm;
use crate::host::{command, target_dir};

/// The release that was tried with our compilers and kernels.
pub(crate) const VERSION: &str = "0.13.0";

/// A bpf-linker in a folder of its own.
#[derive(Debug)]
pub(crate) struct Linker {
    folder: PathBuf,
    llvm: u32,
}

impl Linker {
    /// The linker for this LLVM: the one built before, or a new one.
    pub(crate) fn find_or_build(llvm: &Llvm) -> Result<Self> {
        let home = target_dir().join("tools");
        let stamp_file = home.join("bpf-linker.stamp");
        let stamp = stamp(llvm);
        let linker = Self {
            folder: home.join("bin"),
            llvm: llvm.version,
        };
        let built_before = fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp);
        if built_before && linker.folder.join("bpf-linker").is_file() {
            return Ok(linker);
        }
        build(&home, llvm)?;
        fs::write(&stamp_file, stamp)
            .with_context(|| format!("cannot write {}", stamp_file.display()))?;
        Ok(linker)
    }

    /// The folder to put on `PATH`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Major version of its LLVM.
    pub(crate) fn llvm(&self) -> u32 {
        self.llvm
    }
}

fn build(home: &Path, llvm: &Llvm) -> Result<()> {
    println!(
        "building bpf-linker {VERSION} against LLVM {} into {} (about a minute)",
        llvm.version,
        home.join("bin").display()
    );
    let library = llvm.prefix.join("lib");
    let mut cargo = command::cargo_for_tools();
    cargo
        .env("LLVM_PREFIX", &llvm.prefix)
        .env("RUSTFLAGS", format!("-L {}", library.display()))
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
            "--quiet",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{}", llvm.version),
        ])
        .arg("--root")
        .arg(home)
        .arg("--target-dir")
        .arg(home.join("build"));
    command::run(&mut cargo).context("bpf-linker could not be built")?;
    // Only the binary is wanted; what it was made of is large.
    let _ = fs::remove_dir_all(home.join("build"));
    Ok(())
}

fn stamp(llvm: &Llvm) -> String {
    format!(
        "{VERSION} llvm-{} {}\n",
        llvm.version,
        llvm.prefix.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_changes_with_the_llvm() {
        let old = Llvm {
            version: 22,
            prefix: "/usr/lib/llvm-22".into(),
        };
        let new = Llvm {
            version: 23,
            prefix: "/usr/lib/llvm-23".into(),
        };
        assert_ne!(stamp(&old), stamp(&new));
    }
}
