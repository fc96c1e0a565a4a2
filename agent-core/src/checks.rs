//! Health checks: attempts that a proxy makes by itself, for no request.
//!
//! In: attempts for which nobody asked, by instance of the proxy, upstream and request line. Out:
//! which of them are checks. A check comes again and again, in even intervals; what is made for
//! clients that cannot be read does not.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, LazyLock};

use crate::event::{Check, Upstream};
use crate::observation::{Nanos, RequestHead};
use crate::recent::Recent;
use crate::routes::Instance;

/// Checks that are remembered.
const REMEMBERED: usize = 4096;

/// A check that comes again later than this is not known as one any more, ns. Too small: checks that
/// are far apart stay unknown. Too large: what was one once counts as one as long.
const AGAIN_WITHIN: Nanos = 300_000_000_000;

/// Checks are further apart than this, ns.
const APART: Nanos = 50_000_000;

/// Even intervals in a row that make a check, so three attempts. With one, two requests of a client
/// that cannot be read would do.
pub(crate) const UNASKED: u32 = 2;

/// The same where requests waited for an upstream meanwhile, which may have asked for an attempt and
/// for its repetitions. Too small: a proxy that tries three times counts as one that checks.
pub(crate) const BESIDE_REQUESTS: u32 = 4;

/// An attempt that can be nothing but a check.
pub(crate) const SURE: u32 = 0;

/// A proxy tries again by a timer as well, in intervals as even as those of checks: HAProxy after 1 s,
/// Caddy after 0.25 s by default (`lb_try_interval`), ns. Shorter: tries for a client that is not read
/// count as checks. Longer: checks beside such clients are known late.
pub(crate) const TRIED_AGAIN_WITHIN: Nanos = 1_250_000_000;

/// No request is tried for longer, ns.
const TRIED_FOR: Nanos = 60_000_000_000;

/// A timer that is not disturbed fires within this part of its interval, and within this time, ns.
const PRECISION: (Nanos, Nanos) = (32, 5_000_000);

/// For how long a proxy may have no CPU when a check of it is due, ns. Too small: on a crowded host the first
/// of frequent checks that is refused is a failed attempt. Too large: a failed attempt is a check.
const TAKEN_AWAY: Nanos = 150_000_000;

/// Failed checks of an upstream that are remembered: an attempt is judged a while after its end.
const FAILED: usize = 4;

/// The name of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    /// Of proxy and upstream.
    between: u64,
    /// Of the request line; none of a check that ends with its connect.
    line: Option<u64>,
}

impl Name {
    /// A check without a head ends with its connect.
    pub(crate) fn of(instance: Instance, upstream: &Upstream, head: Option<&RequestHead>) -> Self {
        let line = head.map(|head| hash((head.method.as_str(), head.path.as_str())));
        Self {
            between: hash((instance, upstream)),
            line,
        }
    }

    /// Of the same check where its server does not let it in.
    fn connect(self) -> Self {
        Self { line: None, ..self }
    }
}

/// Seeded, for clients choose paths.
fn hash(what: impl Hash) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SEED.hash_one(what)
}

#[derive(Clone, Copy, Debug)]
struct Series {
    last: Nanos,
    interval: Nanos,
    /// Intervals in a row that are like the one before, and since when.
    even: u32,
    even_since: Nanos,
    is_check: bool,
}

impl Series {
    /// The next of them was to come while its proxy had no CPU.
    fn is_late(&self, at: Nanos) -> bool {
        let late = at.saturating_sub(self.last).checked_sub(self.interval);
        self.interval > 0 && late.is_some_and(|late| late <= TAKEN_AWAY)
    }
}

/// All that may be checks.
#[derive(Debug)]
pub(crate) struct Checks {
    series: Recent<Name, Series>,
    /// Of checks that ask something, the latest by the name of their connect.
    asking: Recent<Name, Series>,
    /// The last ones that failed, by upstream.
    failed: Recent<Name, Vec<Arc<Check>>>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            series: Recent::new(REMEMBERED),
            asking: Recent::new(REMEMBERED),
            failed: Recent::new(REMEMBERED),
        }
    }
}

impl Checks {
    /// An attempt of that name began at `at`, and nobody is known to have asked for it; so many even
    /// intervals are enough for a check, unless it and those before `may_be_tries` for one request.
    /// Returns whether it is one.
    pub(crate) fn saw(&mut self, name: Name, at: Nanos, enough: u32, may_be_tries: bool) -> bool {
        let due = self.due(name, at);
        let sure = enough == SURE || due.is_some();
        let is_next = self.is_next(name, at);
        let Some(series) = self.series.get_mut(&name) else {
            // It goes on in the rhythm of those that were let in.
            let (interval, even, even_since) =
                due.map_or((0, 0, at), |one| (one.interval, one.even, one.even_since));
            let series = Series {
                last: at,
                interval,
                even,
                even_since,
                is_check: sure,
            };
            self.series.insert(name, series);
            return sure;
        };
        let interval = at.saturating_sub(series.last);
        if interval > AGAIN_WITHIN {
            series.is_check = false;
        }
        // The second of them has no interval before it.
        series.even = match series.interval {
            _ if !(APART..=AGAIN_WITHIN).contains(&interval) => 0,
            0 => 1,
            before if is_even(interval, before) => series.even + 1,
            _ => 1,
        };
        if series.even <= 1 {
            series.even_since = series.last;
        }
        series.last = series.last.max(at);
        series.interval = interval;
        let lasts = at.saturating_sub(series.even_since) > TRIED_FOR;
        let tries = may_be_tries && interval <= TRIED_AGAIN_WITHIN && !lasts;
        let makes_one = sure || (series.even >= enough && !tries);
        series.is_check |= makes_one;
        let series = *series;
        if series.is_check && name.line.is_some() {
            self.asking.insert(name.connect(), series);
        }
        series.is_check && (enough < BESIDE_REQUESTS || makes_one || is_next)
    }

    /// Attempts of that name are checks, and the next one is to come just then.
    pub(crate) fn is_next(&self, name: Name, at: Nanos) -> bool {
        let (part, slack) = PRECISION;
        self.series.get(&name).is_some_and(|series| {
            let late = at.saturating_sub(series.last).abs_diff(series.interval);
            series.is_check && series.interval > 0 && late <= series.interval / part + slack
        })
    }

    /// The last of those checks failed, and the next one comes when it is due, or where its proxy had no CPU
    /// a moment later.
    pub(crate) fn goes_on_failing(&self, name: Name, at: Nanos) -> bool {
        let series = self.series.get(&name).filter(|series| series.is_check);
        let failed = self.failed.get(&name.connect()).and_then(|all| all.last());
        series.zip(failed).is_some_and(|(series, check)| {
            check.ended >= series.last && (self.is_next(name, at) || series.is_late(at))
        })
    }

    /// A server that was asked in a series of checks, and lets the next one not in: that comes when it
    /// is due as any other.
    fn due(&self, name: Name, at: Nanos) -> Option<Series> {
        let asking = self.asking.get(&name);
        let is_due = |series: &&Series| {
            is_even(at.saturating_sub(series.last), series.interval) || series.is_late(at)
        };
        asking.filter(is_due).copied()
    }

    /// Attempts of that name were checks lately.
    pub(crate) fn is_known(&self, name: Name, at: Nanos) -> bool {
        self.series
            .get(&name)
            .is_some_and(|one| one.is_check && at.saturating_sub(one.last) <= AGAIN_WITHIN)
    }

    /// A check of the instance failed.
    pub(crate) fn failed(&mut self, instance: Instance, check: &Arc<Check>) {
        let name = Name::of(instance, &check.upstream, None);
        match self.failed.get_mut(&name) {
            Some(failed) => {
                if failed.len() >= FAILED {
                    failed.remove(0);
                }
                failed.push(Arc::clone(check));
            }
            None => self.failed.insert(name, vec![Arc::clone(check)]),
        }
    }

    /// The checks of `upstream` that failed last, in order.
    pub(crate) fn last_failed(&self, instance: Instance, upstream: &Upstream) -> &[Arc<Check>] {
        let failed = self.failed.get(&Name::of(instance, upstream, None));
        failed.map_or(&[], Vec::as_slice)
    }

    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.series.forgotten() + self.asking.forgotten()
    }
}

fn is_even(interval: Nanos, before: Nanos) -> bool {
    interval >= APART && interval.abs_diff(before) <= interval / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn name(port: u16) -> Name {
        let upstream = Upstream::Inet(([10, 0, 0, 1], port).into());
        Name::of(Instance::Process(1), &upstream, None)
    }

    #[test]
    fn what_comes_again_in_even_intervals_is_a_check() {
        let mut checks = Checks::default();
        let seen =
            [0, 2000, 4001, 5990].map(|at| checks.saw(name(1), at * SECOND / 1000, UNASKED, false));
        assert_eq!(seen, [false, false, true, true]);
        assert!(checks.is_known(name(1), 100 * SECOND));
        assert!(!checks.is_known(name(1), 1000 * SECOND));
        assert!(!checks.is_known(name(2), SECOND));
    }

    #[test]
    fn a_connect_at_the_time_of_a_check_is_that_check_and_one_at_another_time_is_none() {
        let upstream = Upstream::Inet(([10, 0, 0, 1], 80).into());
        let head = RequestHead {
            method: "GET".into(),
            path: "/health".into(),
            ..RequestHead::default()
        };
        let asked = Name::of(Instance::Process(1), &upstream, Some(&head));
        for (at, is_check) in [(8010, true), (6900, false), (13_000, false)] {
            let mut checks = Checks::default();
            let seen = [0, 2000, 4001, 5990]
                .map(|at| checks.saw(asked, at * SECOND / 1000, UNASKED, false));
            assert_eq!(seen, [false, false, true, true]);
            assert!(!checks.is_known(name(80), 6 * SECOND));
            assert_eq!(
                checks.saw(name(80), at * SECOND / 1000, UNASKED, false),
                is_check
            );
        }
    }

    /// Requests wait meanwhile, of which each may have asked for one.
    #[test]
    fn refused_checks_go_on_in_the_rhythm_of_those_that_passed() {
        let upstream = Upstream::Inet(([10, 0, 0, 1], 80).into());
        let head = RequestHead {
            method: "GET".into(),
            path: "/health".into(),
            ..RequestHead::default()
        };
        let asked = Name::of(Instance::Process(1), &upstream, Some(&head));
        let mut checks = Checks::default();
        for at in [0, 2000, 4000, 6000] {
            checks.saw(asked, at * SECOND / 1000, UNASKED, false);
        }
        let refused = [8001, 10_002, 12_001, 13_000]
            .map(|at| checks.saw(name(80), at * SECOND / 1000, BESIDE_REQUESTS, false));
        assert_eq!(refused, [true, true, true, false]);
    }

    #[test]
    fn what_may_be_tries_for_one_request_is_a_check_when_it_lasts_longer_than_any() {
        let mut checks = Checks::default();
        let seen: Vec<bool> = (0..70)
            .map(|at| checks.saw(name(1), at * SECOND, UNASKED, true))
            .collect();
        let first = seen.iter().position(|is_check| *is_check);
        assert_eq!(first, Some(61));
        // Nobody tries so seldom.
        let seen = [0, 2, 4].map(|at| checks.saw(name(2), at * SECOND, UNASKED, true));
        assert_eq!(seen, [false, false, true]);
    }

    #[test]
    fn what_comes_as_clients_do_is_none() {
        let mut checks = Checks::default();
        let at = [0, 10, 700, 1000, 5000, 5100, 9000, 9010, 20_000];
        let seen = at.map(|at| checks.saw(name(1), at * SECOND / 1000, UNASKED, false));
        assert_eq!(seen, [false; 9]);
    }
}
