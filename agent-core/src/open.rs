//! What is under way, for who asks.
//!
//! In: which of it is asked for. Out: client requests of proxies with their attempts, and attempts
//! without a request that is under way.

use std::net::SocketAddr;

use crate::cause::Certainty;
use crate::event::{Join, Proxy, Upstream};
use crate::observation::{Nanos, RequestHead};
use crate::unread::Used;

/// Which of what is under way is asked for.
#[derive(Clone, Copy, Debug)]
pub struct OpenFilter<'a> {
    /// The time (`CLOCK_MONOTONIC`, ns).
    pub now: Nanos,
    /// Only what began so long ago or longer, ns.
    pub min_age: Nanos,
    /// Only of proxies of this name.
    pub proxy: Option<&'a str>,
    /// At most so many, the oldest.
    pub limit: usize,
}

/// Whether the attempt on a connection, by its cookie, to this upstream goes where it is asked for.
pub type GoesThere<'a> = &'a dyn Fn(u64, &Upstream) -> bool;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct OpenList {
    /// The oldest first, at most as many as asked for.
    pub open: Vec<Open>,
    /// How many fit, those above the limit included.
    pub matched: usize,
    /// Requests and attempts looked at to find these: what the question costs.
    pub looked_at: usize,
}

/// A client's request that is under way at a proxy, or an attempt without one.
#[derive(Clone, Debug)]
pub struct Open {
    /// Who has it.
    pub proxy: Proxy,
    /// Whose it is.
    pub asker: Asker,
    /// Request head; that which was sent upstream where the client's is not known.
    pub head: Option<RequestHead>,
    /// First request byte, or the start of the attempt.
    pub started: Nanos,
    /// Status that the answer to the client began with, as far as that was reported.
    pub code: Option<u16>,
    /// Attempts under way, in order of start.
    pub attempts: Vec<OpenAttempt>,
    /// Attempts of it that are over and were read.
    pub earlier: usize,
    /// Where no attempt is known: what the proxy uses whose talk is not read, of which it is not known
    /// for whom.
    pub elsewhere: Used,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client waits for it.
    Client {
        /// Who.
        client: SocketAddr,
        /// Cookie of the client-side socket.
        cookie: u64,
        /// Number of the exchange on it.
        index: u32,
    },
    /// Its request is over: the attempt goes on without it.
    Over,
    /// An attempt whose request is not known.
    Unknown,
}

/// An attempt under way.
#[derive(Clone, Debug)]
pub struct OpenAttempt {
    /// Whom.
    pub upstream: Upstream,
    /// This end's address; unspecified where it has none.
    pub local: SocketAddr,
    /// Socket cookie of the upstream connection; 0 where it is not known.
    pub cookie: u64,
    /// Number of the exchange on that connection.
    pub index: u32,
    /// How it is joined.
    pub join: Join,
    /// How sure it is that it was made for that request; `None` when it is joined to none.
    pub join_certainty: Option<Certainty>,
    /// Start: connect for a fresh connection, else first request byte.
    pub started: Nanos,
    /// Its connection is read. If not, it may be over already.
    pub is_read: bool,
    /// A part of the answer has arrived.
    pub is_answering: bool,
}
