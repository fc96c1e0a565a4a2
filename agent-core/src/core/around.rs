//! What is known of the end of an attempt from elsewhere than its own connection.
//!
//! In: the upstream's end of the connection, if it is on this host; other attempts that waited;
//! health checks; clients whose talk is not read. Out: [`Around`], which the rules look at.

use std::sync::Arc;

use super::Core;
use crate::around::Around;
use crate::attempt::Trial;
use crate::cause::Cause;
use crate::event::{Check, Failure, Upstream};
use crate::observation::Nanos;
use crate::timing::SLACK;
use crate::transport::ClosedBy;

/// A proxy that closes on account of a health check does so within this time after it failed, ns.
const TAKEN_OUT_WITHIN: Nanos = 20_000_000;

/// Exchanges that wait for longer than this are worth remembering, ns.
const WAITS: Nanos = 50_000_000;

impl Core {
    /// Gathers what is known of the end of an attempt.
    pub(super) fn look_around(&self, trial: &mut Trial) {
        // Nothing is asked of what went well.
        if trial.is_complete() && !trial.answer.interim {
            return;
        }
        let habits = self.processes.habits(trial.tgid);
        let mut around = Around {
            timeout_code: habits.timeout_code,
            answers_present: habits.answers_present,
            refuses_interim: habits.refuses_interim,
            ..Around::default()
        };
        let network = self.processes.network(trial.tgid);
        self.peers.ask(trial, network, &mut around);
        if trial.closed_by() == ClosedBy::Local {
            around.client_left = self.departures.of_client(trial, habits);
            around.check_failed = trial.tgid.is_some_and(|tgid| {
                let failed = self.failed_before(tgid, &trial.upstream, trial.ended);
                failed.is_some()
            });
        }
        if let (Some(age), Some(name)) = (trial.waited_in_vain(), self.name_of_wait(trial)) {
            around.others = self.patience.of(name, age, trial.ended);
        }
        trial.around = Some(Box::new(around));
    }

    /// The health check of `upstream` that failed just before `at`.
    pub(super) fn failed_before(
        &self,
        tgid: u32,
        upstream: &Upstream,
        at: Nanos,
    ) -> Option<Arc<Check>> {
        let instance = self.processes.instance(tgid);
        let failed = self.checks.last_failed(instance, upstream);
        let just_before = failed.iter().rev().find(|check| {
            let before = check.ended <= at.saturating_add(SLACK);
            before && at.saturating_sub(check.ended) <= TAKEN_OUT_WITHIN
        });
        just_before.map(Arc::clone)
    }

    /// Remembers how long the attempt waited for an answer.
    pub(super) fn keep_patience(&mut self, trial: &Trial, failure: Option<Failure>) {
        let Some(name) = self.name_of_wait(trial) else {
            return;
        };
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

    /// Attempts that still wait show that no timer is shorter, unless bytes of a head came that is not whole.
    pub(super) fn look_who_waits(&mut self) {
        let now = self.pace.now();
        let waiting: Vec<(u64, Nanos)> = self
            .exchanges
            .under_way()
            .filter_map(|trial| {
                let sent = trial.sent_at().filter(|_| !trial.response_began())?;
                let age = now.saturating_sub(sent);
                (age >= WAITS).then_some((self.name_of_wait(trial)?, age))
            })
            .collect();
        for (name, age) in waiting {
            self.patience.still_waits(name, age, now);
        }
    }

    /// What is sent for one route to one upstream is cut by one timer.
    fn name_of_wait(&self, trial: &Trial) -> Option<u64> {
        let instance = self.processes.instance(trial.tgid?);
        let head = trial.head.as_ref();
        Some(self.routes.of_upstream(instance, &trial.upstream, head))
    }
}
