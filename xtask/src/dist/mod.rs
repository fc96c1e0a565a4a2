//! `dist`: what is handed out, in `target/dist`.
//!
//! In: the sources. Out: the program linked statically, a Debian package, an archive, and their
//! checksums. The same program packed again gives the same bytes: times are those of the commit.
//! Nothing is installed.

mod archive;
mod deb;
mod install;
mod pages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::build;
use crate::host::{command, root, target_dir};

/// What to make.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Options {
    /// Make the program only, which is what the image is made of.
    #[arg(long)]
    program_only: bool,
}

/// Makes everything, and says where it is.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { program_only } = options;
    let folder = target_dir().join("dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = program(&folder)?;
    let mut made = vec![program.clone()];
    if !program_only {
        let package = pages::write(&program)?;
        made.push(deb::build(&folder)?);
        made.push(archive::build(&folder, &program, &package)?);
    }
    made.push(sums(&folder, &made)?);
    for file in &made {
        println!("{:>9} bytes  {}", fs::metadata(file)?.len(), file.display());
    }
    Ok(())
}

/// Makes everything, and tries the Debian package. For the archive the same program must do.
pub(crate) fn check() -> Result<()> {
    run(&Options::default())?;
    let deb = format!("why502_{}_amd64.deb", version());
    install::check(&target_dir().join("dist").join(deb))
}

/// The release of the agent without symbols, which is a third of it.
fn program(folder: &Path) -> Result<PathBuf> {
    let built = build::everything(true)?;
    let program = folder.join("why502");
    let mut strip = Command::new("strip");
    strip.arg("--strip-all").arg("-o").arg(&program);
    command::run(strip.arg(&built)).context("`strip` comes with the linker (binutils)")?;
    Ok(program)
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
