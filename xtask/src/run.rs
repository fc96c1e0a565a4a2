//! `run`: build, then watch this host; with `--demo` also give it something to see.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::agent::{self, Agent};
use crate::host::{interrupt, kernel, net};
use crate::{build, cli, demo};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A real nginx in front of upstreams that misbehave, and some traffic. Ends by itself
    /// after 30 s unless `--for` says otherwise.
    #[arg(long)]
    demo: bool,
    /// Stop after this time: 30s, 5m. Without it, and without `--demo`, Ctrl-C stops.
    #[arg(long = "for", value_name = "TIME", value_parser = cli::duration)]
    time: Option<Duration>,
    /// Build the agent without optimisation: quicker to build, slower to run.
    #[arg(long)]
    debug: bool,
    /// For `why502 run`, after `--`.
    #[arg(last = true, value_name = "AGENT OPTION")]
    agent: Vec<String>,
}

/// Long enough to see every kind of error several times.
const DEMO: Duration = Duration::from_secs(30);

/// Builds and runs.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {
        demo,
        time,
        debug,
        agent: more,
    } = options;
    kernel::require()?;
    let program = build::everything(!debug)?;
    let _tracefs = kernel::Tracefs::ensure()?;
    interrupt::listen()?;
    if *demo {
        return demo::run(&program, !debug, time.unwrap_or(DEMO), more);
    }
    let listen = match listen_option(more) {
        Some(chosen) => chosen?,
        None => net::address_near(agent::DEFAULT_LISTEN)?,
    };
    let mut agent = Agent::start(&program, listen, &without_listen(more))?;
    println!("watching this host; metrics: http://{listen}/metrics");
    println!(
        "failed requests as they happen: {} tail --agent {listen}",
        program.display()
    );
    println!("Ctrl-C ends it");
    let deadline = time.map(|time| Instant::now() + time);
    while !interrupt::requested() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        agent.ensure_running()?;
        interrupt::wait_until(Some(Instant::now() + Duration::from_millis(250)));
    }
    match agent.stop() {
        true => Ok(()),
        false => bail!("the agent did not end when asked, and was killed"),
    }
}

/// `--listen` among the options for the agent.
fn listen_option(options: &[String]) -> Option<Result<std::net::SocketAddr>> {
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let value = match option.strip_prefix("--listen") {
            Some("") => rest.next().map(String::as_str),
            Some(value) => value.strip_prefix('='),
            None => continue,
        };
        let address = value.and_then(|value| value.parse().ok());
        return Some(
            address.ok_or_else(|| anyhow::anyhow!("--listen takes an address and a port")),
        );
    }
    None
}

/// The options without `--listen`, which is given by us.
fn without_listen(options: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        if option == "--listen" {
            rest.next();
        } else if !option.starts_with("--listen=") {
            kept.push(option.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_agents_own_listen_option_is_honoured_in_both_forms() {
        for text in [
            "--log-level debug --listen 127.0.0.1:99",
            "--listen=127.0.0.1:99 --log-level debug",
        ] {
            let found = listen_option(&words(text)).expect("there").expect("valid");
            assert_eq!(found.port(), 99);
            assert_eq!(without_listen(&words(text)), words("--log-level debug"));
        }
        assert!(listen_option(&words("--log-level debug")).is_none());
        assert!(listen_option(&words("--listen nowhere")).is_some_and(|found| found.is_err()));
    }
}
