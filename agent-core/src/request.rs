//! What one client asked, while it is under way and until its verdict.
//!
//! In: the observations of one exchange on a client-side connection, and the attempts that
//! were joined to it. Out: its [`Outcome`], which the rules need to judge its attempts.

use std::net::SocketAddr;

use crate::address::Address;
use crate::attempt::Trial;
use crate::observation::{End, Exchange, Flags, Nanos, RequestHead, Side, Socket};
use crate::requests::{Hashes, Place};
use crate::table::Key;
use crate::whole::{self, Response, Unread, Whole};

/// The status that Go's proxies write, to nobody, for a client that left.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A client's request.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) tgid: Option<u32>,
    client: Address,
    /// Where it arrived.
    server: Address,
    pub(crate) head: Option<RequestHead>,
    /// How it is found by its request line.
    pub(crate) lines: Option<Hashes>,
    /// How it is found by what it waits for.
    pub(crate) place: Option<Place>,
    pub(crate) started: Nanos,
    last_seen: Nanos,
    pub(crate) exchange: Exchange,
    code: Option<u16>,
    flags: Flags,
    /// How and when it ended; `None` inside when that was lost.
    pub(crate) end: Option<(Option<End>, Nanos)>,
    /// Attempts under way.
    pub(crate) open: Vec<Key>,
    /// One that went there was joined by a guess: it may be another's.
    pub(crate) served_by_guess: bool,
    /// Attempts over, waiting for this request's verdict.
    #[expect(
        clippy::vec_box,
        reason = "an attempt moves here from its table: as a pointer"
    )]
    pub(crate) tries: Vec<Box<Trial>>,
    /// It waits for a lost end already.
    pub(crate) straggling: bool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Status code given.
    pub(crate) code: Option<u16>,
    /// The answer is complete by its framing.
    pub(crate) complete: bool,
    /// When the client's FIN or RST came, where that was before its answer was complete.
    pub(crate) client_gone: Option<Nanos>,
    /// When the client's FIN came, where that was before its answer began. It may still have
    /// been there to read.
    pub(crate) client_fin: Option<Nanos>,
    /// First byte of the answer.
    pub(crate) answer_began: Option<Nanos>,
    /// Last byte of the answer, or the end without one.
    pub(crate) ended: Nanos,
}

impl Outcome {
    /// The client got an error or no answer, or its answer was cut short while it was there.
    pub(crate) fn is_failed(&self) -> bool {
        match self.code {
            Some(code) => code >= 500 || self.is_cut(),
            None => true,
        }
    }

    /// It got a whole error after its FIN: it may have been there to read it.
    pub(crate) fn was_answered_after_fin(&self) -> bool {
        self.complete && self.client_fin.is_some() && self.code.is_some_and(|code| code >= 500)
    }

    /// An answer that began was not whole, and its client had not left.
    pub(crate) fn is_cut(&self) -> bool {
        self.code.is_some() && !self.complete && self.client_gone.is_none()
    }

    /// When the client got what the last attempt led to: an error, or the end of half an answer.
    pub(crate) fn failed_at(&self) -> Option<Nanos> {
        self.answer_began.filter(|_| !self.is_cut())
    }
}

impl OpenRequest {
    pub(crate) fn new(
        socket: &Socket,
        tgid: Option<u32>,
        exchange: Exchange,
        head: Option<RequestHead>,
    ) -> Self {
        Self {
            tgid,
            client: socket.remote.into(),
            server: socket.local.into(),
            head,
            lines: None,
            place: None,
            // A pipelined request is seen by its answer only; it was there when the one before was over.
            started: match (socket.flags.no_request(), exchange.idle_since.get()) {
                (true, Some(before)) => before,
                _ => exchange.request.get().unwrap_or(socket.time),
            },
            last_seen: socket.time,
            exchange,
            code: None,
            flags: socket.flags,
            end: None,
            open: Vec::new(),
            served_by_guess: false,
            tries: Vec::new(),
            straggling: false,
        }
    }

    /// Takes in a later record of the same exchange.
    pub(crate) fn update(&mut self, socket: &Socket, exchange: Exchange, status: Option<u16>) {
        self.tgid = socket.tgid.or(self.tgid);
        self.flags = Flags(self.flags.0 | socket.flags.0);
        self.last_seen = self.last_seen.max(socket.time);
        self.code = status
            .or(self.code)
            .or((exchange.status != 0).then_some(exchange.status));
        if let Some(end) = exchange.end {
            self.end = Some((Some(end), socket.time));
        }
        self.exchange = exchange;
    }

    /// Only its answer was seen: it came while the one before it on the connection was under way.
    pub(crate) fn is_pipelined(&self) -> bool {
        self.flags.no_request() && self.head.is_none() && self.exchange.idle_since.get().is_some()
    }

    /// When the attempt was over whose answer the client got whole, where its client sent others
    /// behind it.
    pub(crate) fn passed_on(&self) -> Option<Nanos> {
        let outcome = self.outcome();
        let code = outcome.code.filter(|_| outcome.complete)?;
        let given = self.tries.iter();
        let given = given.filter(|trial| trial.is_complete() && trial.code() == Some(code));
        let passed_on = given.map(|trial| trial.ended).min();
        passed_on.filter(|_| self.flags.pipelined())
    }

    /// Who asks.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client.into()
    }

    /// Where it arrived.
    pub(crate) fn server(&self) -> SocketAddr {
        self.server.into()
    }

    pub(crate) fn last_seen(&self) -> Nanos {
        self.last_seen
    }

    /// Its answer has begun, or it is over.
    pub(crate) fn is_answered(&self) -> bool {
        self.end.is_some() || self.exchange.first_byte.get().is_some()
    }

    pub(crate) fn is_open_at(&self, time: Nanos) -> bool {
        self.started <= time && self.end.is_none_or(|(_, ended)| ended >= time)
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let exchange = &self.exchange;
        let (end, noticed) = self.end.unwrap_or((None, self.last_seen));
        let complete = self.is_complete(end);
        // An answer to a client that was gone when it began went to nobody. A client may
        // shut down its sending side and still read (RFC 9112, 9.6), so this is asked only
        // of errors and of the proxy's word that it left, and the rules never call it proof.
        let to_nobody = |code| code >= 500 || code == CLIENT_CLOSED_REQUEST;
        let fin = exchange.peer_fin.get().filter(|fin| {
            !complete
                || (self.code.is_some_and(to_nobody)
                    && exchange.first_byte.get().is_none_or(|began| *fin < began))
        });
        let cut = match end {
            Some(End::PeerFin | End::PeerReset) if !complete => Some(noticed),
            _ => None,
        };
        Outcome {
            code: self.code,
            complete,
            client_gone: fin.or(cut),
            client_fin: exchange
                .peer_fin
                .get()
                .filter(|fin| exchange.first_byte.get().is_none_or(|began| *fin < began)),
            answer_began: exchange.first_byte.get(),
            ended: if complete {
                exchange.last_byte.get().unwrap_or(noticed)
            } else {
                noticed
            },
        }
    }

    /// The client asked for something whole. What is cut short before that (an idle or
    /// slow client) is nobody's gateway error.
    pub(crate) fn was_asked(&self) -> bool {
        if self.flags.head_cut() {
            return true;
        }
        let whole = whole::request(self.head.as_ref(), &self.exchange);
        self.exchange.request_head_bytes > 0 && whole != Whole::No
    }

    /// The answer is whole, as far as is known.
    fn is_complete(&self, end: Option<End>) -> bool {
        let Some(end) = end else { return false };
        let response = Response {
            exchange: &self.exchange,
            side: Side::Client,
            end,
            began: self.code.is_some(),
            head_cut: self.flags.head_cut(),
        };
        match response.whole() {
            Whole::Yes => true,
            Whole::No | Whole::Unknown(Unread::Chunks) => false,
            // Nothing is known to be missing.
            Whole::Unknown(Unread::Head) => self.code.is_some(),
        }
    }
}
