//! Attempts on connections whose talk is not read: FastCGI, HTTP/2, what is inside TLS, all that goes
//! through a Unix socket.
//!
//! In: that such a connection was opened or used, and how that ended as far as TCP tells. Out: an
//! attempt of the request that has an error or a cut answer and misses one. Where it is not known
//! whose it was, that it ran is kept ([`crate::unread`]), so that nobody says that none did.

use super::Core;
use crate::attempt::{Finish, Trial};
use crate::cause::Certainty;
use crate::event::{Event, Join, Upstream};
use crate::observation::{End, Errand, Exchange, Nanos, Socket};
use crate::outcome::Outcome;
use crate::outgoing::Use;
use crate::parent::Parent;
use crate::request::OpenRequest;
use crate::table::Key;
use crate::timing::{AT_ONCE, SECOND, SLACK, YOUNG_US, is_late};
use crate::transport::{Connect, Transport};
use crate::unread::Used;
use crate::witness::Witnesses;

/// So long a proxy keeps a connection to an upstream: nginx `keepalive_time`, by default. Shorter: of one
/// that was there before the agent nobody knows that it is in use. Longer: the proxy's own answers are not
/// told for long after the agent has started.
const KEPT: Nanos = 3600 * SECOND;

/// A connection that has not spoken HTTP for this long after its handshake speaks something else.
const STILL_OPEN: Nanos = SECOND / 4;

impl Core {
    /// A connection whose talk is not read is used for another request, or its last use is over.
    pub(super) fn unread(&mut self, socket: &Socket, exchange: Exchange, out: &mut Vec<Event>) {
        self.processes.was_special(socket.tgid, socket.time);
        self.make_room();
        let began = exchange.request.get().unwrap_or(socket.time);
        let sure = self.processes.habits(socket.tgid).sends_at_once && socket.flags.own_errand();
        let owner = self.owner_of_use(socket.tgid, exchange.errand.filter(|_| sure), began);
        let Some(connection) = self.connections.touch(socket) else {
            return;
        };
        let Some(end) = exchange.end else {
            let index = exchange.index;
            let used = Use {
                owner,
                began,
                index,
            };
            let ended = exchange.idle_since.get().unwrap_or(began);
            if let Some(before) = self.connections.begin_use(socket.cookie, used) {
                self.was_used(socket.cookie, before, ended);
            }
            return;
        };
        if connection.ended.contains(exchange.index) {
            self.counts.repeated += 1;
            return;
        }
        connection.ended.insert(exchange.index);
        let mut trial = Box::new(Trial::of_exchange(
            socket, connection, exchange, None, false,
        ));
        trial.unread = true;
        self.connections.end_use(socket.cookie);
        self.over(trial, end, out);
    }

    /// A use of a connection ended because another began: the upstream answered it, and the request that it
    /// was for may have got an error of its. `ended` is when the last of that answer came.
    fn was_used(&mut self, cookie: u64, used: Use, ended: Nanos) {
        let Some(one) = self.connections.get(cookie) else {
            return;
        };
        let Some(tgid) = one.tgid else { return };
        let Some(owner) = used.owner else {
            let upstream = one.remote();
            self.unread.ran(tgid, upstream, used.began, ended);
            return;
        };
        let key = Key {
            cookie,
            index: used.index,
        };
        let times = (used.began, ended.max(used.began));
        let is_fresh = used.index == 0 && one.established.get().is_some();
        let mut trial = Trial::unread(key, tgid, one.remote(), one.local(), times, is_fresh);
        let Some(request) = self.exchanges.request(owner) else {
            return;
        };
        adopted(&mut trial, owner, request.started);
        self.counts.attempts.begun += 1;
        self.exchanges
            .edit(owner, |request| request.tries.push(Box::new(trial)));
    }

    fn over(&mut self, mut trial: Box<Trial>, end: End, out: &mut Vec<Event>) {
        if !self.exchanges.has_room_for_attempt() {
            return;
        }
        self.counts.attempts.begun += 1;
        trial.speculative = true;
        trial.finish(Finish::Exchange(end));
        self.join(&mut trial, false);
        self.keep_use(&trial);
        self.settle(trial, out);
    }

    /// A connect to a Unix socket succeeded. What is said on it, and when it ends, is not seen.
    pub(super) fn unix_connected(
        &mut self,
        socket: &Socket,
        upstream: Upstream,
        errand: Option<Errand>,
        out: &mut Vec<Event>,
    ) {
        self.processes.was_special(socket.tgid, socket.time);
        let Some(tgid) = socket
            .tgid
            .filter(|_| self.exchanges.has_room_for_attempt())
        else {
            return;
        };
        let mut trial = Box::new(Trial::of_connection(
            socket,
            Transport::of_connect(socket, Connect::UnixCall),
            upstream,
            errand,
            Finish::Unread,
        ));
        trial.unread = true;
        trial.speculative = true;
        self.join(&mut trial, false);
        let head = trial
            .parent
            .filter(|parent| parent.surety != Certainty::Guess)
            .and_then(|parent| self.exchanges.request(parent.key)?.head.as_ref());
        let route = head.map(|head| self.upstreams.routes().of(head));
        self.unread
            .connected(tgid, &trial.upstream, route, trial.ended);
        self.keep_use(&trial);
        if trial.parent.is_some() {
            self.counts.attempts.begun += 1;
            self.settle(trial, out);
        }
    }

    /// Keeps that it ran, when it is not known for sure for whom.
    fn keep_use(&mut self, trial: &Trial) {
        let sure = trial
            .parent
            .is_some_and(|parent| parent.surety != Certainty::Guess);
        if let Some(tgid) = trial.tgid.filter(|_| !sure) {
            let upstream = trial.upstream.clone();
            self.unread.ran(tgid, upstream, trial.started, trial.ended);
        }
    }

    /// The request for which a thread on this errand opened or used a connection at `at`; `None` where
    /// that may have been another.
    pub(super) fn owner_of_use(
        &self,
        tgid: Option<u32>,
        errand: Option<Errand>,
        at: Nanos,
    ) -> Option<Key> {
        let errand = errand.filter(|errand| errand.age_us <= YOUNG_US)?;
        let key = Key::of(errand);
        let request = self.exchanges.request(key)?;
        let same_process = request.tgid.is_none() || request.tgid == tgid;
        let open = request.is_open_at(at) || request.is_open_at(at.saturating_add(SLACK));
        (same_process && open).then_some(key)
    }

    /// A connection that was opened or used for this request is still open, so that more may be reported.
    pub(super) fn has_unread_under_way(&mut self, key: Key) -> bool {
        let tgid = self.exchanges.request(key).and_then(|request| request.tgid);
        tgid.is_some_and(|tgid| {
            let mut open = self.connections.used_for(tgid, key);
            open.next().is_some()
        })
    }

    /// Of the attempts whose talk was not read, leaves those that the request misses, and adds those
    /// that are not over. One that began before another that was read says nothing of the error: a
    /// proxy may ask a database first. But for a connect that is perhaps no attempt of this request.
    #[expect(
        clippy::vec_box,
        reason = "an attempt moves here from its request: as a pointer"
    )]
    pub(super) fn take_unread(
        &mut self,
        key: Key,
        request: &OpenRequest,
        outcome: &Outcome,
        tries: &mut Vec<Box<Trial>>,
    ) {
        let missed = misses_attempt(request, outcome);
        let is_doubtful = |trial: &Trial| {
            let surety = trial.parent.map(|parent| parent.surety);
            trial.exchange.is_none() && surety == Some(Certainty::Guess)
        };
        let read = tries
            .iter()
            .filter(|trial| !trial.unread && !is_doubtful(trial));
        let since = read.map(|trial| trial.started).max();
        let goes = |trial: &Trial| since.is_some_and(|since| trial.started < since);
        let dropped: Vec<_> = tries
            .extract_if(.., |trial| trial.unread && (!missed || goes(trial)))
            .collect();
        self.counts.attempts.foreign += dropped.len() as u64;
        if !missed {
            for trial in dropped {
                self.worked(request, outcome, &trial);
            }
            return;
        }
        let Some(tgid) = request.tgid else { return };
        let ended = outcome.ended.max(request.started);
        let open: Vec<Trial> = self
            .connections
            .used_for(tgid, key)
            .filter_map(|(cookie, used, one)| {
                let key = Key {
                    cookie,
                    index: used.index,
                };
                let (times, is_fresh) = ((used.began, ended), one.established.get().is_some());
                let trial = Trial::unread(key, tgid, one.remote(), one.local(), times, is_fresh);
                (!goes(&trial)).then_some(trial)
            })
            .collect();
        for mut trial in open {
            adopted(&mut trial, key, request.started);
            // Its end is not reported again.
            self.connections.mark_ended(trial.key);
            self.counts.attempts.begun += 1;
            tries.push(Box::new(trial));
        }
    }

    /// An attempt whose talk was not read, of a request that was answered well: its upstream is there.
    fn worked(&mut self, request: &OpenRequest, outcome: &Outcome, trial: &Trial) {
        let sure = trial
            .parent
            .is_some_and(|parent| parent.surety != Certainty::Guess);
        let answered = outcome.code.is_some_and(|code| code < 500);
        let Some(proxy) = self.processes.proxy(request.tgid) else {
            return;
        };
        if sure && answered {
            let instance = self.processes.instance(proxy.tgid);
            let head = request.head.as_ref();
            self.upstreams
                .unread_worked(instance, proxy.tgid, head, trial);
        }
    }

    /// What its process used while the request was open, of which it is not known for whom.
    pub(super) fn used_meanwhile(
        &self,
        tgid: u32,
        request: &OpenRequest,
        outcome: &Outcome,
    ) -> Used {
        let from = request.started.saturating_sub(SLACK);
        let to = outcome.ended.max(request.started).saturating_add(SLACK);
        let mut used = self.unread.between(tgid, from, to);
        let outgoing = self.connections.outgoing();
        outgoing.unowned(tgid, from, to, &mut used);
        used
    }

    /// What its process used, of which it is not known for whom, and that may be why the request failed:
    /// it was over then, or is not over yet and began with the request.
    pub(super) fn may_have_failed_for(&self, tgid: u32, request: &OpenRequest) -> Used {
        let outcome = request.outcome();
        let failed = outcome.failed_at().unwrap_or(outcome.ended);
        let began = request.started.saturating_sub(SLACK);
        let over = failed.saturating_sub(AT_ONCE).max(began);
        let mut used = self
            .unread
            .between(tgid, over, failed.saturating_add(SLACK));
        let soon = request.started.saturating_add(AT_ONCE);
        let outgoing = self.connections.outgoing();
        outgoing.unowned(tgid, began, soon, &mut used);
        used
    }

    /// Its process began to use a connection that is not read while the request was open, for nobody knows
    /// whom, and is not seen to be done with it.
    pub(super) fn may_use_another(&self, tgid: u32, request: &OpenRequest) -> bool {
        let outcome = request.outcome();
        let failed = outcome.failed_at().unwrap_or(outcome.ended);
        let mut used = Used::Nothing;
        let outgoing = self.connections.outgoing();
        outgoing.unowned(tgid, request.started, failed, &mut used);
        !used.is_nothing()
    }

    /// What its process has open that it may have used for the request without a trace. A proxy that
    /// sends when it has read leaves one, unless a timer of its own acted (nginx's limit_req): but then
    /// the answer comes late.
    pub(super) fn may_have_used(
        &mut self,
        tgid: u32,
        request: &OpenRequest,
        outcome: &Outcome,
    ) -> Used {
        let habits = self.processes.habits(Some(tgid));
        let answered = outcome.answer_began.unwrap_or(outcome.ended);
        let late = is_late(request.started, answered);
        let head = request.head.as_ref();
        let route = head
            .filter(|_| habits.connects_at_once && !late)
            .map(|head| self.upstreams.routes().of(head));
        let mut used = self.unread.kept(tgid, route);
        // What it reads there may be the answer of an upstream.
        let since = self.pace.before(KEPT);
        let from_before = self.processes.read_from_before(tgid);
        if from_before.is_some_and(|at| at >= since) {
            used = Used::Some;
        }
        if !habits.sends_at_once || late {
            let settled = self.pace.before(STILL_OPEN);
            let mut open = Used::Nothing;
            let outgoing = self.connections.outgoing();
            outgoing.open_since(tgid, settled, &mut open);
            // That a connection was open names no upstream, unless requests of this route go there.
            let instance = self.processes.instance(tgid);
            let goes_there = |upstream: &Upstream| {
                head.is_some_and(|head| self.upstreams.routes().goes_to(instance, head, upstream))
            };
            match open {
                Used::Nothing => {}
                Used::Only(upstream) if goes_there(&upstream) => used.add(&upstream),
                Used::Only(_) | Used::Some => used = Used::Some,
            }
        }
        used
    }
}

/// The attempt becomes one of the request `key`, which began at `started`: a thread that worked for that used
/// the connection.
fn adopted(trial: &mut Trial, key: Key, started: Nanos) {
    let parent = Parent {
        key,
        join: Join::Errand,
        surety: Certainty::Strong,
        witnesses: Witnesses::ERRAND,
        forwarding: false,
    };
    trial.adopt(parent, started);
}

/// The client got an error, or not the whole of its answer, and waited for it.
pub(super) fn misses_attempt(request: &OpenRequest, outcome: &Outcome) -> bool {
    match outcome.code {
        Some(500..) => true,
        Some(_) => {
            let seen = matches!(request.end, Some((Some(end), _)) if end != End::Superseded);
            seen && !outcome.complete && outcome.client_gone.is_none()
        }
        None => outcome.client_gone.is_none() && request.was_asked(),
    }
}
