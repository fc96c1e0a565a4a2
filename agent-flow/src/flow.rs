//! What is remembered of one socket.
//!
//! In: what happened on it. Out: the state that the next segment is read by. In the kernel it lives in
//! the socket's own storage and dies with it: nothing to evict, nothing to leak.
//!
//! Packets of the two directions may be handled at once on two CPUs, without a lock: a
//! lock would forbid every helper call in between. Each field is written by one direction
//! in one phase of the exchange, and HTTP orders the phases; a field that both touch
//! (tallies of bytes while an upload is answered early) may lose an update, never more.
//! What all of them write are [`Flags`]; what one probe needs while it runs is not here
//! ([`crate::world::Space`]).

use agent_wire::record::{Exchange, Header, flag, side};

use crate::flags::Flags;
use crate::http1::chunks::Chunks;
use crate::machine::Machine;
use crate::tls::records::Handshake;

/// Where the talk on a socket stands. Ordered: `>= TUNNEL` means "look away".
pub mod phase {
    /// No HTTP message seen yet.
    pub const UNKNOWN: u8 = 0;
    /// Between exchanges.
    pub const IDLE: u8 = 1;
    /// Request head begun, not complete.
    pub const REQUEST_HEAD: u8 = 2;
    /// Request head complete; body, or waiting for the response.
    pub const REQUEST: u8 = 3;
    /// Response head begun, not complete.
    pub const RESPONSE_HEAD: u8 = 4;
    /// Response head complete, body not.
    pub const RESPONSE_BODY: u8 = 5;
    /// A TLS handshake with an upstream ([`crate::tls`]).
    pub const HANDSHAKE: u8 = 6;
    /// A tunnel (101, CONNECT).
    pub const TUNNEL: u8 = 7;
    /// Not HTTP/1.
    pub const OPAQUE: u8 = 8;
    /// HTTP, and of a process that is no proxy.
    pub const PARKED: u8 = 9;
}

/// What the request's method means for the response.
pub mod method {
    /// Anything else.
    pub const OTHER: u8 = 0;
    /// HEAD: the response has no body.
    pub const HEAD: u8 = 1;
    /// CONNECT: 2xx makes a tunnel.
    pub const CONNECT: u8 = 2;
}

/// One direction of the byte stream.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Stream {
    /// Sequence number after the last byte seen.
    pub end: u32,
    /// `end` is meaningful.
    pub known: u32,
}

/// One socket.
///
/// First what every packet looks at, in the cache line in which the storage's own word is; of most
/// sockets nothing else is touched.
#[repr(C)]
pub struct Flow<M: Machine> {
    /// One of [`phase`].
    pub phase: u8,
    /// One of [`method`].
    pub method: u8,
    /// Owner asked to be left alone.
    pub ignored: u8,
    /// The handshake is under way.
    pub connecting: u8,
    /// The header has addresses and ports of both ends.
    pub addressed: u8,
    /// First response byte of the final head is still to come (after an interim head).
    pub awaiting_final: u8,
    /// Head bytes are being gathered, see [`crate::world::Socket::keep`].
    pub gathering: u8,
    /// The upstream spoke before the first request.
    pub spoke_first: u8,
    /// What a record carries as [`flag`].
    pub flags: Flags<M>,
    /// What this end sent.
    pub sent: Stream,
    /// What the peer sent.
    pub received: Stream,
    /// Highest acknowledgement received.
    pub acked: u32,
    /// Segments that came out of order while a head was awaited.
    pub ahead: u16,
    /// Requests of the client that wait behind the one at hand, as far as they can be counted.
    pub queued: u8,
    /// Which of the first eight of them are HEAD, the next one in the low bit.
    pub queued_heads: u8,
    /// What each record starts with, but for its kind, its time and its flags ([`Flow::head`]).
    pub header: Header,
    /// Thread that opened or last read this socket (its `task_struct` address, as a name).
    pub task: u64,
    /// The exchange at hand, or the last.
    pub exchange: Exchange,
    /// Request bytes by its framing, head included; `u64::MAX` when not known.
    pub request_total: u64,
    /// End of the last exchange, ns.
    pub idle_since_ns: u64,
    /// Sequence number of the request's first byte.
    pub request_seq: u32,
    /// Processes listed when this one was last looked for among them.
    pub listings: u32,
    /// Segments left before the flow is given up as not HTTP.
    pub tries: u16,
    /// The state is CLOSE and the reason is not known yet; one of the probes' own codes.
    pub closing: u8,
    /// The CLOSE record is out.
    pub closed: u8,
    /// End of the segments that came out of order.
    pub ahead_end: u32,
    /// Last eight bytes of the response, the newest in the low byte; kept for chunked bodies only.
    pub tail: u64,
    /// Where the chunks of the body at hand end.
    pub chunks: Chunks,
    /// The TLS handshake, if there is one.
    pub tls: Handshake,
    /// Tail of the last of the segments that came out of order.
    pub ahead_tail: u64,
    /// When it was last told how TCP fares here, ns.
    pub fares_ns: u64,
    /// Something was sent.
    pub talked: u8,
    /// What is spoken where it is not HTTP, one of [`agent_wire::record::talk`]; see
    /// [`crate::clients`].
    pub talk: u8,
    /// What an ICMP said that did not end the connection, errno.
    pub soft_error: u16,
    /// Network namespace of the thread that last read this socket, its inode; 0 where the socket's own
    /// can be had.
    pub network: u32,
    /// Where the heads of the exchange at hand are held; 0 when they are not. See
    /// [`crate::world::World::hold`].
    pub held: u16,
    /// Its process's exchanges were told in brief when that was last asked.
    pub in_brief: u8,
    /// This end has closed: whether the peer's window was shut then is what counts of it.
    pub window_counts: u8,
    /// Processes listed when it was.
    pub asked: u32,
}

impl<M: Machine> Default for Flow<M> {
    /// A socket of which nothing is known, as zeroed storage has it.
    fn default() -> Self {
        Self {
            phase: phase::UNKNOWN,
            method: method::OTHER,
            ignored: 0,
            connecting: 0,
            addressed: 0,
            awaiting_final: 0,
            gathering: 0,
            spoke_first: 0,
            flags: Flags::default(),
            sent: Stream::default(),
            received: Stream::default(),
            acked: 0,
            ahead: 0,
            queued: 0,
            queued_heads: 0,
            header: Header::default(),
            task: 0,
            exchange: Exchange::default(),
            request_total: 0,
            idle_since_ns: 0,
            request_seq: 0,
            listings: 0,
            tries: 0,
            closing: 0,
            closed: 0,
            ahead_end: 0,
            tail: 0,
            chunks: Chunks::default(),
            tls: Handshake::default(),
            ahead_tail: 0,
            fares_ns: 0,
            talked: 0,
            talk: 0,
            soft_error: 0,
            network: 0,
            held: 0,
            in_brief: 0,
            window_counts: 0,
            asked: 0,
        }
    }
}

/// Segments that may pass on a connection seen from its start before it is given up as
/// not HTTP. More than one: a server may speak first, a PROXY line may come first.
const TRIES_FROM_OPEN: u16 = 4;
/// The same for a connection picked up in the middle of a body.
const TRIES_PICKED_UP: u16 = 4096;

impl<M: Machine> Flow<M> {
    /// The connection of `cookie` opens now.
    #[inline(always)]
    pub fn opens(&mut self, cookie: u64, now: u64) {
        self.header.cookie = cookie;
        self.header.opened_ns = now;
        self.flags.set::<{ flag::SEEN_OPEN }>();
        self.tries = TRIES_FROM_OPEN;
    }

    /// The connection of `cookie` was there before.
    #[inline(always)]
    pub fn is_picked_up(&mut self, cookie: u64) {
        self.header.cookie = cookie;
        self.tries = TRIES_PICKED_UP;
    }

    /// Requests leave here.
    #[inline(always)]
    pub fn is_upstream_side(&self) -> bool {
        self.header.side == side::UPSTREAM
    }

    /// Requests arrive here.
    #[inline(always)]
    pub fn is_client_side(&self) -> bool {
        self.header.side == side::CLIENT
    }

    /// A request is under way.
    #[inline(always)]
    pub fn in_exchange(&self) -> bool {
        self.phase >= phase::REQUEST_HEAD && self.phase <= phase::RESPONSE_BODY
    }

    /// Its opening, end and resets are worth a record.
    #[inline(always)]
    pub fn is_told(&self) -> bool {
        self.ignored == 0
            && (self.flags.has::<{ flag::ACTIVE_OPEN }>() || self.header.side != side::UNKNOWN)
    }

    /// Writes the header of a record of this socket.
    #[inline(always)]
    pub fn head(&self, header: &mut Header) {
        M::assign(header, &self.header);
        header.flags = self.flags.bits();
    }

    /// Writes the exchange of a record of this socket.
    #[inline(always)]
    pub fn exchange_into(&self, exchange: &mut Exchange) {
        M::assign(exchange, &self.exchange);
    }
}
