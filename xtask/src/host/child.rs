//! A program running beside a task, ended when its guard is dropped.
//!
//! Three nets, so that nothing stays behind: the guard ends it, `setpriv --pdeathsig`
//! ends it when this process dies without running its guards, and its own process group
//! keeps the terminal's Ctrl-C from it, so that the order of ending stays ours.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::command::line;

/// How long a program may take to end by itself after SIGTERM. Shorter: a daemon cannot
/// detach its probes; longer: a hung one delays the end of the task.
const GRACE: Duration = Duration::from_secs(5);

/// How often a program that shall end or start is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A running program.
#[derive(Debug)]
pub(crate) struct Guard {
    name: String,
    child: Child,
    readers: Vec<JoinHandle<()>>,
}

impl Guard {
    /// Starts `command`; `name` is what messages call it.
    pub(crate) fn start(name: &str, command: &Command) -> Result<Self> {
        Self::spawn(name, command, Stdio::inherit())
    }

    /// Starts `command` and gives each line of its standard output to `tell`.
    pub(crate) fn start_reading(
        name: &str,
        command: &Command,
        tell: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self> {
        let mut guard = Self::spawn(name, command, Stdio::piped())?;
        if let Some(out) = guard.child.stdout.take() {
            guard.readers.push(read_lines(out, tell));
        }
        Ok(guard)
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot look after {}", self.name))
    }

    /// Waits until `address` accepts connections; an error when the program ends first.
    pub(crate) fn wait_listening(&mut self, address: SocketAddr, limit: Duration) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect_timeout(&address, POLL * 10).is_err() {
            if let Some(status) = self.ended()? {
                bail!(
                    "{} ended before it listened on {address}: {status}",
                    self.name
                );
            }
            if started.elapsed() > limit {
                bail!(
                    "{} does not listen on {address} after {} s",
                    self.name,
                    limit.as_secs()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// SIGINT, then waits for its end; what it still wrote has been read then.
    pub(crate) fn interrupt(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && self.ended()?.is_none()
        {
            // An error means that it is gone already, which is what we want.
            let _ = kill_process(pid, Signal::INT);
        }
        if !self.gone_within(GRACE) {
            bail!("{} does not end after SIGINT", self.name);
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(self.child.wait()?)
    }

    /// SIGTERM, then SIGKILL to its whole group after a grace; true when it ended by itself.
    pub(crate) fn stop(&mut self) -> bool {
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return false;
        };
        let Some(pid) = Pid::from_raw(pid) else {
            return false;
        };
        let mut by_itself = matches!(self.child.try_wait(), Ok(Some(_)));
        if !by_itself {
            // An error means that it is gone already, which is what we want.
            let _ = kill_process(pid, Signal::TERM);
            by_itself = self.gone_within(GRACE);
        }
        // What the program left of its own group goes too, whether or not it ended well.
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        by_itself
    }

    fn gone_within(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return true;
            }
            thread::sleep(POLL);
        }
        false
    }

    fn spawn(name: &str, command: &Command, stdout: Stdio) -> Result<Self> {
        let mut held = Command::new("setpriv");
        held.args(["--pdeathsig", "TERM", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => held.env(key, value),
                None => held.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            held.current_dir(folder);
        }
        held.stdin(Stdio::null()).stdout(stdout).process_group(0);
        let child = held
            .spawn()
            .with_context(|| format!("cannot start `{}`", line(command)))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            readers: Vec::new(),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_lines(
    out: impl std::io::Read + Send + 'static,
    mut tell: impl FnMut(&str) + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(out).lines() {
            match line {
                Ok(line) => tell(&line),
                Err(_) => return,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;

    fn exists(pid: u32) -> bool {
        PathBuf::from(format!("/proc/{pid}")).exists()
    }

    #[test]
    fn dropping_the_guard_ends_the_program() {
        let guard = Guard::start("sleep", Command::new("sleep").arg("60")).expect("starts");
        let pid = guard.pid();
        assert!(exists(pid));
        drop(guard);
        assert!(!exists(pid));
    }

    #[test]
    fn lines_are_told_as_they_are_written() {
        let (sender, lines) = mpsc::channel();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two; sleep 60"]);
        let _guard = Guard::start_reading("sh", &shell, move |line| {
            let _ = sender.send(line.to_owned());
        })
        .expect("starts");
        let limit = Duration::from_secs(10);
        assert_eq!(lines.recv_timeout(limit).as_deref(), Ok("one"));
        assert_eq!(lines.recv_timeout(limit).as_deref(), Ok("two"));
    }

    #[test]
    fn what_is_written_after_an_interrupt_is_read() {
        let (sender, lines) = mpsc::channel();
        // A shell cannot trap what was ignored when it started, as it is of a job in the background.
        let mut shell = Command::new("env");
        shell.args([
            "--default-signal=INT",
            "sh",
            "-c",
            "trap 'echo last; exit 3' INT; echo first; while :; do sleep 0.05; done",
        ]);
        let guard = Guard::start_reading("sh", &shell, move |line| {
            let _ = sender.send(line.to_owned());
        })
        .expect("starts");
        let limit = Duration::from_secs(10);
        assert_eq!(lines.recv_timeout(limit).as_deref(), Ok("first"));
        let status = guard.interrupt().expect("ends");
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines.try_recv().as_deref(), Ok("last"));
    }

    #[test]
    fn waiting_for_a_program_that_ended_is_an_error_at_once() {
        let mut guard = Guard::start("true", &Command::new("true")).expect("starts");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(
            guard
                .wait_listening(nobody, Duration::from_secs(30))
                .is_err()
        );
    }
}
