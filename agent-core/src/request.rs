//! What one client asked, while it is under way and until its verdict.
//!
//! In: the observations of one exchange on a client-side connection, and the attempts that
//! were joined to it. Out: its [`Outcome`], which the rules need to judge its attempts.

use std::net::SocketAddr;

use agent_wire::record::flag;

use crate::address::Address;
use crate::attempt::Trial;
use crate::event::Join;
use crate::observation::{End, Exchange, Flags, Nanos, RequestHead, Side, Socket};
use crate::outcome::{CLIENT_CLOSED_REQUEST, Outcome};
use crate::places::{Hashes, Place, Waits};
use crate::table::Key;
use crate::timing::AT_ONCE;
use crate::whole::{self, Response, Unread, Whole, announced};

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
        // Whether its client takes more in is as the last record has it.
        let before = self.flags.0 & !flag::ZERO_WINDOW;
        self.flags = Flags(before | socket.flags.0);
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

    /// Status that the answer began with, as far as that was reported.
    pub(crate) fn code(&self) -> Option<u16> {
        self.code
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
            length: announced(exchange),
            answer_began: exchange.first_byte.get(),
            ended: if complete {
                exchange.last_byte.get().unwrap_or(noticed)
            } else {
                noticed
            },
            client_stalls: self.flags.zero_window(),
            proxy_ended: None,
        }
    }

    /// Where it arrived, and where from.
    pub(crate) fn ends(&self) -> [SocketAddr; 2] {
        [self.server(), self.client()]
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
    /// The attempt is of another process, as far as that is known.
    pub(crate) fn is_stranger(&self, trial: &Trial) -> bool {
        trial.tgid.is_some() && trial.tgid != self.tgid
    }

    /// Takes out the attempts of other processes that are over.
    #[expect(
        clippy::vec_box,
        reason = "an attempt moves from here to its table: as a pointer"
    )]
    pub(crate) fn take_strangers(&mut self) -> Vec<Box<Trial>> {
        let mut tries = std::mem::take(&mut self.tries);
        let strangers = tries
            .extract_if(.., |trial| self.is_stranger(trial))
            .collect();
        self.tries = tries;
        strangers
    }

    /// What it waits for, if anything.
    pub(crate) fn waits(&self) -> Option<Waits> {
        if !self.open.is_empty() {
            return None;
        }
        match (self.end, self.tries.iter().map(|trial| trial.ended).max()) {
            (Some((_, ended)), _) => {
                let at = self.outcome().failed_at().unwrap_or(ended);
                self.lacks_last_try().then_some(Waits::Failed(at))
            }
            _ if self.is_answered() => None,
            (None, None) => Some(Waits::Fresh(self.started)),
            (None, Some(over)) => Some(Waits::Tried(over)),
        }
    }

    /// Whether the answer followed no known attempt at once, so that one that nobody claimed may be the
    /// last of this request. Only connects that were joined for want of another request leave such gaps.
    pub(crate) fn lacks_last_try(&self) -> bool {
        let outcome = self.outcome();
        let answered = outcome.answer_began.unwrap_or(outcome.ended);
        self.tries.iter().all(|trial| {
            let join = trial.parent.map(|parent| parent.join);
            join == Some(Join::Waiting) && answered.saturating_sub(trial.ended) > AT_ONCE
        })
    }
}
