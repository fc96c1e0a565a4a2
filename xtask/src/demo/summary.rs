//! What it comes to: the clients' view beside the agent's, and whether anything is left.

use std::fmt::Write;

use anyhow::{Result, bail};

use super::traffic::Tally;
use crate::agent::Metrics;
use crate::host::bpf::{self, Program};
use crate::host::void::Void;

/// Both views, for a person.
pub(super) fn text(metrics: &Metrics, tally: &Tally) -> String {
    let mut text = String::from("what the clients were told:\n");
    for (status, count) in tally.by_status() {
        let status = if status == 0 {
            "none".to_owned()
        } else {
            status.to_string()
        };
        let _ = writeln!(text, "  {count:>5}  {status}");
    }
    table(
        &mut text,
        "what why502 counted as errors (why502_gateway_errors_total):",
        metrics,
        "why502_gateway_errors_total",
        &["code", "cause", "certainty"],
    );
    table(
        &mut text,
        "failed attempts (why502_upstream_failures_total):",
        metrics,
        "why502_upstream_failures_total",
        &["cause", "phase", "masked"],
    );
    match metrics.quantile("why502_upstream_response_seconds", 0.5) {
        Some(seconds) => {
            let _ = writeln!(
                text,
                "upstream response time, median: {:.1} ms",
                seconds * 1e3
            );
        }
        None => text.push_str("upstream response time: nothing measured\n"),
    }
    text.trim_end().to_owned()
}

/// An error when an interface or a program of the demo is still there.
pub(super) fn nothing_is_left(programs: &[Program]) -> Result<()> {
    bpf::wait_until_gone(programs)?;
    if Void::is_left_behind() {
        bail!("an interface of the demo is left behind");
    }
    let count = programs.len();
    println!("\nnothing is left: {count} eBPF programs detached, all processes ended");
    Ok(())
}

fn table(text: &mut String, title: &str, metrics: &Metrics, name: &str, labels: &[&str]) {
    let _ = writeln!(text, "{title}");
    let sums = metrics.sum_by(name, labels);
    for (values, count) in sums.iter().filter(|(_, count)| **count > 0.0) {
        let pairs: Vec<String> = labels
            .iter()
            .zip(values)
            .map(|(label, value)| format!("{label}={value}"))
            .collect();
        let _ = writeln!(text, "  {count:>5}  {}", pairs.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_are_told() {
        let metrics = Metrics::parse(
            "why502_gateway_errors_total{proxy=\"nginx\",code=\"502\",cause=\"keepalive_race\",certainty=\"proof\"} 3\n",
        );
        let mut tally = Tally::default();
        tally.count("/orders", Some(502));
        tally.count("/orders", None);
        let text = text(&metrics, &tally);
        assert!(text.contains("3  code=502 cause=keepalive_race certainty=proof"));
        assert!(text.contains("1  none"));
    }
}
