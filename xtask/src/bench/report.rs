//! From runs to numbers, and from numbers to files: raw JSON and CSV, and a summary that
//! holds nothing the raw files do not.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use super::wrk::{Load, Loaded};
use crate::host::bpf::Program;

/// Below this the proxy's worker was not the limit, percent of a CPU.
const SATURATED_PERCENT: f64 = 85.0;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// On what.
    pub(super) setting: Setting,
    /// Throughput, latency, the agent's own use.
    pub(super) pairs: Vec<Pair>,
    /// Time in the probes.
    pub(super) probes: Vec<ProbePair>,
}

/// The machine and the load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setting {
    kernel: String,
    cpu: String,
    cpus: usize,
    nginx: String,
    connections: u32,
    seconds_per_run: u64,
}

/// Two runs next to each other.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pair {
    /// Without the agent.
    pub(super) without: Measured,
    /// With it.
    pub(super) with: Measured,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// What wrk saw.
    pub(super) load: Loaded,
    /// CPU time of the proxy's workers, seconds: near the length of the run when the proxy
    /// is the limit.
    pub(super) proxy_cpu_seconds: f64,
    /// The agent's own use, when it ran.
    pub(super) agent: Option<AgentCost>,
}

/// What the daemon used during a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct AgentCost {
    /// User and system time.
    pub(super) cpu_seconds: f64,
    /// Peak resident memory.
    pub(super) rss_bytes: u64,
}

/// One run with the kernel's statistics on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Probes {
    /// Requests during it.
    pub(super) requests: u64,
    /// What each program used.
    pub(super) programs: Vec<Program>,
}

/// Two runs of them, one after the other.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ProbePair {
    /// When they return at once.
    pub(super) idle: Probes,
    /// When they do what they are for.
    pub(super) at_work: Probes,
}

impl Setting {
    /// This machine, as far as it matters to the numbers.
    pub(super) fn of_this_machine(load: &Load) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        Self {
            kernel: kernel.trim().to_owned(),
            cpu: cpu.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            nginx: nginx_version(),
            connections: load.connections,
            seconds_per_run: load.time.as_secs(),
        }
    }
}

/// In one line.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            cpu,
            cpus,
            nginx,
            connections,
            seconds_per_run,
        } = self;
        write!(
            f,
            "Kernel {kernel}, {cpu}, {cpus} CPUs, {nginx}; wrk with {connections} connections, {seconds_per_run} s at a time."
        )
    }
}

impl Pair {
    /// Throughput with over throughput without.
    pub(super) fn ratio(&self) -> f64 {
        self.with.load.per_second / self.without.load.per_second
    }

    /// CPU time of the agent for a load of 1,000 requests per second, thousandths of a CPU.
    fn agent_mcpu_per_1000(&self) -> Option<f64> {
        let agent = self.with.agent?;
        Some(agent.cpu_seconds / self.with.load.requests as f64 * 1e6)
    }
}

impl Probes {
    /// Time in all programs per request, ns.
    fn ns_per_request(&self) -> f64 {
        let time: u64 = self
            .programs
            .iter()
            .map(|program| program.run_time_ns)
            .sum();
        time as f64 / self.requests as f64
    }

    /// Time of one run of a program, ns; not a number when it did not run.
    fn ns_per_run(&self, name: &str) -> f64 {
        let mut named = self.programs.iter().filter(|program| program.name == name);
        let one = named.next();
        one.map_or(f64::NAN, |one| one.run_time_ns as f64 / one.run_cnt as f64)
    }
}

impl Report {
    /// Writes `overhead.json`, `overhead.csv` and `overhead.md`.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        super::write(folder, "overhead.json", &json)?;
        super::write(folder, "overhead.csv", &self.csv())?;
        super::write(folder, "overhead.md", &self.summary())
    }

    /// One line a run.
    fn csv(&self) -> String {
        let mut text = String::from(
            "pair,agent,requests,requests_per_second,p50_us,p99_us,proxy_cpu_seconds,agent_cpu_seconds,agent_rss_bytes\n",
        );
        for (pair, number) in self.pairs.iter().zip(1..) {
            for (agent, run) in [("without", &pair.without), ("with", &pair.with)] {
                let Loaded {
                    requests,
                    per_second,
                    p50_us,
                    p99_us,
                } = run.load;
                let proxy = run.proxy_cpu_seconds;
                let (cpu, rss) = run.agent.map_or_else(Default::default, |agent| {
                    (
                        format!("{:.2}", agent.cpu_seconds),
                        agent.rss_bytes.to_string(),
                    )
                });
                text += &format!(
                    "{number},{agent},{requests},{per_second:.2},{p50_us},{p99_us},{proxy:.2},{cpu},{rss}\n"
                );
            }
        }
        text
    }

    /// The summary, in Markdown.
    pub(super) fn summary(&self) -> String {
        let Self {
            setting,
            pairs,
            probes,
        } = self;
        let Setting {
            kernel,
            cpu,
            cpus,
            nginx,
            connections,
            seconds_per_run,
        } = setting;
        let ratio = Spread::of(pairs.iter().map(Pair::ratio));
        let mcpu = Spread::of(pairs.iter().filter_map(Pair::agent_mcpu_per_1000));
        let in_probes = Spread::of(probes.iter().map(|pair| pair.at_work.ns_per_request()));
        let in_idle = Spread::of(probes.iter().map(|pair| pair.idle.ns_per_request()));
        let rss = Spread::of(
            pairs
                .iter()
                .filter_map(|p| Some(p.with.agent?.rss_bytes as f64)),
        );
        let busy = |run: &Measured| run.proxy_cpu_seconds / *seconds_per_run as f64 * 100.0;
        let saturation = Spread::of(pairs.iter().map(|pair| busy(&pair.without)));
        let doubt = if saturation.median < SATURATED_PERCENT {
            "\n**Not at saturation**: something else was the limit, or other programs took the CPUs.\nThe ratios below say little; measure again on a quiet machine.\n"
        } else {
            ""
        };
        let of = |field: fn(&Loaded) -> f64| {
            let without = Spread::of(pairs.iter().map(|pair| field(&pair.without.load)));
            let with = Spread::of(pairs.iter().map(|pair| field(&pair.with.load)));
            (without.median, with.median)
        };
        let (rate_without, rate_with) = of(|load| load.per_second);
        let proxy_us = |run: &Measured| run.proxy_cpu_seconds * 1e6 / run.load.requests as f64;
        let proxy_without = Spread::of(pairs.iter().map(|pair| proxy_us(&pair.without))).median;
        let proxy_with = Spread::of(pairs.iter().map(|pair| proxy_us(&pair.with))).median;
        let (p50_without, p50_with) = of(|load| load.p50_us);
        let (p99_without, p99_with) = of(|load| load.p99_us);
        let mut text = format!(
            "# What the agent costs

Written by `cargo xtask bench overhead`; every run is in `overhead.csv` and `overhead.json`.

Kernel {kernel}, {cpu}, {cpus} CPUs, {nginx}. One nginx worker as proxy, one
as application, wrk with {connections} connections; keep-alive on both sides, answers of about
100 bytes, everything on this host. {} pairs of {seconds_per_run} s, order alternating. The
proxy's worker was busy {:.0} % of the time (median) without the agent.
{doubt}
| | without | with |
| --- | --- | --- |
| requests per second, median | {rate_without:.0} | {rate_with:.0} |
| CPU of the proxy for a request, median of runs, us | {proxy_without:.1} | {proxy_with:.1} |
| latency p50, median of runs, us | {p50_without:.0} | {p50_with:.0} |
| latency p99, median of runs, us | {p99_without:.0} | {p99_with:.0} |

| | median | least | most |
| --- | --- | --- | --- |
| throughput with / without, per pair | {:.4} | {:.4} | {:.4} |
| agent CPU per 1,000 requests/s, mCPU | {:.2} | {:.2} | {:.2} |
| agent peak memory, MB | {:.1} | {:.1} | {:.1} |
| time in the probes per request, ns | {:.0} | {:.0} | {:.0} |
| the same when they return at once, ns | {:.0} | {:.0} | {:.0} |

The time in the probes is of {} runs of its own, with the kernel's statistics on, which are most of what
probes take that return at once. Client, proxy and upstream are on this host: the probes see all four
sockets of a request; after 2,000 requests they leave those of the client and of the upstream alone,
which are no proxies. By program, in the run in the middle:

| program | runs per request | ns per run | when it returns at once | ns per request |
| --- | --- | --- | --- | --- |
",
            pairs.len(),
            saturation.median,
            ratio.median,
            ratio.least,
            ratio.most,
            mcpu.median,
            mcpu.least,
            mcpu.most,
            rss.median / 1e6,
            rss.least / 1e6,
            rss.most / 1e6,
            in_probes.median,
            in_probes.least,
            in_probes.most,
            in_idle.median,
            in_idle.least,
            in_idle.most,
            probes.len(),
        );
        let mut sorted: Vec<&ProbePair> = probes.iter().collect();
        sorted.sort_by(|one, other| {
            let of = |pair: &ProbePair| pair.at_work.ns_per_request();
            of(one).total_cmp(&of(other))
        });
        let Some(ProbePair { idle, at_work }) = sorted.get(sorted.len() / 2) else {
            return text;
        };
        for program in at_work
            .programs
            .iter()
            .filter(|program| program.run_cnt > 0)
        {
            let (time, runs) = (program.run_time_ns as f64, program.run_cnt as f64);
            let requests = at_work.requests as f64;
            let _ = writeln!(
                text,
                "| {} | {:.2} | {:.0} | {:.0} | {:.0} |",
                program.name,
                runs / requests,
                time / runs,
                idle.ns_per_run(&program.name),
                time / requests
            );
        }
        text
    }
}

/// Middle and ends of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// All not-a-number when there are none.
    pub(super) fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let count = sorted.len();
        let median = if count.is_multiple_of(2) && count > 0 {
            f64::midpoint(at(count / 2 - 1), at(count / 2))
        } else {
            at(count / 2)
        };
        Self {
            median,
            least: at(0),
            most: at(count.saturating_sub(1)),
        }
    }
}

fn nginx_version() -> String {
    // nginx -v writes to standard error.
    let output = Command::new("sh").args(["-c", "nginx -v 2>&1"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let version = text
        .trim()
        .strip_prefix("nginx version: ")
        .unwrap_or("nginx");
    version.replace('/', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(per_second: f64, agent: Option<AgentCost>) -> Measured {
        let load = Loaded {
            requests: 1000,
            per_second,
            p50_us: 100.0,
            p99_us: 200.0,
        };
        Measured {
            load,
            proxy_cpu_seconds: 1.0,
            agent,
        }
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter());
        assert_eq!(
            spread,
            Spread {
                median: 2.5,
                least: 1.0,
                most: 4.0
            }
        );
        assert_eq!(Spread::of([7.0].into_iter()).median, 7.0);
        assert!(Spread::of(std::iter::empty()).median.is_nan());
    }

    #[test]
    fn cost_is_told_per_pair() {
        let agent = AgentCost {
            cpu_seconds: 0.01,
            rss_bytes: 1 << 20,
        };
        let pair = Pair {
            without: measured(1000.0, None),
            with: measured(990.0, Some(agent)),
        };
        assert_eq!(pair.ratio(), 0.99);
        // 10 us of CPU a request are 10 mCPU at 1,000 requests a second.
        assert_eq!(pair.agent_mcpu_per_1000(), Some(10.0));
    }
}
