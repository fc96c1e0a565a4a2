//! One proxy under many clients at a time, with everything that was said and done.
//!
//! In: a proxy, and orders. Out: for each order its outcome, what arrived at the servers on its
//! account, and what the agent told of it. A request that nobody read is no order that was played.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::agent::events::{Line, Request};
use e2e::load::{Outcome, run, runtime};
use e2e::misbehave::record::Served;
use e2e::ports::Refusing;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

use crate::cases::{Planned, by_name};
use crate::score::Ports;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

/// What the proxy does to paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paths {
    /// It passes them on as they are.
    Kept,
    /// It strips their first segment, and replaces the Host.
    Rewritten,
}

impl Paths {
    /// A path as it arrives at the servers.
    fn passed_on(self, path: &str) -> &str {
        let stripped = match self {
            Self::Kept => None,
            Self::Rewritten => path
                .get(1..)
                .and_then(|rest| Some(&path[rest.find('/')? + 1..])),
        };
        stripped.unwrap_or(path)
    }
}

/// Servers, dead ones, an agent, and a proxy in between.
pub(crate) struct Stage {
    agent: Agent,
    events: e2e::agent::Events,
    proxy: Proxy,
    upstreams: Upstreams,
    paths: Paths,
    ports: Ports,
    _refusing: Refusing,
    told: usize,
    served: usize,
}

/// An order, and what became of it.
pub(crate) struct Played {
    pub(crate) planned: Planned,
    pub(crate) outcome: Outcome,
    /// What arrived on its account.
    pub(crate) served: Vec<Served>,
    /// What was told of it; one, if all is well.
    pub(crate) told: Vec<Request>,
}

/// All orders of a run.
pub(crate) struct Run {
    pub(crate) played: Vec<Played>,
    /// Requests that the proxy closed on before it read them.
    pub(crate) unread: Vec<String>,
    /// Attempts that were told without a request, by cause.
    pub(crate) lone: BTreeMap<String, usize>,
    pub(crate) took: Duration,
    pub(crate) losses: BTreeMap<Vec<String>, u64>,
}

impl Stage {
    #[track_caller]
    pub(crate) fn build(kind: Kind, paths: Paths) -> Self {
        let ports = ["0", "0", "0", "0", "0", "0", "0", "0=reset"];
        let upstreams = Upstreams::start(LOCALHOST, &ports, None);
        let [six @ .., good, resetting] = upstreams.addresses.as_slice() else {
            panic!("each server that was ordered has an address");
        };
        let refusing = Refusing::new(LOCALHOST);
        let six = six.to_vec();
        let mut five_and_dead = six.clone();
        five_and_dead.truncate(5);
        five_and_dead.push(refusing.address);
        let groups = [
            Group::new("fresh", Target::Servers(six.clone())),
            Group::new("kept", Target::Servers(six)).kept(),
            Group::new("refused", Target::Servers(vec![refusing.address])),
            Group::new("retry", Target::Servers(vec![*good, *resetting])).retried(),
            Group::new("same", Target::Servers(five_and_dead.clone())),
            Group::new("same_kept", Target::Servers(five_and_dead)).kept(),
        ];
        let groups = match paths {
            Paths::Kept => groups,
            Paths::Rewritten => groups.map(Group::rewritten),
        };
        let agent = Agent::start(&[]);
        let events = agent.events();
        Self {
            ports: Ports {
                resetting: resetting.port(),
                dead: refusing.address.port(),
            },
            proxy: Proxy::start(kind, &groups),
            agent,
            events,
            upstreams,
            paths,
            _refusing: refusing,
            told: 0,
            served: 0,
        }
    }

    /// Ports with a meaning.
    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// Makes all requests and waits until all is told.
    #[track_caller]
    pub(crate) fn play(&mut self, planned: Vec<Planned>, clients: usize) -> Run {
        let orders = planned
            .iter()
            .map(|planned| planned.order.clone())
            .collect();
        let started = Instant::now();
        let outcomes = runtime().block_on(run(self.proxy.address, orders, clients));
        let took = started.elapsed();
        let metrics = self.agent.settled(TELL);
        // The stream may lag behind the counters by what is in its socket.
        eventually(TELL, "the stream of events comes to rest", || {
            let before = self.events.count();
            std::thread::sleep(Duration::from_millis(500));
            match self.events.count() {
                count if count == before => Ok(()),
                count => Err(format!("{count} lines")),
            }
        });

        let lines = self.events.so_far().split_off(self.told);
        self.told += lines.len();
        let mut served: BTreeMap<String, Vec<Served>> = BTreeMap::new();
        let arrived = self.upstreams.served().split_off(self.served);
        self.served += arrived.len();
        for one in arrived {
            let name = one.words.as_ref().unwrap_or(&one.target);
            served.entry(name.clone()).or_default().push(one);
        }
        let unread = self.unread(&planned, &outcomes, &served);
        let mut told = Told::new(lines, self.proxy.kind());
        let by_name = by_name(&planned);
        let played = outcomes
            .into_iter()
            .filter(|outcome| !unread.contains(&outcome.path))
            .map(|outcome| {
                let name = outcome.words.as_ref().unwrap_or(&outcome.path);
                let Some(planned) = by_name.get(name.as_str()) else {
                    panic!("{name} was asked and not planned");
                };
                Played {
                    planned: (*planned).clone(),
                    served: served
                        .remove(self.paths.passed_on(name))
                        .unwrap_or_default(),
                    told: told.take(&outcome),
                    outcome,
                }
            })
            .collect();
        Run {
            played,
            unread,
            lone: told.lone,
            took,
            losses: metrics.by("why502_agent_losses_total", &[], &["stage", "what"]),
        }
    }
}

impl Stage {
    /// Good requests that got nothing because the proxy closed the connection as they were sent, when it
    /// had been idle for long: they reached no server, and the proxy's log does not know them. (RFC
    /// 9112, 9.3.1: a client has to expect that.)
    fn unread(
        &self,
        planned: &[Planned],
        outcomes: &[Outcome],
        served: &BTreeMap<String, Vec<Served>>,
    ) -> Vec<String> {
        let good = by_name(planned);
        let is_good = |path: &String| {
            let planned = good.get(path.as_str());
            planned.is_some_and(|planned| planned.case.causes.is_empty())
        };
        let closed = outcomes.iter().filter(|one| {
            one.status.is_none() && !one.aborted && one.words.is_none() && one.body == 0
        });
        let nowhere = closed
            .map(|one| one.path.clone())
            .filter(|path| is_good(path) && !served.contains_key(self.paths.passed_on(path)));
        let suspects: Vec<String> = nowhere.collect();
        if suspects.is_empty() {
            return suspects;
        }
        let logged = self.proxy.said_of(suspects.iter().map(String::as_str));
        let known = |path: &str| logged.contains_key(path);
        let unread = suspects
            .into_iter()
            .filter(|path| !known(path) && !known(self.paths.passed_on(path)));
        unread.collect()
    }
}

/// What the agent told, by whatever tells requests apart that does not depend on the agent's
/// verdict: the path where each has its own, else the client's connection and their order on it.
struct Told {
    by_path: BTreeMap<String, Vec<Request>>,
    by_client: BTreeMap<String, Vec<Request>>,
    lone: BTreeMap<String, usize>,
}

impl Told {
    fn new(lines: Vec<Line>, kind: Kind) -> Self {
        let mut told = Self {
            by_path: BTreeMap::new(),
            by_client: BTreeMap::new(),
            lone: BTreeMap::new(),
        };
        for line in lines {
            match line {
                Line::Request(request) if request.proxy.name == kind.label() => {
                    let path = request.path.clone().unwrap_or_default();
                    let client = request.client.clone().unwrap_or_default();
                    told.by_client
                        .entry(client)
                        .or_default()
                        .push((*request).clone());
                    told.by_path.entry(path).or_default().push(*request);
                }
                Line::Attempt(lone) if lone.proxy.name == kind.label() => {
                    if let Some(cause) = lone.attempt.cause {
                        *told.lone.entry(cause).or_default() += 1;
                    }
                }
                Line::Lost { events } => panic!("{events} events were missed by a slow reader"),
                Line::Request(_) | Line::Attempt(_) | Line::Other => {}
            }
        }
        for requests in told.by_client.values_mut() {
            requests.sort_by(|one, other| one.time.cmp(&other.time));
        }
        told
    }

    /// What was told of one outcome; outcomes of one client have to be asked for in order.
    fn take(&mut self, outcome: &Outcome) -> Vec<Request> {
        if outcome.words.is_none() {
            return self.by_path.remove(&outcome.path).unwrap_or_default();
        }
        let client = outcome.client.map(|client| client.to_string());
        let Some(requests) = client.and_then(|client| self.by_client.get_mut(&client)) else {
            return Vec::new();
        };
        if requests.is_empty() {
            return Vec::new();
        }
        vec![requests.remove(0)]
    }
}
