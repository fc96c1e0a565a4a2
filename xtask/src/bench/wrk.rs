//! wrk: load as fast as the proxy answers.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::host::command;
use crate::host::scratch::Scratch;

/// A run to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
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
}

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
}

impl Load {
    /// Runs wrk. An error when any request went wrong: such a run measures something else.
    pub(super) fn run(&self) -> Result<Loaded> {
        let Self {
            address,
            connections,
            time,
            path,
            rest,
        } = self;
        let mut wrk = Command::new("wrk");
        let scratch;
        if !rest.is_zero() {
            scratch = Scratch::new("wrk")?;
            let script = scratch.path().join("rest.lua");
            let lua = format!("function delay() return {} end\n", rest.as_millis());
            fs::write(&script, lua).context("cannot write a script for wrk")?;
            wrk.arg("-s").arg(&script);
        }
        // As browsers do; so that a proxy that packs has whom to pack for.
        wrk.args(["-H", "Accept-Encoding: gzip"]);
        wrk.args(["-t1", "--latency", "--timeout", "30s"])
            .arg(format!("-c{connections}"))
            .arg(format!("-d{}s", time.as_secs().max(1)))
            .arg(format!("http://{address}{path}"));
        let text = command::output(&mut wrk)?;
        parse(&text).with_context(|| format!("wrk said:\n{text}"))
    }
}

fn parse(text: &str) -> Result<Loaded> {
    for bad in ["Socket errors:", "Non-2xx or 3xx responses:"] {
        if text.contains(bad) {
            bail!("some requests failed");
        }
    }
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
        };
        assert_eq!(parse(TEXT).expect("complete"), expected);
    }

    #[test]
    fn a_run_with_failed_requests_is_refused() {
        assert!(parse(&format!("{TEXT}  Non-2xx or 3xx responses: 12\n")).is_err());
        assert!(parse("").is_err());
    }
}
