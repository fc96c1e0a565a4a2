//! How attempts come to the requests they were made for.
//!
//! In: attempts, under way or over. Out: their parent, or none. Which request fits is decided in
//! [`crate::join`]; here is what the core knows besides: who else waits, who has claimed what,
//! and which upstreams are checked.

use super::Core;
use crate::attempt::Trial;
use crate::cause::Certainty;
use crate::event::{Attempt, Event, Join, Upstream};
use crate::join::{self, Parent};
use crate::observation::Nanos;
use crate::request::OpenRequest;
use crate::table::Key;

/// Within this time no request can have come, been served and gone unnoticed, ns.
const BRIEF: Nanos = 2_000_000;

impl Core {
    /// Looks for the request `trial` belongs to; `open` when it is still under way.
    pub(super) fn join(&mut self, trial: &mut Trial, open: bool) {
        self.learn_server(trial);
        let habits = self.processes.habits(trial.tgid);
        // A client on this host sends the same request line that its proxy has not read yet.
        let is_proxy = trial.tgid.is_none() || self.processes.proxy(trial.tgid).is_some();
        let found = join::find(trial, habits, is_proxy, &self.requests, &self.lines);
        self.counts.errands_unmatched += u64::from(found.errand_failed);
        let Some(mut parent) = found.parent else {
            return;
        };
        let of_call = trial.exchange.is_none() && parent.join == Join::Errand;
        if of_call
            && trial
                .tgid
                .is_some_and(|tgid| self.lookups.has_answered(tgid, trial.started))
        {
            parent.surety = Certainty::Guess;
        }
        let Some(request) = self.requests.get_mut(parent.key) else {
            return;
        };
        trial.tgid = trial.tgid.or(request.tgid);
        trial.adopt(parent, request.started);
        if open {
            // Most have one.
            request.open.reserve_exact(1);
            request.open.push(trial.key);
            request.served_by_guess |= parent.surety == Certainty::Guess;
        }
        if let Some(tgid) = trial.tgid
            && parent.forwarding
        {
            self.processes.saw_forwarding(tgid);
        }
    }

    /// A failed connect that no errand tells of: it was made for the only request that waited for an
    /// upstream then; not when it may have been a check of its upstream.
    pub(super) fn join_waiting(&mut self, trial: &mut Trial) {
        let no_connect = trial.exchange.is_some() || trial.speculative;
        if no_connect || self.processes.habits(trial.tgid).connects_at_once {
            return;
        }
        let mut waiting = self
            .waiting_at(trial.tgid, trial.started)
            .filter(|(_, request)| self.owner(request).is_some());
        let (Some((key, request)), None) = (waiting.next(), waiting.next()) else {
            return;
        };
        let own = self.owner(request) == trial.tgid;
        if !own || !join::is_try_of(trial, request) || self.is_checked(trial) {
            return;
        }
        let parent = Parent {
            key,
            join: Join::Waiting,
            surety: Certainty::Strong,
            forwarding: false,
        };
        trial.adopt(parent, request.started);
    }

    /// Looks for a request that ended in an error for which no attempt is known, or only some that
    /// failed well before, and that `trial` explains.
    pub(super) fn join_by_answer(&mut self, trial: &mut Trial) {
        // Proxies write an error of their own in one go: it ends when it begins.
        let since = trial.ended.saturating_sub(join::SLACK);
        let until = trial.ended.saturating_add(2 * join::AT_ONCE);
        let unexplained = self.waiting.came_in(since..=until).filter_map(|key| {
            let request = self.requests.get(*key)?;
            (request.open.is_empty() && join::lacks_last_try(request))
                .then_some((*key, request.as_ref()))
        });
        let Some(mut parent) = join::by_answer(trial, unexplained) else {
            return;
        };
        // The only one left, after guesses that may have taken the wrong ones.
        let guessed = trial.tgid.and_then(|tgid| self.unjoined.get(&tgid));
        let doubtful = guessed.is_some_and(|at| at.abs_diff(trial.ended) <= join::AT_ONCE);
        if doubtful || self.is_checked(trial) {
            parent.surety = Certainty::Guess;
        }
        if let Some(request) = self.requests.get(parent.key) {
            trial.adopt(parent, request.started);
        }
        if parent.surety == Certainty::Guess {
            self.saw_unjoined(trial);
        }
    }

    /// The attempt may belong to any request of its process that was open then.
    pub(super) fn saw_unjoined(&mut self, trial: &Trial) {
        if let Some(tgid) = trial.tgid {
            let latest = self.unjoined.entry(tgid).or_default();
            *latest = trial.ended.max(*latest);
        }
    }

    /// A failed attempt that nobody claimed, and that the next attempt of a request followed at
    /// once, was that request's; not when it may have been a check of its upstream.
    pub(super) fn claim_earlier_try(&mut self, next: &Trial, out: &mut Vec<Event>) {
        let Some(parent) = next.parent else { return };
        if self.processes.habits(next.tgid).connects_at_once {
            return;
        }
        let Some(request) = self.requests.get(parent.key) else {
            return;
        };
        let since = next.started.saturating_sub(join::RETRIED_AT_ONCE);
        let is_followed = |failed: &Trial| join::is_followed_by(failed, next, request);
        let mut followed = self
            .orphans
            .came_in(since..=Nanos::MAX)
            .filter(|failed| is_followed(failed));
        let (Some(failed), None) = (followed.next(), followed.next()) else {
            return;
        };
        // Another that waited for an attempt may have made this one, and got its error.
        if self.is_checked(failed)
            || self.has_waiting(failed.tgid, failed.started, Some(parent.key))
        {
            return;
        }
        drop(followed);
        let Some(mut failed) = self.orphans.take_only(since, |failed| is_followed(failed)) else {
            return;
        };
        let Some(request) = self.requests.get_mut(parent.key) else {
            return;
        };
        let claim = Parent {
            join: Join::Retry,
            surety: Certainty::Strong,
            ..parent
        };
        failed.adopt(claim, request.started);
        if request.tries.len() < self.limits.attempts_per_request.max(1) {
            request.tries.push(failed);
        } else {
            self.held -= 1;
            self.counts.attempts_crowded_out += 1;
            self.tell_alone(failed, out);
        }
    }

    /// A request was answered with an error and has no attempt, right after a connect failed that was
    /// joined to another, which was not answered: a timer acted for the first (nginx's limit_req, a
    /// cache lock) while the thread had read from the other last. The connect is nobody's again, and
    /// whose it was is a guess.
    pub(super) fn take_back_lent(&mut self, answered: Key, out: &mut Vec<Event>) {
        let Some(request) = self.requests.get(answered) else {
            return;
        };
        let (tgid, began, outcome) = (request.tgid, request.started, request.outcome());
        let without_attempt = request.tries.is_empty() && request.open.is_empty();
        let is_error = outcome.code.is_some_and(|code| code >= 500);
        let Some(at) = outcome.answer_began.filter(|_| without_attempt && is_error) else {
            return;
        };
        if !self.processes.habits(tgid).connects_at_once {
            return;
        }
        let is_lent = |trial: &Trial| {
            let by_errand = trial
                .parent
                .is_some_and(|parent| parent.join == Join::Errand);
            by_errand
                && trial.tgid == tgid
                && trial.exchange.is_none()
                && trial.started >= began
                && trial.ended <= at.saturating_add(join::SLACK)
                && at.saturating_sub(trial.ended) <= join::AT_ONCE
        };
        let lender = self.requests.iter_mut().find_map(|(key, request)| {
            let waits = request.open.is_empty() && !request.is_answered();
            (*key != answered && waits && request.tries.last().is_some_and(|last| is_lent(last)))
                .then_some(request)
        });
        let Some(mut trial) = lender.and_then(|lender| lender.tries.pop()) else {
            return;
        };
        trial.parent = None;
        trial.errand = None;
        self.saw_unjoined(&trial);
        if let Some(oldest) = self.orphans.push(self.clock, trial) {
            self.held -= 1;
            self.tell_alone(oldest, out);
        }
    }

    /// Whether a request of the process `tgid` other than `except` waited for an upstream at `at`.
    fn has_waiting(&self, tgid: Option<u32>, at: Nanos, except: Option<Key>) -> bool {
        self.waiting_at(tgid, at)
            .any(|(key, _)| Some(key) != except)
    }

    /// The thread that made the attempt had read a request: its process has clients where that arrived.
    fn learn_server(&mut self, trial: &Trial) {
        let (Some(errand), Some(tgid)) = (trial.errand, trial.tgid) else {
            return;
        };
        let key = Key {
            cookie: errand.cookie.get(),
            index: errand.index,
        };
        if trial.own_errand
            && let Some(request) = self.requests.get(key)
            && request.tgid.is_none()
        {
            let network = self.processes.network(Some(tgid));
            self.servers.saw(request.server(), tgid, network);
        }
    }

    /// The process whose request it is, as far as is known.
    fn owner(&self, request: &OpenRequest) -> Option<u32> {
        request
            .tgid
            .or_else(|| self.servers.owner(request.server()))
    }

    /// Requests that were open at `at` and had no attempt under way then, but those of other
    /// programs than `tgid`: an attempt that it began then may be their own. A request of which
    /// nobody knows who has read it, most often one of an upstream that is on this host as well, is
    /// taken for the process's only as long as that may connect for it.
    fn waiting_at(
        &self,
        tgid: Option<u32>,
        at: Nanos,
    ) -> impl Iterator<Item = (Key, &OpenRequest)> {
        let proxy = self.processes.proxy(tgid);
        self.requests.iter().filter_map(move |(key, request)| {
            let owner = self.owner(request);
            // A proxy that is reloaded has two processes for a while.
            let alike = || {
                let other = self.processes.proxy(owner);
                matches!((&proxy, other), (Some(one), Some(other)) if one.name == other.name)
            };
            let same_process = match request.tgid {
                Some(_) => request.tgid == tgid,
                None if owner.is_none() => !join::is_late(request.started, at),
                None => owner == tgid || alike(),
            };
            let is_served = || {
                let mut over = request.tries.iter();
                let mut open = request
                    .open
                    .iter()
                    .filter_map(|key| self.attempts.get(*key));
                over.any(|trial| trial.started <= at && trial.ended >= at)
                    || open.any(|trial| trial.started <= at)
            };
            let waits = same_process && request.is_open_at(at) && !is_served();
            waits.then_some((*key, request.as_ref()))
        })
    }

    /// A connection that no request is known for was begun at `started` and over at `ended`. When none
    /// waited for an upstream, others than the requests that are seen use it.
    pub(super) fn look_for_check(
        &mut self,
        tgid: Option<u32>,
        upstream: &Upstream,
        started: Nanos,
        ended: Nanos,
    ) {
        let (Some(tgid), true) = (tgid, self.processes.proxy(tgid).is_some()) else {
            return;
        };
        let brief = ended.saturating_sub(started) <= BRIEF;
        if brief && !self.has_waiting(Some(tgid), started, None) {
            let instance = self.processes.instance(tgid);
            self.routes.saw_unasked(instance, upstream, ended);
        }
    }

    fn is_checked(&self, trial: &Trial) -> bool {
        self.processes.proxy(trial.tgid).is_some_and(|proxy| {
            self.routes.is_checked(
                self.processes.instance(proxy.tgid),
                &trial.upstream,
                trial.ended,
            )
        })
    }

    /// Whether an attempt of the same process that was joined to no request ended between `last` and
    /// the answer: it may be the one that was answered for.
    pub(super) fn has_unjoined(&self, last: &Attempt, answered: Nanos) -> bool {
        let tgid = last.proxy.tgid;
        let until = answered.saturating_add(join::SLACK);
        let between = |ended: Nanos| (last.ended..=until).contains(&ended);
        self.unjoined.get(&tgid).is_some_and(|at| between(*at))
            || self
                .orphans
                .came_in(last.ended..=Nanos::MAX)
                .any(|trial| trial.tgid == Some(tgid) && between(trial.ended))
    }
}
