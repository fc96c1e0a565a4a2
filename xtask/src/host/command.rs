//! Running a program to its end: loudly, quietly, or with a limit of time.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a program under a time limit is looked at. Smaller: wasted wake-ups; larger:
/// the end of a short program is seen late.
const POLL: Duration = Duration::from_millis(50);

/// Variables that would give a build of ours another compiler or other flags.
const INHERITED: [&str; 7] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
];

/// `program` without what cargo and rustup set for their children: another toolchain than
/// ours.
pub(crate) fn bare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("RUSTUP_TOOLCHAIN");
    for name in INHERITED {
        command.env_remove(name);
    }
    command
}

/// The cargo that runs this task, without flags meant for this workspace.
///
/// rustup's choice of toolchain is kept: without it, the toolchain file of a package that is
/// built would count, and rustup would change the user's toolchains to please it.
pub(crate) fn cargo_for_tools() -> Command {
    let mut command = Command::new(own_cargo());
    for name in INHERITED {
        command.env_remove(name);
    }
    command
}

/// The cargo that runs this task, in the checkout.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(own_cargo());
    command.current_dir(super::root());
    command
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            if word.is_empty() || word.contains([' ', '"', '$', '&', '|', ';']) {
                format!("'{word}'")
            } else {
                word.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end; output goes where ours goes; failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    ensure(status, command)
}

/// Runs to the end and gives standard output; failure is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    ensure(output.status, command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Standard output of a program that may well be missing or fail: then `None`.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs for at most `limit`, then kills it and returns an error.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return ensure(status, command);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!(
                "`{}` took longer than {} s and was stopped",
                line(command),
                limit.as_secs()
            );
        }
        thread::sleep(POLL);
    }
}

/// `path` put before the current `PATH`.
pub(crate) fn path_with(folder: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders)
        .with_context(|| format!("{} cannot stand in PATH", folder.display()))
}

fn own_cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn ensure(status: ExitStatus, command: &Command) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_too_long_is_stopped() {
        let started = Instant::now();
        let result = run_within(Command::new("sleep").arg("60"), Duration::from_millis(200));
        assert!(result.is_err());
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_missing_program_is_no_probe_result() {
        assert_eq!(probe(&mut Command::new("no-such-program-here")), None);
    }

    #[test]
    fn a_command_reads_as_one_would_type_it() {
        let mut command = Command::new("ip");
        command.args(["link", "add", "a name"]);
        assert_eq!(line(&command), "ip link add 'a name'");
    }
}
