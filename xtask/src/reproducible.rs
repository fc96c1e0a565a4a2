//! `reproducible`: the eBPF object, built again from nothing and elsewhere, is the same file.
//!
//! In: the checkout's object, as `build` leaves it. The second build has another checkout,
//! another target folder and another `CARGO_HOME`, and starts from nothing; compiler and
//! linker are the same, for they are part of the recipe. Out: the hash, or an error.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::host::command;
use crate::host::scratch::Scratch;
use crate::host::{checked_in, root};
use crate::toolchain::{Architecture, Toolchain, cargo_home};

/// Builds twice and compares.
pub(crate) fn check(toolchain: &Toolchain) -> Result<()> {
    let here = build::object(toolchain)?;
    let scratch = Scratch::new("elsewhere")?;
    let elsewhere = elsewhere(toolchain, scratch.path())?;
    let again = build::carried(&elsewhere)?;
    if fs::read(&here)? != again {
        let kept = here.with_extension("elsewhere");
        fs::write(&kept, again).with_context(|| format!("cannot write {}", kept.display()))?;
        bail!(
            "two builds of the same source differ: compare {} and {}",
            here.display(),
            kept.display()
        );
    }
    let sum = command::output(Command::new("sha256sum").arg(&here))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    println!("two builds, one object: sha256 {sum}");
    Ok(())
}

/// Copies what is checked in and builds it there.
fn elsewhere(toolchain: &Toolchain, folder: &Path) -> Result<PathBuf> {
    let checkout = folder.join("some/other/place");
    copy_checkout(&checkout)?;
    let home = folder.join("cargo-home");
    let registry = home.join("registry");
    fs::create_dir_all(&registry)?;
    // The dependencies are unpacked again, and not downloaded again.
    for part in ["cache", "index"] {
        symlink(
            cargo_home()?.join("registry").join(part),
            registry.join(part),
        )?;
    }
    let target = folder.join("target");
    let mut cargo = toolchain.cargo_at(&checkout, &home, Architecture::X86_64, "build")?;
    cargo
        .arg("--target-dir")
        .arg(&target)
        .args(["--package", "agent-ebpf", "--bin", "agent-ebpf"])
        .args(["--quiet", "--locked"]);
    command::run(&mut cargo).context("the second build failed")?;
    Ok(target.join(build::OBJECT))
}

fn copy_checkout(to: &Path) -> Result<()> {
    for path in checked_in()? {
        let from = root().join(&path);
        // Deleted, and git does not know yet.
        if !from.is_file() {
            continue;
        }
        let to = to.join(&path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}
