//! `bench growth`: what the agent costs as one thing grows and the rest stays.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::bulk::{self, Bulk};
use super::contender::{Contender, Programs};
use super::cost::Memory;
use super::report::Setting;
use super::rounds::in_programs;
use super::spread::Spread;
use super::stage::{Layout, Stage};
use super::status::Status;
use super::stop_if_asked;
use super::wrk::Load;
use crate::cli;
use crate::host::root;
use crate::host::scratch::Scratch;
use crate::setup;

/// How long and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pairs of turns for each point, one with and one without the agent.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Length of each turn, once all its connections are open.
    #[arg(long, default_value = "2s", value_parser = cli::duration)]
    each: Duration,
    /// Folder for the results.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// What is looked at, and what of it grows.
#[derive(Clone, Copy, Debug)]
struct Point {
    table: &'static str,
    name: &'static str,
    connections: u32,
    path: &'static str,
    rest: Duration,
    /// Each request has a connection of its own.
    churn: bool,
    /// The proxy answers that something failed, as often as the path says.
    may_fail: bool,
    /// By a proxy with two workers, for one may not have so many connections (RLIMIT_NOFILE).
    two_workers: bool,
}

/// What a turn was, from when all its connections were open.
#[derive(Clone, Copy, Debug, Serialize)]
struct Turn {
    requests: u64,
    seconds: f64,
    /// CPU time of client, proxy, application and agent; seconds.
    cpu: f64,
    /// Of that, the agent's.
    agent_cpu: f64,
}

/// A turn without and one with the agent.
#[derive(Clone, Copy, Debug, Serialize)]
struct Pair {
    without: Turn,
    with: Turn,
    /// Of the agent, after a scrape at the end.
    memory: Memory,
    /// How often a thread of the agent had waited and was woken, a second.
    wakeups: f64,
}

/// What a point gave.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    table: &'static str,
    name: &'static str,
    pairs: Vec<Pair>,
    /// Time in the probes for each request, ns, with the kernel's statistics on.
    probes_ns: f64,
    /// How often a probe ran for each request.
    probe_runs: f64,
}

impl Turn {
    fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    fn cpu_us(&self) -> f64 {
        self.cpu / self.requests as f64 * 1e6
    }

    fn agent_us(&self) -> f64 {
        self.agent_cpu / self.requests as f64 * 1e6
    }
}

const USUAL: u32 = 64;
const FAILING: &str = "Answers that fail";

const fn point(
    table: &'static str,
    name: &'static str,
    connections: u32,
    path: &'static str,
) -> Point {
    Point {
        table,
        name,
        connections,
        path,
        rest: Duration::ZERO,
        churn: false,
        may_fail: false,
        two_workers: false,
    }
}

const fn failing(name: &'static str, path: &'static str) -> Point {
    Point {
        may_fail: true,
        ..point(FAILING, name, USUAL, path)
    }
}

const fn resting(name: &'static str, millis: u64) -> Point {
    Point {
        rest: Duration::from_millis(millis),
        ..point("Requests per second", name, USUAL, "/")
    }
}

const POINTS: [Point; 25] = [
    resting("64 connections that rest 64 ms", 64),
    resting("64 connections that rest 6 ms", 6),
    point(
        "Requests per second",
        "64 connections, as fast as it goes",
        USUAL,
        "/",
    ),
    point("Connections", "10", 10, "/"),
    point("Connections", "100", 100, "/"),
    point("Connections", "1,000", 1_000, "/"),
    point("Connections", "10,000", 10_000, "/"),
    Point {
        churn: true,
        ..point(
            "Connections",
            "64 at a time, a new one at both sides for each request",
            USUAL,
            "/churn",
        )
    },
    point("Upstreams", "1", USUAL, "/"),
    point("Upstreams", "100", USUAL, "/hundred"),
    point(
        "Upstreams",
        "1,000, and 1,000 connections",
        1_000,
        "/thousand",
    ),
    Point {
        two_workers: true,
        ..point(
            "Upstreams",
            "1,000, and 10,000 connections, by two workers",
            10_000,
            "/thousand",
        )
    },
    point("Size of the answer's body", "0", USUAL, "/empty"),
    point("Size of the answer's body", "1 KiB", USUAL, "/1k"),
    point("Size of the answer's body", "10 KiB", USUAL, "/10k"),
    point("Size of the answer's body", "100 KiB", USUAL, "/100k"),
    point("Size of the answer's body", "1 MiB", USUAL, "/1m"),
    point("Size of the answer's body", "10 MiB", USUAL, "/10m"),
    failing("0 %", "/fail/0"),
    failing("1 %", "/fail/1"),
    failing("5 %", "/fail/5"),
    failing("100 %", "/fail/100"),
    point("Work of the proxy", "none: 1 KiB passed on", USUAL, "/1k"),
    point(
        "Work of the proxy",
        "4 KiB of text packed (gzip)",
        USUAL,
        "/packed/4k.text",
    ),
    point(
        "Work of the proxy",
        "64 KiB of text packed (gzip)",
        USUAL,
        "/packed/64k.text",
    ),
];

/// Measures and writes the report.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { pairs, each, out } = options;
    if *pairs == 0 || each.as_secs() == 0 {
        bail!("a measurement needs at least one pair and one second");
    }
    let (agent, _tracefs) = super::ready(&[setup::IPERF])?;
    let programs = Programs::new(agent, None)?;
    let scratch = Scratch::new("bench")?;
    let one = Stage::start(scratch.path(), Layout::Apart, 1)?;
    let two = Stage::start(scratch.path(), Layout::Apart, 2)?;
    let mut measured = Vec::new();
    for point in POINTS {
        let stage = if point.two_workers { &two } else { &one };
        let one = point.measure(&programs, stage, *pairs, *each)?;
        println!("{}", one.row());
        measured.push(one);
    }
    let bulk = bulk::measure(&programs, &one.proxy, *pairs, *each)?;
    let folder = out.clone().unwrap_or_else(|| root().join("docs/bench"));
    let setting = Setting::of_this_machine(USUAL, *each);
    let json = serde_json::to_string_pretty(&(&setting, &measured, &bulk))? + "\n";
    super::write(&folder, "growth.json", &json)?;
    let summary = summary(&setting, &measured, &bulk, *pairs);
    super::write(&folder, "growth.md", &summary)?;
    println!("\n{summary}\nwritten to {}", folder.display());
    Ok(())
}

impl Point {
    fn measure(
        self,
        programs: &Programs,
        stage: &Stage,
        pairs: usize,
        each: Duration,
    ) -> Result<Measured> {
        // Caches warm, and files read.
        self.turn(programs, stage, each)?;
        let mut measured = Vec::new();
        for number in 0..pairs {
            let mut without = None;
            if number.is_multiple_of(2) {
                without = Some(self.turn(programs, stage, each)?);
            }
            let program = Contender::Agent.start(programs, &stage.proxy)?;
            let before = (program.wakeups(), Instant::now());
            let with = self.turn(programs, stage, each)?;
            let wakeups = program.wakeups().saturating_sub(before.0) as f64;
            let wakeups = wakeups / before.1.elapsed().as_secs_f64();
            let memory = program.memory()?;
            program.stop()?;
            let without = without.map_or_else(|| self.turn(programs, stage, each), Ok)?;
            measured.push(Pair {
                without,
                with,
                memory,
                wakeups,
            });
            stop_if_asked()?;
        }
        let program = Contender::Agent.start(programs, &stage.proxy)?;
        let (requests, used) = self.load(stage).around(stage.proxy.status(), || {
            in_programs(&program, || {
                let before = Status::now(stage.proxy.status())?;
                thread::sleep(each);
                Ok(Status::now(stage.proxy.status())?.requests - before.requests)
            })
        })?;
        program.stop()?;
        let time: u64 = used.iter().map(|one| one.run_time_ns).sum();
        let runs: u64 = used.iter().map(|one| one.run_cnt).sum();
        Ok(Measured {
            table: self.table,
            name: self.name,
            pairs: measured,
            probes_ns: time as f64 / requests as f64,
            probe_runs: runs as f64 / requests as f64,
        })
    }

    fn load(self, stage: &Stage) -> Load<'_> {
        Load {
            path: self.path,
            rest: self.rest,
            churn: self.churn,
            may_fail: self.may_fail,
            ..Load::usual(stage, self.connections)
        }
    }

    /// What is counted begins when all connections are open: their opening is no part of it.
    fn turn(self, programs: &Programs, stage: &Stage, each: Duration) -> Result<Turn> {
        let status = stage.proxy.status();
        let read = || {
            let requests = Status::now(status)?.requests;
            let agent = programs.cpu_seconds()?;
            anyhow::Ok((requests, Instant::now(), stage.used()?.all, agent))
        };
        self.load(stage).around(status, || {
            let before = read()?;
            thread::sleep(each);
            let after = read()?;
            let agent_cpu = after.3 - before.3;
            Ok(Turn {
                requests: after.0.saturating_sub(before.0),
                seconds: (after.1 - before.1).as_secs_f64(),
                cpu: after.2 - before.2 + agent_cpu,
                agent_cpu,
            })
        })
    }
}

impl Measured {
    fn spread(&self, of: fn(&Pair) -> f64) -> Spread {
        Spread::of(self.pairs.iter().map(of))
    }

    fn row(&self) -> String {
        let median = |of: fn(&Pair) -> f64| self.spread(of).median;
        format!(
            "| {} | {:.0} | {:.0} | {} | {:.1} | {:.1} | {} | {:.0} | {:.1} | {:.2} | {:.0} | {:.1} | {:.1} |",
            self.name,
            median(|pair| pair.without.per_second()),
            median(|pair| pair.with.per_second()),
            self.spread(|pair| pair.with.per_second() / pair.without.per_second()),
            median(|pair| pair.without.cpu_us()),
            median(|pair| pair.with.cpu_us()),
            self.spread(|pair| pair.without.cpu_us() / pair.with.cpu_us()),
            self.probes_ns,
            self.probe_runs,
            median(|pair| pair.with.agent_us()),
            median(|pair| pair.wakeups),
            self.spread(|pair| pair.memory.now as f64).most / 1e6,
            self.spread(|pair| pair.memory.peak as f64).most / 1e6,
        )
    }
}

fn summary(setting: &Setting, measured: &[Measured], bulk: &Bulk, pairs: usize) -> String {
    let mut text = format!(
        "# How the cost grows

Written by `cargo xtask bench growth`; every turn is in `growth.json`.

{setting} {pairs} pairs for each line, one turn with the agent and one without, in changing order, and
ratios are those of pairs: the median, and the interval that holds it with 95 % certainty (below six
pairs, least and most). Then one turn with the kernel's statistics on, for the probes. A turn begins when
all its connections are open. Client, proxy and application are on this host, each in a cgroup of its
own; CPU is that of all of them and the agent together, as [overhead.md](overhead.md) explains it. The
agent's time of a second of CPU per million requests is 1 us a request, and as many mCPU at 1,000
requests/s. A wake-up is a thread of the agent that had waited and goes on (voluntary context switches).
Its memory is that after a scrape at the end.
"
    );
    let mut table = "";
    for one in measured {
        if one.table != table {
            table = one.table;
            text += &format!(
                "
## {table}

{}| | requests/s without | with | ratio | CPU without, us a request | with | ratio, without to with | probes, ns a request | runs a request | agent, us a request | its wake-ups a second | its memory, MB | peak |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
",
                note(table)
            );
        }
        text += &one.row();
        text.push('\n');
    }
    text + &bulk.summary()
}

/// What a reader has to know of a table.
fn note(table: &str) -> &'static str {
    if table == FAILING {
        "So many of the requests go to a port where nobody listens, and are answered 502: the last line is what\na failing request costs.\n\n"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_told_by_its_pairs() {
        let turn = |requests, cpu, agent_cpu| Turn {
            requests,
            seconds: 2.0,
            cpu,
            agent_cpu,
        };
        let pair = |requests| Pair {
            without: turn(2000, 0.02, 0.0),
            with: turn(requests, 0.02, 0.002),
            memory: Memory {
                now: 20_000_000,
                peak: 30_000_000,
            },
            wakeups: 24.0,
        };
        let measured = Measured {
            table: FAILING,
            name: "1 %",
            pairs: vec![pair(1000), pair(1600), pair(2000)],
            probes_ns: 3000.4,
            probe_runs: 12.04,
        };
        assert_eq!(
            measured.row(),
            "| 1 % | 1000 | 800 | 0.800 (0.500 to 1.000) | 10.0 | 12.5 | 0.800 (0.500 to 1.000) | 3000 \
             | 12.0 | 1.25 | 24 | 20.0 | 30.0 |"
        );
    }

    #[test]
    fn points_of_one_table_stand_together_and_have_names_of_their_own() {
        let mut tables: Vec<&str> = POINTS.iter().map(|point| point.table).collect();
        tables.dedup();
        let mut names: Vec<_> = POINTS
            .iter()
            .map(|point| (point.table, point.name))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len());
        let mut once = tables.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), tables.len());
    }
}
