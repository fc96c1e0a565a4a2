//! `build`: the eBPF object, then the agent that carries it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use object::build::elf;

use crate::host::{command, target_dir};
use crate::toolchain::{self, Architecture, Toolchain};

/// The object in the folder of its own build.
pub(crate) const OBJECT: &str = "bpfel-unknown-none/release/agent-ebpf";

/// What a release is built for. It is named so that the flag for it is not that of build scripts
/// and macros, which cannot be static.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What to build.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Options {
    /// Build the agent optimised. The eBPF object always is.
    #[arg(long)]
    pub(crate) release: bool,
    /// Build the eBPF object only.
    #[arg(long)]
    pub(crate) object_only: bool,
}

/// Builds, and says where the result is.
pub(crate) fn run(options: &Options) -> Result<()> {
    let toolchain = toolchain::find_or_install()?;
    println!("eBPF compiler: {}", toolchain.describe());
    let object = object(&toolchain)?;
    println!("eBPF object: {}", object.display());
    if !options.object_only {
        println!("agent: {}", agent(options.release)?.display());
    }
    Ok(())
}

/// Finds a compiler and builds both; the path of the agent.
pub(crate) fn everything(release: bool) -> Result<PathBuf> {
    let toolchain = toolchain::find_or_install()?;
    object(&toolchain)?;
    agent(release)
}

/// Builds the eBPF object and puts it where the agent's build script takes it from.
pub(crate) fn object(toolchain: &Toolchain) -> Result<PathBuf> {
    let built = object_of(toolchain, Architecture::X86_64, &bpf_target_dir())?;
    let object = target_dir().join("bpf/agent-ebpf");
    if let Some(folder) = object.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    write_if_different(&carried(&built)?, &built, &object)?;
    Ok(object)
}

/// What the agent carries of an object as the linker wrote it.
pub(crate) fn carried(built: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    without_debug(&bytes)
}

/// The object without debug information: the linker made BTF of it, which is what the kernel reads.
/// The rest, five sixths of the object, would only be carried, and mapped, by every agent.
fn without_debug(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut elf = elf::Builder::read(bytes).context("the eBPF object is no ELF file")?;
    for section in &mut elf.sections {
        section.delete = [".debug_", ".rel.debug_"]
            .iter()
            .any(|start| section.name.starts_with(start.as_bytes()));
    }
    elf.delete_orphans();
    // The linker keeps names of sections among the others, which the writer does not.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)
        .context("the eBPF object cannot be written without debug information")?;
    Ok(stripped)
}

/// Builds the eBPF object for an architecture, in a folder of its own.
pub(crate) fn object_of(
    toolchain: &Toolchain,
    architecture: Architecture,
    build_dir: &Path,
) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo_of(architecture, "build", build_dir)?;
    cargo.args(["--package", "agent-ebpf", "--bin", "agent-ebpf", "--quiet"]);
    command::run(&mut cargo).context("the eBPF object could not be built")?;
    Ok(build_dir.join(OBJECT))
}

/// Builds the agent around the object that is there; the path of the binary. A release is one
/// file that needs no other: no loader, no library, so it runs on every distribution and in an
/// empty image.
pub(crate) fn agent(release: bool) -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--quiet", "--package", "agent", "--bin", "why502"]);
    if !release {
        return binary(&mut cargo, "why502", false);
    }
    cargo
        .args(["--target", TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    binary(&mut cargo, "why502", true)?;
    // Where a release is looked for.
    let release = target_dir().join("release");
    fs::create_dir_all(&release)
        .with_context(|| format!("cannot make the folder {}", release.display()))?;
    let program = release.join("why502");
    copy_if_different(&static_dir().join("why502"), &program)?;
    Ok(program)
}

/// Where cargo puts what is linked statically.
pub(crate) fn static_dir() -> PathBuf {
    target_dir().join(TARGET).join("release")
}

/// Runs a `cargo build` and gives the path of the binary it made.
pub(crate) fn binary(
    cargo: &mut std::process::Command,
    name: &str,
    release: bool,
) -> Result<PathBuf> {
    if release {
        cargo.arg("--release");
    }
    cargo.arg("--target-dir").arg(target_dir());
    command::run(cargo).with_context(|| format!("{name} could not be built"))?;
    let profile = if release { "release" } else { "debug" };
    Ok(target_dir().join(profile).join(name))
}

/// Where the object's own build goes.
pub(crate) fn bpf_target_dir() -> PathBuf {
    target_dir().join("bpf-build")
}

/// Leaves the file alone when its bytes are the same: cargo would rebuild the agent for a
/// newer date.
fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_if_different(&new, from, to)
}

/// The same for bytes made of the file `from`.
fn write_if_different(new: &[u8], from: &Path, to: &Path) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // Written aside and moved, so that no reader sees half of it.
    let aside = to.with_extension("new");
    fs::write(&aside, new)
        .and_then(|()| fs::set_permissions(&aside, fs::metadata(from)?.permissions()))
        .and_then(|()| fs::rename(&aside, to))
        .with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scratch::Scratch;

    #[test]
    fn a_file_with_the_same_bytes_is_left_alone() {
        let folder = Scratch::new("copy-test").expect("folder");
        let from = folder.path().join("from");
        let to = folder.path().join("to");
        fs::write(&from, "object")
            .and_then(|()| fs::write(&to, "object"))
            .expect("files");
        let date = fs::metadata(&to)
            .and_then(|meta| meta.modified())
            .expect("date");
        copy_if_different(&from, &to).expect("same");
        assert_eq!(
            fs::metadata(&to)
                .and_then(|meta| meta.modified())
                .expect("date"),
            date
        );
        fs::write(&from, "other").expect("changed");
        copy_if_different(&from, &to).expect("different");
        assert_eq!(fs::read(&to).expect("to"), b"other");
    }
}
