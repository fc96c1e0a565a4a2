//! Requests that got an error although no attempt is known: the upstreams had been given up, the name
//! did not resolve, the proxy answered by itself, or it is not known.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Core;
use super::unread::misses_attempt;
use super::verdict::UNATTRIBUTED;
use crate::attempt::Trial;
use crate::cause::{Cause, Certainty, How};
use crate::event::{Attempt, Check, Failure, Join, Proxy, Upstream};
use crate::join::{Parent, Witnesses};
use crate::lookups::Lookup;
use crate::observation::Phase;
use crate::proxies::Habits;
use crate::request::{CLIENT_CLOSED_REQUEST, OpenRequest, Outcome};
use crate::routes::{Fare, Moment};
use crate::table::Key;
use crate::unread::Used;

/// What is known of a request's error for which no attempt is known.
enum Without {
    /// Why, for which failure its upstreams had been given up before, and by which check that was seen.
    Judged(Failure, Option<Cause>, Option<Arc<Check>>),
    /// It is not known; what may have been used for it, if anything.
    Unread(Used),
}

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
    /// is known and only one upstream was used meanwhile.
    pub(super) fn behind(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
    ) -> Option<Arc<Attempt>> {
        let client_left = Failure {
            cause: Cause::ClientAbort,
            ..UNATTRIBUTED
        };
        let failure = match outcome.code {
            Some(..500) if misses_attempt(request, outcome) => Failure {
                phase: Phase::Body,
                ..UNATTRIBUTED
            },
            None if outcome.client_gone.is_some() && request.was_asked() => client_left,
            Some(CLIENT_CLOSED_REQUEST) if outcome.client_fin.is_some() => client_left,
            _ => return None,
        };
        let Used::Only(upstream) = self.used_meanwhile(proxy.tgid, request, outcome) else {
            return None;
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
        match self.without_attempt(key, request, outcome, proxy) {
            Without::Judged(failure, origin, check) => Unanswered {
                failure,
                origin,
                check,
                attempt: None,
            },
            Without::Unread(Used::Only(upstream)) => {
                let attempt = self.guessed(key, request, outcome, proxy, upstream, UNATTRIBUTED);
                unattributed(Some(attempt))
            }
            Without::Unread(Used::Nothing | Used::Some) => unattributed(None),
        }
    }

    /// Why a request got an error for which no attempt was made, as far as is known.
    fn without_attempt(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
    ) -> Without {
        let failure = |cause, certainty| {
            let (phase, how) = (Phase::Connect, How::None);
            let failure = Failure {
                cause,
                certainty,
                phase,
                how,
            };
            Without::Judged(failure, None, None)
        };
        let (tgid, from, to) = (proxy.tgid, request.started, outcome.ended);
        // An attempt may have been there and not been seen, or not been recognised as its own.
        let whole = self.lost_at.is_none_or(|lost| lost < from);
        let unjoined = self.unjoined.last_of(tgid).is_some_and(|at| at >= from);
        let head = request.head.as_ref();
        // Where joins are doubtful, so is that there was no attempt.
        let Habits {
            fail_window: window,
            connects_at_once: acts_at_once,
            sends_at_once: _,
            none_left_code,
            timeout_code: _,
            refuses_interim: _,
            leaves_alone,
            answers_present: _,
            tries_all_down,
            checks_by_timer: _,
        } = self.processes.habits(Some(tgid));
        let instance = self.processes.instance(tgid);
        let used = self.used_meanwhile(tgid, request, outcome);
        let may_have_used = self.may_have_used(tgid, request, outcome);
        let moment = Moment {
            from,
            at: outcome.answer_began.unwrap_or(to).max(from),
            tgid,
            window,
        };
        let fare = self.routes.fare(instance, head, moment);
        // Where the route is not known, a name that a request of it asked for is a nearer witness
        // than servers of other routes, if it is known who asked.
        let nameless = match &fare {
            Fare::Unknown | Fare::UnusedDown(..) => true,
            Fare::ProxyAllDown(..) => acts_at_once,
            Fare::AllDown { .. } | Fare::SomeDown | Fare::Healthy => false,
        };
        // Without a code the proxy closed: that says nothing of upstreams.
        if !whole || outcome.code.is_none() {
            return Without::Unread(used);
        }
        let route = head.map(|head| self.routes.of(head));
        let lookup = self.lookups.of_request(tgid, key, route, from, to);
        if lookup == Some(Lookup::Failed) {
            return failure(Cause::DnsFailure, Certainty::Strong);
        }
        // An attempt ran, and nobody knows for whom.
        if !used.is_nothing() {
            return Without::Unread(used);
        }
        if lookup == Some(Lookup::FailedForAnother) && !unjoined && nameless {
            return failure(Cause::DnsFailure, Certainty::Guess);
        }
        let down = |certainty, origin, check| match failure(Cause::NoLiveUpstream, certainty) {
            Without::Judged(failure, ..) => Without::Judged(failure, Some(origin), check),
            other @ Without::Unread(_) => other,
        };
        // A proxy without an upstream to try has a code for that; another is of a rule or a limit,
        // unless an error page changed it.
        let by_code = none_left_code.is_none_or(|code| outcome.code == Some(code));
        match fare {
            Fare::AllDown {
                origin,
                gives_up,
                several,
                check,
                by_checks,
            } if by_code => {
                let seen = gives_up && leaves_alone && several;
                let strong = none_left_code.is_some() && (by_checks || seen && !unjoined);
                let sure = if strong {
                    Certainty::Strong
                } else {
                    Certainty::Guess
                };
                down(sure, origin, check)
            }
            Fare::ProxyAllDown(origin, check) if by_code && !self.connects_unseen => {
                down(Certainty::Guess, origin, check)
            }
            _ if unjoined || self.connects_unseen => Without::Unread(Used::Nothing),
            _ if !may_have_used.is_nothing() => Without::Unread(may_have_used),
            Fare::UnusedDown(origin, check)
                if none_left_code.is_some() && by_code && !tries_all_down =>
            {
                down(Certainty::Guess, origin, Some(check))
            }
            Fare::Healthy if acts_at_once => failure(Cause::ProxyGenerated, Certainty::Strong),
            Fare::AllDown { .. }
            | Fare::ProxyAllDown(..)
            | Fare::UnusedDown(..)
            | Fare::Healthy
            | Fare::SomeDown
            | Fare::Unknown => failure(Cause::ProxyGenerated, Certainty::Guess),
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
        let mut trial = Trial::unread(none, proxy.tgid, upstream, nowhere.into(), from, to);
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
