//! What is known of the other end of a connection, when that is on this host too.
//!
//! A server's own socket tells things that its peer cannot see. Both ends have the same two
//! addresses in the same network, if nothing translates them in between.

use crate::network::Ends;
use crate::observation::Nanos;
use crate::recent::Recent;

/// Connections that are remembered.
const REMEMBERED: usize = 16_384;

/// Facts by connection; the oldest goes when there are too many.
#[derive(Debug)]
pub(crate) struct ByEnds<T> {
    facts: Recent<Ends, (Nanos, T)>,
}

impl<T: Copy> Default for ByEnds<T> {
    fn default() -> Self {
        Self {
            facts: Recent::new(REMEMBERED),
        }
    }
}

impl<T: Copy> ByEnds<T> {
    pub(crate) fn insert(&mut self, ends: Ends, at: Nanos, fact: T) {
        self.facts.insert(ends, (at, fact));
    }

    pub(crate) fn len(&self) -> usize {
        self.facts.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.facts.forgotten()
    }

    /// The fact about the connection, of `at` or at most `age` before.
    pub(crate) fn get(&self, ends: Ends, at: Nanos, age: Nanos) -> Option<T> {
        let (since, fact) = self.facts.get(&ends)?;
        (at.checked_sub(*since)? <= age).then_some(*fact)
    }
}
