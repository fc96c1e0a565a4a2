//! `bench compare`: the agent beside what one would do instead, in the same run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::contender::Contender;
use super::cost::{Machine, Memory};
use super::proxy::Proxy;
use super::report::{Setting, Spread};
use super::wrk::Load;
use super::{WARM_UP, stop_if_asked};
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

/// One turn.
#[derive(Clone, Copy, Debug, Serialize)]
struct Turn {
    round: usize,
    watching: Contender,
    requests: u64,
    requests_per_second: f64,
    p99_us: f64,
    /// Of all processes, and of the kernel.
    machine: Machine,
    /// Of the program that watches, not of what it makes the kernel do for others.
    cpu_seconds: f64,
    memory: Memory,
}

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
    let scratch = Scratch::new("bench")?;
    let proxy = Proxy::start(scratch.path(), 1)?;
    let load = Load {
        address: proxy.address(),
        connections: *connections,
        time: *each,
        path: "/",
        rest: Duration::ZERO,
    };
    for path in ["/", "/logged"] {
        Load {
            time: WARM_UP,
            path,
            ..load
        }
        .run()?;
    }
    let mut turns = Vec::new();
    for round in 1..=*rounds {
        // Each begins a round once in a while, and none has always the same before it.
        let mut order = Contender::ALL;
        order.rotate_left(round % Contender::ALL.len());
        if round.is_multiple_of(2) {
            order.reverse();
        }
        for watching in order {
            let program = watching.start(&agent, &proxy)?;
            let before = program.cpu_seconds();
            let earlier = Machine::so_far()?;
            let loaded = Load {
                path: watching.path(),
                ..load
            }
            .run()?;
            let machine = Machine::so_far()?.since(earlier);
            turns.push(Turn {
                round,
                watching,
                requests: loaded.requests,
                requests_per_second: loaded.per_second,
                p99_us: loaded.p99_us,
                machine,
                cpu_seconds: program.cpu_seconds() - before,
                memory: program.memory()?,
            });
            program.stop()?;
            // What was logged is not kept: a run of minutes is gigabytes.
            std::fs::File::create(proxy.access_log()).context("cannot empty the access log")?;
            stop_if_asked()?;
        }
        println!("round {round}/{rounds}");
    }
    let folder = out.clone().unwrap_or_else(|| root().join("docs/bench"));
    let setting = Setting::of_this_machine(&load);
    let json = serde_json::to_string_pretty(&(&setting, &turns))? + "\n";
    super::write(&folder, "compare.json", &json)?;
    let summary = summary(&setting, &turns, *rounds);
    super::write(&folder, "compare.md", &summary)?;
    println!("\n{summary}\nwritten to {}", folder.display());
    Ok(())
}

fn summary(setting: &Setting, turns: &[Turn], rounds: usize) -> String {
    let rate = |round: usize, watching: Contender| {
        let mut turns = turns.iter();
        turns
            .find(|turn| turn.round == round && turn.watching == watching)
            .map_or(f64::NAN, |turn| turn.requests_per_second)
    };
    let mut text = format!(
        "# The agent beside what one would do instead

Written by `cargo xtask bench compare`; every turn is in `compare.json`.

{setting} {rounds} rounds; in each of them every way had its turn, in changing order, and the
ratio is to the turn of the same round in which nothing watched. One nginx worker as proxy, one as
application, keep-alive on both sides, answers of about 100 bytes; client, proxy and application
share the CPUs with what watches. CPU for a request is that of all of them together, the kernel's
among it; CPUs are idle where they have to wait for each other. The last three columns are of the
program that watches alone, the agent having been scraped at the end.

| what watches | requests/s | ratio: median | least | most | CPU for a request, us | CPUs idle, % | its CPU per 1,000 requests/s, mCPU | memory, MB | peak |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"
    );
    for watching in Contender::ALL {
        let of = |value: fn(&Turn) -> f64| {
            let its = turns.iter().filter(|turn| turn.watching == watching);
            Spread::of(its.map(value)).median
        };
        let ratio =
            Spread::of((1..=rounds).map(|n| rate(n, watching) / rate(n, Contender::Nothing)));
        text += &format!(
            "| {} | {:.0} | {:.3} | {:.3} | {:.3} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} |\n",
            watching.title(),
            of(|turn| turn.requests_per_second),
            ratio.median,
            ratio.least,
            ratio.most,
            of(|turn| turn.machine.busy / turn.requests as f64 * 1e6),
            of(|turn| turn.machine.idle / (turn.machine.busy + turn.machine.idle) * 100.0),
            of(|turn| turn.cpu_seconds / turn.requests as f64 * 1e6),
            of(|turn| turn.memory.now as f64 / 1e6),
            of(|turn| turn.memory.peak as f64 / 1e6),
        );
    }
    text
}
