//! Processes that end with the test that started them.
//!
//! In: a program, and the network namespace it runs in. Out: a [`Running`] that is stopped
//! when dropped, also when its test panics. The kernel ends it too should the test's thread
//! be killed. Only processes started here are ever signalled, by their own id.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::netns::Netns;

/// How long a process may take to stop when asked before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// A process of ours.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
}

/// Panics with a clear sentence unless the test runs as root.
#[track_caller]
pub fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "end-to-end tests load eBPF programs and make network namespaces: run them as root"
    );
}

/// A command that the kernel kills when the thread that starts it ends, in `netns` if given.
pub fn command(program: &str, netns: Option<&Netns>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(netns) = netns {
        command.arg("nsenter");
        command.arg(format!("--net={}", netns.path().display()));
    }
    command.arg(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end and gives what it printed; panics when it fails.
#[track_caller]
pub fn output_of(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(
        status.success(),
        "{command:?} failed with {status}: {}",
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8_lossy(&stdout).into_owned()
}

/// A binary that Cargo built beside the test that runs.
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test
        .ancestors()
        .find(|folder| folder.join(name).is_file())
        .unwrap_or_else(|| panic!("`{name}` is not built: run `cargo build -p e2e` first"));
    folder.join(name)
}

impl Running {
    /// Starts `command`.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self {
            name: name.to_owned(),
            child,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard streams.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = pid(self.child.id()) {
            // A process that is gone already needs no signal.
            let _gone = kill_process(pid, signal);
        }
    }

    /// Sends `signal` and waits for the end; kills what does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Option<ExitStatus> {
        let started = Instant::now();
        if let Some(status) = self.ended() {
            return Some(status);
        }
        self.signal(signal);
        while started.elapsed() < GRACE {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!(
            "{} did not end within {GRACE:?} of signal {signal:?}: killed",
            self.name
        );
        self.signal(Signal::KILL);
        self.child.wait().ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Signal::TERM);
    }
}

/// Children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Sends a signal to a process by its id, for example to a worker of a [`Running`].
pub fn signal(process: u32, signal: Signal) {
    if let Some(pid) = pid(process) {
        // A process that is gone already needs no signal.
        let _gone = kill_process(pid, signal);
    }
}

/// Lets this process hold as many sockets as the system allows; gives how many that is.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => maximum,
        Err(_) => current,
    }
    .unwrap_or(u64::MAX)
}

fn pid(process: u32) -> Option<Pid> {
    i32::try_from(process).ok().and_then(Pid::from_raw)
}
