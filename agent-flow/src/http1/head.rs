//! Message heads: gathered where they come in pieces, scanned, and told.
//!
//! In: the bytes of a head as they come. Out: a REQUEST or RESPONSE record when it is complete,
//! and in the flow what its fields say of the body that follows.

use agent_wire::limits::HEAD_BYTES;
use agent_wire::record::{MessageHead, Record, end, flag, framing, kind};
use agent_wire::tally::Tally;

use crate::bytes::{Bytes, Payload};
use crate::flow::{Flow, method, phase};
use crate::http1::body::{is_complete, keep_tail};
use crate::http1::brief;
use crate::http1::exchange::{measure_acked, method_of, next_exchange};
use crate::http1::queue;
use crate::http1::scan::{self, HTTP_1, SEVEN_BYTES, Scan, found};
use crate::machine::Machine;
use crate::world::{APPEND_BYTES, FlowOf, Socket, Source, Space, World};

/// Bytes told of a response that is not HTTP, enough to see what it is instead, and of one that a
/// client gets, of which only the status counts.
const FIRST_BYTES: u32 = 32;

/// Head bytes: complete with these, or gathered until they are.
#[inline(always)]
pub fn read<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, now: u64) {
    let world = source.world();
    let Some(mut space) = world.take_space() else {
        world.count(Tally::SCRATCH_BUSY);
        cut(flow, awaits_response(flow));
        return;
    };
    // By way of map memory, read anew at each use: the verifier forgets what it knew of
    // each, and walks the scanner once instead of once for every way that leads to it.
    space.at = payload;
    space.now_ns = now;
    if gather(source, flow, &mut space) {
        examine(source, flow, &mut space, |flow, at| {
            chunked(source, flow, at)
        });
    }
    world.give_back(space);
}

/// A request that came with the packet that completed the handshake, before there was a socket
/// to see it on: `len` bytes, the first of them in `bytes`.
#[inline(always)]
pub fn read_request<S: Socket>(
    socket: &S,
    flow: &mut FlowOf<S>,
    bytes: &[u8; HEAD_BYTES],
    len: u32,
    now: u64,
) {
    let world = socket.world();
    let Some(mut space) = world.take_space() else {
        world.count(Tally::SCRATCH_BUSY);
        cut(flow, false);
        return;
    };
    S::World::copy::<HEAD_BYTES, _, _>(bytes, &mut space.bytes);
    space.fixed.captured = if len > HEAD_BYTES as u32 {
        HEAD_BYTES as u32
    } else {
        len
    };
    space.at = Payload::at(0, len);
    space.now_ns = now;
    examine(socket, flow, &mut space, |_, _| {});
    world.give_back(space);
}

/// Brings the head at hand together in `space`; false when its bytes cannot be read.
#[inline(always)]
fn gather<S: Source>(source: &S, flow: &mut FlowOf<S>, space: &mut Space) -> bool {
    if flow.gathering == 0 {
        let payload = S::World::opaque(&space.at);
        let len = if payload.len > HEAD_BYTES as u32 {
            HEAD_BYTES as u32
        } else {
            payload.len
        };
        if !source.load_at::<HEAD_BYTES, _>(payload.offset, &mut space.bytes, 0, len) {
            source.world().count(Tally::HEADERS_UNREADABLE);
            cut(flow, awaits_response(flow));
            return false;
        }
        space.fixed.captured = len;
    } else {
        source.bring_back(space);
        append::<S::World>(source, space, S::World::opaque(&space.at));
    }
    true
}

/// Scans the head in `space`: keeps it when it is not complete, else tells it. `chunked` is called
/// where a chunked body begins.
#[inline(always)]
fn examine<S: Socket>(
    socket: &S,
    flow: &mut FlowOf<S>,
    lent: &mut <S::World as World>::Space,
    chunked: impl FnOnce(&mut FlowOf<S>, Payload),
) {
    let world = socket.world();
    let space: &mut Space = lent;
    space.scan.len = space.fixed.captured;
    space.scan.is_response = u32::from(awaits_response(flow));
    if is_http(space, flow) {
        world.scan(lent);
    }
    let space: &mut Space = lent;
    let payload = S::World::opaque(&space.at);
    let now = S::World::opaque(&space.now_ns);
    let not_http = flow.flags.has::<{ flag::NOT_HTTP }>();
    let done = S::World::opaque(&space.scan.end) != 0 || not_http;
    let is_response = awaits_response(flow);
    if !done && S::World::opaque(&space.scan.len) < HEAD_BYTES as u32 {
        keep(socket, flow, space, is_response);
        return;
    }
    if done {
        scan::numbers::<S::World, _>(&space.bytes, &mut space.scan);
        if !is_response {
            // Its first segment may have been shorter than the method.
            flow.method = method_of(S::World::word(&space.bytes, 0));
        }
        understood(flow, &space.scan, payload, is_response, now, chunked);
        if !is_response && flow.exchange.request_bytes > flow.request_total {
            flow.exchange.request_bytes = flow.request_total;
            behind_request(world, flow, space);
        }
    } else {
        world.count(Tally::HEAD_TOO_LONG);
        cut(flow, is_response);
    }
    flow.gathering = 0;
    tell(world, flow, space, is_response, now);
}

/// The bytes at hand go on behind the request whose head is at hand, and its body.
#[inline(always)]
fn behind_request<W: World>(world: &W, flow: &mut Flow<W>, space: &Space) {
    let at = W::opaque(&flow.request_total);
    let captured = u64::from(W::opaque(&space.fixed.captured));
    if at < captured && at < HEAD_BYTES as u64 {
        let start = W::word(&space.bytes, W::bounded::<{ HEAD_BYTES as u32 }>(at as u32));
        queue::begins(world, flow, start, captured - at);
    } else {
        queue::begins(world, flow, 0, 0);
    }
}

/// The head at hand is a response's. Read anew at each use, see [`scan::scan`].
#[inline(always)]
fn awaits_response<M: Machine>(flow: &Flow<M>) -> bool {
    M::opaque(&flow.phase) == phase::RESPONSE_HEAD
}

/// Puts the payload behind what is in `space`, as far as there is room.
#[inline(always)]
fn append<M: Machine>(bytes: &impl Bytes, space: &mut Space, payload: Payload) {
    let mut taken = 0u32;
    let mut round = 0;
    while round < HEAD_BYTES / APPEND_BYTES {
        // Read anew, so that the compiler keeps the comparisons the verifier wants to see
        // ("R3 max value is outside of the allowed memory range").
        let at = M::opaque(&space.fixed.captured);
        let left = payload.len.wrapping_sub(taken);
        if at >= HEAD_BYTES as u32 || left == 0 || left > payload.len {
            break;
        }
        let len = if left >= APPEND_BYTES as u32 {
            APPEND_BYTES as u32
        } else {
            left
        };
        if !bytes.load_at::<APPEND_BYTES, _>(
            payload.offset + taken,
            &mut space.bytes,
            M::bounded::<{ HEAD_BYTES as u32 }>(at),
            len,
        ) {
            break;
        }
        taken += len;
        let filled = at + len;
        space.fixed.captured = if filled > HEAD_BYTES as u32 {
            HEAD_BYTES as u32
        } else {
            filled
        };
        round += 1;
    }
}

/// Keeps an incomplete head until more of it comes.
#[inline(always)]
fn keep<S: Socket>(socket: &S, flow: &mut FlowOf<S>, space: &Space, is_response: bool) {
    if !socket.keep(space) {
        socket.world().count(Tally::STORAGE_FAILED);
        cut(flow, is_response);
        return;
    }
    flow.gathering = 1;
    if is_response && space.scan.start == space.fixed.captured {
        flow.awaiting_final = 1;
    }
}

/// False when the bytes can never become a response head.
#[inline(always)]
fn is_http<M: Machine>(space: &mut Space, flow: &mut Flow<M>) -> bool {
    space.scan.start = 0;
    space.scan.end = 0;
    if M::opaque(&space.scan.is_response) == 0 {
        return true;
    }
    let len = M::opaque(&space.scan.len);
    let mask = if len >= 7 {
        SEVEN_BYTES
    } else {
        (1u64 << ((len & 7) * 8)) - 1
    };
    if (M::word(&space.bytes, 0) ^ HTTP_1) & mask == 0 {
        return true;
    }
    flow.flags.set::<{ flag::NOT_HTTP }>();
    false
}

/// A head is complete: what follows from it.
#[inline(always)]
fn understood<M: Machine>(
    flow: &mut Flow<M>,
    scan: &Scan,
    payload: Payload,
    is_response: bool,
    now: u64,
    chunked: impl FnOnce(&mut Flow<M>, Payload),
) {
    let head_bytes = scan.end;
    if !is_response {
        flow.exchange.request_head_bytes = head_bytes;
        flow.phase = phase::REQUEST;
        flow.request_total = if scan.found & found::CHUNKED != 0 {
            u64::MAX
        } else {
            u64::from(head_bytes) + scan.content_length
        };
        return;
    }
    flow.phase = phase::RESPONSE_BODY;
    if flow.flags.has::<{ flag::NOT_HTTP }>() {
        flow.exchange.framing = framing::CLOSE;
        return;
    }
    let status = scan.status as u16;
    flow.exchange.head_ns = now;
    flow.exchange.head_bytes = head_bytes;
    flow.exchange.status = status;
    if scan.start != 0 && scan.start + payload.len >= scan.len {
        // The segment that ends the interim head has all of the final one: its first byte came now.
        flow.exchange.first_byte_ns = now;
    }
    let tunnel = status == 101 || (flow.method == method::CONNECT && (200..300).contains(&status));
    if tunnel {
        flow.exchange.framing = framing::NONE;
        flow.exchange.end = end::TUNNEL;
        return;
    }
    if flow.method == method::HEAD || status == 204 || status == 304 {
        flow.exchange.framing = framing::NONE;
    } else if scan.found & found::CHUNKED != 0 {
        flow.exchange.framing = framing::CHUNKED;
        chunked(flow, payload);
    } else if scan.found & found::LENGTH != 0 {
        flow.exchange.framing = if scan.content_length == 0 {
            framing::NONE
        } else {
            framing::LENGTH
        };
        flow.exchange.content_length = scan.content_length;
    } else {
        flow.exchange.framing = framing::CLOSE;
    }
    if is_complete(flow) {
        flow.exchange.end = end::COMPLETE;
    }
}

/// A chunked body begins behind the head that ends in `payload`.
#[inline(always)]
fn chunked<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload) {
    let is_sent = flow.is_client_side();
    // Behind the end of what is sent may be the answer to another request.
    let follow = !is_sent || flow.flags.has::<{ flag::PIPELINED }>();
    flow.chunks.begin(follow);
    let body = flow
        .exchange
        .response_bytes
        .wrapping_sub(u64::from(flow.exchange.head_bytes));
    if body <= u64::from(payload.len) {
        let at = payload.offset + payload.len - body as u32;
        source.follow_chunks(flow, Payload::at(at, body as u32));
    }
    keep_tail(source, flow, payload);
}

/// The head could not be read to its end: the exchange goes on, its framing unknown.
#[inline(always)]
pub fn cut<M: Machine>(flow: &mut Flow<M>, is_response: bool) {
    flow.flags.set::<{ flag::HEAD_CUT }>();
    flow.gathering = 0;
    flow.phase = if is_response {
        phase::RESPONSE_BODY
    } else {
        phase::REQUEST
    };
    if is_response {
        flow.exchange.framing = framing::UNKNOWN;
    } else {
        flow.request_total = 0;
    }
}

/// The response begins while the request head is still being gathered: the request is told
/// without its head.
#[inline(always)]
pub fn cut_request<W: World>(world: &W, flow: &mut Flow<W>, now: u64) {
    cut(flow, false);
    measure_acked(flow);
    world.emit(kind::REQUEST, now, |record: &mut MessageHead| {
        flow.head(&mut record.header);
        flow.exchange_into(&mut record.exchange);
        record.captured = 0;
        record.final_start = 0;
    });
}

/// Tells a head. A RESPONSE record that says the exchange is over is its last.
#[inline(always)]
fn tell<W: World>(world: &W, flow: &mut Flow<W>, space: &mut Space, is_response: bool, now: u64) {
    measure_acked(flow);
    let record_kind = if is_response {
        kind::RESPONSE
    } else {
        kind::REQUEST
    };
    flow.head(&mut space.fixed.header);
    flow.exchange_into(&mut space.fixed.exchange);
    space.fixed.stamp(record_kind, now);
    // Nothing of the body leaves: what counts ends with the head.
    let filled = W::opaque(&space.fixed.captured);
    let end = W::opaque(&space.scan.end);
    let captured = if end != 0 && end < filled {
        end
    } else {
        filled
    };
    let to_client = is_response && flow.is_client_side() && space.scan.start == 0;
    let first_only = to_client || flow.flags.has::<{ flag::NOT_HTTP }>();
    let captured = if first_only && captured > FIRST_BYTES {
        FIRST_BYTES
    } else {
        captured
    };
    space.fixed.captured = captured;
    space.fixed.final_start = space.scan.start;
    let captured = W::opaque(&space.fixed.captured);
    let is_held = if is_response {
        brief::answered(world, flow, space, now)
    } else {
        brief::begins(world, flow, space)
    };
    if !is_held && captured <= HEAD_BYTES as u32 {
        world.emit_head(
            space,
            size_of::<MessageHead>() as u32 + captured,
            record_kind,
        );
    }
    if is_response && flow.exchange.end != end::OPEN {
        next_exchange(flow, now);
    }
}
