//! The commands: what a person types, and what they get.

mod client;
mod doctor;
mod explain;
mod pages;
mod run;
mod tail;

use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::knowledge::page;
use crate::metrics::reference;

const ABOUT: &str = "Explains a proxy's 502, 503 and 504 answers with the kernel's evidence";

const LONG_ABOUT: &str = "\
why502 watches the sockets of nginx, HAProxy, Apache httpd, Envoy, Caddy, Traefik and Varnish \
with eBPF and says why a client got 502, 503 or 504: which upstream, which cause, how sure. \
Neither proxy nor upstream is touched, and no packet is changed.

It serves Prometheus metrics, explained requests, and a stream of them:

  sudo why502 doctor                  what this kernel allows, and what to do about the rest
  sudo why502 run                     watch this machine, serve 127.0.0.1:9502
  why502 explain                      why the last requests failed
  why502 tail                         follow failed requests as they happen
  curl http://127.0.0.1:9502/metrics  what Prometheus scrapes";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "why502", version, about = ABOUT, long_about = LONG_ABOUT)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch this machine and serve metrics and events
    #[command(long_about = run::LONG_ABOUT, after_long_help = run::EXAMPLES)]
    Run(Box<run::Arguments>),
    /// Follow failed requests as they happen
    #[command(long_about = tail::LONG_ABOUT, after_long_help = tail::EXAMPLES)]
    Tail(tail::Arguments),
    /// Say why requests failed: the last ones, or one in full
    #[command(long_about = explain::LONG_ABOUT, after_long_help = explain::EXAMPLES)]
    Explain(Box<explain::Arguments>),
    /// Say what this kernel and these rights allow, and what to do about the rest
    #[command(long_about = doctor::LONG_ABOUT, after_long_help = doctor::EXAMPLES)]
    Doctor(doctor::Arguments),
    /// Print what completes this command line in a shell
    #[command(long_about = pages::COMPLETIONS, after_long_help = pages::EXAMPLES)]
    Completions(pages::Shell),
    /// Write the manual pages into a folder that is there
    #[command(hide = true)]
    ManualPages(pages::Folder),
    /// Print docs/metrics.md
    #[command(hide = true)]
    MetricsReference,
    /// Print docs/diagnosing.md
    #[command(hide = true)]
    DiagnosingReference,
}

/// Runs the command given, and says how it went.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(arguments) => run::run(*arguments),
        Command::Tail(arguments) => tail::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Doctor(arguments) => Ok(doctor::run(&arguments)),
        Command::Completions(shell) => pages::completions(&shell),
        Command::ManualPages(folder) => pages::manual(&folder),
        Command::MetricsReference => print_page(reference::markdown()),
        Command::DiagnosingReference => print_page(page::markdown()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("why502: {}", words(&error));
        ExitCode::FAILURE
    })
}

/// The error and its causes. A cause that the message above it already quotes is left out.
fn words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let cause = cause.trim_end();
        if words.is_empty() {
            words.push_str(cause);
        } else if !words.contains(cause) {
            words.push_str(": ");
            words.push_str(cause);
        }
    }
    words
}

fn print_page(page: Result<String, fmt::Error>) -> anyhow::Result<ExitCode> {
    print!("{}", page?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, words};

    #[test]
    fn a_cause_is_said_once() {
        let inner = anyhow::anyhow!("no such file");
        let quoted = inner
            .context("cannot read x: no such file")
            .context("cannot start");

        assert_eq!(words(&quoted), "cannot start: cannot read x: no such file");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
