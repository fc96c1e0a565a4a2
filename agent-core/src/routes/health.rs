//! How one upstream of one instance of a proxy fares.
//!
//! In: when it was used and answered, and when and why it failed. Out: whether the proxy may have left
//! it alone at a given moment. What is reported late is put where it belongs in time.

use std::sync::Arc;

use crate::cause::Cause;
use crate::event::Check;
use crate::observation::Nanos;

/// An upstream that answers with so many errors in a row may be left alone for that: Envoy's outlier
/// detection does so after 5 by default (`consecutive_5xx`).
const EJECTED_AFTER: usize = 5;

/// An upstream is down after so many failed checks in a row, whatever the proxy: HAProxy's `fall` is 3
/// by default, Envoy's `unhealthy_threshold` is usually not more.
const DOWN_AFTER: usize = 3;

/// Failures of one upstream that are remembered: a request is judged when its grace is over, by what
/// its proxy knew before. Too small: where an upstream fails more often within the grace, only that
/// it failed all the while is known. Too large: 64 bytes each.
const FAILURES: usize = 8;

/// Times of use of one upstream that are remembered. Too small: of a failure that is known late it is
/// not known when the upstream was used again, and it counts as used at once.
const UPS: usize = 8;

/// When a request got an error without an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// When the request came.
    pub(crate) from: Nanos,
    /// When it was answered.
    pub(crate) at: Nanos,
    /// The process that answered it.
    pub(crate) tgid: u32,
    /// How long its proxy leaves an upstream alone that failed, by default. It only lowers what is
    /// said: the setting is not known.
    pub(crate) window: Nanos,
}

/// How one upstream of a proxy fares.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// The latest ones, in the order of their times.
    failures: Vec<Down>,
    /// The first failure since it last answered.
    failing_since: Option<Nanos>,
    answered: Nanos,
    /// When it was first used for a request, or answered.
    pub(super) first_up: Nanos,
    /// When it was used or answered lately, in order.
    ups: Vec<Nanos>,
    /// When it was last connected to although no request waited for an upstream, and the time
    /// before that.
    pub(super) unasked: [Nanos; 2],
    /// It was used for a request that is known.
    pub(super) has_requests: bool,
}

/// It failed.
#[derive(Clone, Debug)]
pub(super) struct Down {
    /// When the attempt began.
    pub(super) started: Nanos,
    /// When a request began to use it; `None` when that may have been a check.
    pub(super) began: Option<Nanos>,
    pub(super) at: Nanos,
    pub(super) cause: Cause,
    /// The process that saw it.
    pub(super) seen_by: u32,
    /// The health check that failed.
    pub(super) check: Option<Arc<Check>>,
    /// Its request went on to another upstream, at a proxy that leaves alone what failed.
    pub(super) passed_over: bool,
    /// When it was first used again after that, as far as is known; [`Self::at`] when that was not
    /// seen in time.
    pub(super) back: Option<Nanos>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            failures: Vec::new(),
            failing_since: None,
            answered: 0,
            first_up: Nanos::MAX,
            ups: Vec::new(),
            unasked: [0; 2],
            has_requests: false,
        }
    }
}

impl Down {
    /// It answered a request with an error of its own: few proxies leave an upstream alone for that.
    fn is_by_status(&self) -> bool {
        self.cause == Cause::UpstreamStatus && self.check.is_none()
    }

    /// It may be of the very request that is judged, as nobody else is known that it was made for.
    fn may_be_its_own(&self, moment: Moment) -> bool {
        let for_nobody = self.began.is_none() && self.check.is_none();
        for_nobody && self.seen_by == moment.tgid && self.started >= moment.from
    }
}

impl Health {
    /// When it last failed, or was used or answered; 0 when that is not known.
    pub(super) fn last_told(&self) -> Nanos {
        let failed = self.failures.last().map_or(0, |down| down.at);
        failed.max(self.ups.last().copied().unwrap_or(0))
    }

    /// It has answered, or let a check pass.
    pub(super) fn has_answered(&self) -> bool {
        self.answered != 0
    }

    /// It was used for a request, or answered, at `at`.
    pub(super) fn is_up(&mut self, at: Nanos) {
        let place = self.ups.partition_point(|up| *up < at);
        if self.ups.get(place) != Some(&at) {
            if self.ups.len() < UPS {
                self.ups.insert(place, at);
            } else if let Some(before) = place.checked_sub(1) {
                self.ups[..=before].rotate_left(1);
                self.ups[before] = at;
            }
        }
        if let Some(before) = self.failures.iter_mut().rfind(|down| down.at < at) {
            before.back = Some(before.back.map_or(at, |back| back.min(at)));
        }
    }

    pub(super) fn answered(&mut self, at: Nanos) {
        self.is_up(at);
        if at > self.answered {
            self.answered = at;
            let since = self.failures.iter().find(|down| down.at > at);
            self.failing_since = since.map(|down| down.at);
        }
    }

    /// Attempts are reported with their requests, so not in the order in which they failed.
    pub(super) fn failed(&mut self, down: Down) {
        if down.at > self.answered {
            let since = self.failing_since.unwrap_or(down.at);
            self.failing_since = Some(since.min(down.at));
        }
        // Those before are forgotten: it may have been used at once.
        let all_later = self.ups.len() >= UPS && self.ups.first().is_some_and(|up| *up > down.at);
        let first = self.ups.iter().copied().find(|up| *up > down.at);
        let back = if all_later { Some(down.at) } else { first };
        let down = Down { back, ..down };
        let place = self.failures.partition_point(|one| one.at <= down.at);
        if self.failures.len() < FAILURES {
            self.failures.reserve_exact(1);
            self.failures.insert(place, down);
        } else if let Some(before) = place.checked_sub(1) {
            self.failures[..=before].rotate_left(1);
            self.failures[before] = down;
        }
    }

    /// It was not known yet at that moment.
    pub(super) fn is_later(&self, moment: Moment) -> bool {
        self.first_up > moment.at
    }

    /// The last one until `at`, of those that are remembered.
    fn last_failure(&self, at: Nanos) -> Option<&Down> {
        self.failures.iter().rfind(|down| down.at <= at)
    }

    /// The failure for which it was left alone at that moment: not one that may be the request's own. A
    /// later one, if it failed so often since that those before are forgotten, and never answered.
    pub(super) fn down(&self, moment: Moment) -> Option<&Down> {
        let at = moment.at;
        let mut before = self.failures.iter().rev().filter(|down| down.at <= at);
        let Some(last) = before.find(|down| !down.may_be_its_own(moment)) else {
            let failing = self.failing_since.is_some_and(|since| since <= moment.from);
            let first = self.failures.first();
            return first.filter(|down| failing && !down.is_by_status());
        };
        let is_back = last.back.is_some_and(|back| back <= at);
        let counts = !last.is_by_status() || last.passed_over || self.answers_errors(at);
        (!is_back && counts).then_some(last)
    }

    /// Its last answers were errors of its own, [`EJECTED_AFTER`] of them.
    fn answers_errors(&self, at: Nanos) -> bool {
        let latest = self.failures.iter().rev().filter(|down| down.at <= at);
        let errors = latest.take_while(|down| down.is_by_status() && down.at > self.answered);
        errors.take(EJECTED_AFTER).count() == EJECTED_AFTER
    }

    /// The last of its checks until `at` and why it failed, if [`DOWN_AFTER`] of them did.
    pub(super) fn failed_check(&self, at: Nanos) -> Option<(Cause, &Arc<Check>)> {
        let last = self.last_failure(at).filter(|_| self.fails_checks(at))?;
        Some((last.cause, last.check.as_ref()?))
    }

    /// Its last checks failed, [`DOWN_AFTER`] of them.
    fn fails_checks(&self, at: Nanos) -> bool {
        let latest = self.failures.iter().rev().filter(|down| down.at <= at);
        let failed = latest.take_while(|down| down.check.is_some() && down.at > self.answered);
        failed.take(DOWN_AFTER).count() == DOWN_AFTER
    }

    /// Whether it may have been given up although it was used again, or may be left alone for its
    /// own errors.
    pub(super) fn is_doubtful(&self, moment: Moment) -> bool {
        let Moment { at, window, .. } = moment;
        let succeeded = |last: &Down| (last.at..=at).contains(&self.answered);
        match self.last_failure(at) {
            Some(last) => at - last.at <= window || !succeeded(last),
            None => self.failing_since.is_some_and(|since| since <= at),
        }
    }
}
