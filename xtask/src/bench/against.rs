//! The program of another commit, to be compared with: built from that commit's files, by that
//! commit's own `cargo xtask build`.
//!
//! Out: a program in `target/against`, named by its commit and kept. The worktree in which it is
//! built is gone afterwards; what cargo built for it stays, for the next commit.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::{command, root, target_dir};

/// A program that is there.
#[derive(Clone, Debug)]
pub(super) struct Against {
    /// As git abbreviates it.
    pub(super) commit: String,
    /// Optimised, and as static as its commit made it.
    pub(super) program: PathBuf,
}

impl Against {
    /// Builds the program of `commit`, any name that git knows, unless it was built before.
    pub(super) fn build(commit: &str) -> Result<Self> {
        let mut parse = git();
        parse.args(["rev-parse", "--verify", "--short=12"]);
        parse.arg(format!("{commit}^{{commit}}"));
        let commit = command::output(&mut parse)
            .with_context(|| format!("{commit} is no commit of this repository"))?;
        let commit = commit.trim().to_owned();
        let folder = target_dir().join("against");
        let program = folder.join(format!("why502-{commit}"));
        if !program.exists() {
            println!("building the agent of commit {commit}, which takes minutes");
            let built = build(&folder, &commit)
                .with_context(|| format!("commit {commit} could not be built"))?;
            // Under its name only when it is complete.
            let aside = folder.join("why502-new");
            fs::copy(&built, &aside)
                .and_then(|_| fs::rename(&aside, &program))
                .with_context(|| format!("cannot keep {}", built.display()))?;
        }
        Ok(Self { commit, program })
    }
}

/// Builds it in a worktree; the program, where that commit's build leaves it.
fn build(folder: &Path, commit: &str) -> Result<PathBuf> {
    let results = folder.join("build");
    fs::create_dir_all(&results)
        .with_context(|| format!("cannot make the folder {}", results.display()))?;
    // The linker of eBPF objects is not built once more.
    link(&target_dir().join("tools"), &results.join("tools"))?;
    let worktree = Worktree::add(folder.join("tree"), commit)?;
    // The agent's build script looks for the eBPF object in its own checkout's `target`.
    link(&results, &worktree.folder.join("target"))?;
    let mut cargo = command::cargo();
    cargo
        .current_dir(&worktree.folder)
        .env_remove("CARGO_TARGET_DIR")
        .args(["xtask", "build", "--release"]);
    command::run(&mut cargo)?;
    Ok(results.join("release/why502"))
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        return Ok(());
    }
    symlink(to, at).with_context(|| format!("cannot link {}", at.display()))
}

/// A checkout of another commit, gone with this.
struct Worktree {
    folder: PathBuf,
}

impl Worktree {
    fn add(folder: PathBuf, commit: &str) -> Result<Self> {
        let worktree = Self { folder };
        // One that was left behind when a build was killed.
        if worktree.folder.exists() {
            worktree.remove()?;
        }
        let mut add = git();
        add.args(["worktree", "add", "--quiet", "--detach"]);
        command::run(add.arg(&worktree.folder).arg(commit))?;
        Ok(worktree)
    }

    fn remove(&self) -> Result<()> {
        let mut remove = git();
        remove.args(["worktree", "remove", "--force"]);
        command::run(remove.arg(&self.folder))
    }
}

impl Drop for Worktree {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("warning: a worktree stays behind: {error:#}");
        }
    }
}

fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(root());
    git
}
