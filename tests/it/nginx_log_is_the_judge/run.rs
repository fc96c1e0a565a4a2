//! One run of the random mix, with everything that was said about it.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::agent::events::{Line, Request};
use e2e::agent::metrics::Metrics;
use e2e::load::mix::{Planned, plan, seed};
use e2e::load::{run, runtime};
use e2e::nginx::access_log::LoggedRequest;
use e2e::nginx::error_log::ErrorLine;
use e2e::process::need_root;
use e2e::stage::Stage;
use e2e::wait::eventually;

/// Fewer would leave rare cases out.
const REQUESTS: usize = 5000;
/// Clients at a time.
const CLIENTS: usize = 32;
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

/// The run all tests look at.
pub(crate) static RUN: LazyLock<Run> = LazyLock::new(Run::perform);

/// What everyone said.
pub(crate) struct Run {
    /// What was asked, by path.
    pub(crate) planned: BTreeMap<String, Planned>,
    /// nginx's access log, by path.
    pub(crate) logged: BTreeMap<String, LoggedRequest>,
    /// nginx's error log: lines of each path, in order.
    pub(crate) errors: BTreeMap<String, Vec<ErrorLine>>,
    /// The agent's events of nginx, by path.
    pub(crate) told: BTreeMap<String, Vec<Request>>,
    /// The agent's events of attempts without a request.
    pub(crate) lone_attempts: Vec<String>,
    /// Events that the stream says were missed.
    pub(crate) missed: u64,
    /// The agent's metrics.
    pub(crate) metrics: Metrics,
}

impl Run {
    fn perform() -> Self {
        need_root();
        let seed = seed();
        let stage = Stage::build();
        let agent = Agent::start(&[]);
        let events = agent.events();

        let planned = plan(seed, REQUESTS);
        let orders = planned
            .iter()
            .map(|planned| planned.order.clone())
            .collect();
        let started = Instant::now();
        let outcomes = runtime().block_on(run(stage.address, orders, CLIENTS));
        println!("{} requests in {:.1?}", outcomes.len(), started.elapsed());

        let logged = stage.nginx.access_log_of(REQUESTS);
        let errors = stage.nginx.error_log();
        let metrics = agent.settled(TELL);
        // The stream may lag behind the counters by what is in its socket.
        eventually(TELL, "the stream of events comes to rest", || {
            let before = events.count();
            std::thread::sleep(Duration::from_millis(500));
            match events.count() {
                count if count == before => Ok(()),
                count => Err(format!("{count} lines")),
            }
        });
        let lines = events.so_far();

        let mut told: BTreeMap<String, Vec<Request>> = BTreeMap::new();
        let mut lone_attempts = Vec::new();
        let mut missed = 0;
        for line in lines {
            match line {
                Line::Request(request) if request.proxy.name == "nginx" => told
                    .entry(request.path.clone().unwrap_or_default())
                    .or_default()
                    .push(*request),
                Line::Attempt(attempt) if attempt.proxy.name == "nginx" => {
                    lone_attempts.push(format!("{attempt:?}"));
                }
                Line::Lost { events } => missed += events,
                Line::Request(_) | Line::Attempt(_) | Line::Other => {}
            }
        }
        let foreign: Vec<&String> = told
            .keys()
            .filter(|path| !path.contains(&format!("/{seed:x}/")))
            .collect();
        assert!(
            foreign.is_empty(),
            "requests of others passed an nginx of this host, repeat this where nothing else runs: {:?}",
            foreign.iter().take(10).collect::<Vec<_>>()
        );
        let mut by_path: BTreeMap<String, Vec<ErrorLine>> = BTreeMap::new();
        for error in errors {
            by_path.entry(error.path.clone()).or_default().push(error);
        }
        Self {
            planned: planned
                .into_iter()
                .map(|planned| (planned.order.path.clone(), planned))
                .collect(),
            logged: logged
                .into_iter()
                .map(|request| (request.path.clone(), request))
                .collect(),
            errors: by_path,
            told,
            lone_attempts,
            missed,
            metrics,
        }
    }

    /// Name of the case of a path.
    pub(crate) fn case(&self, path: &str) -> &'static str {
        self.planned
            .get(path)
            .map_or("not asked", |planned| planned.case.name)
    }

    /// Each request that nginx logged, with the one event about it; requests with none or
    /// several are another test's business.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&Planned, &LoggedRequest, &Request)> {
        self.logged.iter().filter_map(|(path, logged)| {
            let [told] = self.told.get(path)?.as_slice() else {
                return None;
            };
            Some((self.planned.get(path)?, logged, told))
        })
    }
}
