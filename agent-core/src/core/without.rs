//! Requests of which no attempt is known. Here is found what is known of them instead, which
//! [`without_attempt`] judges.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Core;
use super::unread::misses_attempt;
use crate::attempt::Trial;
use crate::cause::rules::UNATTRIBUTED;
use crate::cause::rules::without_attempt::{self, Situation, Verdict};
use crate::cause::{Cause, Certainty};
use crate::event::{Attempt, Check, Failure, Join, Proxy, Upstream};
use crate::outcome::Outcome;
use crate::parent::Parent;
use crate::request::OpenRequest;
use crate::routes::Moment;
use crate::table::Key;
use crate::unread::Used;
use crate::witness::Witnesses;

/// The verdict on a request that got an error for which no attempt is known.
pub(super) struct Unanswered {
    pub(super) failure: Failure,
    /// For which failure its upstreams had been given up before.
    pub(super) origin: Option<Cause>,
    /// By which check that was seen.
    pub(super) check: Option<Arc<Check>>,
    /// The attempt that it may have had.
    pub(super) attempt: Option<Arc<Attempt>>,
}

impl Core {
    /// The attempt behind an answer that was cut, or that its client did not wait for, where no attempt
    /// is known and connections that are not read were used meanwhile. Of several upstreams it is not known
    /// which was cut; what a client did not wait for says nothing of several.
    pub(super) fn behind(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
    ) -> Option<Arc<Attempt>> {
        let missed = misses_attempt(request, outcome);
        let failure = without_attempt::behind(outcome, missed, request.was_asked())?;
        let upstream = match self.used_meanwhile(proxy.tgid, request, outcome) {
            Used::Only(upstream) => upstream,
            Used::Some if failure.cause != Cause::ClientAbort => Upstream::Unknown,
            Used::Nothing | Used::Some => return None,
        };
        Some(self.guessed(key, request, outcome, proxy, upstream, failure))
    }

    /// The verdict on a request that got an error for which no attempt is known.
    pub(super) fn unanswered(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
    ) -> Unanswered {
        let unattributed = |attempt| Unanswered {
            failure: UNATTRIBUTED,
            origin: None,
            check: None,
            attempt,
        };
        let situation = self.situation(key, request, outcome, proxy);
        match without_attempt::judge(situation) {
            Verdict::Judged {
                failure,
                origin,
                check,
            } => Unanswered {
                failure,
                origin,
                check,
                attempt: None,
            },
            Verdict::Unknown(Used::Only(upstream)) => {
                let attempt = self.guessed(key, request, outcome, proxy, upstream, UNATTRIBUTED);
                unattributed(Some(attempt))
            }
            Verdict::Unknown(Used::Nothing | Used::Some) => unattributed(None),
        }
    }

    /// All that is known of a request that got an error for which no attempt is known.
    fn situation(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
    ) -> Situation {
        let (tgid, from, to) = (proxy.tgid, request.started, outcome.ended);
        let head = request.head.as_ref();
        let habits = self.processes.habits(Some(tgid));
        let moment = Moment {
            from,
            at: outcome.answer_began.unwrap_or(to).max(from),
            tgid,
            window: habits.fail_window,
        };
        let used = self.used_meanwhile(tgid, request, outcome);
        let may_have_used = self.may_have_used(tgid, request, outcome);
        let fare = self
            .upstreams
            .routes()
            .fare(self.processes.instance(tgid), head, moment);
        let route = head.map(|head| self.upstreams.routes().of(head));
        Situation {
            code: outcome.code,
            records_lost: !self.losses.none_since(from),
            connects_unseen: self.losses.connects_unseen(),
            unjoined: self
                .exchanges
                .unjoined()
                .last_of(tgid)
                .is_some_and(|at| at >= from),
            used,
            may_have_used,
            lookup: self.lookups.of_request(tgid, key, route, from, to),
            fare,
            waited: moment.at - moment.from,
            habits,
        }
    }

    /// An attempt at the only upstream in use at that time, for an unknown request.
    fn guessed(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
        upstream: Upstream,
        failure: Failure,
    ) -> Arc<Attempt> {
        let (none, nowhere) = (
            Key {
                cookie: 0,
                index: 0,
            },
            SocketAddr::from(([0; 4], 0)),
        );
        let (from, to) = (request.started, outcome.ended);
        let times = (from, to);
        let mut trial = Trial::unread(none, proxy.tgid, upstream, nowhere.into(), times, false);
        let parent = Parent {
            key,
            join: Join::Waiting,
            surety: Certainty::Guess,
            witnesses: Witnesses::NO_OTHER,
            forwarding: false,
        };
        trial.adopt(parent, from);
        self.counts.attempts.begun += 1;
        trial.into_attempt(proxy.clone(), Some(failure), Some(false))
    }
}
