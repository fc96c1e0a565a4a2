//! `run --demo`: every kind of error that the agent explains, live, on this host.
//!
//! A real nginx on loopback, upstreams that each misbehave in one way, a little traffic, and
//! the agent's own words about it. Nothing of the system's nginx is touched, and everything
//! is gone at the end, which is checked and said.

mod race;
mod stage;
mod summary;
mod traffic;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::agent::{self, Agent};
use crate::build;
use crate::host::child::Guard;
use crate::host::scratch::Scratch;
use crate::host::{apt, bpf, command, interrupt, net};
use crate::setup::{BPFTOOL, IPROUTE, NGINX};
use stage::Stage;
use traffic::Tally;

/// After the last request: the agent drains its ring every 80 ms at least and follows a request for
/// some time after its answer, in case more belongs to it.
const SETTLE: Duration = Duration::from_secs(2);

/// Plays it for `time`.
pub(crate) fn run(agent: &Path, release: bool, time: Duration, more: &[String]) -> Result<()> {
    apt::ensure(&[NGINX, IPROUTE, BPFTOOL], "the demo")?;
    let misbehave = misbehave(release)?;
    let scratch = Scratch::new("demo")?;
    let mut stage = Stage::set_up(&misbehave, scratch.path())?;

    let listen = net::address_near(agent::DEFAULT_LISTEN)?;
    let more: Vec<String> = ["--log-level", "warn"]
        .map(str::to_owned)
        .iter()
        .chain(more)
        .cloned()
        .collect();
    let mut watching = Agent::start(agent, listen, &more)?;
    let programs = bpf::programs_of(watching.pid())?;
    println!(
        "\nnginx listens on http://{}; its paths, and what is wrong behind them:",
        stage.address()
    );
    print!("{}", stage.legend());
    println!("\nmetrics: http://{listen}/metrics");
    println!(
        "for {} s, or until Ctrl-C; what why502 has to say:\n",
        time.as_secs()
    );

    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut tail = Command::new(agent);
    tail.arg("tail").arg("--agent").arg(listen.to_string());
    let mut tail = Guard::start_reading("why502 tail", &tail, |line| println!("{line}"))?;
    let deadline = Instant::now() + time;
    traffic::play(&stage, deadline, &tally)?;
    watching.ensure_running()?;
    interrupt::wait_until(Some(Instant::now() + SETTLE));
    let metrics = watching.metrics();
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let summary = metrics.map(|metrics| summary::text(&metrics, &tally));

    // In this order: who listens to the agent, the agent, the stage.
    tail.stop();
    let by_itself = watching.stop();
    stage.strike();
    drop(stage);
    drop(scratch);
    println!("\n{}", summary?);
    if !by_itself {
        bail!("the agent did not end when asked, and was killed");
    }
    summary::nothing_is_left(&programs)
}

fn misbehave(release: bool) -> Result<std::path::PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--quiet", "--package", "e2e", "--bin", "misbehave"]);
    build::binary(&mut cargo, "misbehave", release).context("the demo's upstreams")
}
