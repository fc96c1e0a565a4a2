//! What is spoken on a connection, by its first bytes.
//!
//! In: new bytes. Out: they go to whom they speak to ([`crate::http1::messages`],
//! [`crate::tls::handshake`]), or the connection is given up as not HTTP.

use agent_wire::limits::HEAD_BYTES;
use agent_wire::record::{flag, side, talk};

use crate::bytes::Payload;
use crate::clients;
use crate::flow::phase;
use crate::http1::exchange::request_begins;
use crate::http1::request_line::is_request;
use crate::http1::scan::{HTTP_1, SEVEN_BYTES};
use crate::http1::{head, messages};
use crate::machine::Machine;
use crate::proxy_header;
use crate::tls::handshake;
use crate::unread;
use crate::world::{FlowOf, Socket, Source};

/// New bytes: to whom they speak.
#[inline(always)]
pub fn bytes<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, sent: bool) {
    if flow.phase == phase::HANDSHAKE {
        handshake::bytes(source, flow, payload, sent);
        return;
    }
    let mut payload = payload;
    if flow.phase == phase::UNKNOWN {
        if proxy_header::may_begin(source.prefix(payload)) {
            payload = behind_proxy_header(source, payload);
            if payload.len == 0 {
                return;
            }
        }
        if !recognise(source, flow, payload, sent) {
            // All that will be measured of a connection that turns out not to be HTTP.
            flow.header.srtt_us = source.srtt_us();
            return;
        }
    }
    messages::bytes(source, flow, payload, sent);
}

/// What stands behind the PROXY protocol header in `payload`.
#[inline(always)]
fn behind_proxy_header<S: Source>(source: &S, payload: Payload) -> Payload {
    let header = source.proxy_header(payload);
    if header > payload.len {
        return payload;
    }
    Payload {
        offset: payload.offset + header,
        len: payload.len - header,
        seq: payload.seq.wrapping_add(header),
        hole: payload.hole,
    }
}

/// What a client sent before there was a socket to see it on: `payload`, of which `bytes` are the
/// first. It came at `at`, ns.
#[inline(always)]
pub fn early<S: Socket>(
    socket: &S,
    flow: &mut FlowOf<S>,
    bytes: &[u8; HEAD_BYTES],
    payload: Payload,
    at: u64,
) {
    flow.received.end = payload.seq.wrapping_add(payload.len);
    flow.received.known = 1;
    let start = S::World::word(bytes, 0);
    if !is_request(start, payload.len) {
        // What it is instead shows with the next packet, if that can be told at all.
        let spoken = clients::talk_of(start);
        if spoken != talk::UNKNOWN {
            clients::not_http(socket.world(), flow, spoken);
        }
        return;
    }
    flow.header.side = side::CLIENT;
    request_begins(flow, start, payload.seq, payload.len, at);
    flow.flags.clear::<{ flag::OWN_ERRAND }>();
    head::read_request(socket, flow, bytes, payload.len, at);
}

/// Which end of an HTTP connection this is, by the first bytes that look like HTTP.
#[inline(always)]
fn recognise<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, sent: bool) -> bool {
    flow.talked |= u8::from(sent);
    let start = source.prefix(payload);
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
        handshake::begin(source, flow, payload);
        return false;
    }
    if !sent && flow.flags.has::<{ flag::ACTIVE_OPEN }>() {
        // A server that speaks before it is asked.
        flow.spoke_first = 1;
        flow.flags.set::<{ flag::NOT_HTTP }>();
    }
    if spoken != talk::UNKNOWN || flow.tries <= 1 {
        clients::not_http(source.world(), flow, spoken);
    } else {
        flow.tries -= 1;
    }
    false
}
