//! `dist`: what is handed out, in `target/dist`.
//!
//! In: the sources. Out: the program linked statically, a Debian package, an archive, and their
//! checksums. The same commit with the same compiler gives the same bytes: times are those of the
//! commit. Nothing is installed.

mod archive;
mod deb;
mod pages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::host::{command, root, target_dir};
use crate::toolchain;

/// What the program is built for. It is named so that flags for it are not those of build scripts
/// and macros, which cannot be static.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Makes everything, and says where it is.
pub(crate) fn run() -> Result<()> {
    let toolchain = toolchain::find_or_install()?;
    println!("eBPF compiler: {}", toolchain.describe());
    build::object(&toolchain)?;
    let made = make()?;
    println!();
    for file in &made {
        println!("{:>9} bytes  {}", fs::metadata(file)?.len(), file.display());
    }
    Ok(())
}

/// Makes everything around the object that is there.
pub(crate) fn make() -> Result<Vec<PathBuf>> {
    let folder = target_dir().join("dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = program()?;
    let package = pages::write(&program)?;
    let copy = folder.join("why502");
    fs::copy(&program, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    let mut made = vec![
        copy,
        deb::build(&folder)?,
        archive::build(&folder, &program, &package)?,
    ];
    made.push(sums(&folder, &made)?);
    Ok(made)
}

/// The agent as one file that needs no other: no loader, no library, so it runs on every
/// distribution and in an empty image.
pub(crate) fn program() -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", "agent", "--bin", "why502", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir())
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    command::run(&mut cargo).context("the static program could not be built")?;
    Ok(built().join("why502"))
}

/// Where cargo puts it, and cargo-deb looks for what an asset calls `target/release`.
fn built() -> PathBuf {
    target_dir().join(TARGET).join("release")
}

/// The version of the workspace.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// When the commit was made, seconds since 1970, for everything that carries a date.
fn date() -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["log", "-1", "--format=%ct"]);
    let date = command::output(&mut git).context("the date of a package comes from git")?;
    Ok(date.trim().to_owned())
}

/// `SHA256SUMS` of the files, as `sha256sum --check` reads it.
fn sums(folder: &Path, files: &[PathBuf]) -> Result<PathBuf> {
    let mut sha256sum = Command::new("sha256sum");
    sha256sum.current_dir(folder);
    sha256sum.args(files.iter().filter_map(|file| file.file_name()));
    let path = folder.join("SHA256SUMS");
    fs::write(&path, command::output(&mut sha256sum)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
