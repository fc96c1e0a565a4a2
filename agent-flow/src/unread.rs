//! Outgoing connections whose talk is not read: FastCGI, uwsgi, HTTP/2, what is inside TLS, Redis,
//! PostgreSQL. TCP tells how a request fares on them all the same.
//!
//! In: the lengths of segments of connections that this host opened and that are not HTTP/1. Out: one
//! UNREAD record when the connection ends, and one when a kept connection is used for another client's
//! request: it sends again after it received, on another errand. Never one for a packet.
//!
//! What is counted lies in [`Flow::exchange`], which HTTP does not use on such a connection.

use agent_wire::record::{End, end, flag, kind, side};

use crate::bytes::Payload;
use crate::flow::{Flow, method, phase};
use crate::machine::Machine;
use crate::world::World;

/// The flow is one of those, or may turn out to be.
#[inline(always)]
pub fn follows<M: Machine>(flow: &Flow<M>) -> bool {
    flow.flags.has::<{ flag::ACTIVE_OPEN }>()
        && flow.header.side == side::UNKNOWN
        && flow.ignored == 0
}

/// Something was sent on such a connection, and it was not told yet what came of it.
#[inline(always)]
pub fn in_use<M: Machine>(flow: &Flow<M>) -> bool {
    flow.exchange.request_ns != 0 && follows(flow)
}

/// Payload leaves.
#[inline(always)]
pub fn sent<W: World>(world: &W, flow: &mut Flow<W>, segment: Payload) {
    let fresh = segment
        .seq
        .wrapping_add(segment.len)
        .wrapping_sub(flow.sent.end) as i32;
    if flow.sent.known != 0 && fresh <= 0 {
        return;
    }
    let now = world.now();
    let answered = flow.exchange.last_byte_ns != 0;
    let again = if flow.phase == phase::OPAQUE {
        flow.sent.known = 1;
        flow.sent.end = segment.seq.wrapping_add(segment.len);
        flow.exchange.request_ns == 0 || answered
    } else {
        // Not given up as HTTP yet, after a request and an answer that were none.
        let from_open = flow.flags.has::<{ flag::SEEN_OPEN }>();
        flow.phase == phase::UNKNOWN && from_open && flow.exchange.request_ns != 0 && answered
    };
    if again {
        used_again(world, flow, now);
    }
    if flow.exchange.request_ns == 0 {
        flow.exchange.request_ns = now;
    }
    flow.exchange.request_last_ns = now;
    flow.exchange.request_bytes += u64::from(segment.len);
}

/// Payload arrives.
#[inline(always)]
pub fn received<W: World>(world: &W, flow: &mut Flow<W>, segment: Payload) {
    let fresh = segment
        .seq
        .wrapping_add(segment.len)
        .wrapping_sub(flow.received.end) as i32;
    if flow.received.known != 0 && fresh <= 0 {
        return;
    }
    let now = world.now();
    if flow.phase == phase::OPAQUE {
        flow.received.known = 1;
        flow.received.end = segment.seq.wrapping_add(segment.len);
    }
    if flow.exchange.first_byte_ns == 0 {
        flow.exchange.first_byte_ns = now;
    }
    flow.exchange.last_byte_ns = now;
    flow.exchange.response_bytes += u64::from(segment.len);
}

/// The answer is HTTP/1, although what was asked is not, as uWSGI does (and a request may be hidden
/// behind a PROXY header): it is read. `flow` has just been taken for an upstream's.
#[inline(always)]
pub fn is_answered<M: Machine>(flow: &mut Flow<M>) {
    flow.phase = phase::REQUEST;
    flow.flags.set::<{ flag::NO_REQUEST }>();
    flow.method = method::OTHER;
    let bytes = flow.exchange.request_bytes as u32;
    flow.request_seq = flow.sent.end.wrapping_sub(bytes);
}

/// The connection sends after it received. On another errand that is another use of it.
#[inline(always)]
fn used_again<W: World>(world: &W, flow: &mut Flow<W>, now: u64) {
    let errand = world.errand(now);
    let another =
        errand.cookie != flow.exchange.errand.cookie || errand.index != flow.exchange.errand.index;
    if errand.cookie == 0 || !another || world.is_withdrawn(flow) {
        return;
    }
    flow.exchange.index = flow.exchange.index.wrapping_add(1);
    flow.exchange.idle_since_ns = flow.exchange.last_byte_ns;
    flow.exchange.errand = errand;
    if flow.task == world.task() {
        flow.flags.set::<{ flag::OWN_ERRAND }>();
    } else {
        flow.flags.clear::<{ flag::OWN_ERRAND }>();
    }
    begin(flow);
    flow.exchange.request_ns = now;
    flow.exchange.request_last_ns = now;
    tell(world, flow, end::OPEN, now);
}

/// The handshake of TLS is over. The request begins with the
/// `len` bytes that show that it is done; 0 when it failed.
#[inline(always)]
pub fn after_handshake<W: World>(world: &W, flow: &mut Flow<W>, len: u32) {
    begin(flow);
    if len != 0 {
        let now = world.now();
        flow.exchange.request_ns = now;
        flow.exchange.request_last_ns = now;
        flow.exchange.request_bytes = u64::from(len);
    }
}

/// Counts from here.
#[inline(always)]
fn begin<M: Machine>(flow: &mut Flow<M>) {
    flow.exchange.request_ns = 0;
    flow.exchange.request_last_ns = 0;
    flow.exchange.first_byte_ns = 0;
    flow.exchange.last_byte_ns = 0;
    flow.exchange.request_bytes = 0;
    flow.exchange.response_bytes = 0;
}

/// The connection ends, one way or the other: what it was used for last is over.
#[inline(always)]
pub fn finish<W: World>(world: &W, flow: &mut Flow<W>, how: u8, now: u64) {
    let unacked = flow.sent.end.wrapping_sub(flow.acked) as i32;
    let unacked = if unacked > 0 { unacked as u64 } else { 0 };
    let bytes = flow.exchange.request_bytes;
    flow.exchange.request_acked = bytes.saturating_sub(unacked);
    tell(world, flow, how, now);
    flow.exchange.request_ns = 0;
}

#[inline(always)]
fn tell<W: World>(world: &W, flow: &mut Flow<W>, how: u8, now: u64) {
    flow.exchange.end = how;
    // In place: the packet programs have no stack to spare.
    world.emit(kind::UNREAD, now, |record: &mut End| {
        flow.head(&mut record.header);
        flow.exchange_into(&mut record.exchange);
    });
}
