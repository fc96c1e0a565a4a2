//! One exchange, a request and its response: begun, ended, and reported when it ends.
//!
//! In: that a message begins or ends. Out: the [`Exchange`] of the flow, and an END record when the
//! exchange ends later than its response head.

use agent_wire::record::{End, Exchange, UNFOLLOWED, end, flag, framing, kind};

use crate::flow::{Flow, method, phase};
use crate::http1::brief;
use crate::http1::chunks::Seen;
use crate::http1::queue;
use crate::http1::request_line::{CONN, HEAD};
use crate::machine::Machine;
use crate::world::World;

/// The exchange is over: tell it, and be ready for the next.
#[inline(always)]
pub fn finish<W: World>(world: &W, flow: &mut Flow<W>, how: u8, now: u64) {
    flow.exchange.end = how;
    if flow.exchange.framing == framing::CHUNKED && flow.chunks.seen() == Seen::Unknown {
        flow.exchange.content_length = UNFOLLOWED;
    }
    measure_acked(flow);
    if brief::ends(world, flow, now) {
        next_exchange(flow, now);
        return;
    }
    world.emit(kind::END, now, |record: &mut End| {
        flow.head(&mut record.header);
        flow.exchange_into(&mut record.exchange);
    });
    next_exchange(flow, now);
}

/// A response begins with `len` bytes.
#[inline(always)]
pub fn response_begins<M: Machine>(flow: &mut Flow<M>, len: u64, now: u64) {
    flow.phase = phase::RESPONSE_HEAD;
    flow.gathering = 0;
    flow.awaiting_final = 0;
    flow.exchange.first_byte_ns = now;
    flow.exchange.last_byte_ns = now;
    flow.exchange.response_bytes = len;
}

/// A request begins with `len` bytes from `seq` on, the first of them in `start`.
#[inline(always)]
pub fn request_begins<M: Machine>(flow: &mut Flow<M>, start: u64, seq: u32, len: u32, now: u64) {
    begin(flow, now);
    flow.method = method_of(start);
    flow.request_seq = seq;
    flow.exchange.request_bytes = u64::from(len);
    flow.exchange.request_last_ns = now;
    flow.phase = phase::REQUEST_HEAD;
}

/// What the method that a request starts with means for the response.
#[inline(always)]
pub fn method_of(start: u64) -> u8 {
    match start & 0xffff_ffff {
        HEAD => method::HEAD,
        CONN => method::CONNECT,
        _ => method::OTHER,
    }
}

/// A new exchange on this connection.
#[inline(always)]
fn begin<M: Machine>(flow: &mut Flow<M>, now: u64) {
    let Exchange {
        index: _,
        // Of a FIN that came before this request.
        peer_fin_ns: _,
        end,
        framing,
        status,
        request_ns,
        request_last_ns,
        first_byte_ns,
        head_ns,
        last_byte_ns,
        idle_since_ns,
        request_bytes,
        request_acked,
        response_bytes,
        head_bytes,
        request_head_bytes,
        content_length,
        errand,
    } = &mut flow.exchange;
    *end = end::OPEN;
    *framing = framing::UNKNOWN;
    *status = 0;
    *request_ns = now;
    *idle_since_ns = flow.idle_since_ns;
    // One by one: the compiler would fill what lies side by side with zeros byte by byte.
    for time in [request_last_ns, first_byte_ns, head_ns, last_byte_ns] {
        M::store(time, 0);
    }
    for count in [request_bytes, request_acked, response_bytes, content_length] {
        M::store(count, 0);
    }
    M::store(head_bytes, 0);
    M::store(request_head_bytes, 0);
    M::store(&mut errand.cookie, 0);
    M::store(&mut errand.index, 0);
    M::store(&mut errand.age_us, 0);
    flow.flags.clear::<{ flag::HEAD_CUT }>();
    flow.flags.clear::<{ flag::NOT_HTTP }>();
    flow.flags.clear::<{ flag::NO_REQUEST }>();
    flow.flags.clear::<{ flag::OWN_ERRAND }>();
    flow.flags.clear::<{ flag::BAD_CHUNK }>();
    flow.request_total = u64::MAX;
    flow.gathering = 0;
}

/// A new exchange whose request was not read, for it came while another was under way.
#[inline(always)]
pub fn begin_unread<M: Machine>(flow: &mut Flow<M>, now: u64) {
    begin(flow, now);
    flow.flags.set::<{ flag::NO_REQUEST }>();
    flow.method = method::OTHER;
}

/// The exchange is over and reported: the connection is ready for the next.
#[inline(always)]
pub fn next_exchange<M: Machine>(flow: &mut Flow<M>, now: u64) {
    queue::response_ended(flow);
    flow.idle_since_ns = now;
    flow.phase = match flow.exchange.end {
        end::TUNNEL => phase::TUNNEL,
        _ => phase::IDLE,
    };
    flow.exchange.index = flow.exchange.index.wrapping_add(1);
    flow.exchange.end = end::OPEN;
}

/// The connection ends: begins the exchange of a request that waits, so that its end is reported. Of
/// those that waited while another was under way it is not known what the proxy would have done.
#[inline(always)]
pub fn connection_ends<M: Machine>(flow: &mut Flow<M>, now: u64) {
    let waits = flow.queued != 0 && flow.phase == phase::IDLE;
    queue::is_unknown(flow);
    if waits {
        begin_unread(flow, now);
        flow.phase = phase::REQUEST;
    }
}

/// How much of the request the peer has acknowledged.
#[inline(always)]
pub fn measure_acked<M: Machine>(flow: &mut Flow<M>) {
    if !flow.is_upstream_side() {
        return;
    }
    let acked = flow.acked.wrapping_sub(flow.request_seq) as i32;
    let acked = if acked > 0 { acked as u64 } else { 0 };
    let sent = flow.exchange.request_bytes;
    flow.exchange.request_acked = if acked < sent { acked } else { sent };
}
