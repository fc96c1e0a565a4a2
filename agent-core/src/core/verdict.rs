//! How attempts and requests come to their verdict, and are told.
//!
//! An attempt that is over waits for the end of its request, since what the client did and
//! got is part of the evidence; a request that is over waits for its attempts, since
//! HAProxy answers before it closes upstream (nginx and Envoy do it the other way round).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::attempt::{Finish, Trial, seconds};
use crate::cause::rules::{Case, judge};
use crate::cause::{Cause, Certainty, How};
use crate::event::{Attempt, Check, Event, Failure, Join, Proxy, Request, Upstream};
use crate::join::{self, AT_ONCE, Parent, SLACK};
use crate::lookups::Lookup;
use crate::network;
use crate::observation::{End, Nanos, Phase, RequestHead};
use crate::proxies::Habits;
use crate::request::{OpenRequest, Outcome};
use crate::routes::{self, Fare, Moment};
use crate::table::Key;
use crate::unread::Used;

/// A proxy that answers later than this after its last known attempt may have made another
/// one that was not seen, ns.
const PROMPT: Nanos = 100_000_000;

/// A reset arrives within this time after it was sent on the same host, ns.
const RESET_UNDER_WAY: Nanos = 1_000_000_000;

const UNATTRIBUTED: Failure = Failure {
    cause: Cause::Unattributed,
    certainty: Certainty::Guess,
    phase: Phase::Request,
    how: How::None,
};

/// What is known of a request's error for which no attempt is known.
enum Without {
    /// Why, for which failure its upstreams had been given up before, and by which check that was seen.
    Judged(Failure, Option<Cause>, Option<Arc<Check>>),
    /// It is not known; what may have been used for it, if anything.
    Unread(Used),
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
        if !self.requests.contains(parent.key) {
            // Its request was forgotten.
            trial.parent = None;
            self.without_request(trial, out);
            return;
        }
        let most = self.limits.attempts_per_request.max(1);
        let crowded_out = self.requests.edit(parent.key, |request| {
            request.open.retain(|open| *open != trial.key);
            // The last attempts are those that explain the answer.
            let crowded_out = (request.tries.len() >= most).then(|| request.tries.remove(0));
            request.tries.reserve_exact(1);
            request.tries.push(trial);
            crowded_out
        });
        let crowded_out = crowded_out.flatten();
        self.held += 1;
        if let Some(oldest) = crowded_out {
            self.held -= 1;
            self.counts.attempts_crowded_out += 1;
            self.tell_alone(oldest, out);
        }
        self.resolve_if_ready(parent.key, out);
    }

    /// A success needs no request to be judged; a failure waits for one to turn up, since
    /// records of two CPUs may come in the wrong order.
    fn without_request(&mut self, mut trial: Box<Trial>, out: &mut Vec<Event>) {
        let unasked = self.look_for_check(trial.tgid, &trial.upstream, trial.started, trial.ended);
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
        self.held += 1;
        self.wait_for_request(trial, out);
    }

    pub(super) fn request_ended(&mut self, key: Key, out: &mut Vec<Event>) {
        if self.resolve_if_ready(key, out) {
            return;
        }
        self.take_back_lent(key, out);
        if let Some(oldest) = self.waiting.push(self.clock, key) {
            self.resolve(oldest, out);
        }
    }

    /// Resolves the request when it is over and nothing more can be expected: no attempt
    /// is under way, and an error has an attempt that failed.
    pub(super) fn resolve_if_ready(&mut self, key: Key, out: &mut Vec<Event>) -> bool {
        let Some(request) = self.requests.get(key) else {
            return false;
        };
        if request.end.is_none() || !request.open.is_empty() {
            return false;
        }
        let outcome = request.outcome();
        let answered = !outcome.is_failed();
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
        if !answered
            && (!explained || join::lacks_last_try(request) || self.has_unread_under_way(key))
        {
            return false;
        }
        self.resolve(key, out);
        true
    }

    /// The verdict on a request that is over, and on its attempts.
    pub(super) fn resolve(&mut self, key: Key, out: &mut Vec<Event>) {
        let Some(mut request) = self.requests.remove(key) else {
            return;
        };
        let outcome = request.outcome();
        self.give_up_open(&mut request, &outcome);
        for open in &request.open {
            if let Some(trial) = self.attempts.get_mut(*open) {
                trial.outcome = Some(Box::new(outcome));
            }
        }
        let mut tries = std::mem::take(&mut request.tries);
        // Whose request it is was not known when they were joined: it is by now.
        let strangers: Vec<_> = tries
            .extract_if(.., |trial| {
                trial.tgid.is_some() && trial.tgid != request.tgid
            })
            .collect();
        self.held -= strangers.len();
        for mut stranger in strangers {
            stranger.parent = None;
            self.tell_alone(stranger, out);
        }
        self.take_unread(key, &request, &outcome, &mut tries);
        for trial in &mut tries {
            self.ask_peer(trial);
        }
        self.held -= tries.len();
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
            self.processes.saw_forwarding(tgid);
        }
        let Some(proxy) = self.processes.proxy(request.tgid) else {
            self.saw_foreign(request.tgid, key.cookie);
            self.counts.requests.foreign += 1;
            self.counts.attempts.foreign += tries.len() as u64;
            return;
        };
        tries.sort_by_key(|trial| (trial.started, trial.key));
        let last = tries.len().saturating_sub(1);
        let mut tells_health = Vec::new();
        let mut attempts: Vec<Arc<Attempt>> = tries
            .into_iter()
            .enumerate()
            .map(|(at, trial)| {
                let failure = self.failure_of(&trial, Some(&outcome));
                // What an application says through it is not read: it may be its own error.
                let unclear = failure.is_some_and(|one| one.cause == Cause::Unattributed);
                tells_health.push(!(trial.unread && unclear));
                let masked = masked(failure, &outcome, at == last);
                trial.into_attempt(proxy.clone(), failure, masked)
            })
            .collect();
        for (attempt, _) in attempts
            .iter()
            .zip(tells_health)
            .filter(|(_, tells)| *tells)
        {
            self.remember(request.head.as_ref(), attempt);
        }
        let decisive = decisive(&attempts, &outcome);
        let surety = decisive.map_or(Certainty::Guess, |(at, surety)| {
            let attempt = &attempts[at];
            let joined = attempt.join_certainty.unwrap_or(Certainty::Guess);
            let least = self.least_surety(&request, &outcome, attempt);
            surety.max(joined).max(least)
        });
        let at = decisive.map(|(at, _)| at);
        let (error, mut error_attempt) = error_of(&request, &outcome, &attempts, at, surety);
        let (error, origin, origin_check) = match error {
            Some(_) if attempts.is_empty() && request.open.is_empty() => {
                match self.without_attempt(key, &request, &outcome, &proxy) {
                    Without::Judged(failure, origin, check) => (Some(failure), origin, check),
                    Without::Unread(used) => {
                        if let Used::Only(upstream) = used {
                            let attempt = self.guessed(key, &request, &outcome, &proxy, upstream);
                            attempts.push(attempt);
                            error_attempt = Some(0);
                        }
                        (Some(UNATTRIBUTED), None, None)
                    }
                }
            }
            error => (error, None, None),
        };
        self.counts.attempts.told += attempts.len() as u64;
        self.counts.requests.told += 1;
        out.extend(attempts.iter().cloned().map(Event::Attempt));
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

    /// A proxy that closed on its client without an answer has given up what it had under way for it:
    /// the end of that connection may be minutes away, when the upstream takes no more bytes and the
    /// FIN has to wait behind them.
    fn give_up_open(&mut self, request: &mut OpenRequest, outcome: &Outcome) {
        let closed = matches!(
            request.end,
            Some((Some(End::LocalClose | End::LocalReset), _))
        );
        if !closed || outcome.code.is_some() || outcome.client_gone.is_some() {
            return;
        }
        for key in std::mem::take(&mut request.open) {
            let Some(mut trial) = self.attempts.remove(key) else {
                continue;
            };
            self.connections.mark_ended(key);
            trial.ended = outcome.ended;
            trial.finish(Finish::Exchange(End::LocalClose));
            self.held += 1;
            request.tries.push(trial);
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
        let unjoined = self.unjoined.get(&tgid).is_some_and(|at| *at >= from);
        let head = request.head.as_ref();
        // Where joins are doubtful, so is that there was no attempt.
        let Habits {
            fail_window: window,
            connects_at_once: acts_at_once,
            sends_at_once: _,
            none_left_code,
            keeps_last,
            checks_by_timer: _,
        } = self.processes.habits(Some(tgid));
        let instance = self.processes.instance(tgid);
        let used = self.used_meanwhile(tgid, request, outcome);
        let may_have_used = self.may_have_used(tgid, request, outcome);
        let moment = Moment {
            at: outcome.answer_began.unwrap_or(to).max(from),
            window,
        };
        let fare = self.routes.fare(instance, head, tgid, moment);
        // Where the route is not known, a name that a request of it asked for is a nearer witness
        // than servers of other routes, if it is known who asked.
        let nameless = match &fare {
            Fare::Unknown => true,
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
                let seen = gives_up && acts_at_once && (several || !keeps_last);
                let strong = none_left_code.is_some() && (by_checks || seen && !unjoined);
                let sure = if strong {
                    Certainty::Strong
                } else {
                    Certainty::Guess
                };
                down(sure, origin, check)
            }
            Fare::ProxyAllDown(origin, check) if by_code => down(Certainty::Guess, origin, check),
            _ if unjoined => Without::Unread(Used::Nothing),
            _ if !may_have_used.is_nothing() => Without::Unread(may_have_used),
            Fare::Healthy if acts_at_once => failure(Cause::ProxyGenerated, Certainty::Strong),
            Fare::AllDown { .. }
            | Fare::ProxyAllDown(..)
            | Fare::Healthy
            | Fare::SomeDown
            | Fare::Unknown => failure(Cause::ProxyGenerated, Certainty::Guess),
        }
    }

    /// The attempt at the only upstream that was used then by nobody knows whom.
    fn guessed(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        proxy: &Proxy,
        upstream: Upstream,
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
            forwarding: false,
        };
        trial.adopt(parent, from);
        self.counts.attempts.begun += 1;
        trial.into_attempt(proxy.clone(), Some(UNATTRIBUTED), Some(false))
    }

    /// What the upstream's own socket told, where that is on this host: whether its process was
    /// killed under the attempt, and why it sent a reset.
    fn ask_peer(&self, trial: &mut Trial) {
        if let Upstream::Inet(remote) = trial.upstream
            && let network = self.processes.network(trial.tgid)
            && let Some(ends) = network::ends(network, remote, trial.local())
        {
            let at = trial.ended;
            trial.killed_by = self.deaths.of_server(ends, at);
            // The kernel tells of a reset when it has sent it: over the loopback, that has arrived.
            let at = at.saturating_add(SLACK);
            trial.reset_reason = self
                .resets
                .get(ends, at, RESET_UNDER_WAY)
                .filter(|_| trial.flags.peer_reset());
        }
    }

    /// Why the attempt failed, if it did. Among what is missing may be what tells it from a
    /// lookalike, such as the death of the upstream's process from its own close.
    fn failure_of(&self, trial: &Trial, request: Option<&Outcome>) -> Option<Failure> {
        let failure = judge(&Case { trial, request })?;
        let whole = self.lost_at.is_none_or(|lost| lost < trial.started);
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
    fn remember(&mut self, head: Option<&RequestHead>, attempt: &Attempt) {
        let Attempt {
            proxy,
            upstream,
            join,
            started,
            ended,
            failure,
            ..
        } = attempt;
        let outcome = routes::Outcome {
            // What no request asked for may be a health check.
            used: (*join != Join::None).then_some(*started),
            ended: *ended,
            failure: failure.map(|failure| failure.cause),
            check: None,
            instance: self.processes.instance(proxy.tgid),
            tgid: proxy.tgid,
        };
        self.routes.record(head, upstream, outcome);
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
        self.ask_peer(&mut trial);
        let outcome = trial.outcome.take();
        let failure = self.failure_of(&trial, outcome.as_deref());
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
        self.remember(attempt.head.as_ref(), &attempt);
        out.push(Event::Attempt(attempt));
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

    /// The attempt `key` is no longer under way and will not come to its request.
    pub(super) fn no_longer_open(&mut self, request: Key, key: Key) {
        self.requests
            .edit(request, |request| request.open.retain(|open| *open != key));
    }

    /// How sure it is that the last attempt known is the last there was. Proof when nothing is known
    /// to be missing, none is under way, the answer followed it at once, and the process made no
    /// other one since, for nobody knows whom.
    fn least_surety(&self, request: &OpenRequest, outcome: &Outcome, last: &Attempt) -> Certainty {
        let complete = self.lost_at.is_none_or(|lost| lost < request.started);
        let answered = outcome.answer_began.unwrap_or(outcome.ended);
        let prompt = answered.saturating_sub(last.ended) <= PROMPT;
        if complete && prompt && request.open.is_empty() && !self.has_unjoined(last, answered) {
            Certainty::Proof
        } else {
            Certainty::Strong
        }
    }
}

/// Whether the process answered 5xx after an attempt of its own had failed: it acts as a proxy then,
/// whatever it is, and whatever the upstream speaks. An attempt that may be another request's does
/// not count.
fn answers_for_upstream(tries: &[Box<Trial>], outcome: &Outcome) -> bool {
    outcome.code.is_some_and(|code| code >= 500)
        && tries.iter().any(|trial| {
            let surely_its_own = trial
                .parent
                .is_some_and(|parent| parent.surety < Certainty::Guess);
            let request = Some(outcome);
            surely_its_own && judge(&Case { trial, request }).is_some()
        })
}

/// Whether the request was rescued from this failure. A body that broke off under the last
/// attempt was not: the client has its status, and a cut body.
fn masked(failure: Option<Failure>, outcome: &Outcome, is_last: bool) -> Option<bool> {
    let failure = failure?;
    let answered = outcome.code.is_some_and(|code| code < 500);
    let reached_client = is_last && failure.phase == Phase::Body;
    Some(answered && !reached_client && failure.cause != Cause::ClientAbort)
}

/// The attempt that the answer was given for, and the most that can be said of that: of those that
/// were answered or over by then, the last to be so. Of attempts side by side (a mirrored request, a
/// hedged one) it is that whose status was passed on.
fn decisive(attempts: &[Arc<Attempt>], outcome: &Outcome) -> Option<(usize, Certainty)> {
    let by = outcome.answer_began.unwrap_or(outcome.ended);
    let by = by.saturating_add(AT_ONCE);
    let known = |attempt: &Attempt| match attempt.header_seconds {
        Some(seconds) => attempt
            .started
            .saturating_add(Duration::from_secs_f64(seconds).as_nanos() as Nanos),
        None => attempt.ended,
    };
    let all = attempts.iter().enumerate();
    let (last, _) = all
        .filter(|(_, attempt)| known(attempt) <= by)
        .max_by_key(|(at, attempt)| (known(attempt), *at))
        .or(attempts.iter().enumerate().next_back())?;
    let (started, ended) = (attempts[last].started, known(&attempts[last]));
    let side_by_side: Vec<usize> = (0..attempts.len())
        .filter(|at| {
            let other = &attempts[*at];
            let common = ended
                .min(known(other))
                .saturating_sub(started.max(other.started));
            *at != last && common > SLACK
        })
        .collect();
    if side_by_side.is_empty() {
        return Some((last, Certainty::Proof));
    }
    let cause = |at: usize| attempts[at].failure.map(|failure| failure.cause);
    let passed_on = |at: &usize| {
        outcome.code.is_some_and(|code| code >= 500) && attempts[*at].code == outcome.code
    };
    let mut candidates = side_by_side
        .iter()
        .chain([&last])
        .filter(|at| passed_on(at));
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => Some((*only, Certainty::Strong)),
        _ if side_by_side.iter().all(|at| cause(*at) == cause(last)) => {
            Some((last, Certainty::Strong))
        }
        _ => Some((last, Certainty::Guess)),
    }
}

/// Why the client got 500 or more, or no answer: the cause of the attempt `at`, where that explains
/// it. `surety` is the most that can be said of it being the one that was answered for.
fn error_of(
    request: &OpenRequest,
    outcome: &Outcome,
    attempts: &[Arc<Attempt>],
    at: Option<usize>,
    surety: Certainty,
) -> (Option<Failure>, Option<usize>) {
    let is_error = match outcome.code {
        Some(code) => code >= 500,
        None => outcome.client_gone.is_none() && (request.was_asked() || !attempts.is_empty()),
    };
    if !is_error {
        return (None, None);
    }
    // An attempt that is still under way began after those that are over.
    let last = at.and_then(|at| attempts.get(at));
    let Some(last) = last.filter(|_| request.open.is_empty()) else {
        return (Some(UNATTRIBUTED), None);
    };
    let Some(failure) = last.failure else {
        // It succeeded: the error is the proxy's own, or of an attempt that was not seen.
        return (
            Some(Failure {
                phase: Phase::Body,
                ..UNATTRIBUTED
            }),
            at,
        );
    };
    let same_status = failure.cause != Cause::UpstreamStatus || last.code == outcome.code;
    let certainty = if same_status {
        failure.certainty.max(surety)
    } else {
        failure.certainty.max(surety).max(Certainty::Strong)
    };
    (
        Some(Failure {
            certainty,
            ..failure
        }),
        at,
    )
}
