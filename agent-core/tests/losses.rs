//! Each way in which the core itself loses something raises its counter, and by how much; and what
//! it says while something is known to be missing.

mod support;

use agent_core::cause::Certainty;
use agent_core::event::Event;
use agent_core::observation::{ConnectOutcome, End};
use agent_core::{Core, Limits, ProcessKind, Stats};
use support::{PROXY, Told, client, errand, know, ms, sent, upstream};

/// How many of each are sent.
const COUNT: u64 = 10;

fn core(limits: Limits) -> Core {
    let mut core = Core::new(limits);
    know(&mut core, PROXY, "nginx", ProcessKind::Known);
    core
}

fn lost(stats: Stats) -> Vec<(&'static str, u64)> {
    let Stats {
        connections_refused,
        requests_refused,
        attempts_refused,
        attempts_crowded_out,
        processes_refused,
        request_ledger,
        attempt_ledger,
        ..
    } = stats;
    let mut lost = vec![
        ("connections_refused", connections_refused),
        ("requests_refused", requests_refused),
        ("attempts_refused", attempts_refused),
        ("attempts_crowded_out", attempts_crowded_out),
        ("processes_refused", processes_refused),
        ("request_ends_lost", request_ledger.ends_lost),
        ("attempt_ends_lost", attempt_ledger.ends_lost),
        ("requests_swept", request_ledger.swept),
        ("attempts_swept", attempt_ledger.swept),
    ];
    lost.retain(|(_, count)| *count > 0);
    lost
}

#[test]
fn requests_beyond_the_bound_are_refused_one_by_one() {
    let mut core = core(Limits {
        requests: 3,
        ..Limits::default()
    });
    let mut out = Vec::new();
    for cookie in 1..=COUNT {
        core.observe(client(cookie).request(&sent(0, 1.0), "GET", "/"), &mut out);
    }
    assert_eq!(lost(core.stats()), [("requests_refused", COUNT - 3)]);
}

#[test]
fn attempts_beyond_the_bound_are_refused_one_by_one() {
    let mut core = core(Limits {
        attempts: 4,
        ..Limits::default()
    });
    let mut out = Vec::new();
    for cookie in 1..=COUNT {
        let u = upstream(cookie).opened(0.5);
        core.observe(u.request(&sent(0, 1.0), "GET", "/"), &mut out);
    }
    assert_eq!(lost(core.stats()), [("attempts_refused", COUNT - 4)]);
}

#[test]
fn connections_beyond_the_bound_are_refused_one_by_one() {
    let mut core = core(Limits {
        connections: 6,
        ..Limits::default()
    });
    let mut out = Vec::new();
    for cookie in 1..=COUNT {
        let u = upstream(cookie).opened(0.5);
        core.observe(u.connect(0.7, ConnectOutcome::Established, None), &mut out);
    }
    assert_eq!(lost(core.stats()), [("connections_refused", COUNT - 6)]);
}

#[test]
fn attempts_beyond_those_of_one_request_are_told_without_it() {
    let mut core = core(Limits {
        attempts_per_request: 2,
        ..Limits::default()
    });
    let mut out = Vec::new();
    core.observe(client(1).request(&sent(0, 1.0), "GET", "/"), &mut out);
    for cookie in 1..=COUNT {
        let u = upstream(100 + cookie).opened(1.1);
        core.observe(u.connect(1.2, ConnectOutcome::Reset, errand(1)), &mut out);
    }
    assert_eq!(lost(core.stats()), [("attempts_crowded_out", COUNT - 2)]);
    let told = Told { events: out };
    assert_eq!(told.attempts().len() as u64, COUNT - 2);
}

#[test]
fn processes_beyond_the_bound_are_refused_one_by_one() {
    let mut core = Core::new(Limits {
        processes: 7,
        ..Limits::default()
    });
    for tgid in 1..=10 {
        know(&mut core, tgid, "nginx", ProcessKind::Known);
    }
    assert_eq!(lost(core.stats()), [("processes_refused", COUNT - 7)]);
}

#[test]
fn exchanges_whose_end_was_lost_are_counted_one_by_one() {
    let mut core = core(Limits::default());
    let mut out = Vec::new();
    for cookie in 1..=COUNT {
        let x = sent(0, 1.0).ended(End::Superseded);
        let u = upstream(100 + cookie).opened(0.5);
        core.observe(client(cookie).request(&x, "GET", "/"), &mut out);
        core.observe(client(cookie).end(5.0, &x), &mut out);
        core.observe(u.request(&x, "GET", "/"), &mut out);
        core.observe(u.end(5.0, &x), &mut out);
    }
    core.finish(&mut out);
    let expected = [("request_ends_lost", COUNT), ("attempt_ends_lost", COUNT)];
    assert_eq!(lost(core.stats()), expected);
}

#[test]
fn exchanges_that_were_silent_too_long_are_counted_one_by_one() {
    let mut core = core(Limits::default());
    let mut out = Vec::new();
    for cookie in 1..=COUNT {
        core.observe(client(cookie).request(&sent(0, 1.0), "GET", "/"), &mut out);
        let u = upstream(100 + cookie).opened(0.5);
        core.observe(u.request(&sent(0, 1.0), "GET", "/other"), &mut out);
    }
    core.advance(ms(7_200_000.0), &mut out);
    let expected = [("requests_swept", COUNT), ("attempts_swept", COUNT)];
    assert_eq!(lost(core.stats()), expected);
}

/// A request that began at `start`, was refused upstream and got a 502 at once.
fn refused(core: &mut Core, cookie: u64, start: f64, out: &mut Vec<Event>) {
    let (c, x) = (client(cookie), sent(0, start));
    let u = upstream(100 + cookie).opened(start + 0.2);
    core.observe(c.request(&x, "GET", "/"), out);
    let at = start + 0.3;
    core.observe(u.connect(at, ConnectOutcome::Reset, errand(cookie)), out);
    core.observe(c.response(&x.answered(502, start + 0.4)), out);
}

fn certainty(out: Vec<Event>) -> Option<Certainty> {
    let request = Told { events: out }.request();
    request.error.map(|error| error.certainty)
}

#[test]
fn a_loss_leaves_no_proof_for_what_began_before_time_went_on() {
    let mut core = core(Limits::default());
    let mut out = Vec::new();
    core.advance(ms(1.0), &mut out);
    core.records_lost();
    // It began after the last that the core knew of time, and perhaps before the loss.
    refused(&mut core, 1, 100.0, &mut out);
    assert_eq!(certainty(out), Some(Certainty::Strong));
}

#[test]
fn after_a_loss_what_begins_later_is_proof_again() {
    let mut core = core(Limits::default());
    let mut out = Vec::new();
    core.records_lost();
    core.advance(ms(50.0), &mut out);
    refused(&mut core, 1, 100.0, &mut out);
    assert_eq!(certainty(out), Some(Certainty::Proof));
}
