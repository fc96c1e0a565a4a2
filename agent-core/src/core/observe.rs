//! What each kind of observation does to the core.

use std::sync::Arc;

use super::Core;
use crate::attempt::{Finish, Trial};
use crate::cause::Certainty;
use crate::event::{Event, ResetSeen, TcpSeen, Upstream};
use crate::network::{self, Network};
use crate::observation::{
    End, Ended, Exchange, Lookup, Observation, Opening, Phase, RequestHead, ResetDirection,
    ResponseHead, Side, Socket, What,
};
use crate::parent::Parent;
use crate::request::OpenRequest;
use crate::table::Key;
use crate::timing::{SECOND, YOUNG_US};
use crate::transport::{Connect, peer_closed};

/// Sockets of system services that the C library connects to on its own (name lookups,
/// logging): a failure there is no attempt at an upstream. glibc tries nscd in every
/// process that resolves a name, and it is rarely there.
const SYSTEM_SOCKETS: [&str; 6] = [
    "/var/run/nscd/",
    "/run/nscd/",
    "/run/systemd/",
    "/run/dbus/",
    "/var/run/dbus/",
    "/var/lib/sss/",
];

impl Core {
    pub(super) fn take_in(&mut self, observation: Observation, out: &mut Vec<Event>) {
        let Observation { socket, what } = observation;
        self.pace.advance(socket.time);
        let is_excluded = |tgid| self.processes.is_excluded(tgid, self.pace.now());
        if socket.tgid.is_some_and(is_excluded) {
            self.left_alone(&socket, out);
            return;
        }
        self.take_in_what(&socket, what, out);
    }

    pub(super) fn take_in_what(&mut self, socket: &Socket, what: What, out: &mut Vec<Event>) {
        match what {
            What::Connect {
                outcome,
                errand,
                listener_silent,
            } => self.connect(socket, outcome, errand, listener_silent, out),
            What::ConnectErrno { errand } => {
                // `socket(2)` or `bind(2)` failed: it was not asked yet where to connect to.
                let is_known = !socket.remote.ip().is_unspecified() || socket.remote.port() != 0;
                let upstream = if is_known {
                    Upstream::Inet(socket.remote)
                } else {
                    Upstream::Unknown
                };
                self.connect_call(socket, upstream, errand, Connect::Call, out);
            }
            What::UnixConnect { path, errand } => {
                if path.is_empty() || SYSTEM_SOCKETS.iter().any(|known| path.starts_with(known)) {
                    return;
                }
                let upstream = Upstream::Unix(Arc::from(path));
                self.connect_call(socket, upstream, errand, Connect::UnixCall, out);
            }
            What::Request { exchange, head } => match socket.side {
                Side::Client => self.client_request(socket, exchange, head, out),
                Side::Upstream => self.upstream_request(socket, exchange, head, out),
                Side::Unknown => {}
            },
            What::Response {
                exchange,
                head,
                opening,
            } => {
                self.tell_tcp(socket, out);
                match socket.side {
                    Side::Client => self.client_response(socket, exchange, head, out),
                    Side::Upstream => self.upstream_response(socket, exchange, head, opening, out),
                    Side::Unknown => {}
                }
            }
            What::End { exchange } => {
                self.tell_tcp(socket, out);
                match socket.side {
                    Side::Client => self.client_response(socket, exchange, None, out),
                    Side::Upstream => self.upstream_response(socket, exchange, None, None, out),
                    Side::Unknown => {}
                }
            }
            What::InBrief { exchange } => self.in_brief(socket, exchange, out),
            What::Disturbed => {
                if let Some(tgid) = socket.tgid {
                    self.processes.went_wrong(tgid, socket.time);
                }
            }
            What::Close { talked } => self.close(socket, talked, out),
            What::Tls { handshake, errand } => self.tls(socket, handshake, errand, out),
            What::Hello { server_name } => self.hello(socket, server_name),
            What::Abandoned { network } => self.abandoned(socket, network),
            What::Ignored => self.left_alone(socket, out),
            What::ClientLeft => self
                .departures
                .left(socket.cookie, socket.tgid, socket.time),
            What::Unread { exchange } => self.unread(socket, exchange, out),
            What::UnreadClient { talk } => {
                self.processes
                    .saw_unread_client(socket.tgid, talk, socket.time);
            }
            What::Tcp => {
                self.make_room();
                self.connections.touch(socket);
                self.tell_tcp(socket, out);
            }
            What::Death { ended, network } => self.death(socket, ended, network),
            What::Reset {
                direction,
                phase,
                reason,
            } => {
                if let Some(reason) = reason
                    && !is_outgoing(socket)
                {
                    let network = self.network_of(socket);
                    if let Some(ends) = network::ends(network, socket.local, socket.remote) {
                        self.peers.was_reset(ends, socket.time, reason);
                    }
                }
                let received = direction == ResetDirection::Received;
                // A firewall of this host may have answered so to a request that was not seen to leave.
                let is_kept = || {
                    let connection = self.connections.get(socket.cookie);
                    connection.is_some_and(|kept| kept.ended.contains(0))
                };
                let is_unasked =
                    received && is_outgoing(socket) && phase == Phase::Idle && is_kept();
                if let Some(tgid) = socket.tgid.filter(|_| is_unasked) {
                    self.exchanges.saw_unjoined(tgid, socket.time);
                }
                let from_client = received && !is_outgoing(socket);
                if from_client && socket.flags.peer_fin() {
                    self.departures.reset(socket.cookie);
                }
                self.tell_reset(socket, direction, phase, out);
            }
        }
    }

    pub(super) fn take_lookup(&mut self, lookup: Lookup) {
        let Lookup {
            time,
            tgid,
            errand,
            asked,
            id,
            answer,
        } = lookup;
        self.pace.advance(time);
        if self.processes.is_excluded(tgid, self.pace.now()) {
            return;
        }
        match answer {
            Some(answer) => self.lookups.answered(tgid, id, asked, time, answer),
            None => {
                let young = errand.filter(|errand| errand.age_us <= YOUNG_US);
                let request = young.map(Key::of);
                let head = request
                    .and_then(|key| self.exchanges.request(key))
                    .and_then(|request| request.head.as_ref());
                let route = head.map(|head| self.upstreams.routes().of(head));
                let sure = self.processes.habits(Some(tgid)).connects_at_once;
                self.lookups.asked(tgid, request, sure, route, asked, id);
            }
        }
    }

    /// A process ends: the connection that it served breaks now, or will shortly.
    fn death(&mut self, socket: &Socket, ended: Ended, network: Option<Network>) {
        let network = network.or_else(|| self.processes.network(socket.tgid));
        if let Some(ends) = network::ends(network, socket.local, socket.remote) {
            self.peers.died(ends, socket.time, ended);
        }
    }

    /// A client closed the connection before its first request was answered.
    fn abandoned(&mut self, socket: &Socket, network: Option<Network>) {
        let network = network.or_else(|| self.processes.network(socket.tgid));
        if let Some(ends) = network::ends(network, socket.local, socket.remote) {
            self.peers
                .was_left(ends, socket.time, socket.tgid.is_some());
        }
    }

    /// The network namespace of the process that holds the socket.
    fn network_of(&self, socket: &Socket) -> Option<Network> {
        let connection = self.connections.get(socket.cookie);
        let tgid = socket
            .tgid
            .or(connection.and_then(|connection| connection.tgid));
        self.processes.network(tgid)
    }

    fn client_request(
        &mut self,
        socket: &Socket,
        exchange: Exchange,
        head: Option<RequestHead>,
        out: &mut Vec<Event>,
    ) {
        let key = Key {
            cookie: socket.cookie,
            index: exchange.index,
        };
        if let Some(request) = self.exchanges.request(key)
            && (request.head.is_some() || head.is_none())
        {
            self.counts.repeated += 1;
            return;
        }
        if self.begin_request(socket, exchange, head.as_ref(), out) {
            self.exchanges.edit(key, |request| request.head = head);
        }
    }

    fn client_response(
        &mut self,
        socket: &Socket,
        exchange: Exchange,
        head: Option<ResponseHead>,
        out: &mut Vec<Event>,
    ) {
        self.saw_server(socket);
        let status = head.map(|head| head.status);
        let ended = exchange.end.is_some();
        let key = Key {
            cookie: socket.cookie,
            index: exchange.index,
        };
        if !self.exchanges.requests().contains(key)
            && !self.begin_request(socket, exchange.clone(), None, out)
        {
            return;
        }
        let Some(request) = self.exchanges.request(key) else {
            return;
        };
        if request.end.is_some() {
            self.counts.repeated += 1;
            return;
        }
        let is_owned = request.tgid.is_some();
        self.exchanges
            .edit(key, |request| request.update(socket, exchange, status));
        if !is_owned {
            self.part_from_strangers(key, out);
        }
        if ended {
            self.connections.touch(socket);
            self.connections.mark_ended(key);
            self.request_ended(key, out);
        }
    }

    /// The process of the socket has a client where that arrived.
    pub(super) fn saw_server(&mut self, socket: &Socket) {
        if let Some(tgid) = socket.tgid {
            let network = self.processes.network(Some(tgid));
            self.exchanges.saw_server(socket.local, tgid, network);
        }
    }

    /// Creates the request if it is new; `false` if it was reported already or there is no room.
    fn begin_request(
        &mut self,
        socket: &Socket,
        exchange: Exchange,
        head: Option<&RequestHead>,
        out: &mut Vec<Event>,
    ) -> bool {
        let key = Key {
            cookie: socket.cookie,
            index: exchange.index,
        };
        let index = exchange.index;
        self.make_room();
        let Some(connection) = self.connections.touch(socket) else {
            return false;
        };
        if connection.ended.contains(index) {
            self.counts.repeated += 1;
            return false;
        }
        let tgid = connection.tgid;
        let behind = connection.begin(index);
        let make = || Box::new(OpenRequest::new(socket, tgid, exchange, None));
        let Some(is_new) = self.exchanges.begin_request(key, head, make) else {
            self.connections.mark_ended(key);
            return false;
        };
        self.counts.requests.begun += u64::from(is_new);
        if let Some(index) = behind {
            self.suspect_lost_end(Side::Client, Key { index, ..key }, out);
        }
        self.exchanges.requests().contains(key)
    }

    fn upstream_request(
        &mut self,
        socket: &Socket,
        exchange: Exchange,
        head: Option<RequestHead>,
        out: &mut Vec<Event>,
    ) {
        let key = Key {
            cookie: socket.cookie,
            index: exchange.index,
        };
        if let Some(trial) = self.exchanges.attempt_mut(key) {
            self.counts.repeated += 1;
            trial.head = trial.head.take().or(head);
            return;
        }
        self.begin_attempt(socket, exchange, head, false, out);
    }

    fn upstream_response(
        &mut self,
        socket: &Socket,
        exchange: Exchange,
        head: Option<ResponseHead>,
        opening: Option<Opening>,
        out: &mut Vec<Event>,
    ) {
        let key = Key {
            cookie: socket.cookie,
            index: exchange.index,
        };
        let end = exchange.end;
        if !self.exchanges.has_attempt(key)
            && !self.begin_attempt(socket, exchange.clone(), None, true, out)
        {
            return;
        }
        let Some(trial) = self.exchanges.attempt_mut(key) else {
            return;
        };
        trial.update(socket, exchange, head.as_ref(), opening);
        if end == Some(End::Superseded) && !trial.response_began() {
            // Whatever became of it was not seen.
            self.end_was_lost(Side::Upstream, key, out);
        } else if let Some(end) = end
            && let Some(mut trial) = self.exchanges.take_attempt(key)
        {
            self.connections.mark_ended(key);
            trial.finish(Finish::Exchange(end));
            self.settle(trial, out);
        }
    }

    /// `false` when the attempt was told already or there is no room.
    fn begin_attempt(
        &mut self,
        socket: &Socket,
        exchange: Exchange,
        head: Option<RequestHead>,
        late: bool,
        out: &mut Vec<Event>,
    ) -> bool {
        let key = Key {
            cookie: socket.cookie,
            index: exchange.index,
        };
        self.make_room();
        let Some(connection) = self.connections.touch(socket) else {
            return false;
        };
        if connection.ended.contains(key.index) {
            self.counts.repeated += 1;
            return false;
        }
        let behind = connection.begin(key.index);
        let mut trial = Box::new(Trial::of_exchange(socket, connection, exchange, head, late));
        if !self.exchanges.has_room_for_attempt() {
            self.connections.mark_ended(key);
            return false;
        }
        self.counts.attempts.begun += 1;
        self.join(&mut trial, true);
        // A request that proves to be another program's did not ask for it.
        let nobodys = |parent: Parent| {
            let request = self.exchanges.request(parent.key);
            request.is_some_and(|request| self.exchanges.requests().is_nobodys(request))
        };
        if trial.parent.is_none_or(nobodys) {
            let alone = trial.parent.is_none();
            trial.asked = self.who_asked(&trial, alone && !late);
        }
        self.claim_earlier_try(&trial, out);
        if let Some(parent) = &trial.parent
            && let Some(proxy) = self.processes.proxy(trial.tgid)
        {
            self.processes
                .saw_attempt(proxy.tgid, parent.key, trial.started);
            let instance = self.processes.instance(proxy.tgid);
            let request = self.exchanges.request(parent.key);
            let head = request
                .filter(|_| parent.surety != Certainty::Guess)
                .and_then(|request| request.head.as_ref());
            self.upstreams
                .saw_use(instance, &trial.upstream, head, trial.started);
        }
        self.exchanges.begin_attempt(trial);
        if let Some(index) = behind {
            self.suspect_lost_end(Side::Upstream, Key { index, ..key }, out);
        }
        true
    }

    /// The connection's process is to be left alone: what was begun before that was known is given up.
    fn left_alone(&mut self, socket: &Socket, out: &mut Vec<Event>) {
        let cookie = socket.cookie;
        if socket.side == Side::Client {
            // What arrives there next is nobody else's, before its process has read it.
            self.saw_server(socket);
        }
        let Some(connection) = self.connections.get(cookie) else {
            return;
        };
        // The socket of another process, that it was handed.
        if connection.tgid.is_some() && connection.tgid != socket.tgid {
            return;
        }
        for index in connection.under_way() {
            let key = Key { cookie, index };
            if self.exchanges.end_unseen(key, Some(End::LocalClose)) {
                self.connections.mark_ended(key);
                self.resolve(key, out);
            }
            if let Some(trial) = self.exchanges.take_attempt(key) {
                self.counts.attempts.foreign += 1;
                if let Some(parent) = trial.parent {
                    self.exchanges.no_longer_serves(key, parent.key);
                    self.resolve_if_ready(parent.key, out);
                }
            }
        }
        self.connections.remove(cookie);
    }

    fn close(&mut self, socket: &Socket, talked: bool, out: &mut Vec<Event>) {
        let Some(connection) = self.connections.get_mut(socket.cookie) else {
            self.counts.repeated += u64::from(self.connections.is_closed(socket.cookie));
            return;
        };
        let (side, mut under_way) = (connection.side, connection.under_way().peekable());
        let unused = connection.was_never_used();
        let errand = connection.connect_errand;
        let (tgid, established) = (socket.tgid.or(connection.tgid), connection.established);
        let owner = self.connections.close(socket.cookie);
        self.tell_tcp(socket, out);
        if let Some(established) = established.get()
            && unused
            && !talked
        {
            let upstream = Upstream::Inet(socket.remote);
            let unasked = self.look_for_check(tgid, &upstream, established, socket.time);
            let by_client = errand.is_some_and(|errand| errand.age_us <= YOUNG_US);
            let by_peer = peer_closed(socket);
            if unasked
                && !by_client
                && !by_peer
                && let Some(tgid) = tgid
            {
                self.closed_as_check(
                    tgid,
                    socket.cookie,
                    upstream,
                    (established, socket.time),
                    out,
                );
            }
        }
        if unused && !talked && socket.flags.active_open() {
            self.closed_unused(socket, errand, out);
        }
        if let Some(owner) = owner {
            self.resolve_if_ready(owner, out);
        }
        let cookie = socket.cookie;
        if under_way.peek().is_none() {
            self.connections.remove(cookie);
        }
        for index in under_way {
            self.suspect_lost_end(side, Key { cookie, index }, out);
        }
    }

    fn tell_reset(
        &self,
        socket: &Socket,
        direction: ResetDirection,
        phase: Phase,
        out: &mut Vec<Event>,
    ) {
        if !is_outgoing(socket) {
            return;
        }
        let connection = self.connections.get(socket.cookie);
        let tgid = socket
            .tgid
            .or(connection.and_then(|connection| connection.tgid));
        if let Some(proxy) = self.processes.proxy(tgid) {
            let upstream = Upstream::Inet(socket.remote);
            out.push(Event::Reset(ResetSeen {
                proxy,
                upstream,
                direction,
                phase,
            }));
        }
    }

    /// How TCP fares on an outgoing connection, since last told.
    pub(super) fn tell_tcp(&mut self, socket: &Socket, out: &mut Vec<Event>) {
        if !is_outgoing(socket) {
            return;
        }
        let Some(connection) = self.connections.get_mut(socket.cookie) else {
            return;
        };
        // Retransmissions before the first record of a connection taken up later belong to
        // no time the core knows.
        let before = connection.retransmits.unwrap_or(socket.retransmits);
        connection.retransmits = Some(before.max(socket.retransmits));
        let retransmits = socket.retransmits.saturating_sub(before);
        if retransmits == 0 && socket.srtt_us.is_none() {
            return;
        }
        let tgid = socket.tgid.or(connection.tgid);
        if let Some(proxy) = self.processes.proxy(tgid) {
            out.push(Event::Tcp(TcpSeen {
                proxy,
                upstream: Upstream::Inet(socket.remote),
                retransmits,
                rtt_seconds: socket.srtt_us.map(|us| f64::from(us) / 1e6),
            }));
        }
    }

    /// When the table is full, connections idle for a minute make room; at most once a
    /// second, since it walks the table.
    pub(super) fn make_room(&mut self) {
        if self.connections.is_full() && self.pace.squeezes() {
            self.connections.sweep(self.pace.before(60 * SECOND));
        }
    }
}

fn is_outgoing(socket: &Socket) -> bool {
    socket.side == Side::Upstream || socket.flags.active_open()
}
