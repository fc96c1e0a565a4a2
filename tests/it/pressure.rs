//! More than there should be, and less than there should be: connections without end, an agent
//! that does not run for seconds, one that is killed again and again, an hour of traffic.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::agent::events::Line;
use e2e::agent::metrics::Metrics;
use e2e::churn::{churn, namespace};
use e2e::http;
use e2e::kernel::entries_of;
use e2e::load::known::{self, assert_covered, causes, codes, http_block, proofs};
use e2e::load::mix::seed;
use e2e::load::traffic::Traffic;
use e2e::load::{Order, Outcome, run, runtime};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::{need_root, output_of};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use fastrand::Rng;
use rustix::process::Signal;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NGINX: (&str, &str) = ("proxy", "nginx");
const RECORDS: &str = "why502_agent_records_total";
const LOSSES: &str = "why502_agent_losses_total";
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(30);
/// Clients at a time.
const CLIENTS: usize = 16;
/// The most memory the agent may use, bytes.
const MEMORY: u64 = 100 << 20;

/// Connections of one round of churn.
const CHURN: usize = 100_000;
/// How long an agent is stopped.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a soak lasts, without what comes before it, seconds. `WHY502_SOAK_SECONDS` is longer.
const SOAK: u64 = 15;
/// Between two looks at memory and files during a soak.
const LOOK: Duration = Duration::from_millis(500);
/// Growth of memory over a whole soak that is no leak, bytes: the allocator's own doing.
const GROWTH: f64 = 2e6;

/// A proxy, and what it needs.
struct Scene {
    address: SocketAddr,
    _upstreams: Upstreams,
    _refusing: Refusing,
    _nginx: Nginx,
}

impl Scene {
    fn build() -> Self {
        need_root();
        let upstreams = Upstreams::start(LOCALHOST, &["0", "0"], None);
        let refusing = Refusing::new(LOCALHOST);
        let address = ports::free(LOCALHOST);
        let http = http_block(address, &upstreams.addresses, refusing.address);
        Self {
            address,
            _nginx: Nginx::start(&Config::new(http), None),
            _upstreams: upstreams,
            _refusing: refusing,
        }
    }

    fn traffic(&self, seed: u64) -> Traffic {
        Traffic::start(self.address, CLIENTS, move |client, number| {
            let mut rng = Rng::with_seed(seed ^ (number * CLIENTS + client) as u64);
            known::order(&mut rng, number)
        })
    }

    /// Asks some more of it and asserts that each is told, and told right.
    #[track_caller]
    fn assert_told_right(&self, agent: &Agent, orders: Vec<Order>) {
        let before = agent.settled(TELL);
        let expected = causes(orders.iter().map(|order| order.path.as_str()));
        let outcomes = runtime().block_on(run(self.address, orders, CLIENTS));
        let after = agent.settled(TELL);
        let told = |name, label| {
            let mut told = after.by(name, &[NGINX], &[label]);
            for (key, count) in before.by(name, &[NGINX], &[label]) {
                let left = told.entry(key).or_default();
                *left = left.saturating_sub(count);
            }
            told.retain(|_, count| *count > 0);
            told
        };
        let given = told("why502_gateway_responses_total", "code");
        assert_eq!(given, codes(&outcomes), "agent left, clients right");
        let errors = told("why502_gateway_errors_total", "cause");
        assert_eq!(errors, expected, "agent left, what was ordered right");
        assert_covered(&after);
    }
}

/// Asserts that clients got what they had ordered: traffic does not notice the agent.
#[track_caller]
fn assert_unharmed(outcomes: &[Outcome]) {
    let harmed: Vec<_> = outcomes
        .iter()
        .filter(|outcome| {
            let expected = match known::cause(&outcome.path) {
                None => 200,
                Some("upstream_status") => 503,
                Some(_) => 502,
            };
            !outcome.is(expected)
        })
        .collect();
    assert!(
        harmed.is_empty(),
        "{} of {}: {:?}",
        harmed.len(),
        outcomes.len(),
        harmed.first()
    );
}

/// Asserts that every record is accounted for; how many were lost in the ring, by kind.
#[track_caller]
fn assert_conserved(metrics: &Metrics) -> BTreeMap<Vec<String>, u64> {
    let stage = |stage| metrics.by(RECORDS, &[("stage", stage)], &["kind"]);
    assert_eq!(stage("drained"), stage("emitted"), "drained left");
    assert_eq!(stage("decoded"), stage("drained"), "decoded left");
    metrics.by(LOSSES, &[("stage", "ring")], &["what"])
}

/// Requests and attempts that may be under way at any time: those of other programs of this host,
/// and the last on each connection of a process that was found to be no proxy.
const OTHERS: f64 = 400.0;

/// What is under way.
fn tracked(metrics: &Metrics) -> f64 {
    ["requests", "attempts"]
        .iter()
        .map(|what| metrics.sum("why502_agent_tracked", &[("what", what)]))
        .sum()
}

#[test]
fn connections_without_end_leave_nothing_behind() {
    let scene = Scene::build();
    let netns = namespace();
    let agent = Agent::start(&[]);
    let connects = |metrics: &Metrics| {
        metrics.sum(RECORDS, &[("stage", "emitted"), ("kind", "connect")])
            + metrics.sum(LOSSES, &[("stage", "ring"), ("what", "connect")])
    };
    let mut resident = Vec::new();
    for round in 0..3 {
        let before = agent.settled(TELL);
        let files = agent.open_files();
        let took = churn(&netns, 2, CHURN / 2);
        let after = agent.settled(TELL);

        let lost = assert_conserved(&after);
        let seen = connects(&after) - connects(&before);
        resident.push(agent.resident_bytes());
        println!(
            "round {round}: {:.0} connections/s, {seen} of {CHURN} connects, lost {lost:?}, {} KB, \
             connections {}, files {files}",
            CHURN as f64 / took.as_secs_f64(),
            agent.resident_bytes() / 1024,
            after.sum("why502_agent_tracked", &[("what", "connections")]),
        );
        // The host may connect somewhere as well.
        let most = CHURN as f64 * 1.001 + 50.0;
        assert!(seen >= CHURN as f64 && seen <= most, "{seen} connects");
        let under_way = tracked(&after);
        assert!(under_way <= OTHERS, "{under_way} under way");
        // One whose end was lost is kept until it was silent for long.
        let ends: u64 = lost.values().sum();
        let kept = after.sum("why502_agent_tracked", &[("what", "connections")]);
        assert!(kept <= 50.0 + ends as f64, "{kept} connections are kept");
        eventually(TELL, "files are closed", || match agent.open_files() {
            now if now <= files => Ok(()),
            now => Err(format!("{now} files, {files} before")),
        });
        assert_eq!(
            entries_of(agent.pid(), "CONNECTING"),
            0,
            "no connect is under way"
        );
    }
    // The first rounds fill tables and buffers to their usual size. Pages that the kernel took back in
    // one of them come again in the next.
    if let [first, second, third] = *resident.as_slice() {
        assert!(
            third as f64 <= first.max(second) as f64 + GROWTH,
            "memory grows: {resident:?}"
        );
    }
    assert!(agent.peak_resident_bytes() <= MEMORY);
    scene.assert_told_right(&agent, known::orders(seed(), 1000));
}

#[test]
fn an_agent_that_did_not_run_for_ten_seconds_says_what_it_missed_and_nothing_false() {
    let scene = Scene::build();
    let seed = seed();
    // Both ends of each connection are looked at to the end, so that their sum is known.
    let flags = ["--ring-bytes", "1048576", "--bystander-exchanges", "0"];
    let agent = Agent::start(&flags);
    let events = agent.events();
    let traffic = scene.traffic(seed);
    traffic.goes_on(1000);

    agent.signal(Signal::STOP);
    let asked = traffic.asked();
    std::thread::sleep(PAUSE);
    let missed = traffic.asked() - asked;
    agent.signal(Signal::CONT);
    traffic.goes_on(1000);
    let outcomes = traffic.stop();

    assert_unharmed(&outcomes);
    let metrics = agent.settled(TELL);
    let lost = assert_conserved(&metrics);
    let (proofs, wrong) = proofs(&events.so_far());
    println!(
        "{missed} of {} requests while it was stopped; lost {lost:?}; {proofs} proofs; {} MB at most",
        outcomes.len(),
        agent.peak_resident_bytes() >> 20
    );
    assert!(
        wrong.is_empty(),
        "{} false proofs: {:?}",
        wrong.len(),
        wrong.first()
    );
    assert!(!lost.is_empty(), "a ring of 1 MB does not hold 10 s");
    // Each request passes two connections, but those to a port that refuses, and each connection
    // has two ends on this host.
    let refused = outcomes
        .iter()
        .filter(|outcome| known::cause(&outcome.path) == Some("connect_refused"));
    let expected = 2.0 * (2 * outcomes.len() - refused.count()) as f64;
    let requests = metrics.sum(RECORDS, &[("stage", "emitted"), ("kind", "request")])
        + metrics.sum(LOSSES, &[("stage", "ring"), ("what", "request")]);
    println!("{requests} requests told or lost, {expected} made");
    assert!(
        (expected..=expected + 50.0).contains(&requests),
        "{requests} told or lost, {expected} made"
    );
    assert_covered(&metrics);
    assert!(agent.peak_resident_bytes() <= MEMORY);
    let ready = http::get(agent.address, "/readyz", "*/*").expect("the agent answers");
    assert_eq!(ready.status, 200);
    scene.assert_told_right(&agent, known::orders(seed, 1000));
}

#[test]
fn a_ring_that_is_too_small_makes_no_proof_false() {
    let scene = Scene::build();
    let agent = Agent::start(&["--ring-bytes", "4096"]);
    let events = agent.events();
    let traffic = scene.traffic(seed());
    traffic.goes_on(10_000);
    let outcomes = traffic.stop();

    assert_unharmed(&outcomes);
    let metrics = agent.settled(TELL);
    let lost = assert_conserved(&metrics);
    let (proofs, wrong) = proofs(&events.so_far());
    println!(
        "{} requests, lost {lost:?}, {proofs} proofs",
        outcomes.len()
    );
    assert!(
        wrong.is_empty(),
        "{} false proofs: {:?}",
        wrong.len(),
        wrong.first()
    );
    assert!(!lost.is_empty(), "a page is too small for this");
    assert_covered(&metrics);
}

#[test]
fn agents_killed_and_started_again_under_load_tell_nothing_false() {
    let scene = Scene::build();
    let seed = seed();
    let traffic = scene.traffic(seed);
    for round in 0..6 {
        let agent = Agent::start(&[]);
        let events = agent.events();
        traffic.goes_on(1500);
        let (proofs, wrong) = proofs(&events.so_far());
        println!("round {round}: {} lines, {proofs} proofs", events.count());
        assert!(
            wrong.is_empty(),
            "{} false proofs: {:?}",
            wrong.len(),
            wrong.first()
        );
        agent.stop(Signal::KILL);
    }
    assert_unharmed(&traffic.stop());
    let agent = Agent::start(&[]);
    scene.assert_told_right(&agent, known::orders(seed, 1000));
}

#[test]
fn an_agent_whose_clock_is_a_day_ahead_of_the_kernels_tells_right() {
    let scene = Scene::build();
    // As in a container with a time namespace of its own, or one that was moved there.
    let agent = Agent::start_ahead(86_400, &[]);
    let events = agent.events();
    let now = || output_of(Command::new("date").args(["-u", "+%FT%T"]));
    let before = now();
    scene.assert_told_right(&agent, known::orders(seed(), 1000));
    let after = now();

    let (proofs, wrong) = proofs(&events.so_far());
    println!("{} lines, {proofs} proofs", events.count());
    assert!(proofs > 0 && wrong.is_empty(), "{wrong:?}");
    for line in events.so_far() {
        if let Line::Request(request) = line {
            let time = request.time.get(..19).unwrap_or_default();
            assert!(
                (before.trim()..=after.trim()).contains(&time),
                "{time} is not from {before} to {after}"
            );
        }
    }
}

#[test]
fn an_hour_of_traffic_leaves_memory_and_files_flat() {
    let scene = Scene::build();
    let agent = Agent::start(&[]);
    let traffic = scene.traffic(seed());
    // The store of incidents, and what is remembered of closed connections, reach their size: of
    // twenty requests one has a connection of its own, and the largest tables hold 16,384.
    churn(&namespace(), 1, 40_000);
    traffic.goes_on(250_000);
    let text = std::env::var("WHY502_SOAK_SECONDS").ok();
    let lasts = text.and_then(|text| text.parse().ok()).unwrap_or(SOAK);
    let (asked, started) = (traffic.asked(), Instant::now());
    let mut memory = Vec::new();
    let mut files = Vec::new();
    while started.elapsed() < Duration::from_secs(lasts) {
        let at = started.elapsed().as_secs_f64();
        // What a Prometheus does.
        let _scrape = agent.metrics();
        memory.push((at, agent.resident_bytes() as f64));
        files.push((at, agent.open_files() as f64));
        std::thread::sleep(LOOK);
    }
    let asked = traffic.asked() - asked;
    let seconds = started.elapsed().as_secs_f64();
    assert_unharmed(&traffic.stop());

    let every = memory.len().div_ceil(12).max(1);
    let shown: Vec<String> = memory
        .iter()
        .step_by(every)
        .map(|(at, bytes)| format!("{at:.0} s {:.2} MB", bytes / 1e6))
        .collect();
    println!("{}", shown.join(", "));
    let growth = slope(&memory) * seconds;
    let opened = slope(&files) * seconds;
    println!(
        "{asked} requests in {seconds:.0} s, as many as in an hour of {:.0}/s; memory {:.1} MB, \
         {:+.0} KB over the whole, files {:+.2} of {}",
        asked as f64 / 3600.0,
        agent.resident_bytes() as f64 / 1e6,
        growth / 1e3,
        opened,
        agent.open_files(),
    );
    assert!(growth <= GROWTH, "memory grows by {growth} bytes");
    assert!(opened <= 1.0, "files grow by {opened}");
    let metrics = agent.settled(TELL);
    let lost = assert_conserved(&metrics);
    println!("lost {lost:?}");
    let under_way = tracked(&metrics);
    assert!(under_way <= OTHERS, "{under_way} under way");
    assert_covered(&metrics);
}

/// By how much the second number grows with the first, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let both: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    let square: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    both / square
}
