//! How upstreams fare, as the attempts and the health checks of each instance of a proxy show.
//!
//! In: attempts and checks that are over, and attempts that still wait. Out: what that says of another
//! attempt or of a request: where requests such as it go, whether its upstreams were given up, whether
//! it may be a check, and how long others like it waited.

use std::sync::Arc;

use crate::attempt::{Asked, Trial};
use crate::cause::Cause;
use crate::checks::{self, Checks, Name};
use crate::event::{Attempt, Check, Failure, Join, Upstream};
use crate::observation::{Nanos, RequestHead};
use crate::patience::{self, Patience};
use crate::routes::{self, Instance, Routes};
use crate::timing::SLACK;

/// A proxy that closes on account of a health check does so within this time after it failed, ns.
const TAKEN_OUT_WITHIN: Nanos = 20_000_000;

/// Exchanges that wait for longer than this are worth remembering, ns.
const WAITS: Nanos = 50_000_000;

/// What is known of all upstreams.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    routes: Routes,
    checks: Checks,
    patience: Patience,
}

impl Upstreams {
    /// Where requests go, and how it is there.
    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// What may be health checks.
    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    /// How long proxies wait.
    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// An attempt for a request began at `at`; `head` is that request's, where it is sure that it is its.
    pub(crate) fn saw_use(
        &mut self,
        instance: Instance,
        upstream: &Upstream,
        head: Option<&RequestHead>,
        at: Nanos,
    ) {
        self.routes.saw_use(instance, upstream, head, at);
    }

    /// A connection that was over at `at` was opened for no request that is seen.
    pub(crate) fn saw_unasked(&mut self, instance: Instance, upstream: &Upstream, at: Nanos) {
        self.routes.saw_unasked(instance, upstream, at);
    }

    /// Keeps how an attempt went, for requests that will find no upstream to try; `head` is its request's,
    /// if known. `passed_over` when its request went on to another upstream, at a proxy that
    /// leaves alone what failed.
    pub(crate) fn attempt_is_over(
        &mut self,
        instance: Instance,
        head: Option<&RequestHead>,
        attempt: &Attempt,
        passed_over: bool,
    ) {
        let Attempt {
            proxy,
            upstream,
            join,
            started,
            ended,
            failure,
            ..
        } = attempt;
        // An answer 4xx to an unknown request may be a check that failed.
        let is_open = *join == Join::None && matches!(attempt.code, Some(400..500));
        if is_open {
            return;
        }
        let outcome = routes::Outcome {
            // What no request asked for may be a health check.
            used: (*join != Join::None).then_some(*started),
            started: *started,
            ended: *ended,
            passed_over,
            failure: failure.map(|failure| failure.cause),
            check: None,
            instance,
            tgid: proxy.tgid,
        };
        self.routes.record(head, upstream, outcome);
    }

    /// Keeps that an attempt worked whose talk was not read: its request, with this `head`, was answered
    /// well.
    pub(crate) fn unread_worked(
        &mut self,
        instance: Instance,
        tgid: u32,
        head: Option<&RequestHead>,
        trial: &Trial,
    ) {
        let worked = routes::Outcome {
            used: Some(trial.started),
            started: trial.started,
            ended: trial.ended,
            passed_over: false,
            failure: None,
            check: None,
            instance,
            tgid,
        };
        self.routes.record(head, &trial.upstream, worked);
    }

    /// Keeps how a health check went.
    pub(crate) fn check_is_over(&mut self, instance: Instance, check: &Arc<Check>) {
        if check.failure.is_some() {
            self.checks.failed(instance, check);
        }
        let outcome = routes::Outcome {
            used: None,
            started: check.ended,
            ended: check.ended,
            passed_over: false,
            failure: check.failure,
            check: Some(Arc::clone(check)),
            instance,
            tgid: check.proxy.tgid,
        };
        self.routes.record(None, &check.upstream, outcome);
    }

    /// Counts an attempt that nobody is known to have asked for; whether it is a health check.
    /// `may_be_tries` when it and those before may be tries for one request.
    pub(crate) fn is_check(
        &mut self,
        instance: Instance,
        trial: &Trial,
        may_be_tries: bool,
    ) -> bool {
        let enough = match trial.asked {
            Asked::Perhaps => return false,
            Asked::Beside => checks::BESIDE_REQUESTS,
            Asked::Unlikely => checks::UNASKED,
            Asked::No => checks::SURE,
        };
        let name = Name::of(instance, &trial.upstream, trial.head.as_ref());
        self.checks.saw(name, trial.started, enough, may_be_tries)
    }

    /// The same of a connection that was opened at `at` and closed unused.
    pub(crate) fn is_connect_check(
        &mut self,
        instance: Instance,
        upstream: &Upstream,
        at: Nanos,
    ) -> bool {
        let name = Name::of(instance, upstream, None);
        self.checks.saw(name, at, checks::UNASKED, false)
    }

    /// Whether the attempt is one of a series of checks, so that no request has to be waited for.
    pub(crate) fn is_known_check(&self, instance: Instance, trial: &Trial) -> bool {
        let name = Name::of(instance, &trial.upstream, trial.head.as_ref());
        match trial.asked {
            Asked::Perhaps => false,
            Asked::Beside => self.checks.is_next(name, trial.started),
            Asked::Unlikely | Asked::No => self.checks.is_known(name, trial.started),
        }
    }

    /// The health check of `upstream` that failed just before `at`.
    pub(crate) fn failed_before(
        &self,
        instance: Instance,
        upstream: &Upstream,
        at: Nanos,
    ) -> Option<Arc<Check>> {
        let failed = self.checks.last_failed(instance, upstream);
        let just_before = failed.iter().rev().find(|check| {
            let before = check.ended <= at.saturating_add(SLACK);
            before && at.saturating_sub(check.ended) <= TAKEN_OUT_WITHIN
        });
        just_before.map(Arc::clone)
    }

    /// How others fared that waited as the attempt did; nothing where it did not wait in vain.
    pub(crate) fn others(&self, instance: Instance, trial: &Trial) -> patience::Seen {
        trial
            .waited_in_vain()
            .map_or(patience::Seen::default(), |age| {
                let name = self.name_of_wait(instance, trial);
                self.patience.of(name, age, trial.ended)
            })
    }

    /// Keeps how long the attempt waited for an answer.
    pub(crate) fn waited(&mut self, instance: Instance, trial: &Trial, failure: Option<Failure>) {
        let name = self.name_of_wait(instance, trial);
        let unanswered = |failure: Failure| {
            matches!(failure.cause, Cause::ResponseTimeout | Cause::Unattributed)
        };
        let client_left = failure.is_some_and(|one| one.cause == Cause::ClientAbort);
        let in_vain = trial.waited_in_vain().filter(|_| client_left);
        if let Some(waited) = trial.waited_before_answer().or(in_vain) {
            if waited >= WAITS {
                self.patience.went_on(name, waited, trial.ended);
            }
        } else if let Some(age) = trial.waited_in_vain()
            && failure.is_some_and(unanswered)
        {
            self.patience.gave_up(name, age, trial.ended);
        }
    }

    /// Of attempts under way, those that still wait at `now` show that no timer is shorter, unless bytes of
    /// a head came that is not whole.
    pub(crate) fn still_wait<'a>(
        &mut self,
        under_way: impl Iterator<Item = (Instance, &'a Trial)>,
        now: Nanos,
    ) {
        for (instance, trial) in under_way {
            let sent = trial.sent_at().filter(|_| !trial.response_began());
            let age = sent.map(|sent| now.saturating_sub(sent));
            if let Some(age) = age.filter(|age| *age >= WAITS) {
                let name = self.name_of_wait(instance, trial);
                self.patience.still_waits(name, age, now);
            }
        }
    }

    /// What is sent for one route to one upstream is cut by one timer.
    fn name_of_wait(&self, instance: Instance, trial: &Trial) -> u64 {
        let head = trial.head.as_ref();
        self.routes.of_upstream(instance, &trial.upstream, head)
    }
}
