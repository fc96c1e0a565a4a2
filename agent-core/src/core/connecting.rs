//! What is told of opening a connection: established, refused, given up, TLS agreed on or not.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use smol_str::SmolStr;

use super::Core;
use crate::attempt::{FailedHandshake, Finish, Trial, errand_at_start, seconds};
use crate::event::{ConnectDone, ConnectResult, Event, ServerName, TlsDone, Upstream};
use crate::observation::{ConnectOutcome, End, Errand, Nanos, Seen, Socket, TlsHandshake};
use crate::outgoing::Use;
use crate::table::Key;
use crate::timing::SECOND;
use crate::transport::{Connect, NotConnected, Transport, ended_unused, given_up, is_under_way};

/// A proxy that refuses what the upstream said of itself in the handshake closes within this time
/// after its own Finished, ns.
const TLS_VERDICT: Nanos = SECOND / 10;

impl Core {
    /// An active open was decided.
    pub(super) fn connect(
        &mut self,
        socket: &Socket,
        outcome: ConnectOutcome,
        errand: Option<Errand>,
        listener_silent: bool,
        out: &mut Vec<Event>,
    ) {
        let (socket, outcome) = &given_up(socket, outcome);
        let outcome = *outcome;
        if outcome == ConnectOutcome::Established {
            self.make_room();
            let Some(connection) = self.connections.touch(socket) else {
                return;
            };
            if std::mem::replace(&mut connection.connect_told, true) {
                self.counts.repeated += 1;
                return;
            }
            let started = socket.opened.unwrap_or(socket.time);
            connection.established = Seen::told(socket.time);
            connection.connect_errand =
                errand.map(|errand| errand_at_start(errand, started, socket.time));
            let tgid = connection.tgid;
            let sure = self.processes.habits(tgid).connects_at_once;
            let errand = connection.connect_errand.filter(|_| sure);
            let owner = self.owner_of_use(tgid, errand, started);
            let used = Use {
                owner,
                began: started,
                index: 0,
            };
            self.connections.begin_use(socket.cookie, used);
        } else if !self.is_first_failure(socket.cookie) {
            self.counts.repeated += 1;
            return;
        }
        let upstream = Upstream::Inet(socket.remote);
        let connect = Connect::Handshake {
            outcome,
            listener_silent,
        };
        self.tell_connect(socket, upstream.clone(), connect, out);
        if outcome != ConnectOutcome::Established {
            self.connect_failed(socket, upstream, errand, connect, out);
        }
    }

    /// `connect(2)` returned at once. There may be no socket cookie to know it by.
    pub(super) fn connect_call(
        &mut self,
        socket: &Socket,
        upstream: Upstream,
        errand: Option<Errand>,
        connect: Connect,
        out: &mut Vec<Event>,
    ) {
        if is_under_way(socket) {
            return;
        }
        let name = if socket.cookie == 0 {
            nameless(socket, &upstream)
        } else {
            socket.cookie
        };
        if !self.is_first_failure(name) {
            self.counts.repeated += 1;
            return;
        }
        self.tell_connect(socket, upstream.clone(), connect, out);
        if socket.errno.is_some() {
            self.connect_failed(socket, upstream, errand, connect, out);
        } else if connect == Connect::UnixCall {
            self.unix_connected(socket, upstream, errand, out);
        }
    }

    /// A ClientHello left.
    pub(super) fn hello(&mut self, socket: &Socket, server_name: Option<SmolStr>) {
        let name = server_name.map_or(ServerName::Absent, ServerName::Sent);
        self.hellos.insert(socket.cookie, name);
    }

    /// A TLS handshake was decided. One that failed is its connection's only attempt.
    pub(super) fn tls(
        &mut self,
        socket: &Socket,
        handshake: TlsHandshake,
        errand: Option<Errand>,
        out: &mut Vec<Event>,
    ) {
        self.processes.was_special(socket.tgid, socket.time);
        let upstream = Upstream::Inet(socket.remote);
        let server_name = self.hellos.remove(&socket.cookie);
        self.make_room();
        let Some(connection) = self.connections.touch(socket) else {
            return;
        };
        // Finished and then idle: a connection that was opened ahead, and was not used.
        let unused = handshake
            .finished
            .is_some_and(|at| socket.time.saturating_sub(at) >= TLS_VERDICT);
        if unused && handshake.end != End::Complete {
            return;
        }
        if handshake.end == End::Complete {
            if let Some(proxy) = self.processes.proxy(socket.tgid) {
                out.push(Event::Tls(TlsDone {
                    proxy,
                    upstream,
                    seconds: seconds(handshake.hello, socket.time),
                }));
            }
            return;
        }
        if connection.ended.contains(0) {
            self.counts.repeated += 1;
            return;
        }
        connection.ended.insert(0);
        self.connections.end_use(socket.cookie);
        let transport = Transport::unused(socket);
        let mut trial = Trial::of_connection(socket, transport, upstream, errand, Finish::Tls);
        trial.tls = Some(Box::new(FailedHandshake {
            handshake,
            server_name,
        }));
        self.not_usable(trial, out);
    }

    /// The peer closed a connection, or spoke, before a request was sent on it. When it was opened for a
    /// request that still waits, that was an attempt; else nobody missed it.
    pub(super) fn closed_unused(
        &mut self,
        socket: &Socket,
        errand: Option<Errand>,
        out: &mut Vec<Event>,
    ) {
        let Some(end) = ended_unused(socket) else {
            return;
        };
        let upstream = Upstream::Inet(socket.remote);
        let (transport, finish) = (Transport::unused(socket), Finish::Exchange(end));
        let mut trial = Trial::of_connection(socket, transport, upstream, errand, finish);
        trial.speculative = true;
        self.join(&mut trial, false);
        let served = trial.parent.is_some_and(|parent| {
            self.exchanges
                .request(parent.key)
                .is_some_and(|request| !request.open.is_empty())
        });
        if !served && self.exchanges.has_room_for_attempt() {
            self.counts.attempts.begun += 1;
            self.connections.mark_ended(trial.key);
            self.settle(Box::new(trial), out);
        }
    }

    /// A connect that failed is its connection's attempt 0, told once.
    fn is_first_failure(&mut self, cookie: u64) -> bool {
        !self.exchanges.has_attempt(Key { cookie, index: 0 })
            && self.connections.first_of_its_kind(cookie)
    }

    fn connect_failed(
        &mut self,
        socket: &Socket,
        upstream: Upstream,
        errand: Option<Errand>,
        connect: Connect,
        out: &mut Vec<Event>,
    ) {
        let transport = Transport::of_connect(socket, connect);
        let trial = Trial::of_connection(socket, transport, upstream, errand, Finish::Connect);
        self.not_usable(trial, out);
    }

    /// An attempt that is over before a request was sent.
    fn not_usable(&mut self, trial: Trial, out: &mut Vec<Event>) {
        if !self.exchanges.has_room_for_attempt() {
            return;
        }
        self.counts.attempts.begun += 1;
        let mut trial = Box::new(trial);
        self.join(&mut trial, false);
        self.settle(trial, out);
    }

    fn tell_connect(
        &self,
        socket: &Socket,
        upstream: Upstream,
        connect: Connect,
        out: &mut Vec<Event>,
    ) {
        let Some(proxy) = self.processes.proxy(socket.tgid) else {
            return;
        };
        out.push(Event::Connect(ConnectDone {
            proxy,
            upstream,
            result: connect_result(NotConnected::of(socket, connect)),
            seconds: seconds(socket.opened.unwrap_or(socket.time), socket.time),
            syn_retransmits: socket.syns.saturating_sub(1),
        }));
    }
}

/// A name for a connect without a socket cookie, apart from all cookies, which the kernel
/// counts up from 1 (`__sock_gen_cookie`, net/core/sock_diag.c).
fn nameless(socket: &Socket, upstream: &Upstream) -> u64 {
    let mut hasher = FxHasher::default();
    (socket.tgid, socket.time, upstream).hash(&mut hasher);
    hasher.finish() | 1 << 63
}

fn connect_result(not_connected: Option<NotConnected>) -> ConnectResult {
    match not_connected {
        None => ConnectResult::Established,
        Some(NotConnected::Refused(_)) => ConnectResult::Refused,
        Some(NotConnected::Unreachable(_)) => ConnectResult::Unreachable,
        Some(one) if one.is_given_up() => ConnectResult::TimeoutProxy,
        Some(NotConnected::ListenerSilent(_) | NotConnected::Unanswered(_)) => {
            ConnectResult::TimeoutKernel
        }
        Some(NotConnected::LocalError | NotConnected::QueueFull | NotConnected::Unclear) => {
            ConnectResult::LocalError
        }
    }
}
