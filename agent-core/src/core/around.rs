//! What is known of the end of an attempt from elsewhere than its own connection.
//!
//! In: the upstream's end of the connection, if it is on this host; other attempts that waited;
//! health checks; clients whose talk is not read. Out: [`Around`], which the rules look at.

use std::sync::Arc;

use super::Core;
use crate::around::Around;
use crate::attempt::Trial;
use crate::cause::{Cause, Certainty};
use crate::event::{Check, Failure, Upstream};
use crate::network;
use crate::observation::Nanos;
use crate::timing::{SECOND, SLACK, YOUNG_US};
use crate::transport::ClosedBy;

/// A reset arrives within this time after it was sent on the same host, ns.
const RESET_UNDER_WAY: Nanos = SECOND;

/// Before and after a proxy gave a connection up, the upstream's end of it tells of that within this
/// time, ns. Too short: on a busy machine it is not known. Too long: where ports are used again at
/// once, it is taken for that of another connection.
const LEAVING: Nanos = SECOND;

/// A proxy that closes on account of a health check does so within this time after it failed, ns.
const TAKEN_OUT_WITHIN: Nanos = 20_000_000;

/// Exchanges that wait for longer than this are worth remembering, ns.
const WAITS: Nanos = 50_000_000;

/// How often attempts are looked through for those that still wait, ns.
const LOOK_EVERY: Nanos = SECOND;

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
        self.ask_peer(trial, &mut around);
        if trial.closed_by() == ClosedBy::Local {
            around.client_left = self.client_left(trial);
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

    /// What the upstream's own socket showed, if it is on this host: whether its process was
    /// killed under the attempt, and why it sent a reset.
    fn ask_peer(&self, trial: &Trial, around: &mut Around) {
        if let Upstream::Inet(remote) = trial.upstream
            && let network = self.processes.network(trial.tgid)
            && let Some(ends) = network::ends(network, remote, trial.local())
        {
            let (at, asked) = (trial.ended, trial.sent_at().unwrap_or(trial.started));
            around.process_ended = self.deaths.of_server(ends, asked, at);
            // The kernel tells of a reset when it has sent it: over the loopback, that has arrived.
            let at = at.saturating_add(SLACK);
            around.reset_reason = self
                .resets
                .get(ends, at, RESET_UNDER_WAY)
                .filter(|_| trial.transport.was_reset());
            around.read = self
                .readers
                .get(ends, at.saturating_add(LEAVING), 2 * LEAVING)
                .filter(|_| trial.key.index == 0 && !trial.response_began());
        }
    }

    /// When the client of the attempt left before the proxy closed, where that client's talk is not read.
    /// Strong where the thread that made the attempt acts for whom it has read from last; a guess where
    /// it may have been another's.
    fn client_left(&self, trial: &Trial) -> Option<(Nanos, Certainty)> {
        let tgid = trial.tgid.filter(|_| trial.parent.is_none())?;
        let young = trial
            .errand
            .filter(|errand| trial.own_errand && errand.age_us <= YOUNG_US);
        let left = young.and_then(|errand| self.departures.of(errand.cookie.get()));
        let before = self.departures.just_before(tgid, trial.ended);
        let habits = self.processes.habits(Some(tgid));
        let left = left.filter(|left| *left <= trial.ended);
        let sure = match left {
            // It closes upstream before it answers. HAProxy answers first, and its client may leave then.
            Some(_) if habits.sends_at_once => Certainty::Strong,
            _ => Certainty::Guess,
        };
        let at = left.or(before)?;
        Some((at.min(trial.ended), sure))
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
        self.next_look = self.clock.saturating_add(LOOK_EVERY);
        let now = self.clock;
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
