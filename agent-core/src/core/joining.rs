//! How attempts come to the requests they were made for.
//!
//! In: attempts, under way or over. Out: their parent, or none. Which request fits is decided in
//! [`crate::join`]; here is what the core knows besides: who else waits, who has claimed what,
//! and which upstreams are checked.

use std::cell::LazyCell;

use super::Core;
use crate::attempt::Trial;
use crate::cause::Certainty;
use crate::cause::rules::{Case, judge};
use crate::event::{Event, Join, Upstream};
use crate::join;
use crate::observation::Nanos;
use crate::parent::Parent;
use crate::request::OpenRequest;
use crate::table::Key;
use crate::timing;
use crate::unread::Used;
use crate::witness::Witnesses;

/// Within this time no request can have come, been served and gone unnoticed, ns.
const BRIEF: Nanos = 2_000_000;

/// Attempts that are looked at for what a request tried next. Fewer: where many fail at once, one of them may
/// be taken for another's. More: each failure costs more in an outage.
const AT_MOST: usize = 32;

impl Core {
    /// Looks for the request `trial` belongs to; `open` when it is still under way.
    pub(super) fn join(&mut self, trial: &mut Trial, open: bool) {
        self.learn_server(trial);
        let habits = self.processes.habits(trial.tgid);
        let found = join::find(trial, habits, self.exchanges.requests(), &self.processes);
        trial.contested |= found.contested;
        self.counts.errands_unmatched += u64::from(found.errand_failed);
        let parent = found.parent.or_else(|| self.only_waiting(trial));
        let Some(mut parent) = parent else {
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
        if self.may_be_lent(trial, parent) {
            parent.surety = Certainty::Guess;
        }
        let Some(request) = self.exchanges.request(parent.key) else {
            return;
        };
        trial.adopt(parent, request.started);
        let by_guess = parent.surety == Certainty::Guess;
        if open {
            self.exchanges.serves(trial.key, by_guess, parent.key);
        }
        if by_guess && !parent.witnesses.has_any(Witnesses::OF_HEADS) {
            // Another request may have lost it by that.
            self.saw_unjoined(trial);
        }
        if let Some(tgid) = trial.tgid
            && parent.forwarding
        {
            self.processes.saw_forwarding(tgid);
        }
    }

    /// The only witness is that the request's thread opened the connection, and another request was waiting
    /// when that was used. Envoy hands an established connection to the request that has waited longest; the
    /// one that it was opened for may have another connection by then.
    fn may_be_lent(&self, trial: &Trial, parent: Parent) -> bool {
        let habits = self.processes.habits(trial.tgid);
        let is_opener = parent.join == Join::Errand
            && !parent.witnesses.has_any(Witnesses::OF_HEADS)
            && trial
                .exchange
                .as_ref()
                .is_some_and(|exchange| exchange.errand.is_none());
        let Some(at) = trial.sent_at().filter(|_| is_opener) else {
            return false;
        };
        habits.connects_at_once
            && !habits.sends_at_once
            && self
                .exchanges
                .has_waiting(trial.tgid, at, Some(parent.key), &self.processes)
    }

    /// An attempt that has nothing in common with any request: it was made for the only one that
    /// waits for an upstream; not when it may have been a check of its upstream.
    fn only_waiting(&self, trial: &Trial) -> Option<Parent> {
        let tgid = trial.tgid?;
        if self.is_of_unread_client(trial) {
            return None;
        }
        // A request that has a line is asked for at once. That of a failed connect is looked for when
        // it is over: by then another may have turned out to be somebody else's.
        let is_sent = trial.sent_at().is_some();
        let may_be = is_sent || (trial.finish.is_some() && !trial.speculative);
        if !may_be || self.processes.habits(Some(tgid)).connects_at_once {
            return None;
        }
        // What a program that is no proxy sends is its own.
        if is_sent {
            self.processes.proxy(Some(tgid))?;
        }
        // HAProxy answers and then closes upstream.
        let answered = self
            .exchanges
            .requests()
            .failed(tgid, trial.started..=Nanos::MAX);
        let waiting = self
            .exchanges
            .waiting_at(tgid, trial.started, &self.processes)
            .chain(answered);
        let parent = join::only(trial, waiting)?;
        let request = self.exchanges.request(parent.key)?;
        let own = self.exchanges.requests().owner(request) == Some(tgid);
        let surety = parent.surety.max(self.least_surety_of(trial, request));
        (own && !self.is_checked(trial)).then_some(Parent { surety, ..parent })
    }

    /// The most that a join for want of another request may claim: where other requests of its route
    /// go elsewhere, as far as is known, the attempt may be a check of its upstream; and of clients that
    /// are not read no request is known.
    fn least_surety_of(&self, trial: &Trial, request: &OpenRequest) -> Certainty {
        let unread = trial
            .tgid
            .is_some_and(|tgid| self.processes.has_unread_clients(tgid));
        let checks = self.may_be_first_check(trial, request);
        if unread || checks || self.goes_elsewhere(trial, request) {
            Certainty::Guess
        } else {
            Certainty::Strong
        }
    }

    /// What its process did on a connection that is not read, for nobody knows whom, may be why the
    /// request failed, and requests such as this one are not known to go where the attempt went.
    fn has_used_another(&self, trial: &Trial, request: &OpenRequest) -> bool {
        let Some(tgid) = trial.tgid else { return false };
        match self.may_have_failed_for(tgid, request) {
            Used::Nothing => return false,
            // This very use.
            Used::Only(upstream) if trial.unread && upstream == trial.upstream => return false,
            Used::Only(_) | Used::Some => {}
        }
        let instance = self.processes.instance(tgid);
        let head = request.head.as_ref();
        !head.is_some_and(|head| {
            self.upstreams
                .routes()
                .goes_to(instance, head, &trial.upstream)
        })
    }

    /// When the last of the requests came that waited for an upstream when the attempt began. It is rather
    /// that one's than one's that came before and got its error: HAProxy tries again after a second.
    fn last_to_wait(&self, trial: &Trial) -> Option<Nanos> {
        // Those that came last are looked at first.
        let mut waiting = self
            .exchanges
            .waiting_at(trial.tgid?, trial.started, &self.processes);
        waiting.next().map(|(_, other)| other.started)
    }

    /// Other requests of its route go elsewhere, as far as is known.
    fn goes_elsewhere(&self, trial: &Trial, request: &OpenRequest) -> bool {
        let proxy = self.processes.proxy(trial.tgid);
        proxy
            .zip(request.head.as_ref())
            .is_some_and(|(proxy, head)| {
                let instance = self.processes.instance(proxy.tgid);
                self.upstreams
                    .routes()
                    .goes_elsewhere(instance, head, &trial.upstream)
            })
    }

    /// Looks for a request that ended in an error for which no attempt is known, or only some that
    /// failed well before, and that `trial` explains.
    pub(super) fn join_by_answer(&mut self, trial: &mut Trial) {
        // Proxies write an error of their own in one go: it ends when it begins.
        // What is passed on begins before the attempt is over.
        let began = trial.began_to_answer().unwrap_or(trial.ended);
        let answers_first = self.processes.habits(trial.tgid).answers_first;
        let since = began
            .min(trial.ended)
            .saturating_sub(join::ends_within(trial, answers_first));
        let until = trial.ended.saturating_add(timing::DELAYED);
        let Some(tgid) = trial.tgid else { return };
        if self.is_known_check(trial) || self.is_of_unread_client(trial) {
            return;
        }
        let checked = self.is_checked(trial);
        let last_to_wait = LazyCell::new(|| self.last_to_wait(trial));
        let unexplained = self.exchanges.requests().failed(tgid, since..=until);
        let unexplained = unexplained.filter(|(_, request)| {
            // With time to do something else in between, nothing else may speak against it.
            let failed = request.outcome().failed_at().unwrap_or(until);
            let at_once = failed.abs_diff(trial.ended) <= timing::AT_ONCE;
            let has_later = || last_to_wait.is_some_and(|last| last > request.started);
            let doubted = || checked || self.goes_elsewhere(trial, request) || has_later();
            (at_once || !doubted()) && !self.has_used_another(trial, request)
        });
        let may_be_slow = self.processes.may_be_application(tgid);
        let parent = join::by_answer(trial, unexplained, answers_first, may_be_slow);
        let Some(mut parent) = parent else {
            return;
        };
        if self.is_outdone(trial, parent) {
            return;
        }
        // The only one left, after guesses that may have taken the wrong ones.
        let guessed = self.exchanges.unjoined().last_of(tgid);
        let doubtful = guessed.is_some_and(|at| at.abs_diff(trial.ended) <= timing::AT_ONCE);
        if doubtful || trial.may_be_anothers || checked {
            parent.surety = Certainty::Guess;
        }
        if let Some(request) = self.exchanges.request(parent.key) {
            parent.surety = parent.surety.max(self.least_surety_of(trial, request));
            // Nothing but the time speaks for it, and a connection that is not read was used meanwhile.
            let touched = parent.witnesses.has_any(Witnesses::ERRAND);
            let outcome = request.outcome();
            let failed = outcome.failed_at();
            let is_behind = failed.is_some_and(|at| at.saturating_add(timing::SLACK) < trial.ended);
            let is_connect = trial.exchange.is_none();
            // A proxy answers for a connect that failed, and passes on an answer that began.
            let has_word = is_connect || trial.code().is_some();
            let is_wordless = outcome.code.is_none() && has_word;
            let is_beside = || {
                let mut waiting = self
                    .exchanges
                    .waiting_at(tgid, trial.started, &self.processes);
                let is_own = |request: &OpenRequest| request.tgid == Some(tgid);
                waiting.any(|(other, request)| {
                    other != parent.key && is_own(request) && request.end.is_none()
                })
            };
            let may_be_anothers = || self.may_use_another(tgid, request) || is_beside();
            if is_connect && is_behind || is_wordless || !touched && may_be_anothers() {
                parent.surety = Certainty::Guess;
            }
            trial.adopt(parent, request.started);
        }
        if parent.surety == Certainty::Guess {
            self.saw_unjoined(trial);
        }
    }

    /// A request failed with these attempts. Others that were over at once before the first of them began,
    /// or began at once when the last one was over, may be its as well, whichever request they are joined to.
    pub(super) fn doubt_neighbours(&mut self, request: &OpenRequest, tries: &[Box<Trial>]) {
        let Some(answered) = request.outcome().failed_at() else {
            return;
        };
        let first = tries.iter().map(|trial| trial.started).min();
        let last = tries.iter().map(|trial| trial.ended).max();
        let Some((first, last)) = first.zip(last) else {
            return;
        };
        let is_next = |one: &Trial| {
            let after = one.started.checked_sub(last);
            after.is_some_and(|after| after <= timing::RETRIED_AT_ONCE) && one.started < answered
        };
        let is_earlier = |one: &Trial| one.started >= request.started && one.ended <= first;
        let since = first.saturating_sub(timing::RETRIED_AT_ONCE);
        let over = since..=answered.saturating_add(timing::SLACK);
        let orphans = self.exchanges.orphans().over(request.tgid, over.clone());
        let neighbours: Vec<Key> = orphans
            .filter(|one| is_next(one) || is_earlier(one))
            .take(AT_MOST)
            .map(|one| one.key)
            .collect();
        for key in neighbours {
            self.exchanges.doubt_orphan(request.tgid, over.clone(), key);
        }
    }

    /// The request is the only one that the attempt explains, and another attempt elsewhere that nobody
    /// claims was over sooner before the answer.
    fn is_outdone(&self, trial: &Trial, parent: Parent) -> bool {
        let Some(request) = self.exchanges.request(parent.key) else {
            return false;
        };
        let answers_first = self.processes.habits(trial.tgid).answers_first;
        let answered = request.outcome().failed_at().unwrap_or(trial.ended);
        let later = trial.ended.saturating_add(1)..=answered.saturating_add(timing::SLACK);
        let mut later = self.exchanges.orphans().over(trial.tgid, later);
        parent.witnesses.has_any(Witnesses::NO_OTHER)
            && later.any(|other| {
                other.upstream != trial.upstream
                    && !self.may_be_first_check(other, request)
                    && !self.is_of_unread_client(other)
                    && join::explains(other, parent.key, request, answers_first)
            })
    }

    /// A connect that no answer explains: made for the request that its thread had read just before, if no
    /// other had come then. HAProxy tries again after a second, and answers after that.
    pub(super) fn join_by_touch(&self, trial: &mut Trial) {
        let touched = trial.exchange.is_none() && join::is_at_hand(trial);
        let Some(tgid) = trial.tgid.filter(|_| touched) else {
            return;
        };
        if self.is_known_check(trial) || self.is_of_unread_client(trial) {
            return;
        }
        let waiting = self
            .exchanges
            .waiting_at(tgid, trial.started, &self.processes);
        if let Some((parent, started)) = join::by_touch(trial, waiting) {
            trial.adopt(parent, started);
        }
    }

    /// The attempt may belong to any request of its process that was open then.
    pub(super) fn saw_unjoined(&mut self, trial: &Trial) {
        if let Some(tgid) = trial.tgid {
            self.exchanges.saw_unjoined(tgid, trial.ended);
        }
    }

    /// A failed attempt that nobody claimed, and that the next attempt of a request followed at
    /// once, was that request's; not when it may have been a check of its upstream.
    pub(super) fn claim_earlier_try(&mut self, next: &Trial, out: &mut Vec<Event>) {
        // Processes that are not known need not be the same one.
        let (Some(parent), Some(_)) = (next.parent, next.tgid) else {
            return;
        };
        if self.processes.habits(next.tgid).connects_at_once {
            return;
        }
        let Some(request) = self.exchanges.request(parent.key) else {
            return;
        };
        let since = next.started.saturating_sub(timing::RETRIED_AT_ONCE);
        let between = since..=next.started;
        let orphans = self.exchanges.orphans().over(next.tgid, between.clone());
        let followed: Vec<&Trial> = orphans
            .filter(|failed| join::is_followed_by(failed, next, request))
            .collect();
        let only = match followed[..] {
            [only] if self.may_be_earlier_try(only, parent.key) => Some(only),
            _ => None,
        };
        let Some(failed) = only else {
            // This request may have made it, whichever one it is joined to.
            let was_open = |failed: &&&Trial| failed.started >= request.started;
            let may_be_its = followed.iter().filter(was_open);
            let keys: Vec<Key> = may_be_its.map(|failed| failed.key).collect();
            for key in keys {
                self.exchanges.doubt_orphan(next.tgid, between.clone(), key);
            }
            return;
        };
        let surety = self.least_surety_of(failed, request);
        let name = failed.key;
        let Some(failed) = self.exchanges.take_orphan(next.tgid, between, name) else {
            return;
        };
        let claim = Parent {
            join: Join::Retry,
            witnesses: Witnesses::NEXT_ATTEMPT,
            surety,
            ..parent
        };
        if let Some(failed) = self.exchanges.claim(failed, claim) {
            self.tell_alone(failed, out);
        }
    }

    /// The failed attempt, which one of the request `key` followed at once, was that one's: it is no check,
    /// and no other that waited for an attempt may have made it and got its error, or its next attempt, of
    /// which the record came before that of this one.
    fn may_be_earlier_try(&self, failed: &Trial, key: Key) -> bool {
        let began = failed.started;
        let tried_another = |tgid| self.processes.tried_another(tgid, key, began);
        !self.is_checked(failed)
            && !self.is_of_unread_client(failed)
            && !failed.tgid.is_some_and(tried_another)
            && !self
                .exchanges
                .has_waiting(failed.tgid, began, Some(key), &self.processes)
    }

    /// A request was answered with an error and has no attempt, right after a connect failed that was
    /// joined to another, which was not answered: a timer acted for the first (nginx's limit_req, a
    /// cache lock) while the thread had read from the other last. The connect is nobody's again, and
    /// whose it was is a guess.
    pub(super) fn take_back_lent(&mut self, answered: Key, out: &mut Vec<Event>) {
        let Some(request) = self.exchanges.request(answered) else {
            return;
        };
        let (tgid, began, outcome) = (request.tgid, request.started, request.outcome());
        let own = tgid;
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
                && trial.tgid == own
                && trial.exchange.is_none()
                && trial.started >= began
                && trial.ended <= at.saturating_add(timing::SLACK)
                && at.saturating_sub(trial.ended) <= timing::AT_ONCE
        };
        let Some(tgid) = tgid else { return };
        let over = at.saturating_sub(timing::AT_ONCE)..=at.saturating_add(timing::SLACK);
        let lent = self.exchanges.take_last_try(tgid, over, answered, is_lent);
        let Some(mut trial) = lent else {
            return;
        };
        trial.parent = None;
        trial.errand = None;
        self.saw_unjoined(&trial);
        self.wait_for_request(trial, out);
    }

    /// Apache httpd holds an answer back while it serves the request that its client sent behind it: what
    /// it tries for that seems to be of the one before. Where an answer was passed on, tries that failed
    /// behind it are nobody's again.
    pub(super) fn give_to_next(&mut self, answered: Key, out: &mut Vec<Event>) {
        let taken = self.exchanges.edit(answered, |request| {
            let passed_on = request.passed_on()?;
            let is_next = |trial: &mut Box<Trial>| {
                trial.started >= passed_on && !join::is_like(trial, request.head.as_ref())
            };
            Some(request.tries.extract_if(.., is_next).collect::<Vec<_>>())
        });
        for mut trial in taken.flatten().unwrap_or_default() {
            trial.parent = None;
            let case = Case {
                trial: &trial,
                request: None,
            };
            if judge(&case).is_some() {
                self.wait_for_request(trial, out);
            } else {
                self.tell_alone(trial, out);
            }
        }
    }

    /// The thread that made the attempt had read a request: its process has clients where that arrived.
    fn learn_server(&mut self, trial: &Trial) {
        let (Some(errand), Some(tgid)) = (trial.errand, trial.tgid) else {
            return;
        };
        let key = Key::of(errand);
        if trial.own_errand
            && let Some(request) = self.exchanges.request(key)
            && request.tgid.is_none()
        {
            let network = self.processes.network(Some(tgid));
            let server = request.server();
            self.exchanges.saw_server(server, tgid, network);
        }
    }

    /// It shows whose the request `key` is. Attempts of other processes, which were joined to it before,
    /// are not its own: those that are over are looked at anew.
    pub(super) fn part_from_strangers(&mut self, key: Key, out: &mut Vec<Event>) {
        let is_served = |request: &OpenRequest| {
            request.tgid.is_some() && !(request.open.is_empty() && request.tries.is_empty())
        };
        if !self.exchanges.request(key).is_some_and(is_served) {
            return;
        }
        for mut trial in self.exchanges.take_strangers(key) {
            trial.parent = None;
            self.settle(trial, out);
        }
    }

    /// A connection that no request is known for was begun at `started` and over at `ended`. When none
    /// waited for an upstream, others than the requests that are seen use it. Returns whether that is so.
    pub(super) fn look_for_check(
        &mut self,
        tgid: Option<u32>,
        upstream: &Upstream,
        started: Nanos,
        ended: Nanos,
    ) -> bool {
        let (Some(tgid), true) = (tgid, self.processes.proxy(tgid).is_some()) else {
            return false;
        };
        let brief = ended.saturating_sub(started) <= BRIEF;
        let unasked = brief
            && !self
                .exchanges
                .has_waiting(Some(tgid), started, None, &self.processes);
        if unasked {
            let instance = self.processes.instance(tgid);
            self.upstreams.saw_unasked(instance, upstream, ended);
        }
        unasked
    }

    fn is_checked(&self, trial: &Trial) -> bool {
        self.processes.proxy(trial.tgid).is_some_and(|proxy| {
            self.upstreams.routes().is_checked(
                self.processes.instance(proxy.tgid),
                &trial.upstream,
                trial.ended,
            )
        })
    }

    /// The attempt waits for a request that it explains.
    pub(super) fn wait_for_request(&mut self, trial: Box<Trial>, out: &mut Vec<Event>) {
        if let Some(oldest) = self.exchanges.wait_for_request(self.pace.now(), trial) {
            self.tell_alone(oldest, out);
        }
    }
}
