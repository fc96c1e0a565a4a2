//! Which addresses answered whom, and who was there when they did.
//!
//! In: attempts that are over, and ends of processes. Out: what is known of an address from before. A
//! server that was seen from both ends is known as a process; of others only that they answered.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_core::network::canonical;
use agent_core::observation::{Ended, Nanos};

use super::bounded::Bounded;
use super::neighbours::{Netns, Party};

/// Addresses remembered; about 100 bytes each.
const ADDRESSES: usize = 4096;

/// Ends of processes remembered; about 50 bytes each.
const ENDS: usize = 1024;

/// What is remembered.
#[derive(Debug, Default)]
pub struct Served {
    addresses: Bounded<(Option<Netns>, SocketAddr), Known>,
    ends: Bounded<u32, End>,
}

/// What is remembered of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// When it answered last.
    pub answered: Option<Nanos>,
    /// Who was there then, if known.
    pub by: Option<Party>,
    /// It answered plain HTTP.
    pub spoke_http: bool,
    /// It completed a TLS handshake.
    pub spoke_tls: bool,
    /// Fresh connections that it closed when it had a request, without a byte.
    pub closed: u32,
    /// Requests that a kept connection had carried when it closed that under another, soon after use, and
    /// how many times in a row it was that number.
    pub closed_after: Option<(u32, u32)>,
    /// Kept connections that it closed under another request after the same time of idleness, in a row.
    pub closed_idle: Option<ClosedIdle>,
}

/// Closes of idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedIdle {
    /// How long the first was idle, in tenths of a second.
    pub tenths: u32,
    /// How many there were, each at another time.
    pub times: u32,
    /// When the last one was.
    pub last: Nanos,
}

impl ClosedIdle {
    /// Closes nearer to each other may have one reason, ns. Shorter: a restart shows as a timeout.
    const APART: Nanos = 1_000_000_000;

    /// Another close at `at` of a connection that had been idle for so long, after those `before`.
    pub fn then(before: Option<Self>, tenths: u32, at: Nanos) -> Self {
        match before.filter(|before| before.tenths.abs_diff(tenths) <= 1) {
            Some(before) if at.abs_diff(before.last) < Self::APART => before,
            Some(before) => Self {
                times: before.times.saturating_add(1),
                last: at,
                ..before
            },
            None => Self {
                tenths,
                times: 1,
                last: at,
            },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct End {
    how: Ended,
    at: Nanos,
}

/// What is known of an address from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// When it answered last.
    pub answered: Nanos,
    /// The process that was there then, if it was on this host and has ended since.
    pub gone: Option<Gone>,
}

/// A process that is there no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Thread group.
    pub tgid: u32,
    /// Its executable.
    pub program: Arc<str>,
    /// Id of its container.
    pub container: Option<Arc<str>>,
    /// How it ended and when, where that was seen: it had a connection open then.
    pub ended: Option<(Ended, Nanos)>,
}

impl Served {
    /// Something more is known of an address, as seen from the network namespace `from`.
    pub fn learn(
        &mut self,
        from: Option<Netns>,
        address: SocketAddr,
        learn: impl FnOnce(&mut Known),
    ) {
        let key = (from, canonical(address));
        let before = self.addresses.get(&key);
        let mut known = before.unwrap_or_default();
        learn(&mut known);
        if before != Some(known) {
            self.addresses.insert(key, known, ADDRESSES);
        }
    }

    /// What is known of it; `None` when nobody tried it yet.
    pub fn known(&self, from: Option<Netns>, address: SocketAddr) -> Option<Known> {
        self.addresses.get(&(from, canonical(address)))
    }

    /// A process ended, and closed a connection that it served.
    pub fn ended(&mut self, tgid: u32, how: Ended, at: Nanos) {
        // It closes several.
        if self.ends.get(&tgid).is_none_or(|end| end.at < at) {
            self.ends.insert(tgid, End { how, at }, ENDS);
        }
    }

    /// How and when a process ended that answered at `since` still.
    pub fn end_of(&self, tgid: u32, since: Nanos) -> Option<(Ended, Nanos)> {
        let End { how, at } = self.ends.get(&tgid)?;
        // Its id may have been another process' before.
        (at >= since).then_some((how, at))
    }
}

#[cfg(test)]
mod tests {
    use agent_core::observation::Ended;

    use super::{ADDRESSES, ClosedIdle, Served};
    use crate::identity::neighbours::Party;

    const ADDRESS: &str = "10.0.0.5:8080";

    #[test]
    fn an_address_is_known_by_who_asked_and_by_its_last_answer() {
        let mut served = Served::default();
        let address = ADDRESS.parse().unwrap();
        let by = Party {
            tgid: 7,
            start: Some(1),
            netns: Some(3),
        };
        served.learn(Some(2), address, |known| known.by = Some(by));
        served.learn(Some(2), address, |known| known.answered = Some(200));

        let known = served.known(Some(2), address).unwrap();
        assert_eq!((known.answered, known.by), (Some(200), Some(by)));
        assert_eq!(served.known(Some(9), address), None);
    }

    #[test]
    fn closes_at_one_moment_are_one_and_idle_times_do_not_drift() {
        let second = 1_000_000_000;
        let closes = |seen: &[(u32, u64)]| {
            let all = seen.iter().fold(None, |before, (tenths, at)| {
                Some(ClosedIdle::then(before, *tenths, *at))
            });
            all.unwrap().times
        };
        assert_eq!(closes(&[(50, 0), (50, 10)]), 1, "a restart");
        assert_eq!(closes(&[(50, 0), (51, 6 * second)]), 2);
        assert_eq!(closes(&[(50, 0), (51, 6 * second), (52, 12 * second)]), 1);
    }

    #[test]
    fn an_end_before_the_last_answer_was_another_process() {
        let mut served = Served::default();
        served.ended(7, Ended::Signal(9), 300);

        assert_eq!(served.end_of(7, 200), Some((Ended::Signal(9), 300)));
        assert_eq!(served.end_of(7, 400), None);
        assert_eq!(served.end_of(8, 200), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut served = Served::default();
        for number in 0..ADDRESSES + 10 {
            let [.., high, low] = number.to_be_bytes();
            let address = ([10, 1, high, low], 80).into();
            served.learn(None, address, |known| known.closed = 1);
        }

        assert_eq!(served.addresses.len(), ADDRESSES);
    }
}
