//! HTTP/1.0 and 1.1 on a socket: where messages start and end, told as they do.
//!
//! In: the new bytes of each direction, in order of arrival. Out: a REQUEST record when a
//! request head is complete, a RESPONSE record when the response head is, and an END
//! record when the exchange ends later than that. Bodies are counted, not read.
//!
//! Framing is RFC 9112, section 6.3. Trailers after the last chunk are not recognised as
//! its end: such an exchange ends with the next request or the close.

use agent_wire::limits::HEAD_BYTES;
use agent_wire::record::{Exchange, MessageHead, end, flag, framing, kind, side};
use agent_wire::tally::Tally;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkBuffContext;

use crate::body::{is_complete, keep_tail};
use crate::chunks;
use crate::errand;
use crate::flow::{Flow, method, phase};
use crate::kernel::{self, Sock};
use crate::output;
use crate::request_line::{CONN, HEAD, is_request, prefix};
use crate::scan::{self, HTTP_1, SEVEN_BYTES, found};
use crate::scratch::{self, APPEND_BYTES, Space};
use crate::segment::Payload;
use crate::tallies;
use crate::tls;

/// A head that did not come complete in one segment.
#[repr(C)]
struct Gathered {
    filled: u64,
    bytes: [u8; HEAD_BYTES],
}

/// One for each socket that had such a head.
#[btf_map]
static GATHERED: SkStorage<Gathered> = SkStorage::new();

/// Bytes told of a response that is not HTTP: enough to see what it is instead.
const NOT_HTTP_BYTES: u32 = 32;

/// New bytes on a socket that may carry HTTP.
#[inline(always)]
pub(crate) fn bytes(ctx: &SkBuffContext, flow: &mut Flow, sk: Sock, payload: Payload, sent: bool) {
    if flow.phase == phase::UNKNOWN && !recognise(ctx, flow, payload, sent) {
        return;
    }
    let now = kernel::now();
    let is_request = sent == flow.is_upstream_side();
    let head_bytes = if is_request {
        request_bytes(ctx, flow, payload, now)
    } else {
        response_bytes(ctx, flow, sk, payload, now)
    };
    if head_bytes {
        head(ctx, flow, sk, payload, now);
    }
    if !sent && flow.ahead != 0 {
        catch_up(flow, now);
    }
}

/// The exchange is over: tell it, and be ready for the next.
#[inline(always)]
pub(crate) fn finish(flow: &mut Flow, how: u8, now: u64) {
    flow.exchange.end = how;
    measure_acked(flow);
    output::end(flow, now);
    next_exchange(flow, now);
}

/// Which end of an HTTP connection this is, by the first bytes that look like HTTP.
#[inline(always)]
fn recognise(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload, sent: bool) -> bool {
    let start = prefix(ctx, payload);
    if is_request(start, payload.len) {
        flow.header.side = if sent { side::UPSTREAM } else { side::CLIENT };
        flow.phase = phase::IDLE;
        return true;
    }
    if payload.len >= 8 && start & SEVEN_BYTES == HTTP_1 {
        // A response whose request was before our time: now we know who is who.
        flow.header.side = if sent { side::CLIENT } else { side::UPSTREAM };
        flow.phase = phase::IDLE;
        return true;
    }
    let is_tls = start & 0xffff == 0x0316;
    if is_tls && sent && flow.has(flag::ACTIVE_OPEN) {
        tls::begin(ctx, flow, payload);
        return false;
    }
    if is_tls || flow.tries <= 1 {
        flow.phase = phase::OPAQUE;
        tallies::count(Tally::NOT_HTTP);
    } else {
        flow.tries -= 1;
    }
    false
}

/// Bytes in the direction of requests. True when they belong to a request head.
#[inline(always)]
fn request_bytes(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload, now: u64) -> bool {
    if flow.phase == phase::REQUEST_HEAD {
        flow.exchange.request_bytes += u64::from(payload.len);
        flow.exchange.request_last_ns = now;
        return true;
    }
    let between = flow.phase == phase::IDLE;
    let request_complete = flow.exchange.request_bytes >= flow.request_total;
    if !between && !request_complete {
        flow.exchange.request_bytes += u64::from(payload.len);
        if flow.phase == phase::REQUEST {
            flow.exchange.request_last_ns = now;
        }
        return false;
    }
    let start = prefix(ctx, payload);
    if !is_request(start, payload.len) {
        tallies::count(Tally::LEFTOVER);
        return false;
    }
    if !between {
        let unfinished = flow.phase != phase::RESPONSE_BODY
            || (flow.is_client_side() && flow.exchange.framing == framing::LENGTH);
        if unfinished {
            flow.set(flag::PIPELINED);
            tallies::count(Tally::PIPELINED);
            return false;
        }
        finish(flow, end::SUPERSEDED, now);
    }
    let connected_for = flow.exchange.errand;
    begin(flow, now);
    flow.method = match start & 0xffff_ffff {
        HEAD => method::HEAD,
        CONN => method::CONNECT,
        _ => method::OTHER,
    };
    flow.request_seq = payload.seq;
    flow.exchange.request_bytes = u64::from(payload.len);
    flow.exchange.request_last_ns = now;
    flow.phase = phase::REQUEST_HEAD;
    if flow.is_upstream_side() {
        // The first request on a connection is the one it was opened for: it leaves when the
        // handshake is done, and by then the thread may have read from another client.
        let first = flow.exchange.index == 0 && connected_for.cookie != 0;
        flow.exchange.errand = if first {
            connected_for
        } else {
            errand::current(now)
        };
        if flow.task == kernel::task() {
            flow.set(flag::OWN_ERRAND);
        }
    }
    true
}

/// Bytes in the direction of responses. True when they belong to a response head.
#[inline(always)]
fn response_bytes(
    ctx: &SkBuffContext,
    flow: &mut Flow,
    sk: Sock,
    payload: Payload,
    now: u64,
) -> bool {
    match flow.phase {
        phase::IDLE => {
            if !flow.has(flag::PIPELINED) {
                tallies::count(Tally::UNSOLICITED);
                return false;
            }
            begin(flow, now);
            flow.set(flag::NO_REQUEST);
            flow.method = method::OTHER;
        }
        phase::RESPONSE_HEAD => {
            flow.exchange.response_bytes += u64::from(payload.len);
            flow.exchange.last_byte_ns = now;
            if flow.awaiting_final != 0 {
                flow.awaiting_final = 0;
                flow.exchange.first_byte_ns = now;
            }
            return true;
        }
        phase::RESPONSE_BODY => {
            flow.exchange.response_bytes += u64::from(payload.len);
            flow.exchange.last_byte_ns = now;
            if flow.exchange.framing == framing::CHUNKED {
                let is_sent = flow.is_client_side();
                chunks::follow(ctx, flow, payload);
                keep_tail(ctx, flow, payload, is_sent);
            }
            if is_complete(flow) {
                finish(flow, end::COMPLETE, now);
            }
            return false;
        }
        phase::REQUEST_HEAD => {
            // Answered before its head was complete: tell what there is of it.
            cut_request(flow, now);
        }
        _ => {}
    }
    flow.phase = phase::RESPONSE_HEAD;
    flow.gathering = 0;
    flow.awaiting_final = 0;
    flow.exchange.first_byte_ns = now;
    flow.exchange.last_byte_ns = now;
    flow.exchange.response_bytes = u64::from(payload.len);
    flow.header.srtt_us = sk.srtt_us();
    true
}

/// A new exchange on this connection.
#[inline(always)]
fn begin(flow: &mut Flow, now: u64) {
    let Exchange {
        index, peer_fin_ns, ..
    } = flow.exchange;
    flow.exchange = Exchange {
        index,
        // Of a FIN that came before this request.
        peer_fin_ns,
        request_ns: now,
        idle_since_ns: flow.idle_since_ns,
        ..Exchange::default()
    };
    flow.clear(
        flag::HEAD_CUT | flag::NOT_HTTP | flag::NO_REQUEST | flag::OWN_ERRAND | flag::BAD_CHUNK,
    );
    flow.request_total = u64::MAX;
    flow.gathering = 0;
}

#[inline(always)]
fn next_exchange(flow: &mut Flow, now: u64) {
    flow.idle_since_ns = now;
    flow.phase = match flow.exchange.end {
        end::TUNNEL => phase::TUNNEL,
        _ => phase::IDLE,
    };
    flow.exchange.index = flow.exchange.index.wrapping_add(1);
    flow.exchange.end = end::OPEN;
}

/// Head bytes: complete with these, or gathered until they are.
#[inline(always)]
fn head(ctx: &SkBuffContext, flow: &mut Flow, sk: Sock, payload: Payload, now: u64) {
    flow.space = scratch::take();
    let Some(space) = scratch::space(kernel::opaque(&flow.space)) else {
        tallies::count(Tally::SCRATCH_BUSY);
        cut(flow, awaits_response(flow));
        return;
    };
    // By way of map memory, read anew at each use: the verifier forgets what it knew of
    // each, and walks the scanner once instead of once for every way that leads to it.
    flow.at = payload;
    flow.now_ns = now;
    head_in(ctx, flow, sk, space);
    scratch::give_back(space);
}

#[inline(always)]
fn head_in(ctx: &SkBuffContext, flow: &mut Flow, sk: Sock, space: &mut Space) {
    if flow.gathering == 0 {
        let payload = kernel::opaque(&flow.at);
        let len = if payload.len > HEAD_BYTES as u32 {
            HEAD_BYTES as u32
        } else {
            payload.len
        };
        if !kernel::load_at::<HEAD_BYTES, _>(ctx, payload.offset, &mut space.bytes, 0, len) {
            tallies::count(Tally::HEADERS_UNREADABLE);
            cut(flow, awaits_response(flow));
            return;
        }
        space.fixed.captured = len;
    } else {
        if let Some(gathered) = kernel::storage_get(&GATHERED, sk) {
            kernel::copy::<HEAD_BYTES, _, _>(&gathered.bytes, &mut space.bytes);
            space.fixed.captured = gathered.filled as u32;
        }
        append(ctx, space, kernel::opaque(&flow.at));
    }
    flow.scan.len = space.fixed.captured;
    flow.scan.is_response = u32::from(awaits_response(flow));
    if is_http(&space.bytes, flow) {
        scan::scan(&space.bytes, &mut space.lines, &mut flow.scan);
    }
    let payload = kernel::opaque(&flow.at);
    let now = kernel::opaque(&flow.now_ns);
    let not_http = flow.has(flag::NOT_HTTP);
    let done = kernel::opaque(&flow.scan.end) != 0 || not_http;
    let is_response = awaits_response(flow);
    if !done && kernel::opaque(&flow.scan.len) < HEAD_BYTES as u32 {
        keep(flow, sk, space, is_response);
        return;
    }
    if done {
        scan::numbers(&space.bytes, &mut flow.scan);
        understood(ctx, flow, payload, is_response, now);
    } else {
        tallies::count(Tally::HEAD_TOO_LONG);
        cut(flow, is_response);
    }
    flow.gathering = 0;
    tell(flow, space, is_response, now);
}

/// The head at hand is a response's. Read anew at each use, see [`scan::scan`].
#[inline(always)]
fn awaits_response(flow: &Flow) -> bool {
    kernel::opaque(&flow.phase) == phase::RESPONSE_HEAD
}

/// Puts the payload behind what is in `space`, as far as there is room.
#[inline(always)]
fn append(ctx: &SkBuffContext, space: &mut Space, payload: Payload) {
    let mut taken = 0u32;
    let mut round = 0;
    while round < HEAD_BYTES / APPEND_BYTES {
        // Read anew, so that the compiler keeps the comparisons the verifier wants to see
        // ("R3 max value is outside of the allowed memory range").
        let at = kernel::opaque(&space.fixed.captured);
        let left = payload.len.wrapping_sub(taken);
        if at >= HEAD_BYTES as u32 || left == 0 || left > payload.len {
            break;
        }
        let len = if left >= APPEND_BYTES as u32 {
            APPEND_BYTES as u32
        } else {
            left
        };
        if !kernel::load_at::<APPEND_BYTES, _>(
            ctx,
            payload.offset + taken,
            &mut space.bytes,
            at,
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
fn keep(flow: &mut Flow, sk: Sock, space: &Space, is_response: bool) {
    let Some(gathered) = kernel::storage_get_or_create(&GATHERED, sk) else {
        tallies::count(Tally::STORAGE_FAILED);
        cut(flow, is_response);
        return;
    };
    kernel::copy::<HEAD_BYTES, _, _>(&space.bytes, &mut gathered.bytes);
    gathered.filled = u64::from(space.fixed.captured);
    flow.gathering = 1;
    if is_response && flow.scan.start == space.fixed.captured {
        flow.awaiting_final = 1;
    }
}

/// False when the bytes can never become a response head.
#[inline(always)]
fn is_http<const N: usize>(bytes: &[u8; N], flow: &mut Flow) -> bool {
    flow.scan.start = 0;
    flow.scan.end = 0;
    if kernel::opaque(&flow.scan.is_response) == 0 {
        return true;
    }
    let len = kernel::opaque(&flow.scan.len);
    let mask = if len >= 7 {
        SEVEN_BYTES
    } else {
        (1u64 << ((len & 7) * 8)) - 1
    };
    if (kernel::word(bytes, 0) ^ HTTP_1) & mask == 0 {
        return true;
    }
    flow.set(flag::NOT_HTTP);
    false
}

/// A head is complete: what follows from it.
#[inline(always)]
fn understood(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload, is_response: bool, now: u64) {
    let head_bytes = flow.scan.end;
    if !is_response {
        flow.exchange.request_head_bytes = head_bytes;
        flow.phase = phase::REQUEST;
        flow.request_total = if flow.scan.found & found::CHUNKED != 0 {
            u64::MAX
        } else {
            u64::from(head_bytes) + flow.scan.content_length
        };
        if flow.exchange.request_bytes > flow.request_total {
            flow.set(flag::PIPELINED);
            tallies::count(Tally::PIPELINED);
            flow.exchange.request_bytes = flow.request_total;
        }
        return;
    }
    flow.phase = phase::RESPONSE_BODY;
    if flow.has(flag::NOT_HTTP) {
        flow.exchange.framing = framing::CLOSE;
        return;
    }
    let status = flow.scan.status as u16;
    flow.exchange.head_ns = now;
    flow.exchange.head_bytes = head_bytes;
    flow.exchange.status = status;
    if flow.scan.start != 0 && flow.awaiting_final == 0 && flow.gathering == 0 {
        // Interim and final head in one segment: the final one's first byte came now too.
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
    } else if flow.scan.found & found::CHUNKED != 0 {
        flow.exchange.framing = framing::CHUNKED;
        let is_sent = flow.is_client_side();
        chunks::begin(flow, !is_sent);
        let body = flow
            .exchange
            .response_bytes
            .wrapping_sub(u64::from(head_bytes));
        if body <= u64::from(payload.len) {
            let behind_head = Payload {
                offset: payload.offset + payload.len - body as u32,
                len: body as u32,
                seq: 0,
            };
            chunks::follow(ctx, flow, behind_head);
        }
        keep_tail(ctx, flow, payload, is_sent);
    } else if flow.scan.found & found::LENGTH != 0 {
        flow.exchange.framing = if flow.scan.content_length == 0 {
            framing::NONE
        } else {
            framing::LENGTH
        };
        flow.exchange.content_length = flow.scan.content_length;
    } else {
        flow.exchange.framing = framing::CLOSE;
    }
    if is_complete(flow) {
        flow.exchange.end = end::COMPLETE;
    }
}

/// The head could not be read to its end: the exchange goes on, its framing unknown.
#[inline(always)]
fn cut(flow: &mut Flow, is_response: bool) {
    flow.set(flag::HEAD_CUT);
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
fn cut_request(flow: &mut Flow, now: u64) {
    cut(flow, false);
    measure_acked(flow);
    flow.header.kind = kind::REQUEST;
    flow.header.time_ns = now;
    output::emit_with(kind::REQUEST, |record: &mut MessageHead| {
        kernel::assign(&mut record.header, &flow.header);
        kernel::assign(&mut record.exchange, &flow.exchange);
        record.captured = 0;
        record.final_start = 0;
    });
}

/// Tells a head. A RESPONSE record that says the exchange is over is its last.
#[inline(always)]
fn tell(flow: &mut Flow, space: &mut Space, is_response: bool, now: u64) {
    measure_acked(flow);
    let record_kind = if is_response {
        kind::RESPONSE
    } else {
        kind::REQUEST
    };
    flow.header.kind = record_kind;
    flow.header.time_ns = now;
    kernel::assign(&mut space.fixed.header, &flow.header);
    kernel::assign(&mut space.fixed.exchange, &flow.exchange);
    // Nothing of the body leaves: what counts ends with the head.
    let filled = kernel::opaque(&space.fixed.captured);
    let end = kernel::opaque(&flow.scan.end);
    let captured = if end != 0 && end < filled {
        end
    } else {
        filled
    };
    let captured = if flow.has(flag::NOT_HTTP) && captured > NOT_HTTP_BYTES {
        NOT_HTTP_BYTES
    } else {
        captured
    };
    space.fixed.captured = captured;
    space.fixed.final_start = flow.scan.start;
    let captured = kernel::opaque(&space.fixed.captured);
    if captured <= HEAD_BYTES as u32 {
        output::copy(
            space,
            size_of::<MessageHead>() as u32 + captured,
            record_kind,
        );
    }
    if is_response && flow.exchange.end != end::OPEN {
        next_exchange(flow, now);
    }
}

/// Bytes that came before the hole in a head was filled.
#[inline(always)]
fn catch_up(flow: &mut Flow, now: u64) {
    let more = flow.ahead_end.wrapping_sub(flow.received.end) as i32;
    if more > 0 && flow.phase == phase::RESPONSE_HEAD || flow.phase == phase::REQUEST_HEAD {
        if more > 0 {
            tallies::count(Tally::HEAD_REORDERED);
            let is_response = flow.phase == phase::RESPONSE_HEAD;
            cut(flow, is_response);
        } else {
            flow.ahead = 0;
            return;
        }
    }
    flow.ahead = 0;
    if more <= 0 {
        return;
    }
    chunks::lose(flow);
    flow.received.end = flow.ahead_end;
    flow.received.tail = flow.ahead_tail;
    if flow.phase == phase::RESPONSE_BODY && flow.is_upstream_side() {
        flow.exchange.response_bytes += more as u64;
        flow.exchange.last_byte_ns = now;
        if is_complete(flow) {
            finish(flow, end::COMPLETE, now);
        }
    } else if flow.phase == phase::REQUEST && flow.is_client_side() {
        flow.exchange.request_bytes += more as u64;
    }
}

/// How much of the request the peer has acknowledged.
#[inline(always)]
fn measure_acked(flow: &mut Flow) {
    if !flow.is_upstream_side() {
        return;
    }
    let acked = flow.acked.wrapping_sub(flow.request_seq) as i32;
    let acked = if acked > 0 { acked as u64 } else { 0 };
    let sent = flow.exchange.request_bytes;
    flow.exchange.request_acked = if acked < sent { acked } else { sent };
}
