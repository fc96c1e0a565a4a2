//! The command line: which task, with which options. Decides nothing itself.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{bench, build, dashboards, deploy, dist, fuzz, run, setup, test, tidy, vm};

/// Set up, build, run, test and measure why502.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find or install what building, running and testing need.
    Setup(setup::Options),
    /// Build the eBPF object and the agent.
    Build(build::Options),
    /// Build, then run the agent on this host.
    Run(run::Options),
    /// Everything CI runs, in order.
    Test(test::Options),
    /// The same binary on every kernel of the matrix, in virtual machines.
    Vm(vm::Options),
    /// The fuzz targets for a given time.
    Fuzz(fuzz::Options),
    /// The invariants that cargo cannot hold.
    Tidy,
    /// Write Grafana's JSON from its panels.
    Dashboards,
    /// What is handed out: a static program, a Debian package, an archive, in `target/dist`.
    Dist(dist::Options),
    /// Write the manifests under `deploy/` that are made from others.
    Manifests,
    /// Measurements.
    Bench(Bench),
    /// Takes one CPU away now and then; `test --steal` starts one for each.
    #[command(hide = true)]
    Steal(test::StealOptions),
}

#[derive(Debug, Args)]
struct Bench {
    #[command(subcommand)]
    what: BenchTask,
}

#[derive(Debug, Subcommand)]
enum BenchTask {
    /// What the agent costs an nginx proxy at saturation.
    Overhead(bench::overhead::Options),
    /// The agent beside what one would do instead: tcpdump, bpftrace, an access log and mtail.
    Compare(bench::compare::Options),
    /// How the cost grows: rate, connections, upstreams, size of bodies, traffic that is not HTTP.
    Growth(bench::growth::Options),
}

impl Cli {
    /// Runs the task that was asked for. A task that has told its own failure gives a code.
    pub(crate) fn dispatch(self) -> Result<ExitCode> {
        match self.task {
            Task::Setup(options) => setup::run(&options)?,
            Task::Build(options) => build::run(&options)?,
            Task::Run(options) => run::run(&options)?,
            Task::Test(options) => return test::run(&options),
            Task::Vm(options) => vm::run(&options)?,
            Task::Fuzz(options) => fuzz::run(&options)?,
            Task::Steal(options) => test::steal(&options)?,
            Task::Manifests => deploy::write()?,
            Task::Dist(options) => dist::run(&options)?,
            Task::Tidy => tidy::run()?,
            Task::Dashboards => dashboards::run()?,
            Task::Bench(Bench { what }) => match what {
                BenchTask::Overhead(options) => bench::overhead::run(&options)?,
                BenchTask::Compare(options) => bench::compare::run(&options)?,
                BenchTask::Growth(options) => bench::growth::run(&options)?,
            },
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A time span on the command line: `500ms`, `30s`, `5m`, or plain seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is no time span: try 500ms, 30s or 5m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("`{unit}` is no unit of time here: use ms, s or m")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_span_takes_milliseconds_seconds_and_minutes() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("2h").is_err());
        assert!(duration("").is_err());
        assert!(duration("ten").is_err());
    }
}
