//! How health checks are distinguished from attempts to answer a request.
//!
//! In: attempts that no request is known for. Out: those that are checks, told as such. A thread that
//! acts for a client has just read from it, whether that can be read or not; a check is made by a
//! timer.

use std::sync::Arc;

use super::Core;
use crate::attempt::{Asked, Trial, seconds};
use crate::cause::Cause;
use crate::checks::{Name, TRIED_AGAIN_WITHIN};
use crate::connection::Connection;
use crate::event::{Check, Event, Failure, Proxy, Upstream};
use crate::observation::{Nanos, RequestHead};
use crate::request::OpenRequest;
use crate::table::Key;
use crate::timing::{AT_HAND_US, YOUNG_US};

impl Core {
    /// Whether a client asked for what `trial` began, of which no request is known; `began_now` if
    /// every request is known that waited for an upstream then.
    pub(super) fn who_asked(&self, trial: &Trial, began_now: bool) -> Asked {
        let Some(tgid) = trial.tgid.filter(|_| !trial.unread) else {
            return Asked::Perhaps;
        };
        if self.is_of_unread_client(trial) {
            return Asked::Perhaps;
        }
        let young = trial.errand.filter(|errand| errand.age_us <= YOUNG_US);
        let by_timer = self.processes.habits(Some(tgid)).checks_by_timer;
        if self
            .exchanges
            .has_waiting(Some(tgid), trial.started, None, &self.processes)
            || self.may_be_pipelined(trial)
        {
            let name = self.name_of(tgid, &trial.upstream, trial.head.as_ref());
            let is_known = self.upstreams.checks().is_known(name, trial.started);
            // A request with the line of a check would have been joined by that. A connect has no line.
            // What fails its checks gets no requests, so that it does not matter what its thread read.
            let goes_on_failing = || {
                self.upstreams.checks().goes_on_failing(name, trial.started)
                    && !self.has_requests(tgid, &trial.upstream)
            };
            let is_only_checked = || self.is_only_checked(tgid, trial) || goes_on_failing();
            let is_its = trial.head.is_some()
                || young.is_none() && self.upstreams.checks().is_next(name, trial.started)
                || is_only_checked() && !self.is_tried(tgid, trial);
            return if is_known && is_its {
                Asked::Unlikely
            } else if by_timer && trial.head.is_none() && young.is_none() {
                Asked::Beside
            } else {
                Asked::Perhaps
            };
        }
        // Of a client that is not read the first try may be unknown too.
        let is_connect = trial.exchange.is_none();
        let may_be_retry = self.may_be_retry(tgid, trial.started)
            || (is_connect && self.processes.has_unread_clients(tgid));
        if began_now && by_timer && young.is_none() && !may_be_retry {
            Asked::No
        } else {
            Asked::Unlikely
        }
    }

    /// The thread that made the attempt had just read from a client of which no request is known: one
    /// that is not read.
    pub(super) fn is_of_unread_client(&self, trial: &Trial) -> bool {
        let young = trial.errand.filter(|errand| errand.age_us <= YOUNG_US);
        young.is_some_and(|errand| {
            let key = Key::of(errand);
            !self.is_of_read_client(key)
        })
    }

    /// The client of that request is read: the request is known, or over, or the one before it is. What
    /// a thread read behind that one is the end of the connection. Go's threads keep both in mind while
    /// they run checks.
    fn is_of_read_client(&self, key: Key) -> bool {
        let before = key.index.checked_sub(1).map(|index| Key { index, ..key });
        [Some(key), before]
            .into_iter()
            .flatten()
            .any(|key| self.exchanges.requests().contains(key) || self.connections.has_ended(key))
    }

    /// Its thread has just read from a client that pipelines: a request may wait that shows by its
    /// answer only, or by the end of its connection.
    pub(super) fn may_be_pipelined(&self, trial: &Trial) -> bool {
        let young = trial.errand.filter(|errand| errand.age_us <= YOUNG_US);
        let connection = young.and_then(|errand| self.connections.get(errand.cookie.get()));
        connection.is_some_and(Connection::is_pipelined)
    }

    /// An attempt of the process failed just before, and it was perhaps a client's that is not read.
    fn may_be_retry(&self, tgid: u32, at: Nanos) -> bool {
        let alone = self.exchanges.unjoined().last_of(tgid);
        let since = at.saturating_sub(TRIED_AGAIN_WITHIN);
        let mut orphans = self
            .exchanges
            .orphans()
            .over(Some(tgid), since..=Nanos::MAX);
        alone.is_some_and(|alone| alone.abs_diff(at) <= TRIED_AGAIN_WITHIN)
            || orphans.any(|trial| trial.asked != Asked::No)
    }

    /// Whether the attempt is a check.
    pub(super) fn is_health_check(&mut self, trial: &Trial) -> bool {
        let (Some(tgid), None) = (trial.tgid, trial.parent) else {
            return false;
        };
        let may_be_tries = self.processes.has_unread_clients(tgid);
        let instance = self.processes.instance(tgid);
        self.upstreams.is_check(instance, trial, may_be_tries)
    }

    /// A request that waits has tried that upstream before: a proxy tries again by a timer as well.
    fn is_tried(&self, tgid: u32, trial: &Trial) -> bool {
        let mut waiting = self
            .exchanges
            .waiting_at(tgid, trial.started, &self.processes);
        waiting.any(|(_, request)| {
            let mut tries = request.tries.iter();
            tries.any(|earlier| earlier.upstream == trial.upstream)
        })
    }

    /// No request is known to have gone to its upstream, its thread has not read from a client just now, and
    /// it is no repetition: at a proxy that checks by a timer, it may be the first of its checks.
    pub(super) fn may_be_first_check(&self, trial: &Trial, request: &OpenRequest) -> bool {
        let by_timer = self.processes.habits(trial.tgid).checks_by_timer;
        let is_first = trial.exchange.is_none() && request.tries.is_empty();
        let only_checked = |tgid| self.is_only_checked(tgid, trial);
        by_timer && is_first && trial.tgid.is_some_and(only_checked)
    }

    /// Its upstream was never used for a request, and its thread has not read from a client just now: what
    /// is known for checks there is one, in whatever rhythm (HAProxy: `inter`, then `downinter`).
    fn is_only_checked(&self, tgid: u32, trial: &Trial) -> bool {
        let at_hand = trial
            .errand
            .is_some_and(|errand| errand.age_us <= AT_HAND_US);
        !at_hand && !self.has_requests(tgid, &trial.upstream)
    }

    fn has_requests(&self, tgid: u32, upstream: &Upstream) -> bool {
        let instance = self.processes.instance(tgid);
        self.upstreams.routes().has_requests(instance, upstream)
    }

    /// Whether the attempt is one of a series of checks, so that no request has to be waited for.
    pub(super) fn is_known_check(&self, trial: &Trial) -> bool {
        let instance = self.instance_of(trial);
        instance.is_some_and(|instance| self.upstreams.is_known_check(instance, trial))
    }

    /// A check is over. It passed with a status below 400, whether or not the proxy read the rest of
    /// the answer.
    pub(super) fn tell_check(
        &mut self,
        proxy: Proxy,
        trial: &Trial,
        failure: Option<Failure>,
        out: &mut Vec<Event>,
    ) {
        let code = trial.code();
        let failure = match code {
            Some(..400) => None,
            Some(_) => Some(Cause::UpstreamStatus),
            None => failure.map(|failure| failure.cause),
        };
        let check = Check {
            proxy,
            upstream: trial.upstream.clone(),
            cookie: trial.key.cookie,
            index: trial.key.index,
            method: trial.head.as_ref().map(|head| head.method.clone()),
            path: trial.head.as_ref().map(|head| head.path.clone()),
            code,
            failure,
            ended: trial.ended,
            seconds: seconds(trial.started, trial.ended),
        };
        self.counts.attempts.checks += 1;
        self.take_check(check, out);
    }

    /// A connection was opened at `started` and closed unused at `ended`, by this end: that is how a
    /// check goes that only connects.
    pub(super) fn closed_as_check(
        &mut self,
        tgid: u32,
        cookie: u64,
        upstream: Upstream,
        (started, ended): (Nanos, Nanos),
        out: &mut Vec<Event>,
    ) {
        let Some(proxy) = self.processes.proxy(Some(tgid)) else {
            return;
        };
        let instance = self.processes.instance(tgid);
        if self
            .upstreams
            .is_connect_check(instance, &upstream, started)
        {
            let check = Check {
                proxy,
                upstream,
                cookie,
                index: 0,
                method: None,
                path: None,
                code: None,
                failure: None,
                ended,
                seconds: seconds(started, ended),
            };
            self.take_check(check, out);
        }
    }

    fn take_check(&mut self, check: Check, out: &mut Vec<Event>) {
        let check = Arc::new(check);
        let instance = self.processes.instance(check.proxy.tgid);
        self.processes
            .was_special(Some(check.proxy.tgid), check.ended);
        self.upstreams.check_is_over(instance, &check);
        out.push(Event::Check(check));
    }

    fn name_of(&self, tgid: u32, upstream: &Upstream, head: Option<&RequestHead>) -> Name {
        Name::of(self.processes.instance(tgid), upstream, head)
    }
}
