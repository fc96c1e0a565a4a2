//! `test`: everything CI runs, in order, each step timed.
//!
//! A failing step does not stop the ones after it, so that one run tells everything that
//! is wrong. An end-to-end test that failed and then passed when run alone is no failure, but
//! it is named again above the table ([`again`]). The last line is the count, alone:
//! `9 passed, 0 failed`.

mod again;
mod libtest;
mod programs;
mod steal;

use std::cell::{OnceCell, RefCell};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::host::{apt, command, interrupt, kernel, root, target_dir};
use crate::toolchain::{self, Toolchain};
use crate::{aarch64, budgets, build, deny, deploy, dist, reproducible, setup, tidy, vm};

pub(crate) use steal::{Options as StealOptions, steal};

/// Which steps to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the steps of these names (see `--list`). May be given more than once.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Leave nothing out: all kernels of the matrix instead of one, and the agent for aarch64.
    #[arg(long)]
    all: bool,
    /// Name the steps and stop.
    #[arg(long)]
    list: bool,
    /// Of the end-to-end tests only the targets of these names (see tests/README.md), as in
    /// `cargo test --test NAME`. May be given more than once.
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
    /// Run the steps while each CPU is taken away for 5 to 125 ms, about twice a second, as on
    /// a crowded host. Needs root or CAP_SYS_NICE. The seed is printed; `--steal=SEED` repeats
    /// the same sequence.
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true)]
    steal: Option<Option<u64>>,
}

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Shared) -> Result<()>,
}

const STEPS: [Step; 17] = [
    Step {
        name: "fmt",
        what: "formatting",
        run: fmt,
    },
    Step {
        name: "tidy",
        what: "invariants cargo cannot hold",
        run: tidy_up,
    },
    Step {
        name: "deny",
        what: "licences, sources and advisories of dependencies",
        run: |_| deny::run(),
    },
    Step {
        name: "deploy",
        what: "chart, manifests, compose file and unit, by those who read them",
        run: |_| deploy::check(),
    },
    Step {
        name: "object",
        what: "eBPF object builds",
        run: object,
    },
    Step {
        name: "reproducible",
        what: "the object is the same when built elsewhere",
        run: |shared| reproducible::check(shared.toolchain()?),
    },
    Step {
        name: "clippy",
        what: "lints, host crates",
        run: clippy,
    },
    Step {
        name: "clippy-ebpf",
        what: "lints, eBPF crate",
        run: clippy_ebpf,
    },
    Step {
        name: "doc",
        what: "documentation builds without a warning",
        run: doc,
    },
    Step {
        name: "unit",
        what: "unit, property and fuzz smoke tests",
        run: unit,
    },
    Step {
        name: "rules",
        what: "alert rules fire and resolve as their tests say",
        run: |_| rules(),
    },
    Step {
        name: "budgets",
        what: "what the probes take of the kernel, as root",
        run: |shared| budgets::run(shared.toolchain()?),
    },
    Step {
        name: "aarch64",
        what: "the object is the same there; with --all the agent compiles",
        run: aarch64_too,
    },
    Step {
        name: "release",
        what: "release agent builds, linked statically",
        run: release,
    },
    Step {
        name: "dist",
        what: "packages are made; the Debian one installs and goes, as root",
        run: |_| dist::check(),
    },
    Step {
        name: "e2e",
        what: "end to end, as root",
        run: end_to_end,
    },
    Step {
        name: "vm",
        what: "another kernel, in a virtual machine; all with --all",
        run: kernels,
    },
];

/// What steps share: what was asked for, and what is found once, by the first that needs it.
#[derive(Default)]
struct Shared {
    /// Nothing is left out.
    all: bool,
    /// The targets of end-to-end tests to run; all when empty.
    tests: Vec<String>,
    toolchain: OnceCell<Toolchain>,
    /// What the running step found flaky, one line each.
    flaky: RefCell<Vec<String>>,
}

struct Outcome {
    step: &'static Step,
    seconds: f64,
    flaky: Vec<String>,
    error: Option<anyhow::Error>,
}

/// Runs the steps; a failing exit code when any failed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let Options {
        only,
        all,
        list,
        test,
        steal,
    } = options;
    if *list {
        for Step { name, what, .. } in &STEPS {
            println!("{name:<12} {what}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(only)?;
    interrupt::listen()?;
    let mut thieves = steal.map(steal::Thieves::start).transpose()?;
    let shared = Shared {
        all: *all,
        tests: test.clone(),
        ..Shared::default()
    };
    let mut outcomes = Vec::new();
    for step in chosen {
        println!("── {}: {}", step.name, step.what);
        let started = Instant::now();
        let mut error = (step.run)(&shared).err();
        if let Some(thieves) = &mut thieves {
            error = error.or(thieves.ensure_running().err());
        }
        if let Some(error) = &error {
            eprintln!("{} failed: {error:#}", step.name);
        }
        outcomes.push(Outcome {
            step,
            seconds: started.elapsed().as_secs_f64(),
            flaky: shared.flaky.take(),
            error,
        });
        if interrupt::requested() {
            bail!("interrupted during {}", step.name);
        }
    }
    Ok(conclude(&outcomes))
}

/// Says what failed and why and what was flaky, above the table; the count comes last.
fn conclude(outcomes: &[Outcome]) -> ExitCode {
    println!();
    for outcome in outcomes {
        let name = outcome.step.name;
        if let Some(error) = &outcome.error {
            println!("{name}: {error:#}");
        }
        for flaky in &outcome.flaky {
            println!("{name}: FLAKY {flaky}");
        }
    }
    for outcome in outcomes {
        println!("{}", outcome.line());
    }
    let failed = outcomes
        .iter()
        .filter(|outcome| outcome.error.is_some())
        .count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn choose(only: &[String]) -> Result<Vec<&'static Step>> {
    if let Some(unknown) = only
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!(
            "there is no step `{unknown}`; the steps are {}",
            names.join(", ")
        );
    }
    let wanted = |step: &&Step| only.is_empty() || only.iter().any(|name| name == step.name);
    Ok(STEPS.iter().filter(wanted).collect())
}

impl Outcome {
    /// Its row of the table.
    fn line(&self) -> String {
        let Self {
            step: Step { name, what, .. },
            seconds,
            flaky,
            error,
        } = self;
        let word = if error.is_some() { "FAILED" } else { "ok" };
        let mut line = format!("{name:<12} {word:<6} {seconds:8.1} s  {what}");
        if !flaky.is_empty() {
            line.push_str(&format!(" ({} FLAKY)", flaky.len()));
        }
        line
    }
}

impl Shared {
    fn toolchain(&self) -> Result<&Toolchain> {
        if self.toolchain.get().is_none() {
            let found = toolchain::find_or_install()?;
            println!("eBPF compiler: {}", found.describe());
            let _ = self.toolchain.set(found);
        }
        self.toolchain
            .get()
            .ok_or_else(|| anyhow!("no eBPF compiler"))
    }
}

fn fmt(_: &Shared) -> Result<()> {
    command::run(command::cargo().args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` puts it right")
}

fn tidy_up(_: &Shared) -> Result<()> {
    tidy::run()
}

fn object(shared: &Shared) -> Result<()> {
    build::object(shared.toolchain()?).map(drop)
}

fn clippy(_: &Shared) -> Result<()> {
    command::run(host("clippy").args(["--all-targets", "--", "-D", "warnings"]))
}

fn clippy_ebpf(shared: &Shared) -> Result<()> {
    let toolchain = shared.toolchain()?;
    toolchain.ensure_clippy()?;
    let mut cargo = toolchain.cargo("clippy", &build::bpf_target_dir())?;
    cargo.args(["--quiet", "--package", "agent-ebpf", "--", "-D", "warnings"]);
    command::run(&mut cargo)
}

fn doc(_: &Shared) -> Result<()> {
    let mut cargo = host("doc");
    command::run(cargo.args(["--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn unit(_: &Shared) -> Result<()> {
    command::run(host("test").args(["--no-fail-fast", "--exclude", "e2e"]))
}

fn rules() -> Result<()> {
    apt::ensure(&[setup::PROMETHEUS], "testing the alert rules")?;
    let folder = root().join("dashboards/alerts/tests");
    let mut promtool = Command::new("promtool");
    promtool.args(["test", "rules"]);
    for file in fs::read_dir(&folder).context("the tests of the alert rules are gone")? {
        promtool.arg(file?.path());
    }
    command::run(&mut promtool)
}

fn release(_: &Shared) -> Result<()> {
    build::agent(true).map(drop)
}

fn end_to_end(shared: &Shared) -> Result<()> {
    kernel::require()?;
    setup::ensure_tests()?;
    object(shared)?;
    let agent: PathBuf = build::agent(true)?;
    let _tracefs = kernel::Tracefs::ensure()?;
    let outcome = again::run(&programs::Programs::build("e2e", &shared.tests, agent)?)?;
    shared.flaky.replace(outcome.flaky);
    match outcome.error {
        None => Ok(()),
        Some(error) => bail!(error),
    }
}

fn aarch64_too(shared: &Shared) -> Result<()> {
    let toolchain = shared.toolchain()?;
    aarch64::same_object(toolchain)?;
    if shared.all {
        aarch64::agent(toolchain)?;
    }
    Ok(())
}

fn kernels(shared: &Shared) -> Result<()> {
    if shared.all { vm::all() } else { vm::quick() }
}

/// cargo on all crates but the one for the kernel.
fn host(verb: &str) -> Command {
    let mut cargo = command::cargo();
    cargo.args([verb, "--quiet", "--workspace", "--exclude", "agent-ebpf"]);
    cargo.arg("--target-dir").arg(target_dir());
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(failed: bool) -> Outcome {
        let error = failed.then(|| anyhow!("no"));
        Outcome {
            step: &STEPS[0],
            seconds: 0.0,
            flaky: Vec::new(),
            error,
        }
    }

    #[test]
    fn one_failing_step_fails_the_run() {
        assert_eq!(
            conclude(&[outcome(false), outcome(false)]),
            ExitCode::SUCCESS
        );
        assert_eq!(
            conclude(&[outcome(false), outcome(true)]),
            ExitCode::FAILURE
        );
    }

    #[test]
    fn a_flaky_test_fails_nothing_and_is_in_the_line_of_its_step() {
        let mut steady = outcome(false);
        assert!(!steady.line().contains("FLAKY"));
        steady.flaky = vec!["timers a".to_owned(), "pairs b".to_owned()];
        assert!(steady.line().ends_with("(2 FLAKY)"), "{}", steady.line());
        assert_eq!(conclude(&[steady]), ExitCode::SUCCESS);
    }

    #[test]
    fn steps_are_chosen_by_name_and_keep_their_order() {
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            choose(&only).map(|steps| steps.iter().map(|step| step.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["unit", "fmt"]).expect("known"), ["fmt", "unit"]);
        assert_eq!(names(&[]).expect("all").len(), STEPS.len());
        assert!(names(&["nothing"]).is_err());
    }
}
