//! The core: takes observations in, keeps what is under way, tells what is over.
//!
//! In: [`Observation`]s in about the order of their time, facts about processes, and the
//! passing of time. Out: [`Event`]s. This file is the public face; what an observation does
//! is in `observe` and `connecting`, how attempts come to their requests in `joining`, how health checks
//! are distinguished from them in `checking`, those that are told in brief in `in_brief`, those whose talk
//! is not read in `unread`, what else is known of
//! their end in `around`, how both come to their verdict in `verdict` and `without`, and what happens by
//! the mere passing of time in `time`. `open` lists what is under way. What is kept is in parts of their own, `exchanges` first.

mod around;
mod checking;
mod connecting;
mod in_brief;
mod joining;
mod observe;
mod open;
mod time;
mod unread;
mod verdict;
mod without;

use rustc_hash::FxHashMap;

use crate::connection::Connections;
use crate::departures::Departures;
use crate::event::{Event, Proxy, ServerName, Upstream};
use crate::exchanges::Exchanges;
use crate::limits::{Ledger, Limits, Stats};
use crate::lookups::Lookups;
use crate::losses::Losses;
use crate::observation::{Lookup, Nanos, Observation};
use crate::pace::Pace;
use crate::peers::Peers;
use crate::process::{ProcessInfo, Processes};
use crate::recent::Recent;
use crate::unread::Unread;
use crate::upstreams::Upstreams;

/// All state of the core. It reads no clock: time is that of the observations and of
/// [`Core::advance`].
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    pace: Pace,
    losses: Losses,
    processes: Processes,
    connections: Connections,
    exchanges: Exchanges,
    upstreams: Upstreams,
    lookups: Lookups,
    peers: Peers,
    /// The servers that ClientHellos named, by the cookie of the socket that they left on.
    hellos: Recent<u64, ServerName>,
    departures: Departures,
    /// Uses of connections whose talk is not read, of which it is not known for whom.
    unread: Unread,
    /// Processes that turned out to be none, since last asked.
    bystanders: Vec<u32>,
    counts: Counts,
}

/// TLS handshakes under way whose server name is remembered.
const HELLOS: usize = 4096;

/// The counters of [`Stats`] that no table keeps.
#[derive(Debug, Default)]
struct Counts {
    observations: u64,
    repeated: u64,
    attempts_unmatched: u64,
    errands_unmatched: u64,
    requests: Ledger,
    attempts: Ledger,
}

/// Requests that a proxy sent to one upstream and that are not answered to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Who asked.
    pub proxy: Proxy,
    /// Whom.
    pub upstream: Upstream,
    /// How many.
    pub count: usize,
    /// Start of the oldest.
    pub oldest: Nanos,
}

impl Core {
    /// An empty core.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pace: Pace::default(),
            losses: Losses::default(),
            processes: Processes::new(limits.processes),
            connections: Connections::new(limits.connections, limits.closed),
            exchanges: Exchanges::new(&limits),
            upstreams: Upstreams::default(),
            lookups: Lookups::default(),
            peers: Peers::default(),
            hellos: Recent::new(HELLOS),
            departures: Departures::default(),
            unread: Unread::default(),
            bystanders: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// What the daemon found out about a process. To be told before the first
    /// [`Core::observe`] with its thread group ([`Core::is_known`] says whether).
    pub fn know_process(&mut self, tgid: u32, info: ProcessInfo) {
        self.processes.know(tgid, info, self.pace.now());
    }

    /// The process is gone, or its executable changed.
    pub fn forget_process(&mut self, tgid: u32) {
        self.processes.forget(tgid);
    }

    /// The process was told of with [`Core::know_process`] and is remembered. Processes
    /// that are no proxies are forgotten after [`Limits::idle`] of silence.
    pub fn is_known(&self, tgid: u32) -> bool {
        self.processes.is_known(tgid)
    }

    /// Processes of which [`Limits::bystander_exchanges`] were told and none shows a proxy: their
    /// connections need not be looked at. Each once, until [`Core::look_again`].
    pub fn take_bystanders(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.bystanders)
    }

    /// A bystander is looked at again: it may have become a proxy.
    pub fn look_again(&mut self, tgid: u32) {
        self.processes.look_again(tgid);
    }

    /// Records are known to be missing (the ring was full), from before the next
    /// [`Core::advance`]. Requests that began before it may lack an attempt: their cause is no
    /// proof. To be called before [`Core::observe`] with what came behind the loss.
    pub fn records_lost(&mut self) {
        self.losses.lose_records();
    }

    /// This kernel does not tell of `connect(2)`: attempts at Unix sockets pass unseen, so that nobody
    /// can say that there was none.
    pub fn connects_unseen(&mut self) {
        self.losses.lose_connects();
    }

    /// Takes one observation in; what became final by it is added to `out`.
    pub fn observe(&mut self, observation: Observation, out: &mut Vec<Event>) {
        self.counts.observations += 1;
        self.take_in(observation, out);
    }

    /// Takes the lookup of a name in: a request without an attempt may have failed by it.
    pub fn look_up(&mut self, lookup: Lookup) {
        self.counts.observations += 1;
        self.take_lookup(lookup);
    }

    /// Time went on to `now` (`CLOCK_MONOTONIC`, ns): what waited long enough is told. To be
    /// called a few times within [`Limits::grace`], also when nothing is observed.
    pub fn advance(&mut self, now: Nanos, out: &mut Vec<Event>) {
        self.pace.advance(now);
        self.losses.advance(self.pace.now());
        self.expire(self.pace.now(), out);
        if self.pace.looks() {
            self.look_who_waits();
        }
        if self.pace.sweeps() {
            self.sweep(out);
        }
    }

    /// The end: what waits for its verdict gets it. What is still under way is not told.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        self.expire(Nanos::MAX, out);
    }

    /// What is held, and what could not be done.
    pub fn stats(&self) -> Stats {
        let Counts {
            observations,
            repeated,
            attempts_unmatched,
            errands_unmatched,
            requests: request_ledger,
            attempts: attempt_ledger,
        } = self.counts;
        let (requests, unjoined) = (self.exchanges.requests(), self.exchanges.unjoined());
        Stats {
            connections: self.connections.len(),
            requests: requests.len(),
            attempts: self.exchanges.attempts(),
            processes: self.processes.len(),
            observations,
            repeated,
            connections_refused: self.connections.refused(),
            requests_refused: requests.refused(),
            attempts_refused: self.exchanges.attempts_refused(),
            attempts_crowded_out: self.exchanges.attempts_crowded_out(),
            processes_refused: self.processes.refused(),
            connections_swept: self.connections.swept(),
            attempts_unmatched,
            errands_unmatched,
            requests_looked_at: requests.looked_at(),
            connections_looked_at: self.connections.outgoing().looked_at()
                + self.upstreams.routes().looked_at(),
            evidence: [
                ("routes", self.upstreams.routes().routes()),
                ("upstreams", self.upstreams.routes().upstreams()),
                ("checks", self.upstreams.checks().len()),
                ("servers", requests.servers()),
                ("deaths", self.peers.deaths().len()),
                ("resets", self.peers.resets().len()),
                ("lookups", self.lookups.len()),
                ("unjoined", unjoined.len()),
                ("unread", self.unread.len()),
                ("readers", self.peers.readers().len()),
                ("hellos", self.hellos.len()),
                ("departures", self.departures.len()),
                ("patience", self.upstreams.patience().len()),
            ],
            forgotten: [
                ("routes_forgotten", self.upstreams.routes().routes_refused()),
                (
                    "upstreams_forgotten",
                    self.upstreams.routes().upstreams_refused(),
                ),
                ("checks_forgotten", self.upstreams.checks().forgotten()),
                ("servers_forgotten", requests.servers_forgotten()),
                ("deaths_forgotten", self.peers.deaths().forgotten()),
                ("resets_forgotten", self.peers.resets().forgotten()),
                ("lookups_forgotten", self.lookups.forgotten()),
                ("unjoined_forgotten", unjoined.forgotten()),
                ("unread_forgotten", self.unread.forgotten()),
                ("readers_forgotten", self.peers.readers().forgotten()),
                ("hellos_forgotten", self.hellos.forgotten()),
                ("departures_forgotten", self.departures.forgotten()),
                ("patience_forgotten", self.upstreams.patience().forgotten()),
            ],
            unread_clients: self.processes.unread_clients(),
            request_ledger,
            attempt_ledger,
        }
    }

    /// Attempts of proxies that are under way, by proxy and upstream. Walks all attempts
    /// under way: for a scrape, not for every record.
    pub fn outstanding(&self) -> impl Iterator<Item = Outstanding> {
        let mut sums: FxHashMap<(u32, &Upstream), Outstanding> = FxHashMap::default();
        for trial in self.exchanges.under_way() {
            let Some(proxy) = self.processes.proxy(trial.tgid) else {
                continue;
            };
            sums.entry((proxy.tgid, &trial.upstream))
                .and_modify(|sum| {
                    sum.count += 1;
                    sum.oldest = sum.oldest.min(trial.started);
                })
                .or_insert_with(|| Outstanding {
                    proxy,
                    upstream: trial.upstream.clone(),
                    count: 1,
                    oldest: trial.started,
                });
        }
        sums.into_values()
    }
}
