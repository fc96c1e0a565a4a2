//! What the agent knows about itself at one moment, so that emitted, drained and lost
//! records can be added up. `own` turns it into series.

use std::sync::{Arc, Mutex, PoisonError};

use agent_core::UnreadClients;
use agent_wire::record::kind;

/// The state of the agent at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Ability and whether it is there.
    pub capabilities: Vec<(&'static str, bool)>,
    /// The kernel side's counters, [`agent_wire::tally::SLOTS`] of them; empty before the first look.
    pub tallies: Vec<u64>,
    /// Records that came out of the ring.
    pub records: RecordCounts,
    /// What the core says.
    pub core: CoreCounts,
    /// How many errors were explained.
    pub coverage: Coverage,
    /// Cost of each program.
    pub programs: Vec<Program>,
    /// Use of each map.
    pub maps: Vec<Map>,
    /// The store of incidents.
    pub incidents: IncidentCounts,
    /// At which cgroups packets are seen; `None` when nothing decides that.
    pub attachment: Option<AttachmentCounts>,
    /// Where translated addresses lead; `None` when that is not wanted.
    pub translations: Option<TranslationCounts>,
    /// What is known of the cluster; `None` when that is not wanted.
    pub directory: Option<DirectoryCounts>,
    /// Event stream and HTTP server.
    pub service: ServiceCounts,
}

/// Records by kind; the last slot is for a kind that is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Taken out of the ring.
    pub drained: [u64; kind::COUNT + 1],
    /// Of these, turned into observations.
    pub decoded: [u64; kind::COUNT + 1],
    /// Of these, refused.
    pub refused: u64,
}

/// The core's counters, by label value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreCounts {
    /// What is in its tables now.
    pub tracked: Vec<(&'static str, u64)>,
    /// What it lost.
    pub losses: Vec<(&'static str, u64)>,
    /// What it left aside on purpose.
    pub skips: Vec<(&'static str, u64)>,
    /// What it could not join.
    pub unmatched: Vec<(&'static str, u64)>,
    /// What became of requests and attempts.
    pub fates: Vec<(&'static str, Fates)>,
}

/// How many of the exchanges of one side begun had which fate.
pub type Fates = [(&'static str, u64); 7];

/// Errors given to clients, 5xx answers and connections closed without one: `seen` is `explained` plus `unattributed`. What clients were given
/// on connections that are not read is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Given.
    pub seen: u64,
    /// Of these, told with a cause.
    pub explained: u64,
    /// Of these, told without.
    pub unattributed: u64,
    /// Clients' connections that are not read.
    pub unread_clients: UnreadClients,
}

/// The store of incidents: `stored` is `kept` plus `evicted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncidentCounts {
    /// In it now.
    pub kept: u64,
    /// Memory these take, bytes.
    pub bytes: u64,
    /// Ever put in.
    pub stored: u64,
    /// Of these, pushed out by newer ones.
    pub evicted: u64,
}

/// At which cgroups packets are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachmentCounts {
    /// How many now.
    pub cgroups: u64,
    /// It is all of what is watched.
    pub is_everywhere: bool,
    /// Proxies now whose packets are not seen yet.
    pub waiting: u64,
    /// Addresses now where somebody of this host serves a proxy, and nothing shows who.
    pub unknown_upstreams: u64,
    /// How often the programs were attached to a cgroup.
    pub attached: u64,
    /// Of these, how often they were detached again.
    pub detached: u64,
    /// How often they could not be attached.
    pub failed: u64,
    /// From when the last proxy was found until its packets were seen, ns.
    pub last_nanos: u64,
    /// The longest time of that kind, ns.
    pub longest_nanos: u64,
}

/// What is heard of connection tracking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranslationCounts {
    /// It is heard.
    pub is_available: bool,
    /// Translated connections remembered.
    pub known: u64,
    /// How often some were missed.
    pub overruns: u64,
    /// Messages that could not be read.
    pub unreadable: u64,
}

/// What is known of a Kubernetes cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryCounts {
    /// Objects remembered.
    pub known: u64,
    /// How often one was left out for want of room.
    pub left_out: u64,
}

/// Counters of what serves HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// Readers of the event stream now.
    pub subscribers: u64,
    /// Events that slow readers missed.
    pub lagged: u64,
    /// Connections turned away at the bound.
    pub turned_away: u64,
}

/// Cost of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// For how long altogether, seconds.
    pub seconds: f64,
    /// Instructions the verifier looked at.
    pub verified_instructions: Option<u32>,
}

/// Use of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// Entries it can hold.
    pub max_entries: u64,
    /// Memory it takes, bytes.
    pub bytes: Option<u64>,
}

/// The snapshot the next scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    snapshot: Arc<Mutex<Snapshot>>,
}

impl Report {
    /// Replaces the snapshot.
    pub fn set(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// The snapshot.
    pub fn get(&self) -> Snapshot {
        self.snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Coverage {
    /// Share that was explained, 0 to 1. A connection that is not read counts as an error that was
    /// not, for it may have carried one. Without either nothing is unexplained.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a sample is a float; counts stay far below 2^53"
    )]
    pub fn share(self) -> f64 {
        let all = self.seen + self.unread_clients.sum();
        if all == 0 {
            return 1.0;
        }
        self.explained as f64 / all as f64
    }
}

impl RecordCounts {
    /// Slot of a record's kind.
    pub fn slot(record_kind: Option<u8>) -> usize {
        record_kind
            .map(usize::from)
            .filter(|slot| *slot < kind::COUNT)
            .unwrap_or(kind::COUNT)
    }
}
