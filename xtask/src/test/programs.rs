//! The test programs of a package, run one after the other: all their tests, or one alone.
//!
//! A program is run by its path, as cargo would, so that running one test again costs no look
//! at the whole workspace.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::libtest;
use crate::host::{command, target_dir};

/// How long output is waited for after a program's end. A process that it left behind may hold
/// the other end of the pipe for ever. Shorter: the last lines are missing on a busy machine;
/// longer: such a process delays the suite.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is looked whether the output is complete.
const POLL: Duration = Duration::from_millis(5);

/// The test programs of a package, and the agent that they test.
pub(super) struct Programs {
    pub(super) list: Vec<Program>,
    agent: PathBuf,
}

/// A test program.
pub(super) struct Program {
    /// What cargo calls it: `--test NAME`.
    pub(super) target: String,
    pub(super) tests: Vec<String>,
    pub(super) path: PathBuf,
    /// The folder of its package, where cargo runs it.
    pub(super) folder: PathBuf,
}

/// How a run ended, and what was printed meanwhile.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) output: String,
}

/// A line of `cargo --message-format=json`, as far as it is of use here.
#[derive(Debug, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact {
        target: Target,
        manifest_path: PathBuf,
        profile: Profile,
        executable: Option<PathBuf>,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

impl Programs {
    /// Builds the test programs of `package`, which find the agent at `agent`; only those of
    /// `targets` unless that is empty.
    pub(super) fn build(package: &str, targets: &[String], agent: PathBuf) -> Result<Self> {
        let mut cargo = command::cargo();
        cargo
            .args(["test", "--quiet", "--no-run", "--package", package])
            .args(["--message-format", "json-render-diagnostics"])
            .arg("--target-dir")
            .arg(target_dir());
        for target in targets {
            cargo.args(["--test", target]);
        }
        let mut list = Vec::new();
        for (target, path, folder) in built(&command::output(&mut cargo)?)? {
            let mut program = Program {
                target,
                tests: Vec::new(),
                path,
                folder,
            };
            let listed = command::output(program.command().args(["--list", "--format", "terse"]))?;
            program.tests = libtest::names(&listed);
            list.push(program);
        }
        Ok(Self { list, agent })
    }

    /// Runs all tests of a program; its output is shown as it comes, and kept but for what
    /// goes to standard error.
    pub(super) fn run(&self, program: &Program) -> Result<Ended> {
        let mut command = self.harness(program);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.path.display()))?;
        let output = child.stdout.take().map(|out| Gathered::new(out, true));
        let status = child.wait()?;
        let output = output.map(Gathered::finish).unwrap_or_default();
        Ok(Ended { status, output })
    }

    /// Runs one test by itself; keeps all that it, its program and their children print.
    pub(super) fn run_alone(&self, program: &Program, test: &str) -> Result<Ended> {
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let mut command = self.harness(program);
        command
            .args(["--exact", test, "--show-output"])
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.path.display()))?;
        // Its copies of the writing end would keep the reader waiting.
        drop(command);
        let output = Gathered::new(reader, false);
        let status = child.wait()?;
        Ok(Ended {
            status,
            output: output.finish(),
        })
    }

    /// One host, one agent, one set of ports: one test at a time.
    fn harness(&self, program: &Program) -> Command {
        let mut command = program.command();
        command
            .env("WHY502_BIN", &self.agent)
            .args(["--test-threads", "1", "--color", "never"]);
        command
    }
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(&self.folder)
            // Otherwise it would be that of this task, which cargo runs too.
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .stdin(Stdio::null());
        command
    }
}

/// Target, path and folder of each test program that cargo tells of: in cargo's own order,
/// which is not the order in which they were built.
fn built(messages: &str) -> Result<Vec<(String, PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("cannot read what cargo says of its work: {line}"))?;
        if let Message::CompilerArtifact {
            target: Target { kind, name },
            manifest_path,
            profile: Profile { test: true },
            executable: Some(path),
        } = message
        {
            let rank = ["lib", "bin", "test"]
                .iter()
                .position(|it| kind.iter().any(|kind| kind == it));
            let folder = manifest_path.parent().unwrap_or(Path::new("."));
            found.push((rank, name, path, folder.to_path_buf()));
        }
    }
    found.sort();
    let programs = found
        .into_iter()
        .map(|(_, name, path, folder)| (name, path, folder));
    Ok(programs.collect())
}

/// Output that is read by a thread until its end, or until nobody waits for it any more.
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Gathered {
    fn new(mut from: impl Read + Send + 'static, show: bool) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let Some(part) = buffer.get(..count) else {
                    return;
                };
                into.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(part);
                if show {
                    let mut out = io::stdout().lock();
                    // Whoever closed our output does not want to see it.
                    let _closed = out.write_all(part).and_then(|()| out.flush());
                }
            }
        });
        Self { bytes, thread }
    }

    fn finish(self) -> String {
        let started = Instant::now();
        while !self.thread.is_finished() && started.elapsed() < GRACE {
            thread::sleep(POLL);
        }
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(kind: &str, name: &str, test: bool, executable: &str) -> String {
        format!(
            "{{\"reason\":\"compiler-artifact\",\"package_id\":\"x\",\"manifest_path\":\"/x/Cargo.toml\",\
             \"target\":{{\"kind\":[\"{kind}\"],\"name\":\"{name}\"}},\
             \"profile\":{{\"opt_level\":\"0\",\"test\":{test}}},\"executable\":{executable}}}\n"
        )
    }

    #[test]
    fn test_programs_come_in_cargos_order_and_nothing_else_does() {
        let messages = [
            artifact("test", "timers", true, "\"/x/timers\""),
            artifact("bin", "misbehave", false, "\"/x/misbehave\""),
            artifact("bin", "misbehave", true, "\"/x/misbehave-test\""),
            artifact("lib", "e2e", false, "null"),
            artifact("test", "alerts", true, "\"/x/alerts\""),
            artifact("lib", "e2e", true, "\"/x/lib\""),
            "{\"reason\":\"build-finished\",\"success\":true}\n".to_owned(),
        ]
        .concat();
        let programs = built(&messages).expect("as cargo says it");
        let targets: Vec<&str> = programs.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(targets, ["e2e", "misbehave", "alerts", "timers"]);
        assert!(
            programs
                .iter()
                .all(|(.., folder)| folder == Path::new("/x"))
        );
    }

    #[test]
    fn a_message_that_cannot_be_read_is_an_error_not_a_lost_program() {
        assert!(built("{\"reason\":\"compiler-artifact\"}\n").is_err());
    }

    #[test]
    fn a_process_left_behind_does_not_keep_the_output_open() {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "sleep 60 & echo $!"])
            .stdout(Stdio::piped());
        let mut child = shell.spawn().expect("sh is everywhere");
        let output = Gathered::new(child.stdout.take().expect("piped"), false);
        child.wait().expect("it ends");
        let started = Instant::now();
        let pid = output.finish();
        assert!(started.elapsed() < Duration::from_secs(30));
        let killed = Command::new("kill").arg(pid.trim()).status();
        assert!(killed.expect("kill is everywhere").success());
    }
}
