//! How long proxies wait for an answer, as far as that shows.
//!
//! In: exchanges of which nothing came back for a while, and how they went on: an answer, still
//! nothing, or the proxy gave up. Out: whether the end of another one after so long can have been a
//! timer. A timer cuts all of them at the same age, and none of them lasts longer without
//! a byte; one that is under way may have had some.
//!
//! What is compared is what one instance of a proxy sends to one upstream for one route: timers are
//! set for these.

use crate::observation::Nanos;
use crate::recent::Recent;
use crate::timing::SECOND;

/// Routes at upstreams that are remembered.
const REMEMBERED: usize = 4096;

/// How long it counts that an exchange lasted longer, ns. Too small: what is seldom slow is not
/// remembered. Too large: a timer that was set shorter is not believed as long, until it has cut twice.
const VALID: Nanos = 600 * SECOND;

/// How long it counts that an exchange is under way, ns; it is looked for each second. Too small: it is
/// forgotten between two looks. Too large: what was answered meanwhile still counts as waiting.
const UNDER_WAY: Nanos = 2 * SECOND;

/// Times given up that are remembered of each.
const GIVEN_UP: usize = 4;

/// By how much the ages of two exchanges that one timer ends may differ, ns, and a part of the age
/// besides: proxies look at their timers when they have the time to.
const EVEN: Nanos = 50_000_000;
const EVEN_PART: Nanos = 20;

/// Two exchanges that ended at the same time may have had another reason in common, ns.
const APART: Nanos = 200_000_000;

/// What speaks for a timer, or against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Another exchange lasted longer.
    pub(crate) outlasted: bool,
    /// Another one is under way for longer, and had no head yet: bytes of it may have come.
    pub(crate) still_waits: bool,
    /// Another one was given up at the same age, at another time.
    pub(crate) again: bool,
}

/// What is remembered of all proxies.
#[derive(Debug)]
pub(crate) struct Patience {
    waits: Recent<u64, Waits>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    /// The longest that an exchange went on, and when.
    longest: Nanos,
    longest_at: Nanos,
    /// The age of the oldest under way, and when.
    under_way: (Nanos, Nanos),
    /// Age and time, the latest first.
    given_up: [(Nanos, Nanos); GIVEN_UP],
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            waits: Recent::new(REMEMBERED),
        }
    }
}

impl Patience {
    /// By `at`, an exchange had gone on for `age` without a byte in return.
    pub(crate) fn went_on(&mut self, name: u64, age: Nanos, at: Nanos) {
        self.change(name, |waits| {
            let old = at.saturating_sub(waits.longest_at) > VALID;
            if old || age >= waits.longest {
                (waits.longest, waits.longest_at) = (age, at);
            }
        });
    }

    /// At `at`, an exchange is under way since `age`, of whose head nothing is known.
    pub(crate) fn still_waits(&mut self, name: u64, age: Nanos, at: Nanos) {
        self.change(name, |waits| {
            let (oldest, seen) = waits.under_way;
            if seen != at || age > oldest {
                waits.under_way = (age, at);
            }
        });
    }

    /// The proxy gave one up at `at`, after `age`.
    pub(crate) fn gave_up(&mut self, name: u64, age: Nanos, at: Nanos) {
        self.change(name, |waits| {
            waits.given_up.rotate_right(1);
            waits.given_up[0] = (age, at);
        });
    }

    /// What is known of one that ended at `at`, after `age`.
    pub(crate) fn of(&self, name: u64, age: Nanos, at: Nanos) -> Seen {
        let Some(waits) = self.waits.get(&name) else {
            return Seen::default();
        };
        let even = EVEN + age / EVEN_PART;
        let longer = |other: Nanos| other > age.saturating_add(2 * even);
        let since = |then: Nanos| at.saturating_sub(then);
        let (oldest, seen) = waits.under_way;
        Seen {
            outlasted: since(waits.longest_at) <= VALID && longer(waits.longest),
            still_waits: since(seen) <= UNDER_WAY && longer(oldest),
            again: waits.given_up.iter().any(|(other, ended)| {
                *ended != 0 && other.abs_diff(age) <= even && ended.abs_diff(at) >= APART
            }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waits.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.waits.forgotten()
    }

    fn change(&mut self, name: u64, change: impl FnOnce(&mut Waits)) {
        if let Some(waits) = self.waits.get_mut(&name) {
            change(waits);
            return;
        }
        let mut waits = Waits::default();
        change(&mut waits);
        self.waits.insert(name, waits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn a_timer_cuts_at_one_age_and_nothing_lasts_longer() {
        let mut patience = Patience::default();
        let unknown = Seen::default();
        assert_eq!(patience.of(1, 500 * MS, 10 * SECOND), unknown);

        patience.went_on(1, 2 * SECOND, 9 * SECOND);
        patience.gave_up(1, 3 * SECOND, 9 * SECOND);
        let outlasted = Seen {
            outlasted: true,
            ..unknown
        };
        assert_eq!(patience.of(1, 500 * MS, 10 * SECOND), outlasted);
        let again = Seen {
            again: true,
            ..unknown
        };
        assert_eq!(patience.of(1, 3020 * MS, 10 * SECOND), again);
        assert_eq!(patience.of(2, 500 * MS, 10 * SECOND), unknown);
    }

    #[test]
    fn what_is_under_way_counts_for_as_long() {
        let mut patience = Patience::default();
        patience.still_waits(1, 5 * SECOND, 9 * SECOND);
        patience.still_waits(1, 2 * SECOND, 9 * SECOND);
        assert!(patience.of(1, 3 * SECOND, 10 * SECOND).still_waits);
        assert!(!patience.of(1, 5 * SECOND, 10 * SECOND).still_waits);
        assert!(!patience.of(1, 3 * SECOND, 12 * SECOND).still_waits);
        patience.still_waits(1, 2 * SECOND, 10 * SECOND);
        assert!(!patience.of(1, 3 * SECOND, 10 * SECOND).still_waits);
    }

    #[test]
    fn what_ends_at_one_time_is_no_two_witnesses_and_what_was_long_ago_none() {
        let mut patience = Patience::default();
        patience.gave_up(1, 3 * SECOND, 9 * SECOND);
        assert!(!patience.of(1, 3 * SECOND, 9 * SECOND + MS).again);

        patience.went_on(1, 5 * SECOND, 9 * SECOND);
        assert!(patience.of(1, SECOND, 10 * SECOND).outlasted);
        assert!(!patience.of(1, SECOND, 1000 * SECOND).outlasted);
    }
}
