//! `cargo xtask`: set up, build, run, test and measure why502.
//!
//! In: a command line. Out: an exit code, and lines that say what is being done. A task
//! installs only what it needs, says so first, and leaves no process, mount or interface
//! behind. Reading order: [`cli`], then one room a task: [`setup`], [`build`], [`run`]
//! (and [`demo`]), [`mod@test`], [`fuzz`], [`tidy`], [`dashboards`], [`vm`], [`mod@bench`]. What they share is in
//! [`host`].

mod aarch64;
mod agent;
mod bench;
mod budgets;
mod build;
mod cli;
mod dashboards;
mod demo;
mod deny;
mod fuzz;
mod host;
mod reproducible;
mod run;
mod setup;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
