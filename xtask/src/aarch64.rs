//! `aarch64`: what can be checked of the other architecture on this one.
//!
//! The object is built for both; what the kernel runs must be the same, byte for byte. The
//! agent is compiled, not linked, when the standard library for it can be had.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::build;
use crate::host::apt::{self, Package};
use crate::host::archive::Archive;
use crate::host::{command, target_dir};
use crate::toolchain::{Architecture, Toolchain};

/// The target of the agent.
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Debian's standard library of the compiler that is used for the object.
const LIBRARY: &str = "libstd-rust-web-dev";

/// What ring's C is compiled with.
const C_COMPILER: [Package; 2] = [
    Package {
        name: "gcc-aarch64-linux-gnu",
        shows: "aarch64-linux-gnu-gcc",
    },
    Package {
        name: "libc6-dev-arm64-cross",
        shows: "/usr/aarch64-linux-gnu/include/stdint.h",
    },
];

/// Sections that hold names and lines for people and tools: aya's bindings are in a module that
/// is called after the architecture.
const FOR_PEOPLE: [&str; 4] = [".BTF", ".rel.BTF", ".strtab", ".symtab"];

/// The object for both architectures, compared.
pub(crate) fn same_object(toolchain: &Toolchain) -> Result<()> {
    let ours = build::object(toolchain)?;
    let folder = target_dir().join("bpf-build-aarch64");
    let theirs = build::object_of(toolchain, Architecture::Aarch64, &folder)?;
    let ours = fs::read(&ours).with_context(|| format!("cannot read {}", ours.display()))?;
    let (ours, theirs) = (sections(&ours)?, sections(&build::carried(&theirs)?)?);
    let names = ours.keys().chain(theirs.keys());
    let different: Vec<&str> = names
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(String::as_str)
        .collect();
    if !different.is_empty() {
        bail!("they differ in {}", different.join(", "));
    }
    let bytes: usize = ours.values().map(Vec::len).sum();
    println!(
        "aarch64 and x86_64: {} sections, {bytes} bytes, the same",
        ours.len()
    );
    Ok(())
}

/// What the kernel is given, by name of its section.
fn sections(object: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let file = object::File::parse(object).context("the eBPF object is no object file")?;
    let mut sections = BTreeMap::new();
    for section in file.sections() {
        let name = section.name()?.to_owned();
        if !FOR_PEOPLE.iter().any(|prefix| name.starts_with(prefix)) {
            sections.insert(name, section.data()?.to_vec());
        }
    }
    Ok(sections)
}

/// Compiles the agent, as far as an object file each.
pub(crate) fn agent(toolchain: &Toolchain) -> Result<()> {
    apt::ensure(&C_COMPILER, "compiling the agent for aarch64")?;
    let folder = target_dir().join("aarch64");
    let mut cargo = toolchain.host_cargo("check");
    let mut flags = vec!["-Dwarnings".to_owned()];
    if toolchain.is_debians() {
        let sysroot = folder.join("library/unpacked/usr");
        if !sysroot.join("lib/rustlib").join(TARGET).is_dir() {
            fetch_library(&folder.join("library"))?;
        }
        flags.push("--sysroot".to_owned());
        flags.push(sysroot.display().to_string());
    }
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["--quiet", "--package", "agent", "--target", TARGET])
        .arg("--target-dir")
        .arg(&folder);
    command::run(&mut cargo)
        .context("the agent does not compile for aarch64 (rustup: rustup target add)")?;
    println!("the agent compiles for {TARGET}; it is not linked and not run");
    Ok(())
}

/// The library of exactly the compiler's version.
fn fetch_library(folder: &Path) -> Result<()> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Version}", "rustc-web"]);
    let version = command::output(&mut query)?;
    let debian = Archive::of_this_machine(folder, "arm64")?;
    debian.fetch(&format!("{LIBRARY}={version}"))?;
    Ok(())
}
