//! `bench growth`: what the agent costs as one thing grows and the rest stays.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::contender::Contender;
use super::cost::Memory;
use super::proxy::Proxy;
use super::report::{Setting, Spread};
use super::wrk::Load;
use super::{cost, stop_if_asked};
use crate::cli;
use crate::host::child::Guard;
use crate::host::scratch::Scratch;
use crate::host::{command, kernel, net, root};
use crate::setup;

/// How long and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pairs of turns for each point, one with and one without the agent.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Length of each turn.
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
    /// By a proxy with two workers, for one may not have so many connections (RLIMIT_NOFILE).
    two_workers: bool,
}

/// What a point gave.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    table: &'static str,
    name: &'static str,
    /// Requests per second without and with the agent, by pair.
    rates: Vec<(f64, f64)>,
    /// User and system time of the agent for each request, microseconds, by pair.
    agent_us: Vec<f64>,
    /// Memory of the agent at the end, by pair.
    agent_memory: Vec<Memory>,
    /// How often a thread of the agent had waited and was woken, a second, by pair.
    agent_wakeups: Vec<f64>,
    /// Time in the probes for each request, ns, with the kernel's statistics on.
    probes_ns: f64,
    /// How often a probe ran for each request.
    probe_runs: f64,
}

const USUAL: u32 = 64;

/// Connections that are open soon enough for a turn of the usual length. Of more of them most of the
/// turn would be their opening.
const SOON_OPEN: u32 = 2_000;

/// Where connections rest so long, there are too few requests in a turn of the usual length to tell the
/// agent's time, which the kernel tells in hundredths of a second: it is so many times as long.
const LONG_REST: Duration = Duration::from_millis(10);
const RESTING: u32 = 5;

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
        two_workers: false,
    }
}

const fn resting(name: &'static str, millis: u64) -> Point {
    Point {
        rest: Duration::from_millis(millis),
        ..point("Requests per second", name, USUAL, "/")
    }
}

const POINTS: [Point; 19] = [
    resting("64 connections that rest 64 ms", 64),
    resting("64 connections that rest 6 ms", 6),
    point(
        "Requests per second",
        "64 connections, as fast as it goes",
        USUAL,
        "/",
    ),
    point("Connections", "10", 10, "/"),
    point("Connections", "1,000", 1_000, "/"),
    point("Connections", "10,000", 10_000, "/"),
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
    let scratch = Scratch::new("bench")?;
    let proxy = Proxy::start(scratch.path(), 1)?;
    let two_workers = Proxy::start(&scratch.path().join("two"), 2)?;
    let mut measured = Vec::new();
    for point in POINTS {
        let proxy = if point.two_workers {
            &two_workers
        } else {
            &proxy
        };
        let one = measure(&agent, proxy, point, *pairs, *each)?;
        println!("{}", row(&one));
        measured.push(one);
    }
    let bulk = bulk(&agent, &proxy, *pairs, *each)?;
    let folder = out.clone().unwrap_or_else(|| root().join("docs/bench"));
    let setting = Setting::of_this_machine(&load(&proxy, POINTS[2], *each));
    let json = serde_json::to_string_pretty(&(&setting, &measured, &bulk))? + "\n";
    super::write(&folder, "growth.json", &json)?;
    let summary = summary(&setting, &measured, &bulk, *pairs);
    super::write(&folder, "growth.md", &summary)?;
    println!("\n{summary}\nwritten to {}", folder.display());
    Ok(())
}

fn load(proxy: &Proxy, point: Point, each: Duration) -> Load {
    let rests = point.rest >= LONG_REST;
    let longer = if rests {
        RESTING
    } else {
        point.connections.div_ceil(SOON_OPEN)
    };
    let time = each * longer;
    Load {
        address: proxy.address(),
        connections: point.connections,
        time,
        path: point.path,
        rest: point.rest,
    }
}

fn measure(
    agent: &Path,
    proxy: &Proxy,
    point: Point,
    pairs: usize,
    each: Duration,
) -> Result<Measured> {
    let load = load(proxy, point, each);
    // Connections and caches warm.
    load.run()?;
    let mut measured = Measured {
        table: point.table,
        name: point.name,
        rates: Vec::new(),
        agent_us: Vec::new(),
        agent_memory: Vec::new(),
        agent_wakeups: Vec::new(),
        probes_ns: f64::NAN,
        probe_runs: f64::NAN,
    };
    for number in 0..pairs {
        let mut without = None;
        if number.is_multiple_of(2) {
            without = Some(load.run()?);
        }
        let program = Contender::Agent.start(agent, proxy)?;
        let before = (program.cpu_seconds(), program.wakeups(), Instant::now());
        let with = load.run()?;
        let used = program.cpu_seconds() - before.0;
        let wakeups = program.wakeups().saturating_sub(before.1) as f64;
        measured
            .agent_wakeups
            .push(wakeups / before.2.elapsed().as_secs_f64());
        measured.agent_us.push(used / with.requests as f64 * 1e6);
        measured.agent_memory.push(program.memory()?);
        program.stop()?;
        let without = without.map_or_else(|| load.run(), Ok)?;
        measured.rates.push((without.per_second, with.per_second));
        stop_if_asked()?;
    }
    let program = Contender::Agent.start(agent, proxy)?;
    {
        let _stats = kernel::BpfStats::enable()?;
        let before = program.programs()?;
        let loaded = load.run()?;
        let used = cost::difference(&before, &program.programs()?);
        let sum =
            |of: fn(&crate::host::bpf::Program) -> u64| used.iter().map(of).sum::<u64>() as f64;
        measured.probes_ns = sum(|one| one.run_time_ns) / loaded.requests as f64;
        measured.probe_runs = sum(|one| one.run_cnt) / loaded.requests as f64;
    }
    program.stop()?;
    Ok(measured)
}

/// Gigabits per second over loopback, without and with the agent, by pair.
fn bulk(agent: &Path, proxy: &Proxy, pairs: usize, each: Duration) -> Result<Vec<(f64, f64)>> {
    let address = net::free_address()?;
    let port = address.port().to_string();
    let mut server = Command::new("iperf3");
    server.args(["--server", "--bind", "127.0.0.1", "--port", &port]);
    let _server = Guard::start_reading("iperf3", &server, |_| {})?;
    std::thread::sleep(Duration::from_millis(500));
    let stream = || -> Result<f64> {
        let mut client = Command::new("iperf3");
        client
            .args(["--client", "127.0.0.1", "--port", &port, "--json", "--time"])
            .arg(each.as_secs().to_string());
        let said: serde_json::Value = serde_json::from_str(&command::output(&mut client)?)?;
        let bits = said.pointer("/end/sum_received/bits_per_second");
        let bits = bits.and_then(serde_json::Value::as_f64);
        Ok(bits.context("iperf3 tells no rate")? / 1e9)
    };
    stream()?;
    let mut rates = Vec::new();
    for number in 0..pairs {
        let mut without = None;
        if number.is_multiple_of(2) {
            without = Some(stream()?);
        }
        let program = Contender::Agent.start(agent, proxy)?;
        let with = stream()?;
        program.stop()?;
        rates.push((without.map_or_else(stream, Ok)?, with));
        stop_if_asked()?;
    }
    Ok(rates)
}

fn row(one: &Measured) -> String {
    let rate = |of: fn(&(f64, f64)) -> f64| Spread::of(one.rates.iter().map(of)).median;
    let ratio = Spread::of(one.rates.iter().map(|(without, with)| with / without));
    let memory = |of: fn(&Memory) -> u64| {
        Spread::of(one.agent_memory.iter().map(|memory| of(memory) as f64)).most / 1e6
    };
    format!(
        "| {} | {:.0} | {:.0} | {:.3} ({:.3} to {:.3}) | {:.0} | {:.1} | {:.2} | {:.0} | {:.1} | {:.1} |",
        one.name,
        rate(|(without, _)| *without),
        rate(|(_, with)| *with),
        ratio.median,
        ratio.least,
        ratio.most,
        one.probes_ns,
        one.probe_runs,
        Spread::of(one.agent_us.iter().copied()).median,
        Spread::of(one.agent_wakeups.iter().copied()).median,
        memory(|memory| memory.now),
        memory(|memory| memory.peak),
    )
}

fn summary(setting: &Setting, measured: &[Measured], bulk: &[(f64, f64)], pairs: usize) -> String {
    let mut text = format!(
        "# How the cost grows

Written by `cargo xtask bench growth`; every turn is in `growth.json`.

{setting} {pairs} pairs for each line, one turn with the agent and one without, in changing order;
then one turn with the kernel's statistics on, for the probes; turns of 10,000 connections are five times
as long, for these to be open for most of it, and turns of 1,000 requests a second, for the times to be
told. Client, proxy and application are on
this host. The agent's time of a second of CPU per million requests is 1 us a request, and as many
mCPU at 1,000 requests/s. A wake-up is a thread of the agent that had waited and goes on (voluntary
context switches). Its memory is that after a scrape at the end.
"
    );
    let mut table = "";
    for one in measured {
        if one.table != table {
            table = one.table;
            text += &format!(
                "
## {table}

| | requests/s without | with | ratio: median (least to most) | probes, ns a request | runs a request | agent, us a request | its wake-ups a second | its memory, MB | peak |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"
            );
        }
        text += &row(one);
        text.push('\n');
    }
    let ratio = Spread::of(bulk.iter().map(|(without, with)| with / without));
    text += &format!(
        "
## Traffic that is not HTTP

One stream of iperf3 over loopback, Gbit/s.

| without | with | ratio: median (least to most) |
| --- | --- | --- |
| {:.1} | {:.1} | {:.3} ({:.3} to {:.3}) |
",
        Spread::of(bulk.iter().map(|(without, _)| *without)).median,
        Spread::of(bulk.iter().map(|(_, with)| *with)).median,
        ratio.median,
        ratio.least,
        ratio.most,
    );
    text
}
