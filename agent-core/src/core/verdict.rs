//! How attempts and requests come to their verdict, and are told.
//!
//! An attempt that is over waits for the end of its request, since what the client did and
//! got is part of the evidence; a request that is over waits for its attempts, since
//! HAProxy answers before it closes upstream (nginx and Envoy do it the other way round).

use std::sync::Arc;

use super::Core;
use crate::attempt::{Finish, Trial, seconds};
use crate::cause::answer::{answers_for_upstream, decisive, error_of, masked};
use crate::cause::rules::{Case, judge};
use crate::cause::{Cause, Certainty};
use crate::event::{Attempt, Check, Event, Failure, Join, Proxy, Request};
use crate::observation::{End, Nanos, Phase, RequestHead};
use crate::outcome::Outcome;
use crate::request::OpenRequest;
use crate::table::Key;
use crate::timing;
use crate::witness::Witnesses;

/// A proxy that answers later than this after its last known attempt may have made another
/// one that was not seen, ns.
const PROMPT: Nanos = 100_000_000;

/// Why a request got its error, if it did, and the attempts that it had.
struct Explained {
    attempts: Vec<Arc<Attempt>>,
    error: Option<Failure>,
    /// The attempt that the error comes from.
    error_attempt: Option<usize>,
    /// Why the upstreams had been given up before, where none was left.
    origin: Option<Cause>,
    /// The check that showed that, if one did.
    origin_check: Option<Arc<Check>>,
}

impl Core {
    /// An attempt is over: it goes to its request, is told, or waits for a request.
    pub(super) fn settle(&mut self, mut trial: Box<Trial>, out: &mut Vec<Event>) {
        if trial.outcome.is_some() {
            self.tell_alone(trial, out);
            return;
        }
        if trial.parent.is_none() {
            self.join(&mut trial, false);
        }
        let Some(parent) = trial.parent else {
            self.without_request(trial, out);
            return;
        };
        if !self.exchanges.requests().contains(parent.key) {
            // Its request was forgotten.
            trial.parent = None;
            self.without_request(trial, out);
            return;
        }
        if let Some(oldest) = self.exchanges.put_to_request(trial, parent.key) {
            self.tell_alone(oldest, out);
        }
        self.resolve_if_ready(parent.key, out);
    }

    /// A success needs no request to be judged; a failure waits for one to turn up, since
    /// records of two CPUs may come in the wrong order.
    fn without_request(&mut self, mut trial: Box<Trial>, out: &mut Vec<Event>) {
        let unasked = !self.may_be_pipelined(&trial)
            && self.look_for_check(trial.tgid, &trial.upstream, trial.started, trial.ended);
        if trial.exchange.is_none() {
            trial.asked = self.who_asked(&trial, unasked);
        }
        if self.is_known_check(&trial) {
            self.tell_alone(trial, out);
            return;
        }
        if judge(&Case {
            trial: &trial,
            request: None,
        })
        .is_none()
        {
            self.tell_alone(trial, out);
            return;
        }
        self.wait_for_request(trial, out);
    }

    pub(super) fn request_ended(&mut self, key: Key, out: &mut Vec<Event>) {
        if self.resolve_if_ready(key, out) {
            return;
        }
        self.take_back_lent(key, out);
        if let Some(oldest) = self.exchanges.wait_for_attempts(self.pace.now(), key) {
            self.resolve(oldest, out);
        }
    }

    /// Resolves the request when it is over and nothing more can be expected: no attempt
    /// is under way, and an error has an attempt that failed.
    pub(super) fn resolve_if_ready(&mut self, key: Key, out: &mut Vec<Event>) -> bool {
        let Some(request) = self.exchanges.request(key) else {
            return false;
        };
        if request.end.is_none() || !request.open.is_empty() {
            return false;
        }
        self.give_to_next(key, out);
        let Some(request) = self.exchanges.request(key) else {
            return false;
        };
        let outcome = request.outcome();
        let answered = !outcome.is_failed();
        let may_be_gone = self.may_have_stayed(key, &outcome);
        let last = request
            .tries
            .iter()
            .max_by_key(|trial| (trial.started, trial.key));
        let explained = last.is_some_and(|trial| {
            judge(&Case {
                trial,
                request: Some(&outcome),
            })
            .is_some()
        });
        let may_wait = !answered
            && (!explained
                || may_be_gone
                || request.lacks_last_try()
                || self.may_turn_out_a_proxys(request)
                || self.has_unread_under_way(key));
        if may_wait {
            return false;
        }
        self.resolve(key, out);
        true
    }

    /// Its process is not known to be a proxy and its attempts are its by a guess only: another request
    /// may show what the process is before this one has waited long enough.
    fn may_turn_out_a_proxys(&self, request: &OpenRequest) -> bool {
        let guessed = request.tries.iter().all(|trial| {
            trial
                .parent
                .is_none_or(|parent| parent.surety == Certainty::Guess)
        });
        guessed && self.processes.proxy(request.tgid).is_none()
    }

    /// Its client was answered after its FIN, and has not reset that answer so far.
    fn may_have_stayed(&self, key: Key, outcome: &Outcome) -> bool {
        outcome.was_answered_after_fin() && !self.departures.has_reset(key.cookie)
    }

    /// The verdict on a request that is over, and on its attempts.
    pub(super) fn resolve(&mut self, key: Key, out: &mut Vec<Event>) {
        let Some(mut request) = self.exchanges.take_request(key) else {
            return;
        };
        let mut outcome = request.outcome();
        let network = self.processes.network(request.tgid);
        outcome.proxy_ended = self.peers.served(request.ends(), network, &outcome);
        // A client that has closed resets what it gets then; one that only sends no more takes it.
        let whole = self.losses.none_since(request.started);
        if whole && self.may_have_stayed(key, &outcome) {
            outcome.client_gone = None;
        }
        self.exchanges.let_go(&mut request);
        self.give_up_open(&mut request, &outcome);
        for open in &request.open {
            if let Some(trial) = self.exchanges.attempt_mut(*open) {
                trial.outcome = Some(Box::new(outcome));
            }
        }
        // Whose request it is was not known when they were joined: it is by now.
        for mut stranger in request.take_strangers() {
            stranger.parent = None;
            self.tell_alone(stranger, out);
        }
        let mut tries = std::mem::take(&mut request.tries);
        doubt_connects(&mut tries, &outcome);
        self.take_unread(key, &request, &outcome, &mut tries);
        for trial in &mut tries {
            self.look_around(trial);
        }
        if outcome.is_failed() {
            self.doubt_neighbours(&request, &tries);
            if let Some(tgid) = request.tgid {
                self.processes.went_wrong(tgid, outcome.ended);
            }
        }
        let seen_end = request.end.and_then(|(end, _)| end);
        let end_lost = matches!(seen_end, None | Some(End::Superseded));
        if end_lost && outcome.code.is_none() {
            self.counts.requests.ends_lost += 1;
            for mut trial in tries {
                trial.parent = None;
                self.tell_alone(trial, out);
            }
            return;
        }
        if let Some(tgid) = request.tgid
            && answers_for_upstream(&tries, &outcome)
        {
            self.processes.answers_for_upstream(tgid);
        }
        let Some(proxy) = self.processes.proxy(request.tgid) else {
            self.saw_foreign(request.tgid, key.cookie);
            self.counts.requests.foreign += 1;
            self.counts.attempts.foreign += tries.len() as u64;
            return;
        };
        let was_begun = outcome.code.is_some() || !tries.is_empty() || !request.open.is_empty();
        if request.is_pipelined() && !was_begun {
            // A proxy may close with requests unread: their client has to repeat them (RFC 9112, 9.3.2).
            self.counts.requests.not_begun += 1;
            return;
        }
        let attempts = self.judge_tries(tries, &request, &outcome, &proxy);
        let Explained {
            attempts,
            error,
            error_attempt,
            origin,
            origin_check,
        } = self.explain(key, &request, &outcome, &proxy, attempts);
        self.counts.attempts.told += attempts.len() as u64;
        self.counts.requests.told += 1;
        let client = request.client();
        let OpenRequest { head, started, .. } = *request;
        let ended = outcome.ended.max(started);
        out.push(Event::Request(Arc::new(Request {
            proxy,
            client,
            cookie: key.cookie,
            index: key.index,
            head,
            started,
            ended,
            seconds: seconds(started, ended),
            code: outcome.code,
            complete: outcome.complete,
            client_left: outcome.client_gone.is_some(),
            error,
            error_attempt,
            origin,
            origin_check,
            attempts,
        })));
    }

    /// The verdicts on the attempts of a request that is over, in the order of their start. What they show
    /// of their upstreams is kept.
    #[expect(
        clippy::vec_box,
        reason = "an attempt comes here from its request: as a pointer"
    )]
    fn judge_tries(
        &mut self,
        mut tries: Vec<Box<Trial>>,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
    ) -> Vec<Arc<Attempt>> {
        tries.sort_by_key(|trial| (trial.started, trial.key));
        let last = tries.len().saturating_sub(1);
        let mut tells_health = Vec::new();
        let attempts: Vec<Arc<Attempt>> = tries
            .into_iter()
            .enumerate()
            .map(|(at, trial)| {
                let failure = self.failure_of(&trial, Some(outcome));
                self.keep_patience(&trial, failure);
                if failure.is_some() {
                    self.processes.went_wrong(proxy.tgid, trial.ended);
                }
                // What an application says through it is not read: it may be its own error.
                let unclear = failure.is_some_and(|one| one.cause == Cause::Unattributed);
                tells_health.push(!(trial.unread && unclear));
                let masked = masked(failure, outcome, at == last);
                trial.into_attempt(proxy.clone(), failure, masked)
            })
            .collect();
        let leaves_alone = self.processes.habits(Some(proxy.tgid)).leaves_alone;
        for (at, attempt) in attempts.iter().enumerate() {
            if tells_health[at] {
                let passed_over = leaves_alone && goes_on_after(attempt, &attempts[at + 1..]);
                self.remember(request.head.as_ref(), attempt, passed_over);
            }
        }
        attempts
    }

    /// Why a request got its error, if it did: for one of its attempts, or in spite of having none.
    fn explain(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
        mut attempts: Vec<Arc<Attempt>>,
    ) -> Explained {
        let decisive = decisive(&attempts, outcome, request.head.as_ref());
        let surety = decisive.map_or(Certainty::Guess, |(at, surety)| {
            let attempt = &attempts[at];
            let joined = attempt.join_certainty.unwrap_or(Certainty::Guess);
            let least = self.least_surety(request, outcome, attempt);
            surety.max(joined).max(least)
        });
        let at = decisive.map(|(at, _)| at);
        let (error, mut error_attempt) = error_of(request, outcome, &attempts, at, surety);
        let (error, origin, origin_check) = match error {
            Some(_) if attempts.is_empty() && request.open.is_empty() => {
                let found = self.unanswered(key, request, outcome, proxy);
                error_attempt = found.attempt.is_some().then_some(0);
                attempts.extend(found.attempt);
                (Some(found.failure), found.origin, found.check)
            }
            None if attempts.is_empty() && request.open.is_empty() => {
                attempts.extend(self.behind(key, request, outcome, proxy));
                (None, None, None)
            }
            Some(failure) if failure.cause == Cause::NoLiveUpstream => {
                // What was under way ended with the server.
                let instance = self.processes.instance(proxy.tgid);
                let attempt = error_attempt.and_then(|at| attempts.get(at));
                let check = attempt.and_then(|one| {
                    self.upstreams
                        .failed_before(instance, &one.upstream, one.ended)
                });
                let origin = check.as_ref().and_then(|check| check.failure);
                (error, origin, check)
            }
            error => (error, None, None),
        };
        Explained {
            attempts,
            error,
            error_attempt,
            origin,
            origin_check,
        }
    }

    /// Ends what was under way for a request that is over, where the end would come too late or never:
    ///
    /// * A proxy that closed on its client without an answer has given its attempt up. The end of that
    ///   connection may be minutes away, when the upstream takes no more bytes and the FIN has to wait
    ///   behind them.
    /// * Of a response whose head was too long to be read the end is not seen. A proxy that has passed
    ///   it on had what it wanted.
    fn give_up_open(&mut self, request: &mut OpenRequest, outcome: &Outcome) {
        if request.open.is_empty() {
            return;
        }
        let closed = matches!(
            request.end,
            Some((Some(End::LocalClose | End::LocalReset), _))
        );
        let unanswered = closed && outcome.code.is_none() && outcome.client_gone.is_none();
        let is_passed_on = |trial: &Trial| {
            let given = outcome.code.is_some() && trial.code() == outcome.code;
            given && trial.flags.head_cut() && trial.response_began()
        };
        for key in std::mem::take(&mut request.open) {
            let end = match self.exchanges.attempt(key) {
                Some(_) if unanswered => Some(End::LocalClose),
                Some(trial) if is_passed_on(trial) => Some(End::Superseded),
                _ => None,
            };
            let taken = end.and_then(|end| Some((end, self.exchanges.take_attempt(key)?)));
            let Some((end, mut trial)) = taken else {
                request.open.push(key);
                continue;
            };
            self.connections.mark_ended(key);
            trial.ended = outcome.ended;
            trial.finish(Finish::Exchange(end));
            request.tries.push(trial);
        }
    }

    /// Why the attempt failed, if it did. Among what is missing may be what tells it from a
    /// lookalike, such as the death of the upstream's process from its own close.
    fn failure_of(&self, trial: &Trial, request: Option<&Outcome>) -> Option<Failure> {
        let failure = judge(&Case { trial, request })?;
        let whole = self.losses.none_since(trial.started);
        let least = if whole {
            Certainty::Proof
        } else {
            Certainty::Strong
        };
        Some(Failure {
            certainty: failure.certainty.max(least),
            ..failure
        })
    }

    /// Keeps how an attempt went, for requests that will find no upstream to try.
    fn remember(&mut self, head: Option<&RequestHead>, attempt: &Attempt, passed_over: bool) {
        let instance = self.processes.instance(attempt.proxy.tgid);
        self.upstreams
            .attempt_is_over(instance, head, attempt, passed_over);
    }

    /// Tells an attempt by itself: its request is not known, or was told before.
    pub(super) fn tell_alone(&mut self, mut trial: Box<Trial>, out: &mut Vec<Event>) {
        let proxy = self.processes.proxy(trial.tgid);
        let Some(proxy) = proxy.filter(|_| !trial.speculative) else {
            self.counts.attempts.foreign += 1;
            if !trial.speculative {
                self.saw_foreign(trial.tgid, trial.key.cookie);
            }
            return;
        };
        self.look_around(&mut trial);
        let outcome = trial.outcome.take();
        let failure = self.failure_of(&trial, outcome.as_deref());
        self.keep_patience(&trial, failure);
        if failure.is_some() {
            self.processes.went_wrong(proxy.tgid, trial.ended);
        }
        if self.is_health_check(&trial) {
            self.tell_check(proxy, &trial, failure, out);
            return;
        }
        let masked = outcome
            .as_deref()
            .and_then(|outcome| masked(failure, outcome, true));
        self.counts.attempts.told += 1;
        if trial.parent.is_none() {
            self.counts.attempts_unmatched += 1;
            self.saw_unjoined(&trial);
        }
        let attempt = trial.into_attempt(proxy, failure, masked);
        self.remember(attempt.head.as_ref(), &attempt, false);
        out.push(Event::LoneAttempt(attempt));
    }

    /// An exchange on the connection `cookie` was of a process that is no proxy. Of a bystander's
    /// connections nothing is kept: it may have ten thousand that say no more.
    fn saw_foreign(&mut self, tgid: Option<u32>, cookie: u64) {
        let enough = self.limits.bystander_exchanges;
        if self.processes.saw_foreign(tgid, enough)
            && let Some(tgid) = tgid
        {
            self.bystanders.push(tgid);
        }
        if self.processes.is_bystander(tgid, enough) {
            self.connections.drop_idle(cookie);
        }
    }

    /// How sure it is that the last attempt known is the last there was. Proof when nothing is known
    /// to be missing, none is under way, the answer followed it at once, and the process made no
    /// other one since, for nobody knows whom.
    fn least_surety(&self, request: &OpenRequest, outcome: &Outcome, last: &Attempt) -> Certainty {
        // An application asks others for reasons of its own.
        let of_heads = last.witnesses.has_any(Witnesses::OF_HEADS);
        if self.processes.may_be_application(last.proxy.tgid) && !of_heads {
            return Certainty::Guess;
        }
        let complete = self.losses.none_since(request.started);
        let answered = outcome.answer_began.unwrap_or(outcome.ended);
        let prompt = answered.saturating_sub(last.ended) <= PROMPT;
        // One that was joined to no request may be the one that was answered for.
        let until = answered.saturating_add(timing::SLACK);
        let tgid = last.proxy.tgid;
        let since = last.ended..=until;
        let only_connected = last
            .failure
            .is_some_and(|failure| failure.phase == Phase::Connect);
        let mut others = self.exchanges.orphans().over(Some(tgid), since.clone());
        let mut has_sent = || others.any(|other| other.exchange.is_some());
        // Of attempts that may be another request's only the last is remembered.
        let latest = self.exchanges.unjoined().last_of(tgid);
        let may_have_sent = latest.is_some_and(|ended| ended >= last.ended);
        if only_connected && (may_have_sent || has_sent()) {
            // A connect that failed is tried again elsewhere, as a rule.
            return Certainty::Guess;
        }
        let has_other = || self.exchanges.has_unjoined(tgid, since);
        if complete && prompt && request.open.is_empty() && !has_other() {
            Certainty::Proof
        } else {
            Certainty::Strong
        }
    }
}

/// A thread that connects has read from a client last, and that may have been another's: a server of raw
/// TCP in the same process (nginx `stream`, Envoy's `tcp_proxy`) connects for a client of which it has read
/// nothing. A connect that failed for this request leads to something of it: at once to its error, or to its
/// next try, or to a later one at the same upstream. So the last try is looked at first.
fn doubt_connects(tries: &mut [Box<Trial>], outcome: &Outcome) {
    let answered = outcome.answer_began.unwrap_or(outcome.ended);
    let only_connects = |trial: &Trial| trial.exchange.is_none() && !trial.unread;
    let used = tries.iter().filter(|trial| !only_connects(trial));
    let mut sure: Vec<_> = used
        .map(|trial| (trial.started, trial.upstream.clone()))
        .collect();
    for trial in tries.iter_mut().rev().filter(|trial| only_connects(trial)) {
        let follows = |at: Nanos, within: Nanos| {
            let ended = trial.ended;
            at.saturating_add(timing::SLACK) >= ended && at.saturating_sub(ended) <= within
        };
        let leads_on = outcome.is_failed() && follows(answered, PROMPT)
            || sure.iter().any(|(started, upstream)| {
                // One that was under way already is no next try.
                let is_next = *started >= trial.ended && follows(*started, timing::AT_ONCE);
                is_next || *upstream == trial.upstream
            });
        if let Some(parent) = &mut trial.parent
            && parent.join == Join::Errand
            && !leads_on
        {
            parent.surety = Certainty::Guess;
        } else {
            sure.push((trial.started, trial.upstream.clone()));
        }
    }
}

/// Whether one of the attempts `since` began at another upstream when `attempt` was over.
fn goes_on_after(attempt: &Attempt, since: &[Arc<Attempt>]) -> bool {
    since.iter().any(|next| {
        let began = next.started.saturating_add(timing::SLACK);
        began >= attempt.ended && next.upstream != attempt.upstream
    })
}
