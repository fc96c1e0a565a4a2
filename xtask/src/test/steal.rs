//! `--steal`: CPUs that are taken away now and then, as a crowded host does to a virtual
//! machine.
//!
//! One process for each CPU, pinned to it at SCHED_FIFO, spins for some time and sleeps for some
//! more. Nothing else runs on that CPU meanwhile but interrupts. Each ends with this process,
//! whatever ends it: by its guard, by the kernel (PR_SET_PDEATHSIG), or because its parent is
//! another one. Each ends after [`LIMIT`] in any case. The kernel's throttling of real-time
//! processes stays on, so that not even a hung one takes a CPU for ever.

use std::env;
use std::fs;
use std::hint;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Pid, getppid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::host::child::Guard;
use crate::host::command;

/// How long a CPU is taken, in milliseconds. Shorter than the shortest: noise that every machine
/// has; longer than the longest: no host does it to a machine that it wants to keep.
const TAKEN_MS: std::ops::RangeInclusive<u64> = 5..=125;

/// From the beginning of one theft to that of the next, in milliseconds: half a second in the
/// mean.
const EVERY_MS: std::ops::RangeInclusive<u64> = 250..=750;

/// The end of any thief. Shorter: the last steps of a slow suite run undisturbed, which
/// [`Thieves::ensure_running`] makes an error; longer: one that every other net missed stays.
const LIMIT: Duration = Duration::from_secs(3 * 60 * 60);

/// The lowest real-time priority: above every ordinary process, below the kernel's own threads.
const PRIORITY: &str = "1";

/// Below this a thief may run for ever, see sched(7).
const THROTTLING: &str = "/proc/sys/kernel/sched_rt_runtime_us";

/// How long a thief may take to be pinned and at its priority.
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// `SCHED_FIFO` in the 41st field of /proc/PID/stat.
const SCHED_FIFO: &str = "1";

/// One thief; started by [`Thieves`] alone.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The CPU to take.
    #[arg(long)]
    cpu: usize,
    /// Decides when and for how long.
    #[arg(long)]
    seed: u64,
    /// The process to end with.
    #[arg(long)]
    parent: i32,
}

/// The running thieves.
pub(super) struct Thieves {
    list: Vec<(usize, Guard)>,
}

/// A theft: sleep, then spin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Theft {
    rest: Duration,
    taken: Duration,
}

impl Thieves {
    /// Starts one for each CPU that this process may use. Without a seed it takes a random one.
    pub(super) fn start(seed: Option<u64>) -> Result<Self> {
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        let throttling = fs::read_to_string(THROTTLING).unwrap_or_default();
        ensure_throttled(&throttling)?;
        if command::probe(&mut fifo("true")).is_none() {
            bail!(
                "--steal takes CPUs at SCHED_FIFO, which needs root or CAP_SYS_NICE, and `chrt` \
                 (of util-linux): run this again as root (sudo -E cargo xtask ...); in a \
                 container with a real-time budget of 0 not even root may"
            );
        }
        let cpus = sched_getaffinity(None).context("cannot ask for the CPUs to take")?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| cpus.is_set(cpu))
            .collect();
        println!(
            "{} CPUs are each taken for {} to {} ms, about twice a second; again: --steal={seed}",
            cpus.len(),
            TAKEN_MS.start(),
            TAKEN_MS.end()
        );
        let thief = env::current_exe().context("cannot find this program")?;
        let mut thieves = Self { list: Vec::new() };
        for cpu in cpus {
            let mut command = fifo(&thief);
            command
                .args(["steal", "--cpu", &cpu.to_string()])
                .args(["--seed", &seed.to_string()])
                .args(["--parent", &std::process::id().to_string()]);
            let guard = Guard::start("a thief of CPU time", &command)?;
            thieves.list.push((cpu, guard));
        }
        let deadline = Instant::now() + START;
        for (cpu, guard) in &mut thieves.list {
            while !is_at_work(guard.pid(), *cpu) {
                if let Some(status) = guard.ended()? {
                    bail!("the thief of CPU {cpu} ended at once: {status}");
                }
                if Instant::now() > deadline {
                    bail!("the thief of CPU {cpu} is not at SCHED_FIFO on it");
                }
                thread::sleep(POLL);
            }
        }
        Ok(thieves)
    }

    /// An error when one has ended: what ran meanwhile was not disturbed as it should be.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        for (cpu, guard) in &mut self.list {
            if let Some(status) = guard.ended()? {
                bail!("CPU {cpu} was not taken to the end, its thief ended with {status}");
            }
        }
        Ok(())
    }
}

/// Takes one CPU now and then, until the parent is gone or [`LIMIT`] has passed.
pub(crate) fn steal(options: &Options) -> Result<()> {
    let &Options { cpu, seed, parent } = options;
    if cpu >= CpuSet::MAX_CPU {
        bail!("there is no CPU {cpu}");
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("cannot be pinned to CPU {cpu}"))?;
    let end = Instant::now() + LIMIT;
    for Theft { rest, taken } in thefts(seed, cpu) {
        thread::sleep(rest);
        let is_over = Instant::now() >= end
            || getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent);
        if is_over {
            break;
        }
        let started = Instant::now();
        while started.elapsed() < taken {
            hint::spin_loop();
        }
    }
    Ok(())
}

/// What a thief does, without end.
fn thefts(seed: u64, cpu: usize) -> impl Iterator<Item = Theft> {
    // Each CPU has a sequence of its own: they are taken together only now and then.
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..cpu {
        random = random.fork();
    }
    std::iter::repeat_with(move || {
        let taken = Duration::from_millis(random.u64(TAKEN_MS));
        let every = Duration::from_millis(random.u64(EVERY_MS));
        Theft {
            rest: every.saturating_sub(taken),
            taken,
        }
    })
}

/// `program` at SCHED_FIFO. chrt is of util-linux, as setpriv is, and execs in place: process id
/// and parent stay.
fn fifo(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--fifo", PRIORITY]).arg(program);
    command
}

/// `throttling` is what the kernel says of the time that real-time processes may have.
fn ensure_throttled(throttling: &str) -> Result<()> {
    if throttling.trim().starts_with('-') {
        bail!(
            "this kernel lets real-time processes take a CPU for ever ({THROTTLING} is {}): \
             --steal does not run without that net (the kernel's default is 950000)",
            throttling.trim()
        );
    }
    Ok(())
}

/// Whether this process is at SCHED_FIFO and pinned.
fn is_at_work(pid: u32, cpu: usize) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    policy(&read("stat")) == Some(SCHED_FIFO) && allowed(&read("status")) == Some(&cpu.to_string())
}

/// The scheduling policy: proc_pid_stat(5). The name before it may have blanks.
fn policy(stat: &str) -> Option<&str> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(41 - 3)
}

/// The CPUs that a process may use, as the kernel writes lists.
fn allowed(status: &str) -> Option<&str> {
    let mut lines = status.lines();
    lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:").map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_theft_is_short_and_there_are_two_a_second() {
        let first: Vec<Theft> = thefts(502, 0).take(2_000).collect();
        let milliseconds = |it: &Theft| u64::try_from(it.taken.as_millis()).unwrap_or(u64::MAX);
        assert!(first.iter().all(|it| TAKEN_MS.contains(&milliseconds(it))));
        let whole: Duration = first.iter().map(|it| it.rest + it.taken).sum();
        let rate = 2_000.0 / whole.as_secs_f64();
        assert!((1.9..2.1).contains(&rate), "{rate} a second");
    }

    #[test]
    fn a_seed_repeats_the_sequence_and_cpus_differ() {
        let of = |seed, cpu| thefts(seed, cpu).take(50).collect::<Vec<_>>();
        assert_eq!(of(7, 3), of(7, 3));
        assert_ne!(of(7, 0), of(7, 1));
        assert_ne!(of(7, 0), of(8, 0));
    }

    #[test]
    fn a_kernel_that_never_throttles_is_refused() {
        assert!(ensure_throttled("950000\n").is_ok());
        assert!(ensure_throttled("").is_ok());
        let refused = ensure_throttled("-1\n").expect_err("refused").to_string();
        assert!(refused.contains("sched_rt_runtime_us is -1"), "{refused}");
    }

    #[test]
    fn what_is_started_has_the_priority_under_the_pid_that_is_ended() {
        if command::probe(&mut fifo("true")).is_none() {
            eprintln!("left out: it needs CAP_SYS_NICE");
            return;
        }
        let guard = Guard::start("sleep", fifo("sleep").arg("60")).expect("starts");
        let stat = format!("/proc/{}/stat", guard.pid());
        let deadline = Instant::now() + START;
        let has_it = || {
            let stat = fs::read_to_string(&stat).expect("it runs");
            policy(&stat) == Some(SCHED_FIFO) && stat.contains("(sleep)")
        };
        while !has_it() {
            assert!(Instant::now() < deadline, "it is not at SCHED_FIFO");
            thread::sleep(POLL);
        }
        drop(guard);
        assert!(fs::read_to_string(&stat).is_err(), "it is gone");
    }

    #[test]
    fn policy_and_cpus_are_read_as_the_kernel_writes_them() {
        let stat = "42 (a) (thief) S 1 42 42 0 -1 4194304 95 0 0 0 0 0 0 0 -2 0 1 0 1234 2322432 230 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 1 1 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(policy(stat), Some("1"));
        assert_eq!(
            allowed("Name:\tx\nCpus_allowed:\t2\nCpus_allowed_list:\t1\n"),
            Some("1")
        );
        assert_eq!(policy(""), None);
        assert_eq!(allowed(""), None);
    }
}
