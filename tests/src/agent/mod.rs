//! The agent as a process: started, scraped, listened to, stopped.
//!
//! In: flags. Out: metrics and events as it prints them. Nothing here links to the agent's
//! code, so what is tested is what is shipped.

pub mod events;
pub mod metrics;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::http;
use crate::ports;
use crate::process::{Running, command, need_root};
use crate::wait::eventually;
use events::{Line, Request};
use metrics::Metrics;

/// Loading and verifying all programs may take this long on a busy machine, or an emulated one.
const START: Duration = Duration::from_secs(90);

/// What the agent is asked for to get the text form.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// Flags that every test which does not say so itself runs with, where these variables of the environment say
/// so: in another way than the default.
const OTHERWISE: [(&str, &str); 2] = [("--attach", "WHY502_ATTACH"), ("--brief", "WHY502_BRIEF")];

/// Where the agents of this test serve.
static RUNNING: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Running,
    folder: TempDir,
    /// Where it serves.
    pub address: SocketAddr,
}

/// The stream of events, read in the background.
#[derive(Clone, Debug, Default)]
pub struct Events {
    lines: Arc<Mutex<Vec<String>>>,
}

/// Where the agent's binary is: `WHY502_BIN`, else the release build, else the debug build.
#[track_caller]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WHY502_BIN") {
        return PathBuf::from(path);
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("why502"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no why502 in {}/release or {}/debug: run `cargo xtask build` first, or name it in WHY502_BIN",
                target.display(),
                target.display()
            )
        })
}

impl Agent {
    /// Starts it with these flags besides `--listen`, and waits until it is ready.
    #[track_caller]
    pub fn start(flags: &[&str]) -> Self {
        // A test's thread has the test's name.
        let thread = std::thread::current();
        Self::start_as(thread.name().unwrap_or("unnamed"), flags)
    }

    /// As [`Agent::start`]. With `WHY502_RECORD=folder` it records there what it is fed, under
    /// this name; a recording of that name is replaced.
    #[track_caller]
    pub fn start_as(name: &str, flags: &[&str]) -> Self {
        Self::started(command(&binary().to_string_lossy(), None), name, flags)
    }

    /// As [`Agent::start`], with these variables in its environment.
    #[track_caller]
    pub fn start_with(variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let mut command = command(&binary().to_string_lossy(), None);
        command.envs(variables.iter().copied());
        Self::started(command, "with", flags)
    }

    /// As [`Agent::start`], in a time namespace whose monotonic clock is so many seconds ahead.
    #[track_caller]
    pub fn start_ahead(seconds: u32, flags: &[&str]) -> Self {
        let mut command = command("unshare", None);
        command.args(["--time", "--monotonic", &seconds.to_string()]);
        command.arg(binary());
        Self::started(command, "ahead", flags)
    }

    /// As [`Agent::start`], in a pid namespace of its own with its own `/proc`, as in a container.
    #[track_caller]
    pub fn start_apart(flags: &[&str]) -> Self {
        let mut command = command("unshare", None);
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(binary());
        Self::started(command, "apart", flags)
    }

    /// As [`Agent::start`], by a command of which the agent's binary is the last word.
    #[track_caller]
    pub fn start_by(command: Command, flags: &[&str]) -> Self {
        Self::started(command, "other", flags)
    }

    /// As [`Agent::start_by`], for a command that enters another network, where it has this
    /// address.
    #[track_caller]
    pub fn start_in(ip: IpAddr, command: Command, flags: &[&str]) -> Self {
        let port = ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST)).port();
        Self::started_at(SocketAddr::new(ip, port), ip, command, "inside", flags)
    }

    #[track_caller]
    fn started(command: Command, name: &str, flags: &[&str]) -> Self {
        let address = ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self::started_at(address, address.ip(), command, name, flags)
    }

    /// As [`Agent::start`], listening on all addresses of the host.
    #[track_caller]
    pub fn start_everywhere(flags: &[&str]) -> Self {
        let address = ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let command = command(&binary().to_string_lossy(), None);
        let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self::started_at(address, everywhere, command, "everywhere", flags)
    }

    /// `address`: where it is asked, at the port at which it listens on `ip`.
    #[track_caller]
    fn started_at(
        address: SocketAddr,
        ip: IpAddr,
        mut command: Command,
        name: &str,
        flags: &[&str],
    ) -> Self {
        need_root();
        let listen = SocketAddr::new(ip, address.port());
        let folder = TempDir::with_prefix("e2e-agent-").expect("a temporary folder can be made");
        let stderr = File::create(folder.path().join("stderr")).expect("its stderr is made");
        command.args(["run", "--listen", &listen.to_string()]);
        command.args(flags);
        for (flag, variable) in OTHERWISE {
            if let Some(value) = std::env::var_os(variable)
                && !flags.contains(&flag)
            {
                command.arg(flag).arg(value);
            }
        }
        if let Some(folder) = std::env::var_os("WHY502_RECORD") {
            let path = PathBuf::from(folder).join(format!("{name}.jsonl.gz"));
            // Not there, or in the way: then the agent says so.
            let _absent = fs::remove_file(&path);
            command.arg("--record").arg(path);
        }
        command.stderr(stderr);
        let mut agent = Self {
            process: Running::start("why502", &mut command),
            folder,
            address,
        };
        eventually(START, "the agent is ready", || {
            if let Some(status) = agent.process.ended() {
                panic!("the agent ended with {status} at its start");
            }
            match http::get(address, "/readyz", "*/*") {
                Ok(answer) if answer.status == 200 => Ok(()),
                // It serves when it is ready, and says so to who asks in clear text.
                Ok(answer) if answer.body.starts_with(b"this port speaks TLS") => Ok(()),
                Ok(answer) => Err(format!("/readyz answers {}", answer.status)),
                Err(error) => Err(format!("/readyz: {error}")),
            }
        });
        running().push(address);
        agent
    }

    /// Runs it to its end with all its flags given: for what it refuses.
    #[track_caller]
    pub fn refused(command: &mut Command) -> (ExitStatus, String) {
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        (
            output.status,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Files and sockets it holds open.
    #[track_caller]
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("a running process has files")
            .count()
    }

    /// Its memory, bytes.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory it had so far, bytes.
    #[track_caller]
    pub fn peak_resident_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// A line of its status in kB, as bytes.
    #[track_caller]
    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a running process has a status");
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("a running process has a {name}"))
            * 1024
    }

    /// CPU time it used so far, its programs in the kernel not counted.
    #[track_caller]
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .expect("a running process has a stat");
        // utime and stime, words 14 and 15 (proc_pid_stat(5)); the name may have spaces.
        let (_, words) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks: u64 = words
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|word| word.parse::<u64>().expect("a number of ticks"))
            .sum();
        let a_second = rustix::param::clock_ticks_per_second();
        Duration::from_secs_f64(ticks as f64 / a_second as f64)
    }

    /// Its metrics now.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.metrics_text())
    }

    /// Its metrics now, as it prints them.
    #[track_caller]
    pub fn metrics_text(&self) -> String {
        let answer = http::get(self.address, "/metrics", OPEN_METRICS)
            .unwrap_or_else(|error| panic!("/metrics: {error}"));
        assert_eq!(answer.status, 200, "/metrics answers");
        String::from_utf8(answer.body).expect("metrics are text")
    }

    /// Listens to its events from now on.
    #[track_caller]
    pub fn events(&self) -> Events {
        self.events_of("/api/v1/events?all=1")
    }

    /// The same of what fails only: whoever asks for all ends what is told in brief.
    #[track_caller]
    pub fn failures(&self) -> Events {
        self.events_of("/api/v1/events")
    }

    #[track_caller]
    fn events_of(&self, path: &str) -> Events {
        let stream = http::open(self.address, path, "*/*", None)
            .unwrap_or_else(|error| panic!("/api/v1/events: {error}"));
        assert_eq!(stream.status, 200, "/api/v1/events answers");
        let events = Events::default();
        let lines = Arc::clone(&events.lines);
        // Ends with the stream, which ends with the agent.
        std::thread::spawn(move || {
            // Lines are read later: a slow reader would miss some.
            for text in BufReader::new(stream).lines().map_while(Result::ok) {
                if !text.trim().is_empty() {
                    lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(text);
                }
            }
        });
        events
    }

    /// Waits until two looks at the metrics, a second apart, agree: all that happened is told.
    #[track_caller]
    pub fn settled(&self, within: Duration) -> Metrics {
        let mut before = self.metrics();
        eventually(within, "the agent's counters come to rest", || {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.metrics();
            let moved = now.moved_since(&before);
            before = now.clone();
            match moved {
                None => Ok(now),
                Some(what) => Err(what),
            }
        })
    }

    /// Stops it and gives how it ended.
    pub fn stop(mut self, signal: Signal) -> Option<ExitStatus> {
        self.process.stop(signal)
    }
}

/// Waits until the agents have taken in what began to listen until now: an agent attaches to a proxy that
/// starts some milliseconds later, and a test asks it at once.
pub fn take_in_listeners() {
    let addresses = running().clone();
    for address in addresses {
        // An answer comes after a round of the agent. One that asks for a password has no secrets here.
        let _answer = http::get(address, "/metrics", OPEN_METRICS);
    }
}

fn running() -> MutexGuard<'static, Vec<SocketAddr>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Agent {
    fn drop(&mut self) {
        running().retain(|address| *address != self.address);
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines
                .get(lines.len().saturating_sub(20)..)
                .unwrap_or_default();
            eprintln!("the agent's last words:\n{}", last.join("\n"));
        }
    }
}

impl Events {
    /// All so far.
    #[track_caller]
    pub fn so_far(&self) -> Vec<Line> {
        self.lines().iter().map(|text| Line::parse(text)).collect()
    }

    /// The requests for these paths, once all are told; each is told once.
    #[track_caller]
    pub fn of<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a str> + Clone,
        within: Duration,
    ) -> BTreeMap<String, Request> {
        eventually(within, "each request is told", || {
            let mut told: BTreeMap<String, Request> = BTreeMap::new();
            for line in self.so_far() {
                if let Line::Request(request) = line {
                    let path = request.path.clone().unwrap_or_default();
                    if !paths.clone().into_iter().any(|wanted| wanted == path) {
                        continue;
                    }
                    if let Some(earlier) = told.insert(path, *request) {
                        panic!("told twice: {earlier:?}");
                    }
                }
            }
            match paths
                .clone()
                .into_iter()
                .find(|path| !told.contains_key(*path))
            {
                None => Ok(told),
                Some(path) => Err(format!("{path} is not told")),
            }
        })
    }

    /// All so far, as printed.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// How many so far.
    pub fn count(&self) -> usize {
        self.lines().len()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
