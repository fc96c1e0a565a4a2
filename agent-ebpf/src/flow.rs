//! What is remembered of one socket. Lives in the socket's own storage and dies with it:
//! nothing to evict, nothing to leak.
//!
//! Packets of the two directions may be handled at once on two CPUs, without a lock: a
//! lock would forbid every helper call in between. Each field is written by one direction
//! in one phase of the exchange, and HTTP orders the phases; a field that both touch
//! (tallies of bytes while an upload is answered early) may lose an update, never more.
//! What all of them write are [`Flags`]; what one probe needs while it runs is not here
//! ([`crate::scratch`]).

use agent_flow::flags::Flags;
use agent_flow::http1::chunks::Chunks;
use agent_wire::record::{Exchange, Header, flag, side};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::btf_map;

use crate::by_cookie;
use crate::kernel;
use crate::machine::Kernel;
use crate::tallies;
use crate::tls::Handshake;

#[btf_map]
static FLOWS: SkStorage<Flow> = SkStorage::new();

/// Where the talk on a socket stands. Ordered: `>= TUNNEL` means "look away".
pub(crate) mod phase {
    /// No HTTP message seen yet.
    pub(crate) const UNKNOWN: u8 = 0;
    /// Between exchanges.
    pub(crate) const IDLE: u8 = 1;
    /// Request head begun, not complete.
    pub(crate) const REQUEST_HEAD: u8 = 2;
    /// Request head complete; body, or waiting for the response.
    pub(crate) const REQUEST: u8 = 3;
    /// Response head begun, not complete.
    pub(crate) const RESPONSE_HEAD: u8 = 4;
    /// Response head complete, body not.
    pub(crate) const RESPONSE_BODY: u8 = 5;
    /// A TLS handshake with an upstream ([`crate::tls`]).
    pub(crate) const HANDSHAKE: u8 = 6;
    /// A tunnel (101, CONNECT).
    pub(crate) const TUNNEL: u8 = 7;
    /// Not HTTP/1.
    pub(crate) const OPAQUE: u8 = 8;
    /// HTTP, and of a process that is no proxy ([`crate::attention`]).
    pub(crate) const PARKED: u8 = 9;
}

/// What the request's method means for the response.
pub(crate) mod method {
    /// Anything else.
    pub(crate) const OTHER: u8 = 0;
    /// HEAD: the response has no body.
    pub(crate) const HEAD: u8 = 1;
    /// CONNECT: 2xx makes a tunnel.
    pub(crate) const CONNECT: u8 = 2;
}

/// Segments that may pass on a connection seen from its start before it is given up as
/// not HTTP. More than one: a server may speak first, a PROXY line may come first.
const TRIES_FROM_OPEN: u16 = 4;
/// The same for a connection picked up in the middle of a body.
const TRIES_PICKED_UP: u16 = 4096;

/// One direction of the byte stream.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    /// Sequence number after the last byte seen.
    pub(crate) end: u32,
    /// `end` is meaningful.
    pub(crate) known: u32,
}

/// One socket.
///
/// First what every packet looks at, in the cache line in which the storage's own word is; of most
/// sockets nothing else is touched.
#[repr(C)]
pub(crate) struct Flow {
    /// One of [`phase`].
    pub(crate) phase: u8,
    /// One of [`method`].
    pub(crate) method: u8,
    /// Owner asked to be left alone.
    pub(crate) ignored: u8,
    /// The handshake is under way.
    pub(crate) connecting: u8,
    /// The header has addresses and ports of both ends.
    pub(crate) addressed: u8,
    /// First response byte of the final head is still to come (after an interim head).
    pub(crate) awaiting_final: u8,
    /// Head bytes are being gathered in [`crate::http1`]'s partial storage.
    pub(crate) gathering: u8,
    /// The upstream spoke before the first request.
    pub(crate) spoke_first: u8,
    pub(crate) flags: Flags<Kernel>,
    pub(crate) sent: Stream,
    pub(crate) received: Stream,
    /// Highest acknowledgement received.
    pub(crate) acked: u32,
    /// Segments that came out of order while a head was awaited.
    pub(crate) ahead: u16,
    /// Requests of the client that wait behind the one at hand, as far as they can be counted.
    pub(crate) queued: u16,
    /// What each record starts with, but for its kind, its time and its flags ([`Flow::head`]).
    pub(crate) header: Header,
    /// Thread that opened or last read this socket (its `task_struct` address, as a name).
    pub(crate) task: u64,
    pub(crate) exchange: Exchange,
    /// Request bytes by its framing, head included; `u64::MAX` when not known.
    pub(crate) request_total: u64,
    /// End of the last exchange, ns.
    pub(crate) idle_since_ns: u64,
    /// Sequence number of the request's first byte.
    pub(crate) request_seq: u32,
    /// Processes listed when this one was last looked for among them.
    pub(crate) listings: u32,
    /// Segments left before the flow is given up as not HTTP.
    pub(crate) tries: u16,
    /// The state is CLOSE and the reason is not known yet; see [`crate::lifecycle`].
    pub(crate) closing: u8,
    /// The CLOSE record is out.
    pub(crate) closed: u8,
    /// End of the segments that came out of order.
    pub(crate) ahead_end: u32,
    /// Last eight bytes of the response, the newest in the low byte; kept for chunked bodies only.
    pub(crate) tail: u64,
    /// Where the chunks of the body at hand end.
    pub(crate) chunks: Chunks,
    /// The TLS handshake, if there is one.
    pub(crate) tls: Handshake,
    /// Tail of the last of the segments that came out of order.
    pub(crate) ahead_tail: u64,
    /// When it was last told how TCP fares here, ns.
    pub(crate) fares_ns: u64,
    /// Something was sent.
    pub(crate) talked: u8,
    /// What is spoken where it is not HTTP, one of [`agent_wire::record::talk`]; see
    /// [`crate::clients`].
    pub(crate) talk: u8,
    /// What an ICMP said that did not end the connection, errno.
    pub(crate) soft_error: u16,
    /// Network namespace of the thread that last read this socket, its inode; 0 where the socket's own
    /// can be had.
    pub(crate) network: u32,
}

impl Flow {
    /// The flow of `sk`, if it has one.
    #[inline(always)]
    pub(crate) fn of(sk: kernel::Sock) -> Option<&'static mut Self> {
        if kernel::by_cookie() {
            return by_cookie::get(sk.cookie());
        }
        kernel::storage_get(&FLOWS, sk)
    }

    /// The flow of `sk`, made when it has none: `seen_open` tells whether from its start.
    #[inline(always)]
    pub(crate) fn open(
        sk: kernel::Sock,
        cookie: u64,
        seen_open: bool,
    ) -> Option<&'static mut Self> {
        let flow = if kernel::by_cookie() {
            by_cookie::get_or_create(cookie)
        } else {
            kernel::storage_get_or_create(&FLOWS, sk)
        };
        let Some(flow) = flow else {
            tallies::count(agent_wire::tally::Tally::STORAGE_FAILED);
            return None;
        };
        if flow.header.cookie == 0 {
            flow.header.cookie = cookie;
            if seen_open {
                flow.header.opened_ns = kernel::now();
                flow.flags.set::<{ flag::SEEN_OPEN }>();
                flow.tries = TRIES_FROM_OPEN;
            } else {
                flow.tries = TRIES_PICKED_UP;
            }
        }
        Some(flow)
    }

    /// Requests leave here.
    #[inline(always)]
    pub(crate) fn is_upstream_side(&self) -> bool {
        self.header.side == side::UPSTREAM
    }

    /// Requests arrive here.
    #[inline(always)]
    pub(crate) fn is_client_side(&self) -> bool {
        self.header.side == side::CLIENT
    }

    /// A request is under way.
    #[inline(always)]
    pub(crate) fn in_exchange(&self) -> bool {
        self.phase >= phase::REQUEST_HEAD && self.phase <= phase::RESPONSE_BODY
    }

    /// Its opening, end and resets are worth a record.
    #[inline(always)]
    pub(crate) fn is_told(&self) -> bool {
        self.ignored == 0
            && (self.flags.has::<{ flag::ACTIVE_OPEN }>() || self.header.side != side::UNKNOWN)
    }

    /// Writes the header of a record of this socket.
    #[inline(always)]
    pub(crate) fn head(&self, header: &mut Header) {
        kernel::assign(header, &self.header);
        header.flags = self.flags.bits();
    }
}
