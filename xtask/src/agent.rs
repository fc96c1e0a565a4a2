//! The agent as a program that the tasks start, ask and stop.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::host::cgroup::Cgroup;
use crate::host::child::Guard;
use crate::host::net;

/// Where the agent serves metrics when nobody says otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9502);

/// Loading and attaching takes a second or two; the verifier of an old kernel longer.
const START: Duration = Duration::from_secs(30);

/// An answer of the agent.
const ANSWER: Duration = Duration::from_secs(5);

/// `why502 run`, serving on `listen`.
pub(crate) fn run_command(agent: &Path, listen: SocketAddr, more: &[String]) -> Command {
    let mut command = Command::new(agent);
    command
        .arg("run")
        .arg("--listen")
        .arg(listen.to_string())
        .args(more);
    command
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    guard: Guard,
    listen: SocketAddr,
}

impl Agent {
    /// Starts one and waits until its probes are attached: it answers only then.
    pub(crate) fn start(agent: &Path, listen: SocketAddr, more: &[String]) -> Result<Self> {
        Self::start_command(&run_command(agent, listen, more), listen)
    }

    /// The same in a cgroup.
    pub(crate) fn start_inside(
        place: &Cgroup,
        agent: &Path,
        listen: SocketAddr,
        more: &[String],
    ) -> Result<Self> {
        Self::start_command(&place.inside(&run_command(agent, listen, more)), listen)
    }

    fn start_command(command: &Command, listen: SocketAddr) -> Result<Self> {
        let mut guard = Guard::start("why502", command)?;
        guard.wait_listening(listen, START)?;
        let started = Instant::now();
        while let Err(error) = net::get(listen, "/metrics", ANSWER) {
            if let Some(status) = guard.ended()? {
                bail!("the agent ended before it was ready: {status}");
            }
            if started.elapsed() > START {
                return Err(error.context("the agent does not get ready"));
            }
        }
        Ok(Self { guard, listen })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.guard.pid()
    }

    /// An error when it has ended.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        match self.guard.ended()? {
            Some(status) => bail!("the agent ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// What it has counted.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&net::get(self.listen, "/metrics", ANSWER)?))
    }

    /// Has it scraped as Prometheus does.
    pub(crate) fn scrape(&self) -> Result<()> {
        net::scrape(self.listen, ANSWER)
    }

    /// Ends it; true when it ended by itself when asked.
    pub(crate) fn stop(&mut self) -> bool {
        self.guard.stop()
    }
}

/// One line of an exposition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Name of the series, with `_total`, `_bucket` and the like.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its value.
    pub(crate) value: f64,
}

/// An exposition in the text format, as much of it as the tasks read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    samples: Vec<Sample>,
}

impl Metrics {
    /// Reads the text; comments and lines that are no sample are left out.
    pub(crate) fn parse(text: &str) -> Self {
        Self {
            samples: text.lines().filter_map(parse_sample).collect(),
        }
    }

    /// Samples of this name.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
    }

    /// Sums the samples of a name by one label.
    pub(crate) fn sum_by(&self, name: &str, labels: &[&str]) -> BTreeMap<Vec<String>, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(name) {
            let key = labels
                .iter()
                .map(|label| sample.labels.get(*label).cloned().unwrap_or_default())
                .collect();
            *sums.entry(key).or_insert(0.0) += sample.value;
        }
        sums
    }

    /// The quantile of a classic histogram, all its series together, as Prometheus
    /// estimates it: linear inside a bucket. `None` without observations.
    pub(crate) fn quantile(&self, name: &str, quantile: f64) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.of(&bucket) {
            let bound: f64 = sample.labels.get("le")?.parse().ok()?;
            match buckets.iter_mut().find(|(found, _)| *found == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rank = buckets
            .last()
            .map(|(_, count)| count * quantile)
            .filter(|rank| *rank > 0.0)?;
        let (mut below, mut counted) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank && bound.is_infinite() {
                return Some(below);
            }
            if count >= rank {
                return Some(below + (bound - below) * (rank - counted) / (count - counted));
            }
            (below, counted) = (bound, count);
        }
        None
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') || line.is_empty() {
        return None;
    }
    let (series, rest) = match line.find('{') {
        Some(open) => {
            let close = open + end_of_labels(&line[open..])?;
            ((&line[..open], &line[open + 1..close]), &line[close + 1..])
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            ((name, ""), rest)
        }
    };
    let (name, labels) = series;
    // An exemplar or a time stamp may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels: parse_labels(labels),
        value,
    })
}

/// Where the brace closes that is not inside a quoted value.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut escaped = false;
        let mut end = after.len();
        for (at, c) in after.char_indices() {
            match c {
                'n' if escaped => (value.push('\n'), escaped = false).1,
                _ if escaped => (value.push(c), escaped = false).1,
                '\\' => escaped = true,
                '"' => {
                    end = at + 1;
                    break;
                }
                _ => value.push(c),
            }
        }
        labels.insert(name.trim_start_matches(',').to_owned(), value);
        rest = &after[end..];
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP why502_x_total Things.
# TYPE why502_x_total counter
why502_x_total{proxy=\"nginx\",cause=\"a,b}\\\"c\"} 3
why502_x_total{proxy=\"nginx\",cause=\"d\"} 4 # {trace_id=\"0\"} 1.0
why502_up 1
why502_h_bucket{le=\"0.1\"} 5
why502_h_bucket{le=\"0.2\"} 10
why502_h_bucket{le=\"+Inf\"} 10
";

    #[test]
    fn labels_may_hold_braces_commas_and_quotes() {
        let metrics = Metrics::parse(TEXT);
        let causes = metrics.sum_by("why502_x_total", &["cause"]);
        assert_eq!(causes.get(&vec!["a,b}\"c".to_owned()]), Some(&3.0));
        assert_eq!(causes.get(&vec!["d".to_owned()]), Some(&4.0));
        assert_eq!(
            metrics
                .of("why502_up")
                .map(|sample| sample.value)
                .sum::<f64>(),
            1.0
        );
    }

    #[test]
    fn a_quantile_is_linear_inside_its_bucket() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.quantile("why502_h", 0.5), Some(0.1));
        assert_eq!(metrics.quantile("why502_h", 0.25), Some(0.05));
        assert_eq!(metrics.quantile("why502_none", 0.5), None);
    }
}
