//! What packages carry beside the program: completions for shells, and manual pages.
//!
//! In: the command line as clap knows it. Out: text. Nothing here is written by hand, so that it
//! cannot differ from what is parsed.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::Cli;

/// What `completions --help` says first.
pub(super) const COMPLETIONS: &str = "\
Print what completes this command line in a shell.

The packages bring it for bash, zsh and fish; a binary that was copied does not.";

/// What `completions --help` says last.
pub(super) const EXAMPLES: &str = "\
Examples:
  why502 completions bash > /etc/bash_completion.d/why502
  why502 completions zsh > ~/.zfunc/_why502
  why502 completions fish > ~/.config/fish/completions/why502.fish";

/// For whom.
#[derive(Debug, Args)]
pub(super) struct Shell {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// A folder that is there
    folder: PathBuf,
}

/// Prints the completions.
pub(super) fn completions(shell: &Shell) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell.shell, &mut Cli::command(), "why502", &mut text);
    std::io::stdout()
        .write_all(&text)
        .context("cannot print the completions")?;
    Ok(ExitCode::SUCCESS)
}

/// Writes `why502.1` and one page for each command that is not hidden.
pub(super) fn manual(folder: &Folder) -> anyhow::Result<ExitCode> {
    let Folder { folder } = folder;
    clap_mangen::generate_to(Cli::command(), folder).with_context(|| {
        format!(
            "cannot write manual pages into {}: name a folder that is there",
            folder.display()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
