//! wrk: load as fast as the proxy answers.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::stage::Stage;
use super::status::Status;
use crate::host::cgroup::Cgroup;
use crate::host::child::Guard;
use crate::host::command;
use crate::host::scratch::Scratch;

/// A run to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    /// Where the client runs.
    pub(super) client: &'a Cgroup,
    /// The proxy.
    pub(super) address: SocketAddr,
    /// Connections kept open.
    pub(super) connections: u32,
    /// How long.
    pub(super) time: Duration,
    /// What is asked for.
    pub(super) path: &'static str,
    /// How long a connection rests before each request.
    pub(super) rest: Duration,
    /// Whether each request has a connection of its own.
    pub(super) churn: bool,
    /// Whether answers may say that something failed.
    pub(super) may_fail: bool,
}

/// wrk is interrupted long before this.
const LONG: Duration = Duration::from_secs(3600);

/// From the moment that all connections are open until what is measured: the first answers have
/// come then.
const SETTLE: Duration = Duration::from_millis(500);

/// What a run gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Loaded {
    /// Requests completed.
    pub(super) requests: u64,
    /// Requests per second.
    pub(super) per_second: f64,
    /// Median latency, microseconds.
    pub(super) p50_us: f64,
    /// 99th percentile of latency, microseconds.
    pub(super) p99_us: f64,
    /// Of the requests, those whose answer said that something failed.
    pub(super) failed: u64,
}

impl<'a> Load<'a> {
    /// As fast as it goes, of answers of about 100 bytes.
    pub(super) fn usual(stage: &'a Stage, connections: u32) -> Self {
        Self {
            client: stage.client(),
            address: stage.proxy.address(),
            connections,
            time: Duration::from_secs(1),
            path: "/",
            rest: Duration::ZERO,
            churn: false,
            may_fail: false,
        }
    }

    /// Runs wrk. An error when any request went wrong that may not: such a run measures something
    /// else.
    pub(super) fn run(&self) -> Result<Loaded> {
        let scratch = self.script()?;
        let mut wrk = self
            .client
            .inside(&self.command(scratch.as_ref(), self.time));
        let text = command::output(&mut wrk)?;
        self.parse(&text)
    }

    /// Runs wrk and does `measure` when all its connections are open and used; `status` is where the
    /// proxy tells how many it has. Then stops it.
    pub(super) fn around<T>(
        &self,
        status: SocketAddr,
        measure: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        // Those of the run before would be taken for those of this one.
        Status::wait(status, "one alone", |connections| connections <= 1)?;
        let scratch = self.script()?;
        let wrk = self.client.inside(&self.command(scratch.as_ref(), LONG));
        let (sender, lines) = mpsc::channel();
        let guard = Guard::start_reading("wrk", &wrk, move |line| {
            // Nobody reads them after an error.
            let _ = sender.send(line.to_owned());
        })?;
        if !self.churn {
            let wanted = u64::from(self.connections);
            Status::wait(status, &format!("{wanted} of wrk's"), |connections| {
                connections > wanted
            })?;
        }
        thread::sleep(SETTLE);
        let measured = measure()?;
        guard.interrupt()?;
        let text: String = lines.iter().map(|line| line + "\n").collect();
        self.parse(&text)?;
        Ok(measured)
    }

    /// What wrk does between requests, if anything.
    fn script(&self) -> Result<Option<Scratch>> {
        if self.rest.is_zero() {
            return Ok(None);
        }
        let scratch = Scratch::new("wrk")?;
        let lua = format!("function delay() return {} end\n", self.rest.as_millis());
        fs::write(scratch.path().join(SCRIPT), lua).context("cannot write a script for wrk")?;
        Ok(Some(scratch))
    }

    fn command(&self, script: Option<&Scratch>, time: Duration) -> Command {
        let Self {
            address,
            connections,
            path,
            churn,
            ..
        } = self;
        let mut wrk = Command::new("wrk");
        if let Some(scratch) = script {
            wrk.arg("-s").arg(scratch.path().join(SCRIPT));
        }
        if *churn {
            wrk.args(["-H", "Connection: close"]);
        }
        // As browsers do; so that a proxy that packs has whom to pack for.
        wrk.args(["-H", "Accept-Encoding: gzip"]);
        wrk.args(["-t1", "--latency", "--timeout", "30s"])
            .arg(format!("-c{connections}"))
            .arg(format!("-d{}s", time.as_secs().max(1)))
            .arg(format!("http://{address}{path}"));
        wrk
    }

    fn parse(&self, text: &str) -> Result<Loaded> {
        let loaded = parse(text).with_context(|| format!("wrk said:\n{text}"))?;
        if loaded.failed > 0 && !self.may_fail {
            bail!("{} requests failed, wrk said:\n{text}", loaded.failed);
        }
        Ok(loaded)
    }
}

const SCRIPT: &str = "rest.lua";

fn parse(text: &str) -> Result<Loaded> {
    if text.contains("Socket errors:") {
        bail!("some requests had no answer");
    }
    let failed = after(text, "Non-2xx or 3xx responses:")
        .map_or(Ok(0), str::parse)
        .context("no count of failed requests")?;
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok())
        .context("no count of requests")?;
    let per_second = after(text, "Requests/sec:")
        .and_then(|number| number.parse().ok())
        .context("no requests per second")?;
    let p50_us = after(text, "50%")
        .and_then(microseconds)
        .context("no median")?;
    let p99_us = after(text, "99%")
        .and_then(microseconds)
        .context("no 99th percentile")?;
    Ok(Loaded {
        requests,
        per_second,
        p50_us,
        p99_us,
        failed,
    })
}

fn after<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(label))
        .map(str::trim)
}

fn microseconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Running 5s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.10ms  400.12us   9.11ms   85.00%
    Req/Sec    30.12k     1.00k   31.00k    70.00%
  Latency Distribution
     50%    2.50ms
     75%    2.20ms
     90%    2.40ms
     99%  985.00us
  150600 requests in 5.01s, 38.00MB read
Requests/sec:  30120.11
Transfer/sec:      7.58MB
";

    #[test]
    fn counts_and_latencies_are_read_with_their_units() {
        let expected = Loaded {
            requests: 150_600,
            per_second: 30_120.11,
            p50_us: 2500.0,
            p99_us: 985.0,
            failed: 0,
        };
        assert_eq!(parse(TEXT).expect("complete"), expected);
    }

    #[test]
    fn failed_requests_are_counted_and_those_without_an_answer_are_an_error() {
        let failed = parse(&format!("{TEXT}  Non-2xx or 3xx responses: 12\n")).expect("complete");
        assert_eq!(failed.failed, 12);
        let errors = "  Socket errors: connect 0, read 3, write 0, timeout 0\n";
        assert!(parse(&format!("{TEXT}{errors}")).is_err());
        assert!(parse("").is_err());
    }
}
