//! `fuzz`: the fuzz targets of agent-core for a given time, on stable.
//!
//! The time is shared out over the targets, one after the other on one core. What is random comes
//! from a seed, which is printed; `--seed` repeats a run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use crate::cli;
use crate::host::{command, target_dir};

/// How long, and what random choices begin with.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long altogether: 30s, 10m.
    #[arg(long = "for", value_name = "TIME", value_parser = cli::duration, default_value = "1m")]
    time: Duration,
    /// Repeats the run of this seed; another one each time without it.
    #[arg(long)]
    seed: Option<u64>,
}

/// Test binary and test of each target.
const TARGETS: [(&str, &str); 4] = [
    ("fuzz_smoke", "mutated_records_are_decoded_or_refused"),
    ("fuzz_smoke", "mutated_heads_are_parsed_within_bounds"),
    ("fuzz_smoke", "mutated_streams_keep_the_core_sound"),
    (
        "replay",
        "losses::what_is_proof_of_a_recording_with_losses_is_so_without",
    ),
];

/// Runs all targets; the first that fails ends it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { time, seed } = *options;
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let each = time.as_secs() / TARGETS.len() as u64;
    for (binary, test) in TARGETS {
        let mut cargo = command::cargo();
        cargo
            .args(["test", "--quiet", "--release", "--package", "agent-core"])
            .args(["--features", "serde", "--test", binary])
            .arg("--target-dir")
            .arg(target_dir())
            .args(["--", "--exact", test, "--nocapture"])
            .env("WHY502_FUZZ_SEED", seed.to_string())
            .env("WHY502_FUZZ_SECONDS", each.to_string());
        command::run(&mut cargo).with_context(|| {
            format!("a finding: `cargo xtask fuzz --seed {seed}` repeats it if given as long")
        })?;
    }
    Ok(())
}
