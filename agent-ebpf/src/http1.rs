//! HTTP/1.0 and 1.1 on a socket: where messages start and end, told as they do.
//!
//! In: the new bytes of each direction, in order of arrival. Out: a REQUEST record when a
//! request head is complete, a RESPONSE record when the response head is, and an END
//! record when the exchange ends later than that. Bodies are counted, not read.
//!
//! Framing is RFC 9112, section 6.3.

use agent_flow::bytes::{Bytes, Payload};
use agent_flow::http1::chunks::Seen;
use agent_flow::http1::request_line::{CONN, HEAD, is_request};
use agent_flow::http1::scan::{HTTP_1, SEVEN_BYTES};
use agent_wire::record::{Exchange, UNFOLLOWED, end, flag, framing, side, talk};
use agent_wire::tally::Tally;
use aya_ebpf::programs::SkBuffContext;

use crate::attention;
use crate::body::{is_complete, keep_tail};
use crate::calls;
use crate::clients;
use crate::errand;
use crate::flow::{Flow, method, phase};
use crate::head;
use crate::kernel::{self, Sock, store};
use crate::machine::Packet;
use crate::output;
use crate::queue;
use crate::tallies;
use crate::tls;
use crate::unread;

/// New bytes on a socket that may carry HTTP.
#[inline(always)]
pub(crate) fn bytes(ctx: &SkBuffContext, flow: &mut Flow, sk: Sock, payload: Payload, sent: bool) {
    if flow.phase == phase::UNKNOWN && !recognise(ctx, flow, payload, sent) {
        // All that will be measured of a connection that turns out not to be HTTP.
        flow.header.srtt_us = sk.srtt_us();
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
        calls::read_head(ctx, flow, payload, now);
    }
    if sent && !is_request && flow.flags.has::<{ flag::PIPELINED }>() {
        queue::answered_behind(ctx, flow, payload, now);
    }
    if !sent && flow.ahead != 0 {
        catch_up(flow, now);
    }
}

/// The exchange is over: tell it, and be ready for the next.
#[inline(always)]
pub(crate) fn finish(flow: &mut Flow, how: u8, now: u64) {
    flow.exchange.end = how;
    if flow.exchange.framing == framing::CHUNKED && flow.chunks.seen() == Seen::Unknown {
        flow.exchange.content_length = UNFOLLOWED;
    }
    measure_acked(flow);
    output::end(flow, now);
    next_exchange(flow, now);
}

/// Which end of an HTTP connection this is, by the first bytes that look like HTTP.
#[inline(always)]
fn recognise(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload, sent: bool) -> bool {
    flow.talked |= u8::from(sent);
    let start = Packet(ctx).prefix(payload);
    if is_request(start, payload.len) {
        flow.header.side = if sent { side::UPSTREAM } else { side::CLIENT };
        flow.phase = phase::IDLE;
        return true;
    }
    if payload.len >= 8 && start & SEVEN_BYTES == HTTP_1 {
        // A response whose request was before our time: now we know who is who.
        flow.header.side = if sent { side::CLIENT } else { side::UPSTREAM };
        flow.phase = phase::IDLE;
        if !sent && flow.talked != 0 && flow.flags.has::<{ flag::SEEN_OPEN }>() {
            unread::is_answered(flow);
        }
        return true;
    }
    let spoken = clients::talk_of(start);
    if spoken == talk::TLS && sent && flow.flags.has::<{ flag::ACTIVE_OPEN }>() {
        tls::begin(ctx, flow, payload);
        return false;
    }
    if !sent && flow.flags.has::<{ flag::ACTIVE_OPEN }>() {
        // A server that speaks before it is asked.
        flow.spoke_first = 1;
        flow.flags.set::<{ flag::NOT_HTTP }>();
    }
    if spoken != talk::UNKNOWN || flow.tries <= 1 {
        clients::not_http(flow, spoken);
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
        flow.exchange.request_bytes += u64::from(payload.len) + u64::from(payload.hole);
        if flow.phase == phase::REQUEST {
            flow.exchange.request_last_ns = now;
        }
        behind_body(ctx, flow, payload);
        return false;
    }
    let start = Packet(ctx).prefix(payload);
    if !is_request(start, payload.len) {
        tallies::count(Tally::LEFTOVER);
        return false;
    }
    if between && flow.queued != 0 {
        // It is behind others that were not answered yet.
        queue::add(flow);
        return false;
    }
    if !between {
        let unfinished = flow.phase != phase::RESPONSE_BODY
            || (flow.is_client_side() && flow.exchange.framing == framing::LENGTH);
        if unfinished {
            queue::add(flow);
            return false;
        }
        finish(flow, end::SUPERSEDED, now);
    }
    if attention::is_withdrawn(flow) {
        return false;
    }
    let connected_for = flow.exchange.errand;
    request_begins(flow, start, payload.seq, payload.len, now);
    if flow.is_upstream_side() {
        if flow.spoke_first != 0 {
            flow.spoke_first = 0;
            flow.flags.set::<{ flag::NOT_HTTP }>();
        }
        // The first request on a connection is the one it was opened for: it leaves when the
        // handshake is done, and by then the thread may have read from another client.
        let first = flow.exchange.index == 0 && connected_for.cookie != 0;
        flow.exchange.errand = if first {
            connected_for
        } else {
            errand::current(now)
        };
        if flow.task == kernel::task() {
            flow.flags.set::<{ flag::OWN_ERRAND }>();
        }
    }
    true
}

/// The segment that ends the body of a request may go on with the next request.
#[inline(always)]
fn behind_body(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload) {
    if flow.exchange.request_bytes <= flow.request_total {
        return;
    }
    let behind = flow.exchange.request_bytes - flow.request_total;
    flow.exchange.request_bytes = flow.request_total;
    if behind <= u64::from(payload.len) {
        let at = payload.offset + payload.len - behind as u32;
        queue::begins(flow, kernel::load_u8(ctx, at).unwrap_or(0));
    }
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
            if !flow.flags.has::<{ flag::PIPELINED }>() {
                tallies::count(Tally::UNSOLICITED);
                return false;
            }
            begin_unread(flow, now);
            queue::answered(flow);
        }
        phase::RESPONSE_HEAD => {
            flow.exchange.response_bytes += u64::from(payload.len) + u64::from(payload.hole);
            flow.exchange.last_byte_ns = now;
            if payload.hole != 0 {
                head::cut(flow, true);
                return false;
            }
            if flow.awaiting_final != 0 {
                flow.awaiting_final = 0;
                flow.exchange.first_byte_ns = now;
            }
            return true;
        }
        phase::RESPONSE_BODY => {
            flow.exchange.response_bytes += u64::from(payload.len) + u64::from(payload.hole);
            flow.exchange.last_byte_ns = now;
            if flow.exchange.framing == framing::CHUNKED {
                if flow.chunks.is_followed() {
                    calls::follow_chunks(ctx, flow, payload);
                }
                keep_tail(ctx, flow, payload);
            }
            if is_complete(flow) {
                finish(flow, end::COMPLETE, now);
            }
            return false;
        }
        phase::REQUEST_HEAD => {
            // Answered before its head was complete: tell what there is of it.
            head::cut_request(flow, now);
        }
        _ => {}
    }
    let len = u64::from(payload.len) + u64::from(payload.hole);
    response_begins(flow, len, now);
    if flow.is_upstream_side() {
        flow.header.srtt_us = sk.srtt_us();
    }
    if payload.hole != 0 {
        // The head is in the hole: what is here says nothing of it.
        head::cut(flow, true);
        return false;
    }
    true
}

/// A response begins with `len` bytes.
#[inline(always)]
pub(crate) fn response_begins(flow: &mut Flow, len: u64, now: u64) {
    flow.phase = phase::RESPONSE_HEAD;
    flow.gathering = 0;
    flow.awaiting_final = 0;
    flow.exchange.first_byte_ns = now;
    flow.exchange.last_byte_ns = now;
    flow.exchange.response_bytes = len;
}

/// A request begins with `len` bytes from `seq` on, the first of them in `start`.
#[inline(always)]
pub(crate) fn request_begins(flow: &mut Flow, start: u64, seq: u32, len: u32, now: u64) {
    begin(flow, now);
    flow.method = method_of(start);
    flow.request_seq = seq;
    flow.exchange.request_bytes = u64::from(len);
    flow.exchange.request_last_ns = now;
    flow.phase = phase::REQUEST_HEAD;
}

/// What the method that a request starts with means for the response.
#[inline(always)]
pub(crate) fn method_of(start: u64) -> u8 {
    match start & 0xffff_ffff {
        HEAD => method::HEAD,
        CONN => method::CONNECT,
        _ => method::OTHER,
    }
}

/// A new exchange on this connection.
#[inline(always)]
fn begin(flow: &mut Flow, now: u64) {
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
        store(time, 0);
    }
    for count in [request_bytes, request_acked, response_bytes, content_length] {
        store(count, 0);
    }
    store(head_bytes, 0);
    store(request_head_bytes, 0);
    store(&mut errand.cookie, 0);
    store(&mut errand.index, 0);
    store(&mut errand.age_us, 0);
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
pub(crate) fn begin_unread(flow: &mut Flow, now: u64) {
    begin(flow, now);
    flow.flags.set::<{ flag::NO_REQUEST }>();
    flow.method = method::OTHER;
}

#[inline(always)]
pub(crate) fn next_exchange(flow: &mut Flow, now: u64) {
    queue::response_ended(flow);
    flow.idle_since_ns = now;
    flow.phase = match flow.exchange.end {
        end::TUNNEL => phase::TUNNEL,
        _ => phase::IDLE,
    };
    flow.exchange.index = flow.exchange.index.wrapping_add(1);
    flow.exchange.end = end::OPEN;
}

/// Bytes that came before the hole in a head was filled.
#[inline(always)]
fn catch_up(flow: &mut Flow, now: u64) {
    let more = flow.ahead_end.wrapping_sub(flow.received.end) as i32;
    if more > 0 && flow.phase == phase::RESPONSE_HEAD || flow.phase == phase::REQUEST_HEAD {
        if more > 0 {
            tallies::count(Tally::HEAD_REORDERED);
            let is_response = flow.phase == phase::RESPONSE_HEAD;
            head::cut(flow, is_response);
        } else {
            flow.ahead = 0;
            return;
        }
    }
    flow.ahead = 0;
    if more <= 0 {
        return;
    }
    flow.chunks.lose();
    flow.received.end = flow.ahead_end;
    if flow.phase == phase::RESPONSE_BODY && flow.is_upstream_side() {
        flow.tail = flow.ahead_tail;
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
pub(crate) fn measure_acked(flow: &mut Flow) {
    if !flow.is_upstream_side() {
        return;
    }
    let acked = flow.acked.wrapping_sub(flow.request_seq) as i32;
    let acked = if acked > 0 { acked as u64 } else { 0 };
    let sent = flow.exchange.request_bytes;
    flow.exchange.request_acked = if acked < sent { acked } else { sent };
}
