//! What is known of the other end of a connection, when that is on this host too.
//!
//! A server's own socket tells things that its peer cannot see. Both ends have the same two
//! addresses, if nothing translates them in between.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::observation::Nanos;

/// Connections that are remembered.
const REMEMBERED: usize = 16_384;

/// Both ends, that of the one who knows first.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// Facts by connection; the oldest goes when there are too many.
#[derive(Debug)]
pub(crate) struct ByEnds<T> {
    facts: FxHashMap<Ends, (Nanos, T)>,
    order: VecDeque<Ends>,
}

impl<T> Default for ByEnds<T> {
    fn default() -> Self {
        Self {
            facts: FxHashMap::default(),
            order: VecDeque::new(),
        }
    }
}

impl<T: Copy> ByEnds<T> {
    pub(crate) fn insert(&mut self, ends: Ends, at: Nanos, fact: T) {
        if self.facts.insert(ends, (at, fact)).is_none() {
            self.order.push_back(ends);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.facts.remove(&oldest);
            }
        }
    }

    /// The fact about the peer of `local` at `remote`, of `at` or at most `age` before.
    pub(crate) fn of_peer(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        at: Nanos,
        age: Nanos,
    ) -> Option<T> {
        let (since, fact) = self.facts.get(&(remote, local))?;
        (at.checked_sub(*since)? <= age).then_some(*fact)
    }
}
