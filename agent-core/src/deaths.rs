//! Upstream processes that ended, by the connections they left behind.
//!
//! In: connections whose server's process ends. Out: how the server of a broken connection ended.
//! It is known only of upstreams on this host that are seen at the same addresses.

use crate::by_ends::ByEnds;
use crate::network::Ends;
use crate::observation::{Ended, Nanos};
use crate::timing::SECOND;

/// A connection breaks within this time after the process that served it died, ns. Sockets are
/// closed when the last thread is gone; a core dump comes first.
const AFTERWARDS: Nanos = 10 * SECOND;

/// The end of a connection that a dead process held crosses a request that was sent this long after the
/// death at most, ns. Shorter: over a long line, or where the death takes its time, a crash passes for a
/// race. Longer: a request that met the next process counts as one that the process before it had in hand.
const BEFOREHAND: Nanos = SECOND;

/// Connections whose server ended, and how.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    connections: ByEnds<Ended>,
}

impl Deaths {
    /// The process that served `ends` ends.
    pub(crate) fn add(&mut self, ends: Ends, at: Nanos, ended: Ended) {
        self.connections.insert(ends, at, ended);
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.connections.forgotten()
    }

    /// How the process that served `ends` ended, when the connection broke at `at` on that account under
    /// a request that was sent at `asked`.
    pub(crate) fn of_server(&self, ends: Ends, asked: Nanos, at: Nanos) -> Option<Ended> {
        let since = asked.saturating_sub(BEFOREHAND);
        self.connections
            .get(ends, at, AFTERWARDS.min(at.saturating_sub(since)))
    }
}
