//! Metrics against events: both tell the same story, on any kernel.

use std::collections::BTreeMap;

use crate::agent::metrics::Metrics;
use crate::faults::observed::Told;
use crate::proxies::Kind;

/// Where they differ, a sentence each.
pub(super) fn disagreements(metrics: &Metrics, told: &Told) -> Vec<String> {
    let nginx = [("proxy", Kind::Nginx.label())];
    let mut wrong = Vec::new();
    let counted = metrics.by(
        "why502_gateway_errors_total",
        &nginx,
        &["code", "cause", "certainty"],
    );
    let errors = told.errors_of(Kind::Nginx.label());
    compare(&mut wrong, &counted, &errors);
    for (labels, lost) in metrics.of("why502_agent_losses_total", &[]) {
        if lost > 0.0 {
            wrong.push(format!("{lost} lost: {labels:?}"));
        }
    }
    wrong
}

type Counts = BTreeMap<Vec<String>, u64>;

fn compare(wrong: &mut Vec<String>, counted: &Counts, told: &Counts) {
    for (key, count) in counted {
        let events = told.get(key).copied().unwrap_or(0);
        if *count != events {
            wrong.push(format!(
                "errors {key:?}: {count} in metrics, {events} in events"
            ));
        }
    }
    for (key, events) in told.iter().filter(|(key, _)| !counted.contains_key(*key)) {
        wrong.push(format!(
            "errors {key:?}: none in metrics, {events} in events"
        ));
    }
}
