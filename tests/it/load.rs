//! A steady load of thousands of requests a second, one in twenty of which goes wrong: nothing is
//! lost with the sizes that the agent comes with, and the errors are counted right.
//!
//! The rate is 10,000 a second, or less where this machine cannot do so much: a proxy at
//! saturation measures the machine. What the agent costs is printed, for the record of what it
//! costs is `docs/bench`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::load::known::{assert_covered, causes, codes, http_block, orders};
use e2e::load::mix::seed;
use e2e::load::{Client, Order, Outcome, runtime};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NGINX: (&str, &str) = ("proxy", "nginx");

/// Requests a second, at most.
const RATE: f64 = 10_000.0;
/// Of what the machine can do without pause, so much is asked of it.
const BELOW_SATURATION: f64 = 0.6;
/// How long it is asked.
const LASTS: Duration = Duration::from_secs(10);
/// Clients at a time. Too few: a slow answer holds the rate back.
const CLIENTS: usize = 48;
/// Requests without pause, to learn what the machine can do.
const TRIAL: usize = 6_000;
/// The most memory the agent may have used, bytes.
const MEMORY: u64 = 100 * 1024 * 1024;
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(30);

#[test]
fn under_a_steady_load_nothing_is_lost_and_errors_are_counted_right() {
    need_root();
    let seed = seed();
    let upstreams = Upstreams::start(LOCALHOST, &["0", "0"], None);
    let refusing = Refusing::new(LOCALHOST);
    let address = ports::free(LOCALHOST);
    let http = http_block(address, &upstreams.addresses, refusing.address);
    let _nginx = Nginx::start(&Config::new(http), None);

    let started = Instant::now();
    runtime().block_on(paced(address, orders(seed, TRIAL), None));
    let most = TRIAL as f64 / started.elapsed().as_secs_f64();
    let rate = RATE.min(most * BELOW_SATURATION);

    let agent = Agent::start(&[]);
    let orders = orders(seed, (rate * LASTS.as_secs_f64()) as usize);
    let expected = causes(orders.iter().map(|order| order.path.as_str()));
    let before = agent.cpu();
    let started = Instant::now();
    let outcomes = runtime().block_on(paced(address, orders, Some(rate)));
    let took = started.elapsed();
    let cpu = (agent.cpu() - before).as_secs_f64();
    let metrics = agent.settled(TELL);

    let memory = agent.peak_resident_bytes();
    let done = outcomes.len() as f64 / took.as_secs_f64();
    println!(
        "{most:.0} requests/s without pause; {} requests at {done:.0}/s of {rate:.0}/s asked; agent \
         {:.1} mCPU per 1,000 requests/s, {:.1} MB at most",
        outcomes.len(),
        cpu / took.as_secs_f64() * 1000.0 / (done / 1000.0),
        memory as f64 / 1024.0 / 1024.0,
    );
    let mut losses = metrics.by("why502_agent_losses_total", &[], &["stage", "what"]);
    losses.remove(&vec!["probes".to_owned(), "head_too_long".to_owned()]);
    assert!(losses.is_empty(), "losses: {losses:?}");
    let codes = codes(&outcomes);
    let told = metrics.by("why502_gateway_responses_total", &[NGINX], &["code"]);
    assert_eq!(told, codes, "agent left, clients right");
    let told = metrics.by("why502_gateway_errors_total", &[NGINX], &["cause"]);
    assert_eq!(told, expected, "agent left, what was ordered right");
    assert_covered(&metrics);
    assert!(memory <= MEMORY, "{memory} bytes");
}

/// Makes all requests by [`CLIENTS`] clients, so many a second, or as fast as it goes. The next
/// request belongs to whichever client is free when its time comes.
async fn paced(target: SocketAddr, orders: Vec<Order>, rate: Option<f64>) -> Vec<Outcome> {
    let orders = Arc::new(orders);
    let next = Arc::new(AtomicUsize::new(0));
    let started = tokio::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (orders, next) = (Arc::clone(&orders), Arc::clone(&next));
        tasks.spawn(async move {
            let mut client = Client::new(target);
            let mut outcomes = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(order) = orders.get(number) else {
                    return outcomes;
                };
                if let Some(rate) = rate {
                    let at = Duration::from_secs_f64(number as f64 / rate);
                    tokio::time::sleep_until(started + at).await;
                }
                outcomes.push(client.ask(order).await);
            }
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}
