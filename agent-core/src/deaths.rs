//! Upstream processes that ended, by the connections they left behind.
//!
//! In: the end of a process, and the connections it was serving. Out: how the peer of a broken
//! connection ended. Only upstreams on this host, seen at the same addresses, can be told.

use std::collections::VecDeque;

use crate::by_ends::ByEnds;
use crate::limits::SECOND;
use crate::network::Ends;
use crate::observation::{Ended, Nanos};

/// Processes that died lately, so that what is told of their connections afterwards is known for
/// what it is.
const RECENT: usize = 64;

/// A connection breaks within this time after the process that served it died, ns. Sockets are
/// closed when the last thread is gone; a core dump comes first.
const AFTERWARDS: Nanos = 10 * SECOND;

#[derive(Clone, Copy, Debug)]
struct Death {
    at: Nanos,
    ended: Ended,
}

/// Connections whose server ended.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    /// The last processes that died.
    recent: VecDeque<(u32, Death)>,
    /// How it ended, by connection that the process served.
    connections: ByEnds<Ended>,
}

impl Deaths {
    /// The process `tgid` ends.
    pub(crate) fn died(&mut self, tgid: u32, at: Nanos, ended: Ended) {
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((tgid, Death { at, ended }));
    }

    /// A record at `at` tells of a connection that `tgid` served: kept when that died just before.
    pub(crate) fn was_served(&mut self, tgid: u32, ends: Ends, at: Nanos) {
        let death = self
            .recent
            .iter()
            .rev()
            .find(|(dead, death)| *dead == tgid && death.at <= at && at - death.at <= AFTERWARDS)
            .map(|(_, death)| *death);
        if let Some(Death { at, ended }) = death {
            self.add(ends, at, ended);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.connections.forgotten()
    }

    /// Nobody died lately.
    pub(crate) fn is_quiet(&self, now: Nanos) -> bool {
        self.recent
            .back()
            .is_none_or(|(_, death)| now.saturating_sub(death.at) > AFTERWARDS)
    }

    /// The process that served `ends` ends.
    pub(crate) fn add(&mut self, ends: Ends, at: Nanos, ended: Ended) {
        self.connections.insert(ends, at, ended);
    }

    /// How the process that served `ends` ended, when the connection broke at `at` on that account.
    pub(crate) fn of_server(&self, ends: Ends, at: Nanos) -> Option<Ended> {
        self.connections.get(ends, at, AFTERWARDS)
    }
}
