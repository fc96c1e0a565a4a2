//! `bench`: what the agent costs an nginx proxy: at saturation (`overhead`), beside what one would
//! do instead (`compare`), and how that grows (`growth`).
//!
//! In: a release agent, nginx as proxy and as upstream, wrk. Out: raw numbers and summaries
//! in `docs/bench`. Three questions, three kinds of run, because each kind disturbs the
//! others: pairs with and without the agent (throughput, latency, the agent's own CPU and
//! memory), and one run with the kernel's BPF statistics on (time in probes per request).

pub(crate) mod compare;
mod contender;
mod cost;
pub(crate) mod growth;
mod proxy;
mod report;
mod wrk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::agent::Agent;
use crate::host::apt::Package;
use crate::host::scratch::Scratch;
use crate::host::{apt, bpf, interrupt, kernel, net, root};
use crate::{build, cli, setup};
use proxy::Proxy;
use report::{Measured, Pair, Probes, Report, Setting};

/// How long and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pairs of runs, one with and one without the agent.
    #[arg(long, default_value_t = 12)]
    pairs: usize,
    /// Length of each run.
    #[arg(long, default_value = "5s", value_parser = cli::duration)]
    each: Duration,
    /// Client connections that wrk keeps open.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Folder for the results.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Before the first pair, so that caches and the proxy's connections are warm.
const WARM_UP: Duration = Duration::from_secs(2);

/// Runs in which the time in the probes is measured, and as many of probes that return at once. What
/// else the machine is for shows more in these times than in anything.
const PROBE_RUNS: usize = 7;

/// Measures and writes the report.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {
        pairs,
        each,
        connections,
        out,
    } = options;
    if *pairs == 0 || each.as_secs() == 0 {
        bail!("a measurement needs at least one pair and one second");
    }
    let (agent, _tracefs) = ready(&[])?;
    let scratch = Scratch::new("bench")?;
    let proxy = Proxy::start(scratch.path(), 1)?;
    let load = wrk::Load {
        address: proxy.address(),
        connections: *connections,
        time: *each,
        path: "/",
        rest: Duration::ZERO,
    };
    wrk::Load {
        time: WARM_UP,
        ..load
    }
    .run()?;

    let mut measured = Vec::new();
    for number in 1..=*pairs {
        ensure_no_other_agent()?;
        let pair = pair(&agent, &load, &proxy, number)?;
        println!(
            "pair {number}/{pairs}: {:.0} req/s without, {:.0} with: ratio {:.4}",
            pair.without.load.per_second,
            pair.with.load.per_second,
            pair.ratio()
        );
        measured.push(pair);
    }
    let mut in_probes = Vec::new();
    for _ in 0..PROBE_RUNS {
        in_probes.push(report::ProbePair {
            idle: probes(&agent, &load, &["--idle-probes"])?,
            at_work: probes(&agent, &load, &[])?,
        });
    }
    let report = Report {
        setting: Setting::of_this_machine(&load),
        pairs: measured,
        probes: in_probes,
    };
    let folder = out.clone().unwrap_or_else(|| root().join("docs/bench"));
    report.write(&folder)?;
    println!("\n{}", report.summary());
    println!("written to {}", folder.display());
    Ok(())
}

/// What every measurement needs, installed and built: the agent. `more`: further packages.
fn ready(more: &[Package]) -> Result<(PathBuf, kernel::Tracefs)> {
    kernel::require()?;
    let packages = [&[setup::NGINX, setup::WRK, setup::BPFTOOL], more].concat();
    apt::ensure(&packages, "measuring")?;
    let agent = build::everything(true)?;
    let tracefs = kernel::Tracefs::ensure()?;
    interrupt::listen()?;
    ensure_no_other_agent()?;
    Ok((agent, tracefs))
}

/// A program that every agent loads; its name in the kernel.
const PROBE: &str = "packet_out";

/// Another agent's probes would be in both runs of a pair, and the difference would say
/// nothing.
fn ensure_no_other_agent() -> Result<()> {
    if bpf::all()?.iter().any(|program| program.name == PROBE) {
        bail!(
            "another agent has its probes attached (`bpftool prog show` lists {PROBE}): stop it and measure again"
        );
    }
    Ok(())
}

/// Two runs next to each other in time; which comes first alternates, so that a machine
/// that slows down does not look like the agent's fault.
fn pair(agent: &Path, load: &wrk::Load, proxy: &Proxy, number: usize) -> Result<Pair> {
    if number.is_multiple_of(2) {
        let with = with_agent(agent, load, proxy)?;
        Ok(Pair {
            without: without_agent(load, proxy)?,
            with,
        })
    } else {
        let without = without_agent(load, proxy)?;
        Ok(Pair {
            without,
            with: with_agent(agent, load, proxy)?,
        })
    }
}

fn without_agent(load: &wrk::Load, proxy: &Proxy) -> Result<Measured> {
    let before = cost::cpu_seconds(&proxy.workers());
    let result = load.run()?;
    stop_if_asked()?;
    let proxy_cpu = cost::cpu_seconds(&proxy.workers()) - before;
    Ok(Measured {
        load: result,
        proxy_cpu_seconds: proxy_cpu,
        agent: None,
    })
}

fn with_agent(agent: &Path, load: &wrk::Load, proxy: &Proxy) -> Result<Measured> {
    let mut running = Agent::start(agent, net::free_address()?, &quiet())?;
    let before = cost::cpu_seconds(&[running.pid()]);
    let mut measured = without_agent(load, proxy)?;
    running.ensure_running()?;
    measured.agent = Some(report::AgentCost {
        cpu_seconds: cost::cpu_seconds(&[running.pid()]) - before,
        rss_bytes: cost::memory(running.pid())?.peak,
    });
    let programs = bpf::programs_of(running.pid())?;
    running.stop();
    // The kernel frees them a little later; the run without the agent comes after that.
    bpf::wait_until_gone(&programs)?;
    Ok(measured)
}

/// Time in the probes, from the kernel's own statistics, which cost something themselves:
/// so not in the same run as the throughput.
fn probes(agent: &Path, load: &wrk::Load, more: &[&str]) -> Result<Probes> {
    let more = more.iter().map(|flag| (*flag).to_owned());
    let flags: Vec<String> = quiet().into_iter().chain(more).collect();
    let running = Agent::start(agent, net::free_address()?, &flags)?;
    // Who is no proxy is left alone by the time that counts.
    load.run()?;
    let _stats = kernel::BpfStats::enable()?;
    let before = bpf::programs_of(running.pid())?;
    let result = load.run()?;
    let after = bpf::programs_of(running.pid())?;
    stop_if_asked()?;
    if result.requests == 0 {
        bail!("wrk completed no request");
    }
    Ok(Probes {
        requests: result.requests,
        programs: cost::difference(&before, &after),
    })
}

fn quiet() -> Vec<String> {
    ["--log-level", "error"].map(str::to_owned).to_vec()
}

fn stop_if_asked() -> Result<()> {
    if interrupt::requested() {
        bail!("interrupted: nothing is written");
    }
    Ok(())
}

/// Writes a file of the report.
fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(folder.join(name), text))
        .with_context(|| format!("cannot write {}", folder.join(name).display()))
}
