//! Bounds and time limits of the core, and the counters that tell when one was met.

use crate::observation::Nanos;
use crate::process::UnreadClients;
use crate::timing::SECOND;

/// How much the core keeps. What does not fit is refused and counted ([`Stats`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of both sides. Too small: a busy proxy's idle connections crowd out new
    /// ones, whose attempts then lose connect times. Too large: about 150 bytes each.
    pub connections: usize,
    /// Client requests under way. Too small: requests are missed. Too large: about 450
    /// bytes each.
    pub requests: usize,
    /// Attempts kept, under way or waiting for their request's end. About 550 bytes each.
    pub attempts: usize,
    /// Attempts kept for one request; with more, the oldest are told by themselves.
    pub attempts_per_request: usize,
    /// Processes.
    pub processes: usize,
    /// Connections that are gone and still remembered, so that a late record of one
    /// reports nothing twice.
    pub closed: usize,
    /// How long an attempt without a request waits for it, ns. A request that is over waits for its
    /// attempts for 0.2 s longer: a proxy on a busy host ends them as late as that, and they wait in turn.
    /// Too small: the cause arrives too late. Too large: errors are told late.
    pub grace: Nanos,
    /// After how long without a record an idle connection is forgotten, ns. It is taken up
    /// again with its next record.
    pub idle: Nanos,
    /// After how long without a record an exchange under way is forgotten, ns.
    pub stuck: Nanos,
    /// After so many exchanges a process that is no proxy is told as a bystander
    /// ([`crate::Core::take_bystanders`]); 0 for never. Too small: a proxy that passes few of its
    /// requests on is given up before it has shown it. Too large: applications cost as proxies do.
    pub bystander_exchanges: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            requests: 65_536,
            attempts: 131_072,
            attempts_per_request: 64,
            processes: 16_384,
            closed: 16_384,
            grace: SECOND / 4,
            idle: 600 * SECOND,
            stuck: 3_600 * SECOND,
            bystander_exchanges: 2_000,
        }
    }
}

/// What the core holds, and what it could not do. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauge: connections held.
    pub connections: usize,
    /// Gauge: client requests held, under way or waiting for their verdict.
    pub requests: usize,
    /// Gauge: attempts held, under way or waiting for their request's verdict.
    pub attempts: usize,
    /// Gauge: processes held.
    pub processes: usize,
    /// Observations taken in.
    pub observations: u64,
    /// Observations that told nothing new: their exchange was told already, or the same
    /// record came before.
    pub repeated: u64,
    /// Connections refused because the table was full.
    pub connections_refused: u64,
    /// Client requests refused because the table was full.
    pub requests_refused: u64,
    /// Attempts refused because the table was full.
    pub attempts_refused: u64,
    /// Attempts told without their request because it had too many.
    pub attempts_crowded_out: u64,
    /// Processes refused because the table was full.
    pub processes_refused: u64,
    /// Connections forgotten after long silence.
    pub connections_swept: u64,
    /// Attempts of proxies told without a client request.
    pub attempts_unmatched: u64,
    /// Errands that named no request this attempt could belong to.
    pub errands_unmatched: u64,
    /// Requests that were looked at to find those of attempts: what joins cost.
    pub requests_looked_at: u64,
    /// Connections whose talk is not read, and upstreams, that were looked at for requests that failed.
    pub connections_looked_at: u64,
    /// Gauges: entries of the tables of evidence, by name.
    pub evidence: [(&'static str, usize); 13],
    /// Entries of these that made room for newer ones, or found none.
    pub forgotten: [(&'static str, u64); 13],
    /// Connections of proxies' clients that are not read.
    pub unread_clients: UnreadClients,
    /// What became of client requests.
    pub request_ledger: Ledger,
    /// What became of attempts.
    pub attempt_ledger: Ledger,
}

/// What became of all exchanges of one side: `begun` is the sum of the others and of what
/// is still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Taken up.
    pub begun: u64,
    /// Told as an event.
    pub told: u64,
    /// Told as a health check.
    pub checks: u64,
    /// Not told: their process is no proxy.
    pub foreign: u64,
    /// Not told: sent by their client before the answer to the one before, and nothing was done for
    /// them before their connection ended.
    pub not_begun: u64,
    /// Not told: their end was lost and so was any status.
    pub ends_lost: u64,
    /// Not told: forgotten after long silence, while under way.
    pub swept: u64,
}
