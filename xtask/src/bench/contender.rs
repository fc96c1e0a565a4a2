//! What may watch the proxy during a run: nothing, the agent, or what one would do instead.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::against::Against;
use super::cost::Memory;
use super::proxy::Proxy;
use super::{cost, quiet};
use crate::agent::Agent;
use crate::host::cgroup::Cgroup;
use crate::host::child::Guard;
use crate::host::scratch::Scratch;
use crate::host::{bpf, net};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Contender {
    /// Nothing at all.
    Nothing,
    /// The agent, whose probes return at once.
    Idle,
    /// The agent, told to leave every process alone: what a host pays where there is no proxy.
    Excluded,
    /// The agent of another commit.
    Against,
    /// The agent.
    Agent,
    /// The agent, set to report in brief what goes well, and to look at packets only where proxies are.
    Sparing,
    /// A capture that is thrown away.
    Tcpdump,
    /// A script that counts status lines.
    Bpftrace,
    /// The proxy writes an access log.
    AccessLog,
    /// The same, and mtail counts its lines.
    Exporter,
}

/// What contenders are started from, and where.
#[derive(Debug)]
pub(super) struct Programs {
    /// The agent of this checkout.
    agent: PathBuf,
    against: Option<Against>,
    /// Whatever watches runs here, so that its CPU time is told from that of others.
    place: Cgroup,
}

impl Programs {
    pub(super) fn new(agent: PathBuf, against: Option<Against>) -> Result<Self> {
        Ok(Self {
            agent,
            against,
            place: Cgroup::new("bench-watching")?,
        })
    }

    /// CPU time of all that watched so far, seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        self.place.cpu_seconds()
    }
}

/// It runs until this is dropped or stopped.
#[derive(Debug)]
pub(super) enum Watching {
    /// Nothing that runs.
    Nothing,
    /// The agent.
    Agent(Agent),
    /// Another program.
    Program(
        Guard,
        #[expect(dead_code, reason = "its files are gone with it")] Option<Scratch>,
    ),
}

/// A program that looks at nothing yet is not measured; all of them are ready by then.
const READY: Duration = Duration::from_secs(20);

/// nginx writes the head of an answer with writev(2): its first vector begins with it.
const BPFTRACE: &str = "\
struct vec { unsigned long base; unsigned long length; };
tracepoint:syscalls:sys_enter_writev /comm == \"nginx\"/ {
    $first = (struct vec *)args->vec;
    @[str($first->base, 13)] = count();
}
BEGIN { printf(\"ready\\n\"); }
";

/// Counts by status and upstream, and adds the times up.
const MTAIL: &str = "\
counter requests_total by status, upstream
counter seconds_total by upstream
/\" (?P<status>\\d{3}) \\d+ \"[^\"]*\" \"[^\"]*\" (?P<upstream>\\S+) \\S+ \\S+ \\S+ (?P<time>[0-9.]+)$/ {
  requests_total[$status][$upstream]++
  seconds_total[$upstream] += float($time)
}
";

impl Contender {
    /// What a reader calls it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Idle => "the same probes, which return at once",
            Self::Excluded => "why502, all processes excluded",
            Self::Against => "why502 of the other commit",
            Self::Agent => "why502",
            Self::Sparing => "why502, `--brief true --attach proxies`",
            Self::Tcpdump => "`tcpdump -i lo -w /dev/null tcp port ...`",
            Self::Bpftrace => "a bpftrace script that counts status lines",
            Self::AccessLog => "a full access log",
            Self::Exporter => "a full access log, counted by mtail",
        }
    }

    /// What wrk asks for.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::AccessLog | Self::Exporter => "/logged",
            _ => "/",
        }
    }

    /// Starts it, and waits until it watches.
    pub(super) fn start(self, programs: &Programs, proxy: &Proxy) -> Result<Watching> {
        let Programs {
            agent,
            against,
            place,
        } = programs;
        let program = |name: &str, command: &Command| program(name, &place.inside(command));
        let run = |agent: &Path, more: &[&str]| {
            let flags = quiet()
                .into_iter()
                .chain(more.iter().map(|flag| (*flag).to_owned()));
            let flags: Vec<String> = flags.collect();
            Agent::start_inside(place, agent, net::free_address()?, &flags).map(Watching::Agent)
        };
        let with = |more: &[&str]| run(agent, more);
        match self {
            Self::Nothing | Self::AccessLog => Ok(Watching::Nothing),
            Self::Idle => with(&["--idle-probes"]),
            Self::Excluded => {
                let application = Proxy::application();
                let names = ["nginx", "wrk", &application];
                with(&names.map(|name| ["--exclude-process", name]).concat())
            }
            Self::Against => {
                let against = against.as_ref().context("no other commit was named")?;
                run(&against.program, &[])
            }
            Self::Agent => with(&[]),
            Self::Sparing => with(&["--brief", "true", "--attach", "proxies"]),
            Self::Tcpdump => {
                let mut tcpdump = Command::new("tcpdump");
                let port = proxy.address().port().to_string();
                tcpdump.args(["-i", "lo", "-w", "/dev/null", "tcp", "port", &port]);
                let (guard, lines) = program("tcpdump", &tcpdump)?;
                wait_saying(&lines, "listening on")?;
                Ok(Watching::Program(guard, None))
            }
            Self::Bpftrace => {
                let mut bpftrace = Command::new("bpftrace");
                bpftrace.args(["-B", "line", "-e", BPFTRACE]);
                let (guard, lines) = program("bpftrace", &bpftrace)?;
                wait_saying(&lines, "ready")?;
                Ok(Watching::Program(guard, None))
            }
            Self::Exporter => {
                let scratch = Scratch::new("mtail")?;
                let rules = scratch.path().join("nginx.mtail");
                fs::write(&rules, MTAIL).context("cannot write mtail's rules")?;
                let address = net::free_address()?;
                let mut mtail = Command::new("mtail");
                mtail
                    .arg("--progs")
                    .arg(&rules)
                    .arg("--logs")
                    .arg(proxy.access_log())
                    .args(["--address", "127.0.0.1", "--port"])
                    .arg(address.port().to_string());
                let (mut guard, _) = program("mtail", &mtail)?;
                guard.wait_listening(address, READY)?;
                Ok(Watching::Program(guard, Some(scratch)))
            }
        }
    }
}

/// Starts a program; with what it writes on either output told line by line.
pub(super) fn program(name: &str, command: &Command) -> Result<(Guard, Receiver<String>)> {
    let (sender, lines) = mpsc::channel();
    let mut both = Command::new("sh");
    both.args(["-c", "exec \"$@\" 2>&1", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let guard = Guard::start_reading(name, &both, move |line| {
        // Nobody asks any more once it watches.
        let _ = sender.send(line.to_owned());
    })?;
    Ok((guard, lines))
}

/// Waits until it says the word that it watches with.
pub(super) fn wait_saying(lines: &Receiver<String>, word: &str) -> Result<()> {
    let started = Instant::now();
    let mut said = Vec::new();
    while let Ok(line) = lines.recv_timeout(READY.saturating_sub(started.elapsed())) {
        if line.contains(word) {
            return Ok(());
        }
        said.push(line);
    }
    bail!("it does not watch, it says: {}", said.join("; "))
}

impl Watching {
    /// Process id, if something runs.
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Nothing => None,
            Self::Agent(agent) => Some(agent.pid()),
            Self::Program(guard, _) => Some(guard.pid()),
        }
    }

    /// How often one of its threads that waited went on, so far.
    pub(super) fn wakeups(&self) -> u64 {
        self.pid().map_or(0, cost::wakeups)
    }

    /// Its memory, the agent's when it has been scraped; none of nothing.
    pub(super) fn memory(&self) -> Result<Memory> {
        if let Self::Agent(agent) = self {
            agent.scrape()?;
        }
        self.pid().map_or(Ok(Memory::default()), cost::memory)
    }

    /// Its eBPF programs.
    pub(super) fn programs(&self) -> Result<Vec<bpf::Program>> {
        match self {
            Self::Agent(agent) => bpf::programs_of(agent.pid()),
            _ => Ok(Vec::new()),
        }
    }

    /// Ends it, and waits until its probes are gone.
    pub(super) fn stop(self) -> Result<()> {
        let programs = self.programs()?;
        drop(self);
        bpf::wait_until_gone(&programs)
    }
}
