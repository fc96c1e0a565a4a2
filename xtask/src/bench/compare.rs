//! `bench compare`: the agent beside what one would do instead, in the same run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::contender::{Contender, Programs};
use super::report::Setting;
use super::rounds::{Plan, Taken};
use super::stage::{Layout, Stage};
use crate::cli;
use crate::host::root;
use crate::host::scratch::Scratch;
use crate::setup;

/// How long and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; in each of them every way of watching has its turn.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Length of each turn.
    #[arg(long, default_value = "2s", value_parser = cli::duration)]
    each: Duration,
    /// Client connections that wrk keeps open.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Folder for the results.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// The first is what the others are compared with.
const CONTENDERS: [Contender; 9] = [
    Contender::Nothing,
    Contender::Idle,
    Contender::Excluded,
    Contender::Agent,
    Contender::Sparing,
    Contender::Tcpdump,
    Contender::Bpftrace,
    Contender::AccessLog,
    Contender::Exporter,
];

/// Measures and writes the report.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {
        rounds,
        each,
        connections,
        out,
    } = options;
    if *rounds == 0 || each.as_secs() == 0 {
        bail!("a measurement needs at least one round and one second");
    }
    let (agent, _tracefs) = super::ready(&[setup::TCPDUMP, setup::BPFTRACE, setup::MTAIL])?;
    let programs = Programs::new(agent, None)?;
    let scratch = Scratch::new("bench")?;
    let stages = [Stage::start(scratch.path(), Layout::Apart, 1)?];
    let plan = Plan {
        contenders: &CONTENDERS,
        stages: &stages,
        programs: &programs,
        rounds: *rounds,
        probe_rounds: 0,
        each: *each,
        connections: *connections,
    };
    let taken = plan.measure()?;
    let folder = out.clone().unwrap_or_else(|| root().join("docs/bench"));
    let setting = Setting::of_this_machine(*connections, *each);
    let json = serde_json::to_string_pretty(&(&setting, &taken.turns))? + "\n";
    super::write(&folder, "compare.json", &json)?;
    let summary = summary(&setting, &taken, *rounds);
    super::write(&folder, "compare.md", &summary)?;
    println!("\n{summary}\nwritten to {}", folder.display());
    Ok(())
}

fn summary(setting: &Setting, taken: &Taken, rounds: usize) -> String {
    format!(
        "# The agent beside what one would do instead

Written by `cargo xtask bench compare`; every turn is in `compare.json`.

{setting} {rounds} rounds; in each of them every way of watching had its turn, in an order that rotates,
and ratios are to the turn of the same round in which nothing watched: the median, and the interval that
holds it with 95 % certainty (below six rounds, least and most). One nginx worker as proxy, one as
application, keep-alive on both sides, answers of about 100 bytes; client, proxy, application and what
watches share the CPUs, each in a cgroup of its own. CPU is that of all of them together, as
[overhead.md](overhead.md) explains it; CPUs are idle where they have to wait for each other. The last
three columns are of the program that watches alone, the agent having been scraped at the end. {}

{}",
        taken.disturbance(),
        taken.table(Layout::Apart, &CONTENDERS)
    )
}
