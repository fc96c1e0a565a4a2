//! The core's counters as the metrics show them.

use agent_core::{Ledger, Stats};

use crate::metrics::report::{CoreCounts, Fates};

/// The core's counters under their label values. A counter added there must be named here.
pub(super) fn core_counts(stats: Stats) -> CoreCounts {
    let Stats {
        connections,
        requests,
        attempts,
        processes,
        observations: _,
        repeated,
        connections_refused,
        requests_refused,
        attempts_refused,
        attempts_crowded_out,
        processes_refused,
        connections_swept,
        attempts_unmatched,
        errands_unmatched,
        requests_looked_at: _,
        connections_looked_at: _,
        evidence,
        forgotten,
        unread_clients: _,
        request_ledger,
        attempt_ledger,
    } = stats;
    let gauge = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let tracked = [
        ("connections", connections),
        ("requests", requests),
        ("attempts", attempts),
        ("processes", processes),
    ];
    let tracked = tracked.into_iter().chain(evidence);
    let skips = [
        ("repeated", repeated),
        ("connections_swept", connections_swept),
    ];
    CoreCounts {
        tracked: tracked.map(|(what, count)| (what, gauge(count))).collect(),
        losses: vec![
            ("connections_refused", connections_refused),
            ("requests_refused", requests_refused),
            ("attempts_refused", attempts_refused),
            ("attempts_crowded_out", attempts_crowded_out),
            ("processes_refused", processes_refused),
            ("request_ends_lost", request_ledger.ends_lost),
            ("attempt_ends_lost", attempt_ledger.ends_lost),
            ("requests_swept", request_ledger.swept),
            ("attempts_swept", attempt_ledger.swept),
        ],
        skips: skips.into_iter().chain(forgotten).collect(),
        unmatched: vec![
            ("attempts", attempts_unmatched),
            ("errands", errands_unmatched),
        ],
        fates: vec![
            ("request", fates(request_ledger)),
            ("attempt", fates(attempt_ledger)),
        ],
    }
}

fn fates(ledger: Ledger) -> Fates {
    let Ledger {
        begun,
        told,
        checks,
        foreign,
        not_begun,
        ends_lost,
        swept,
    } = ledger;
    [
        ("begun", begun),
        ("told", told),
        ("health_check", checks),
        ("foreign", foreign),
        ("not_begun", not_begun),
        ("end_lost", ends_lost),
        ("swept", swept),
    ]
}
