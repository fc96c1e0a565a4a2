//! One try at one upstream, while it is under way and until its verdict.
//!
//! In: the observations of one exchange on an upstream connection, or of one connect that
//! failed. Out: the facts that the rules of [`crate::cause`] look at and the numbers an
//! [`Attempt`] is told with. It decides no cause.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::address::Address;
use crate::around::Around;
use crate::connection::Connection;
use crate::event::{Attempt, Evidence, Failure, Join, Proxy, ServerName, Upstream};
use crate::observation::{
    End, Errand, Exchange, Flags, Framing, Nanos, Opening, Phase, RequestHead, ResponseHead, Side,
    Socket, TlsHandshake,
};
use crate::outcome::Outcome;
use crate::parent::Parent;
use crate::table::Key;
use crate::transport::{ClosedBy, Delivered, Transport};
use crate::whole::{self, Response, Unread, Whole};
use agent_wire::reset_reason;

/// How an attempt is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// There was no connection: [`Transport::not_connected`].
    Connect,
    /// The TLS handshake failed: [`Trial::tls`].
    Tls,
    /// The exchange ended.
    Exchange(End),
    /// Connected, and nothing more is known: the talk is not read.
    Unread,
    /// The exchange is over, but its end was not told (a record was lost).
    Lost,
}

/// A TLS handshake that failed.
#[derive(Debug)]
pub(crate) struct FailedHandshake {
    pub(crate) handshake: TlsHandshake,
    /// What its ClientHello says of the server's name, if known.
    pub(crate) server_name: Option<ServerName>,
}

/// What speaks for an attempt being a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A client may have asked for it.
    #[default]
    Perhaps,
    /// A request waited for an upstream when it began, of which nothing else speaks for it.
    Beside,
    /// No request waited for an upstream when it began.
    Unlikely,
    /// Nor has its thread read from a client then, or in the time before.
    No,
}

/// One try.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) key: Key,
    pub(crate) tgid: Option<u32>,
    pub(crate) upstream: Upstream,
    /// This end of the connection.
    local: Address,
    pub(crate) parent: Option<Parent>,
    /// The errand at send time, else at connect time.
    pub(crate) errand: Option<Errand>,
    /// The acting thread owned the connection when the errand was taken.
    pub(crate) own_errand: bool,
    /// When the errand applies: connect() for a connect, else the first request byte.
    pub(crate) errand_at: Nanos,
    pub(crate) head: Option<RequestHead>,
    pub(crate) started: Nanos,
    pub(crate) ended: Nanos,
    pub(crate) reused: Option<bool>,
    connect_seconds: Option<f64>,
    pub(crate) exchange: Option<Exchange>,
    code: Option<u16>,
    /// What the response starts as, if not HTTP.
    opening: Option<Opening>,
    /// What its head says of the response.
    pub(crate) answer: ResponseHead,
    /// How its messages read.
    pub(crate) flags: Flags,
    /// What carried it.
    pub(crate) transport: Transport,
    /// What is known of its end from elsewhere.
    pub(crate) around: Option<Box<Around>>,
    pub(crate) finish: Option<Finish>,
    /// The TLS handshake that failed.
    pub(crate) tls: Option<Box<FailedHandshake>>,
    /// What became of its request, when that was told first.
    pub(crate) outcome: Option<Box<Outcome>>,
    /// It waits for a lost end already.
    pub(crate) straggling: bool,
    /// Several requests were as much like it when it began.
    pub(crate) contested: bool,
    /// Another request than it will be joined to may have made it: the next attempt of that one began at once
    /// when this one had failed, or this one when its attempt before had.
    pub(crate) may_be_anothers: bool,
    /// An attempt only if a request turns up that misses one.
    pub(crate) speculative: bool,
    /// What was said is not read: what TCP tells is all there is.
    pub(crate) unread: bool,
    /// It succeeded and is reported in brief, without its request.
    pub(crate) in_brief: bool,
    /// Whether a client asked for it, of one that no request is known for.
    pub(crate) asked: Asked,
}

impl Trial {
    /// A connection on which no request is known to have been sent, or the want of one.
    pub(crate) fn of_connection(
        socket: &Socket,
        transport: Transport,
        upstream: Upstream,
        errand: Option<Errand>,
        finish: Finish,
    ) -> Self {
        let started = socket.opened.unwrap_or(socket.time).min(socket.time);
        Self {
            key: Key {
                cookie: socket.cookie,
                index: 0,
            },
            tgid: socket.tgid,
            upstream,
            local: socket.local.into(),
            parent: None,
            errand: errand.map(|errand| errand_at_start(errand, started, socket.time)),
            own_errand: true,
            errand_at: started,
            head: None,
            started,
            ended: socket.time,
            reused: Some(false),
            connect_seconds: None,
            exchange: None,
            code: None,
            answer: ResponseHead::default(),
            opening: None,
            flags: socket.flags,
            transport,
            around: None,
            finish: Some(finish),
            tls: None,
            outcome: None,
            straggling: false,
            contested: false,
            may_be_anothers: false,
            speculative: false,
            unread: false,
            in_brief: false,
            asked: Asked::default(),
        }
    }

    /// What is under way on a connection whose talk is not read; `is_fresh` if it was seen to open and this is
    /// the first on it.
    pub(crate) fn unread(
        key: Key,
        tgid: u32,
        upstream: Upstream,
        local: Address,
        (started, ended): (Nanos, Nanos),
        is_fresh: bool,
    ) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let socket = Socket {
            cookie: key.cookie,
            time: ended.max(started),
            side: Side::Unknown,
            tgid: Some(tgid),
            opened: Some(started),
            local: nowhere,
            remote: nowhere,
            errno: None,
            syns: 0,
            retransmits: 0,
            srtt_us: None,
            flags: Flags::default(),
        };
        let transport = Transport::Unknown;
        let trial = Self::of_connection(&socket, transport, upstream, None, Finish::Unread);
        Self {
            key,
            local,
            reused: match key.index {
                0 => is_fresh.then_some(false),
                _ => Some(true),
            },
            speculative: true,
            unread: true,
            in_brief: false,
            ..trial
        }
    }

    /// A request on an upstream connection, from the first record that tells of it: its
    /// REQUEST, or a later one (`late`) when that was lost.
    pub(crate) fn of_exchange(
        socket: &Socket,
        connection: &Connection,
        exchange: Exchange,
        head: Option<RequestHead>,
        late: bool,
    ) -> Self {
        let sent = exchange.request.get().unwrap_or(socket.time);
        let reused = if exchange.index > 0 || exchange.idle_since.get().is_some() {
            Some(true)
        } else if socket.flags.seen_open() {
            Some(false)
        } else {
            None
        };
        let opened = socket
            .opened
            .filter(|opened| reused == Some(false) && *opened <= sent);
        let retransmits_before = match connection.retransmits {
            Some(earlier) if late => earlier,
            _ => socket.retransmits,
        };
        let connected = connection
            .established
            .get()
            .filter(|at| opened.is_some_and(|from| from <= *at));
        Self {
            key: Key {
                cookie: socket.cookie,
                index: exchange.index,
            },
            tgid: socket.tgid.or(connection.tgid),
            upstream: Upstream::Inet(socket.remote),
            local: socket.local.into(),
            parent: None,
            own_errand: exchange.errand.is_none() || socket.flags.own_errand(),
            errand: exchange.errand.or(if reused == Some(false) {
                connection.connect_errand
            } else {
                None
            }),
            errand_at: match (exchange.errand, opened) {
                (None, Some(opened)) => opened,
                _ => sent,
            },
            head,
            started: opened.unwrap_or(sent),
            ended: socket.time,
            reused,
            connect_seconds: match (opened, connected) {
                (Some(from), Some(to)) => Some(seconds(from, to)),
                _ => None,
            },
            code: None,
            answer: ResponseHead::default(),
            opening: None,
            flags: socket.flags,
            transport: Transport::used(socket, retransmits_before),
            exchange: Some(exchange),
            around: None,
            finish: None,
            tls: None,
            outcome: None,
            straggling: false,
            contested: false,
            may_be_anothers: false,
            speculative: false,
            unread: false,
            in_brief: false,
            asked: Asked::default(),
        }
    }

    /// Takes in a later record of the same exchange.
    pub(crate) fn update(
        &mut self,
        socket: &Socket,
        exchange: Exchange,
        head: Option<&ResponseHead>,
        opening: Option<Opening>,
    ) {
        self.opening = opening.or(self.opening);
        self.tgid = socket.tgid.or(self.tgid);
        self.flags = Flags(self.flags.0 | socket.flags.0);
        self.transport.update(socket);
        self.ended = socket.time;
        if let Some(head) = head {
            self.code = Some(head.status);
            self.answer = head.clone();
        }
        self.code = self
            .code
            .or((exchange.status != 0).then_some(exchange.status));
        self.exchange = Some(exchange);
    }

    /// The exchange is over. A response that is complete ended with its last byte,
    /// everything else when it was noticed.
    pub(crate) fn finish(&mut self, finish: Finish) {
        self.finish = Some(finish);
        if self.is_complete()
            && let Some(exchange) = &self.exchange
        {
            self.ended = exchange
                .last_byte
                .get()
                .or(exchange.head.get())
                .unwrap_or(self.ended);
        }
        self.ended = self.ended.max(self.started);
    }

    /// The attempt belongs to `parent`, which began at `parent_started`. A connection
    /// opened before its request was asked for was opened ahead: the attempt begins with
    /// the request's first byte then.
    pub(crate) fn adopt(&mut self, parent: Parent, parent_started: Nanos) {
        self.parent = Some(parent);
        if let Some(sent) = self
            .exchange
            .as_ref()
            .and_then(|exchange| exchange.request.get())
            && self.started < parent_started
        {
            self.started = sent.max(self.started);
        }
    }

    /// When its request was sent.
    pub(crate) fn sent_at(&self) -> Option<Nanos> {
        self.exchange.as_ref()?.request.get()
    }

    /// When the head of its response was received whole.
    pub(crate) fn began_to_answer(&self) -> Option<Nanos> {
        self.exchange.as_ref()?.head.get()
    }

    /// This end of the connection.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local.into()
    }

    pub(crate) fn code(&self) -> Option<u16> {
        self.code
    }

    pub(crate) fn response_began(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| {
            exchange.first_byte.get().is_some() || exchange.response_bytes > 0
        })
    }

    /// The response head was received whole.
    pub(crate) fn head_complete(&self) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(|exchange| exchange.head.get().is_some())
    }

    /// Whether its response is whole.
    pub(crate) fn whole(&self) -> Whole {
        match (self.finish, &self.exchange) {
            (Some(Finish::Exchange(end)), Some(exchange)) => Response {
                exchange,
                side: Side::Upstream,
                end,
                began: self.response_began(),
                head_cut: self.flags.head_cut(),
            }
            .whole(),
            // With a status, the fair reading of a lost end is that nothing was amiss.
            (Some(Finish::Lost), Some(_)) if self.code.is_some() => Whole::Yes,
            _ => Whole::No,
        }
    }

    /// Its response ends with the connection.
    pub(crate) fn is_until_close(&self) -> bool {
        let exchange = self.exchange.as_ref();
        exchange.is_some_and(|exchange| exchange.framing == Framing::Close)
    }

    /// Its response is known to be whole.
    pub(crate) fn is_complete(&self) -> bool {
        self.whole() == Whole::Yes
    }

    /// Who closed the connection under it.
    pub(crate) fn closed_by(&self) -> ClosedBy {
        let end = match (self.finish, &self.tls) {
            (Some(Finish::Exchange(end)), _) => end,
            (_, Some(tls)) => tls.handshake.end,
            _ => return ClosedBy::Nobody,
        };
        let peer_closed_first = self.peer_fin().is_some_and(|at| at <= self.ended);
        self.transport.closed_by(end, peer_closed_first)
    }

    /// When the peer's close arrived: its FIN where there was one, else the end.
    pub(crate) fn closed_at(&self) -> Nanos {
        self.peer_fin().map_or(self.ended, |at| at.min(self.ended))
    }

    /// The peer had closed before the request was sent.
    pub(crate) fn peer_closed_before(&self) -> bool {
        matches!((self.peer_fin(), self.sent_at()), (Some(fin), Some(sent)) if fin < sent)
    }

    /// The peer had closed in order before the end.
    pub(crate) fn peer_had_closed(&self) -> bool {
        self.transport.sent_after_close() || self.peer_fin().is_some()
    }

    pub(crate) fn peer_fin(&self) -> Option<Nanos> {
        match &self.tls {
            Some(tls) => tls.handshake.peer_fin,
            None => self.exchange.as_ref()?.peer_fin.get(),
        }
    }

    /// What is known of its end from elsewhere, as far as it was looked for.
    pub(crate) fn around(&self) -> Around {
        self.around.as_deref().copied().unwrap_or_default()
    }

    /// From the last byte of the request to the end: what a timer of the proxy measures.
    pub(crate) fn waited(&self) -> Nanos {
        let exchange = self.exchange.as_ref();
        let sent = exchange.and_then(|exchange| exchange.request_last.max(exchange.request).get());
        self.ended.saturating_sub(sent.unwrap_or(self.started))
    }

    /// From the last byte of the request to the first of the answer.
    pub(crate) fn waited_before_answer(&self) -> Option<Nanos> {
        let exchange = self.exchange.as_ref()?;
        let sent = exchange.request_last.max(exchange.request).get()?;
        Some(exchange.first_byte.get()?.saturating_sub(sent))
    }

    /// How long nothing came back for the whole request, where this end closed then.
    pub(crate) fn waited_in_vain(&self) -> Option<Nanos> {
        let in_vain = self.closed_by() == ClosedBy::Local
            && !self.response_began()
            && self.delivered() == Delivered::All;
        in_vain.then(|| self.waited())
    }

    /// How much of what was sent of the request has arrived.
    pub(crate) fn delivered(&self) -> Delivered {
        self.exchange
            .as_ref()
            .map_or(Delivered::Unknown, |exchange| {
                let (sent, acked) = (exchange.request_bytes, exchange.request_acked);
                self.transport.delivered(sent, acked)
            })
    }

    /// Whether the request was sent to its last byte.
    pub(crate) fn request_whole(&self) -> Whole {
        self.exchange
            .as_ref()
            .map_or(Whole::Unknown(Unread::Head), |exchange| {
                whole::request(self.head.as_ref(), exchange)
            })
    }

    /// The attempt as it is told, consuming what was kept of it.
    pub(crate) fn into_attempt(
        self,
        proxy: Proxy,
        failure: Option<Failure>,
        masked: Option<bool>,
    ) -> Arc<Attempt> {
        let exchange = self.exchange.as_ref();
        let idle = exchange.and_then(|exchange| {
            Some(seconds(exchange.idle_since.get()?, exchange.request.get()?))
        });
        let first_byte = exchange.and_then(|exchange| {
            Some(seconds(
                exchange.request_last.get()?,
                exchange.first_byte.get()?,
            ))
        });
        let header =
            exchange.and_then(|exchange| Some(seconds(self.started, exchange.head.get()?)));
        let Around {
            process_ended,
            reset_reason,
            read,
            ..
        } = self.around();
        let evidence = Evidence {
            request_bytes: exchange.map_or(0, |exchange| exchange.request_bytes),
            request_acked: exchange.map_or(0, |exchange| exchange.request_acked),
            response_bytes: exchange.map_or(0, |exchange| exchange.response_bytes),
            content_length: exchange.and_then(whole::announced),
            process_ended,
            reset_reason: reset_reason.and_then(reset_reason::name),
            tls_alert: self.tls.as_ref().and_then(|tls| tls.handshake.alert),
            server_name: self.tls.as_ref().and_then(|tls| tls.server_name.clone()),
            request_length: exchange
                .and_then(|exchange| whole::request_length(self.head.as_ref(), exchange)),
            carried: (self.flags.seen_open() && exchange.is_some()).then_some(self.key.index),
            read,
            opening: match &self.tls {
                Some(tls) => tls
                    .handshake
                    .opening
                    .filter(|opening| *opening != Opening::Tls),
                None => self.opening,
            },
            ..self.transport.evidence(self.closed_by())
        };
        // A head that the proxy could not use is no answer, whatever its first line says.
        let unusable = failure.is_some_and(|failure| failure.phase == Phase::Head);
        Arc::new(Attempt {
            proxy,
            cookie: self.key.cookie,
            index: self.key.index,
            join: match self.parent {
                Some(parent) => parent.join,
                None if self.in_brief => Join::InBrief,
                None => Join::None,
            },
            join_certainty: self.parent.map(|parent| parent.surety),
            witnesses: self
                .parent
                .map(|parent| parent.witnesses)
                .unwrap_or_default(),
            started: self.started,
            ended: self.ended,
            reused: self.reused,
            idle_seconds: idle.filter(|_| self.reused == Some(true)),
            connect_seconds: self.connect_seconds,
            first_byte_seconds: first_byte,
            header_seconds: header,
            response_seconds: seconds(self.started, self.ended),
            code: self.code.filter(|_| !unusable),
            failure,
            masked,
            evidence,
            upstream: self.upstream,
            local: self.local.into(),
            head: self.head,
        })
    }
}

/// `errand` with its age as it was when the connect began. Its record comes at the outcome;
/// whether the age was taken then or at the start, the smaller reading is the right one.
pub(crate) fn errand_at_start(errand: Errand, started: Nanos, outcome: Nanos) -> Errand {
    let touched = outcome.saturating_sub(u64::from(errand.age_us).saturating_mul(1000));
    let before_start = started.abs_diff(touched) / 1000;
    let age_us = u64::from(errand.age_us).min(before_start);
    Errand {
        age_us: u32::try_from(age_us).unwrap_or(u32::MAX),
        ..errand
    }
}

/// From one time to a later one, seconds; 0 when the clock seems to run backwards.
pub(crate) fn seconds(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}
