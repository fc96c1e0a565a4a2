//! `bench`: what the agent costs an nginx proxy: at saturation, beside nothing and beside the
//! program of another commit (`overhead`), beside what one would do instead (`compare`), and
//! how that grows (`growth`).
//!
//! In: a release agent, nginx as proxy and as application, wrk. Out: raw numbers and summaries
//! in `docs/bench`. All are compared within one round, in an order that rotates, and told as the
//! median over rounds, for the machine may be a noisy one ([`rounds`]). Time in the probes is
//! measured in rounds of their own: the kernel's statistics cost something themselves.

mod against;
mod bulk;
pub(crate) mod compare;
mod contender;
mod cost;
pub(crate) mod growth;
pub(crate) mod overhead;
mod proxy;
mod report;
mod rounds;
mod spread;
mod stage;
mod status;
mod wrk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::apt::Package;
use crate::host::{apt, bpf, interrupt, kernel};
use crate::{build, setup};

/// Before what is measured, so that caches and the proxy's connections are warm, and the agent
/// knows who is a proxy and, where it is set to, reports in brief what goes well there: that begins when
/// nothing has gone wrong for a second.
const WARM_UP: Duration = Duration::from_secs(2);

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

/// Another agent's probes would be in what is measured with and without, and the difference
/// would say nothing.
fn ensure_no_other_agent() -> Result<()> {
    if bpf::all()?.iter().any(|program| program.name == PROBE) {
        bail!(
            "another agent has its probes attached (`bpftool prog show` lists {PROBE}): stop it and measure again"
        );
    }
    Ok(())
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
