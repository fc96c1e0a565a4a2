//! Messages of HTTP/1.0 and 1.1: where they start and end, reported as they do.
//!
//! In: the new bytes of each direction, in order of arrival. Out: a REQUEST record when a
//! request head is complete, a RESPONSE record when the response head is, and an END
//! record when the exchange ends later than that. Bodies are counted, not read.
//!
//! Framing is RFC 9112, section 6.3.

use agent_wire::record::{end, flag, framing};
use agent_wire::tally::Tally;

use crate::bytes::Payload;
use crate::flow::{Flow, phase};
use crate::http1::body::{is_complete, keep_tail, may_go_on};
use crate::http1::chunks::Seen;
use crate::http1::exchange::{begin_unread, finish, request_begins, response_begins};
use crate::http1::request_line::is_request;
use crate::http1::scan::{HTTP_1, SEVEN_BYTES};
use crate::http1::{head, queue};
use crate::machine::Machine;
use crate::world::{FlowOf, Source, World};

/// Answers looked for behind one in its segment.
const ANSWERS_BEHIND: u32 = 8;

/// New bytes on a socket that carries HTTP.
#[inline(always)]
pub fn bytes<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, sent: bool) {
    let now = source.world().now();
    let is_request = sent == flow.is_upstream_side();
    let index = S::World::opaque(&flow.exchange.index);
    let head_bytes = if is_request {
        request_bytes(source, flow, payload, now)
    } else {
        response_bytes(source, flow, payload, now)
    };
    if head_bytes {
        source.read_head(flow, payload, now);
    }
    let is_over = flow.exchange.index != index;
    if sent && !is_request && is_over && flow.flags.has::<{ flag::PIPELINED }>() {
        answered_behind(source, flow, payload, now);
    }
    if !sent && flow.ahead != 0 {
        catch_up(source.world(), flow, now);
    }
}

/// Bytes in the direction of requests. True when they belong to a request head.
#[inline(always)]
fn request_bytes<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, now: u64) -> bool {
    let world = source.world();
    if flow.phase == phase::REQUEST_HEAD {
        flow.exchange.request_bytes += u64::from(payload.len);
        flow.exchange.request_last_ns = now;
        return true;
    }
    let between = flow.phase == phase::IDLE;
    let request_complete = flow.exchange.request_bytes >= flow.request_total;
    if !between && !request_complete && !may_be_next(flow, payload) {
        flow.exchange.request_bytes += u64::from(payload.len) + u64::from(payload.hole);
        if flow.phase == phase::REQUEST {
            flow.exchange.request_last_ns = now;
        }
        behind_body(source, flow, payload);
        return false;
    }
    let start = source.prefix(payload);
    // Behind a hole a few letters may be the middle of a head.
    let may_be_inside = payload.hole != 0 && payload.len < 8;
    if may_be_inside || !is_request(start, payload.len) {
        // Asked anew: the compiler would write the question above twice, once for each answer.
        if between || S::World::opaque(&flow.request_total) != u64::MAX {
            world.count(Tally::LEFTOVER);
        } else {
            flow.exchange.request_bytes += u64::from(payload.len) + u64::from(payload.hole);
        }
        return false;
    }
    if between && flow.queued != 0 {
        // It is behind others that were not answered yet.
        queue::add(world, flow, start);
        return false;
    }
    if !between {
        let unfinished = flow.phase != phase::RESPONSE_BODY
            || (flow.is_client_side() && flow.exchange.framing == framing::LENGTH);
        if unfinished {
            queue::add(world, flow, start);
            return false;
        }
        finish(world, flow, end::SUPERSEDED, now);
    }
    if world.is_withdrawn(flow) {
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
            world.errand(now)
        };
        if flow.task == world.task() {
            flow.flags.set::<{ flag::OWN_ERRAND }>();
        }
    }
    true
}

/// The answer is under way, and where the request ends is not known: it was chunked, which is not
/// followed. If the end of the answer is missed, the next request may begin in any segment. Less than a
/// word may be a part of the upload.
#[inline(always)]
fn may_be_next<M: Machine>(flow: &Flow<M>, payload: Payload) -> bool {
    flow.phase == phase::RESPONSE_BODY && flow.request_total == u64::MAX && payload.len >= 8
}

/// The segment that ends the body of a request may go on with the next request.
#[inline(always)]
fn behind_body<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload) {
    if flow.exchange.request_bytes <= flow.request_total {
        return;
    }
    let behind = flow.exchange.request_bytes - flow.request_total;
    flow.exchange.request_bytes = flow.request_total;
    if behind <= u64::from(payload.len) {
        let rest = Payload::at(payload.offset + payload.len - behind as u32, behind as u32);
        queue::begins(source.world(), flow, source.prefix(rest), behind);
    }
}

/// Bytes in the direction of responses. True when they belong to a response head.
#[inline(always)]
fn response_bytes<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, now: u64) -> bool {
    let world = source.world();
    let begins =
        || payload.len >= 8 && source.load_u64(payload.offset).unwrap_or(0) & SEVEN_BYTES == HTTP_1;
    match flow.phase {
        phase::IDLE => {
            // Of an answer that began behind another, this may be the rest.
            let begins = begins();
            if !flow.flags.has::<{ flag::PIPELINED }>() || !begins {
                queue::is_unknown(flow);
                world.count(Tally::UNSOLICITED);
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
        // The end of the answer before it was missed.
        phase::RESPONSE_BODY if is_lost(flow) && may_go_on(flow) && begins() => {
            finish(world, flow, end::SUPERSEDED, now);
            begin_unread(flow, now);
        }
        phase::RESPONSE_BODY => {
            flow.exchange.response_bytes += u64::from(payload.len) + u64::from(payload.hole);
            flow.exchange.last_byte_ns = now;
            if flow.exchange.framing == framing::CHUNKED {
                if flow.chunks.is_followed() {
                    source.follow_chunks(flow, payload);
                }
                keep_tail(source, flow, payload);
            }
            if is_complete(flow) {
                finish(world, flow, end::COMPLETE, now);
            }
            return false;
        }
        phase::REQUEST_HEAD => {
            // Answered before its head was complete: tell what there is of it.
            head::cut_request(world, flow, now);
        }
        _ => {}
    }
    let len = u64::from(payload.len) + u64::from(payload.hole);
    response_begins(flow, len, now);
    if flow.is_upstream_side() {
        flow.header.srtt_us = source.srtt_us();
    }
    if payload.hole != 0 {
        // The head is in the hole: what is here says nothing of it.
        head::cut(flow, true);
        return false;
    }
    true
}

/// Where the chunks of the body at hand end is not known.
#[inline(always)]
fn is_lost<M: Machine>(flow: &Flow<M>) -> bool {
    flow.exchange.framing == framing::CHUNKED && flow.chunks.seen() == Seen::Unknown
}

/// A response of a client that pipelines ended in `payload`: the bytes behind it are the answer to the
/// next request. Some proxies gather small answers (Apache httpd). What is left of them is not read, and
/// then how many requests wait is not known.
#[inline(always)]
fn answered_behind<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, now: u64) {
    let mut round = 0;
    while round < ANSWERS_BEHIND {
        let len = behind(flow);
        if S::World::opaque(&flow.phase) != phase::IDLE || len < 8 || len > u64::from(payload.len) {
            break;
        }
        let at = payload.offset + payload.len - len as u32;
        let rest = Payload::at(at, len as u32);
        if source.prefix(rest) & SEVEN_BYTES != HTTP_1 {
            break;
        }
        begin_unread(flow, now);
        queue::answered(flow);
        response_begins(flow, len, now);
        source.read_head(flow, rest, now);
        round += 1;
    }
    if S::World::opaque(&flow.phase) == phase::IDLE && behind(flow) != 0 {
        queue::is_unknown(flow);
        source.world().count(Tally::UNSOLICITED);
    }
}

/// Bytes that came in one segment with the response that ended last, and behind it.
#[inline(always)]
fn behind<M: Machine>(flow: &Flow<M>) -> u64 {
    if flow.exchange.framing == framing::CHUNKED {
        return flow.chunks.behind();
    }
    let body = if flow.exchange.framing == framing::LENGTH {
        flow.exchange.content_length
    } else {
        0
    };
    let whole = u64::from(flow.exchange.head_bytes) + body;
    flow.exchange.response_bytes.wrapping_sub(whole)
}

/// Bytes that came before the hole in a head was filled.
#[inline(always)]
fn catch_up<W: World>(world: &W, flow: &mut Flow<W>, now: u64) {
    let more = flow.ahead_end.wrapping_sub(flow.received.end) as i32;
    if more > 0 && flow.phase == phase::RESPONSE_HEAD || flow.phase == phase::REQUEST_HEAD {
        if more > 0 {
            world.count(Tally::HEAD_REORDERED);
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
            finish(world, flow, end::COMPLETE, now);
        }
    } else if flow.phase == phase::REQUEST && flow.is_client_side() {
        flow.exchange.request_bytes += more as u64;
    }
}
