//! Exchanges that went well and were told in brief: counted, and not joined.
//!
//! In: one record for each. Out: a request without its attempts, or an attempt without its request, and what
//! the attempt says of its upstream. An exchange of which more is known, for somebody asked what is under
//! way, ends as any other. Which processes may be told of in this way is decided here too.

use std::sync::Arc;

use super::Core;
use crate::attempt::{Finish, Trial, seconds};
use crate::event::{Event, Request};
use crate::observation::{Exchange, Nanos, Side, Socket, What};
use crate::request::OpenRequest;
use crate::table::Key;
use crate::timing::SECOND;

/// So long nothing may have gone wrong at a process before it is told of in brief, ns. Shorter: it goes to
/// and fro where errors are frequent. Longer: it costs more than it need.
const QUIET: Nanos = SECOND;

/// So long a process may have done nothing of which more than its own record has to be known, ns: checked its
/// upstreams, say. Checks come every few seconds as a rule, and every few minutes at most.
const PLAIN: Nanos = 600 * SECOND;

impl Core {
    /// Proxies whose exchanges need not be told whole while they go well.
    pub fn may_be_told_in_brief(&self) -> impl Iterator<Item = u32> {
        let now = self.pace.now();
        self.processes
            .proxies_that_go_well(now.saturating_sub(QUIET), now.saturating_sub(PLAIN))
    }

    /// An exchange went well.
    pub(super) fn in_brief(&mut self, socket: &Socket, exchange: Exchange, out: &mut Vec<Event>) {
        let key = Key {
            cookie: socket.cookie,
            index: exchange.index,
        };
        let is_known = self.exchanges.requests().contains(key) || self.exchanges.has_attempt(key);
        if is_known {
            self.take_in_what(socket, What::End { exchange }, out);
            return;
        }
        self.make_room();
        let Some(connection) = self.connections.touch(socket) else {
            return;
        };
        if connection.ended.contains(key.index) {
            self.counts.repeated += 1;
            return;
        }
        let behind = connection.begin(key.index);
        match socket.side {
            Side::Client => self.request_in_brief(socket, exchange, out),
            Side::Upstream => self.attempt_in_brief(socket, exchange, out),
            Side::Unknown => {}
        }
        self.connections.mark_ended(key);
        if let Some(index) = behind.filter(|index| *index != key.index) {
            self.suspect_lost_end(socket.side, Key { index, ..key }, out);
        }
    }

    fn request_in_brief(&mut self, socket: &Socket, exchange: Exchange, out: &mut Vec<Event>) {
        self.saw_server(socket);
        self.counts.requests.begun += 1;
        let Some(proxy) = self.processes.proxy(socket.tgid) else {
            self.counts.requests.foreign += 1;
            return;
        };
        self.counts.requests.told += 1;
        let index = exchange.index;
        let mut request = OpenRequest::new(socket, socket.tgid, exchange.clone(), None);
        request.update(socket, exchange, None);
        let outcome = request.outcome();
        let ended = outcome.ended.max(request.started);
        out.push(Event::Request(Arc::new(Request {
            proxy,
            client: request.client(),
            cookie: socket.cookie,
            index,
            head: None,
            started: request.started,
            ended,
            seconds: seconds(request.started, ended),
            code: outcome.code,
            complete: outcome.complete,
            client_left: false,
            error: None,
            error_attempt: None,
            origin: None,
            origin_check: None,
            attempts: Vec::new(),
        })));
    }

    fn attempt_in_brief(&mut self, socket: &Socket, exchange: Exchange, out: &mut Vec<Event>) {
        self.tell_tcp(socket, out);
        let Some(connection) = self.connections.get(socket.cookie) else {
            return;
        };
        let end = exchange.end;
        let mut trial = Trial::of_exchange(socket, connection, exchange.clone(), None, false);
        trial.update(socket, exchange, None, None);
        trial.in_brief = true;
        if let Some(end) = end {
            trial.finish(Finish::Exchange(end));
        }
        self.counts.attempts.begun += 1;
        let Some(proxy) = self.processes.proxy(trial.tgid) else {
            self.counts.attempts.foreign += 1;
            return;
        };
        self.counts.attempts.told += 1;
        let instance = self.processes.instance(proxy.tgid);
        self.upstreams
            .saw_use(instance, &trial.upstream, None, trial.started);
        let attempt = trial.into_attempt(proxy, None, None);
        self.upstreams
            .attempt_is_over(instance, None, &attempt, false);
        out.push(Event::LoneAttempt(attempt));
    }
}
