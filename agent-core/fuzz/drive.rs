//! What is done with fuzzed bytes, by libFuzzer and by the smoke test alike.
//!
//! In: any bytes. Out: nothing, or a panic, which is a finding.

use std::collections::HashSet;
use std::sync::Arc;

use agent_core::decode::head;
use agent_core::event::Event;
use agent_core::open::OpenFilter;
use agent_core::{Core, Ledger, Limits, ProcessInfo, ProcessKind};

/// Bounds so low that a short input meets them.
const LIMITS: Limits = Limits {
    bystander_exchanges: 3,
    connections: 6,
    requests: 4,
    attempts: 5,
    attempts_per_request: 2,
    processes: 2,
    closed: 4096,
    grace: 250_000_000,
    idle: 600_000_000_000,
    stuck: 3_600_000_000_000,
};

/// One record.
pub(crate) fn decode(bytes: &[u8]) {
    if let Ok(seen) = agent_core::decode(bytes) {
        let _printable = format!("{seen:?}");
    }
}

/// One message head, read as either kind.
pub(crate) fn head(bytes: &[u8]) {
    if let Some(head) = head::request(bytes) {
        assert!(head.path.len() <= 512 && head.method.len() <= 32);
        assert!(head.host.is_none_or(|host| host.len() <= 256));
        assert!(head.request_id.is_none_or(|id| id.len() <= 128));
        assert!(head.trace_id.is_none_or(|id| id.len() == 32));
        assert!(!head.path.contains('?'), "a query must not leave the agent");
    }
    if let Some(head) = head::response(bytes) {
        assert!(head.status < 1000);
    }
}

/// Records one after another, each behind its length (two bytes, little endian). A length
/// of 0 lets time pass, one above 32,767 tells the core of a loss.
pub(crate) fn core(bytes: &[u8]) {
    let mut core = Core::new(LIMITS);
    for (tgid, kind) in [(100, ProcessKind::Known), (101, ProcessKind::Unknown)] {
        core.know_process(
            tgid,
            ProcessInfo {
                name: Arc::from("proxy"),
                program: Arc::from("proxy"),
                kind,
                network: None,
                instance: None,
            },
        );
    }
    let mut events = Vec::new();
    let mut now = 0u64;
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length));
        rest = behind;
        match length {
            0 => {
                now = now.saturating_add(100_000_000);
                core.advance(now, &mut events);
            }
            32_768.. => core.records_lost(),
            _ => {
                let (record, behind) = rest.split_at(length.min(rest.len()));
                rest = behind;
                if let Ok(record) = agent_core::decode(record) {
                    now = now.max(record.time());
                    core.feed(record.into(), &mut events);
                }
            }
        }
        let stats = core.stats();
        assert!(stats.connections <= LIMITS.connections);
        assert!(stats.requests <= LIMITS.requests);
        assert!(stats.attempts <= LIMITS.attempts);
        let _outstanding = core.outstanding().count();
        let filter = OpenFilter {
            now,
            min_age: 0,
            proxy: None,
            limit: 2,
        };
        let list = core.open(&filter, None);
        assert!(list.open.len() == list.matched.min(2) && list.matched <= list.looked_at);
        assert!(list.looked_at <= stats.requests + stats.attempts);
        assert!(list.open.is_sorted_by_key(|open| open.started));
    }
    core.finish(&mut events);
    assert_sound(&core, &events);
}

fn assert_sound(core: &Core, events: &[Event]) {
    let (mut attempts, mut requests) = (HashSet::new(), HashSet::new());
    let mut told = (0, 0);
    for event in events {
        for attempt in event.attempts() {
            told.1 += 1;
            let first = attempts.insert((attempt.cookie, attempt.index));
            // A connect without a socket has no cookie to be known by.
            assert!(first || attempt.cookie == 0, "told twice: {attempt:?}");
        }
        if let Event::Request(request) = event {
            told.0 += 1;
            let first = requests.insert((request.cookie, request.index));
            assert!(first, "told twice: {request:?}");
        }
    }
    let stats = core.stats();
    for (ledger, held, events) in [
        (stats.request_ledger, stats.requests, told.0),
        (stats.attempt_ledger, stats.attempts, told.1),
    ] {
        let Ledger {
            begun,
            told,
            checks,
            foreign,
            not_begun,
            ends_lost,
            swept,
        } = ledger;
        assert_eq!(
            begun,
            told + checks + foreign + not_begun + ends_lost + swept + held as u64,
            "{stats:?}"
        );
        assert_eq!(told, events, "{stats:?}");
    }
}
