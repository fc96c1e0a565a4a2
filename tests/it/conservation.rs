//! Whatever the probes see is told or counted as lost, also when the ring is far too small.

use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::metrics::Metrics;
use e2e::http;
use e2e::load::mix::{plan, seed};
use e2e::load::{Order, run, runtime};
use e2e::process::need_root;
use e2e::stage::Stage;

const RECORDS: &str = "why502_agent_records_total";
const LOSSES: &str = "why502_agent_losses_total";
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);
/// Between requests that shall not be lost: longer than the agent's longest round, and than a CPU
/// may be away on a crowded host. A page holds the records of one request, not of two.
const CALM: Duration = Duration::from_millis(300);
/// Clients at a time: what makes bursts.
const CLIENTS: usize = 64;

/// Small answers as fast as they come. One in ten is larger than any segment, so that its end
/// is a record of its own.
fn burst(count: usize) -> Vec<Order> {
    (0..count)
        .map(|number| {
            let words = if number % 10 == 0 {
                "body=200000"
            } else {
                "ok"
            };
            Order::get(format!("/one/0/{number}/{words}"))
        })
        .collect()
}

#[track_caller]
fn assert_conserved(metrics: &Metrics) {
    let stage = |stage| metrics.by(RECORDS, &[("stage", stage)], &["kind"]);
    println!("emitted {:?}", stage("emitted"));
    println!("losses {:?}", metrics.by(LOSSES, &[], &["stage", "what"]));
    assert!(!stage("emitted").is_empty(), "something was emitted");
    assert_eq!(
        stage("drained"),
        stage("emitted"),
        "drained left, emitted right"
    );
    let refused = metrics.sum(LOSSES, &[("stage", "decode")]);
    assert_eq!(
        metrics.sum(RECORDS, &[("stage", "decoded")]) + refused,
        metrics.sum(RECORDS, &[("stage", "drained")]),
        "decoded and refused left, drained right"
    );
    assert_eq!(refused, 0.0, "our own records are not refused");
}

#[test]
fn every_record_emitted_is_drained_and_decoded() {
    need_root();
    let stage = Stage::build();
    let agent = Agent::start(&["--bystander-exchanges", "0"]);
    let orders = plan(seed(), 1000)
        .into_iter()
        .map(|planned| planned.order)
        .collect();

    runtime().block_on(run(stage.address, orders, 16));

    let metrics = agent.settled(TELL);
    assert_conserved(&metrics);
    // Heads beyond what the agent reads are part of the mix.
    let mut lost = metrics.by(LOSSES, &[], &["stage", "what"]);
    lost.remove(&vec!["probes".to_owned(), "head_too_long".to_owned()]);
    assert!(
        lost.is_empty(),
        "nothing is lost with the usual ring: {lost:?}"
    );
}

#[test]
fn a_ring_that_is_too_small_loses_and_says_so_and_the_agent_lives() {
    need_root();
    let count = 6000;
    let seen_by = |flags: &[&str]| {
        let stage = Stage::build();
        let agent = Agent::start(flags);
        let outcomes = runtime().block_on(run(stage.address, burst(count), CLIENTS));
        let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is(200)).collect();
        assert!(failed.is_empty(), "traffic does not notice: {failed:?}");
        let metrics = agent.settled(TELL);
        let ready = http::get(agent.address, "/readyz", "*/*").expect("the agent answers");
        assert_eq!(ready.status, 200, "the agent is ready still");
        // Slower than the agent drains: ten at once are too many for one page as well.
        let mut calm = burst(10);
        for order in &mut calm {
            order.pause = CALM;
        }
        let after = runtime().block_on(run(stage.address, calm, 1));
        assert_eq!(after.len(), 10);
        let end = agent.settled(TELL);
        let answers = |metrics: &Metrics| {
            metrics.sum("why502_gateway_responses_total", &[("proxy", "nginx")])
        };
        assert_eq!(
            answers(&end) - answers(&metrics),
            10.0,
            "after the burst all is told again"
        );
        (metrics, end)
    };

    let all = ["--bystander-exchanges", "0"];
    let (usual, _) = seen_by(&all);
    let (tiny, end) = seen_by(&[&all[..], &["--ring-bytes", "4096"]].concat());

    assert_conserved(&end);
    let lost = |kind| tiny.sum(LOSSES, &[("stage", "ring"), ("what", kind)]);
    let emitted =
        |metrics: &Metrics, kind| metrics.sum(RECORDS, &[("stage", "emitted"), ("kind", kind)]);
    assert!(
        tiny.sum(LOSSES, &[("stage", "ring")]) > 0.0,
        "a page is too small for this"
    );
    for kind in ["request", "response", "end"] {
        let (few, all) = (emitted(&tiny, kind) + lost(kind), emitted(&usual, kind));
        println!(
            "{kind}: {} emitted and {} lost, {all} with the usual ring",
            emitted(&tiny, kind),
            lost(kind)
        );
        // The agent's own scrapes are seen too, and their number is not the same.
        assert!(
            (few - all).abs() <= all * 0.01,
            "{kind}: {few} emitted or lost, {all} with the usual ring"
        );
    }
}
