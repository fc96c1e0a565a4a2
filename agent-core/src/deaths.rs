//! Upstream processes that a signal took down, by the connections they left behind.
//!
//! In: a death, and the connections the process was serving. Out: whether the peer of a broken
//! connection was killed. Only upstreams on this host, seen at the same addresses, can be told.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::limits::SECOND;
use crate::observation::Nanos;

/// Connections of dead processes that are remembered.
const REMEMBERED: usize = 16_384;

/// A connection breaks within this time after the process that served it died, ns. Sockets are
/// closed when the last thread is gone; a core dump comes first.
const AFTERWARDS: Nanos = 10 * SECOND;

/// Both ends, the dead process's first.
type Ends = (SocketAddr, SocketAddr);

#[derive(Clone, Copy, Debug)]
struct Death {
    at: Nanos,
    signal: u32,
}

/// Connections whose server was killed.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    by_ends: FxHashMap<Ends, Death>,
    order: VecDeque<Ends>,
}

impl Deaths {
    /// The process that served `ends` dies of `signal`.
    pub(crate) fn add(&mut self, ends: Ends, at: Nanos, signal: u32) {
        if self.by_ends.insert(ends, Death { at, signal }).is_none() {
            self.order.push_back(ends);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.by_ends.remove(&oldest);
            }
        }
    }

    /// The signal that killed the process at `remote`, when a connection from `local` to it
    /// broke at `at` on that account.
    pub(crate) fn of_peer(&self, local: SocketAddr, remote: SocketAddr, at: Nanos) -> Option<u32> {
        let death = self.by_ends.get(&(remote, local))?;
        let after = at.checked_sub(death.at)?;
        (after <= AFTERWARDS).then_some(death.signal)
    }
}
