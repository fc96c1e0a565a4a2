//! How much memory the core takes for what is under way: a budget, counted and not timed.

mod support;

use std::alloc::System;

use agent_core::observation::{ConnectOutcome, Observation};
use agent_core::{Core, ProcessKind};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{client, core, errand, know, sent, upstream};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests that are passed on and not answered.
const REQUESTS: u64 = 10_000;

/// Who asks the proxy, on the same host.
const CLIENT: u32 = 300;
/// Who answers it, on the same host.
const APPLICATION: u32 = 400;

/// What the core may take for a request that waits at a proxy, its attempt and both connections, bytes.
const PASSED_ON: usize = 1300;

/// The same where the client and the application are on this host too.
const ALL_ON_ONE_HOST: usize = 2600;

#[test]
fn requests_under_way_keep_within_their_budget() {
    let alone = bytes_each(1, &|core, number| {
        passed_on(core, number);
    });
    let together = bytes_each(2, &|core, number| {
        asked(core, number);
        passed_on(core, number);
        arrived(core, number);
    });
    println!("a request passed on takes {alone} bytes, {together} where all is on one host");
    assert!(alone <= PASSED_ON, "{alone} of {PASSED_ON} bytes");
    assert!(
        together <= ALL_ON_ONE_HOST,
        "{together} of {ALL_ON_ONE_HOST} bytes"
    );
}

/// Bytes held for each of the requests that `begin` begins: so many sockets of either side each time.
fn bytes_each(ends: usize, begin: &dyn Fn(&mut Core, u64)) -> usize {
    let mut core = core();
    know(&mut core, CLIENT, "wrk", ProcessKind::Unknown);
    know(&mut core, APPLICATION, "node", ProcessKind::Unknown);
    let region = Region::new(ALLOCATOR);
    for number in 1..=REQUESTS {
        begin(&mut core, number);
    }
    let change = region.change();
    let held = change.bytes_allocated - change.bytes_deallocated;
    let stats = core.stats();
    let each = ends * REQUESTS as usize;
    assert_eq!(
        (stats.requests, stats.attempts, stats.connections),
        (each, each, 2 * each),
        "all of them are held"
    );
    held / REQUESTS as usize
}

fn see(core: &mut Core, observation: Observation) {
    core.observe(observation, &mut Vec::new());
}

/// The proxy reads it and asks its upstream, on a new connection.
fn passed_on(core: &mut Core, number: u64) {
    let at = number as f64;
    let asks = client(number).opened(at);
    see(core, asks.request(&sent(0, at), "GET", "/api/orders/list"));
    let passes = upstream(100_000 + number).opened(at);
    see(
        core,
        passes.connect(at, ConnectOutcome::Established, errand(number)),
    );
    let x = sent(0, at + 0.1).errand(number, 0, 100);
    see(core, passes.request(&x, "GET", "/api/orders/list"));
}

/// The client sends it, on a new connection.
fn asked(core: &mut Core, number: u64) {
    let at = number as f64;
    let asks = upstream(200_000 + number).of(Some(CLIENT)).opened(at);
    see(core, asks.connect(at, ConnectOutcome::Established, None));
    see(core, asks.request(&sent(0, at), "GET", "/api/orders/list"));
}

/// The application reads it.
fn arrived(core: &mut Core, number: u64) {
    let at = number as f64;
    let arrives = client(300_000 + number).of(Some(APPLICATION)).opened(at);
    see(
        core,
        arrives.request(&sent(0, at + 0.2), "GET", "/api/orders/list"),
    );
}
