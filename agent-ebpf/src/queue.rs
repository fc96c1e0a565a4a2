//! Requests that a client sends before the one at hand is answered (RFC 9112, section 9.3.2).
//!
//! In: where the bytes of another request begin. Out: how many wait, at least: of several in one
//! segment only the first is seen. They are not read; the answer to one begins its exchange, in a
//! segment of its own or behind the answer before it. One that waits when its connection ends got
//! none, which is told as well.

use agent_flow::bytes::{Bytes, Payload};
use agent_flow::http1::chunks::Seen;
use agent_flow::http1::scan::{HTTP_1, SEVEN_BYTES};
use agent_wire::record::{flag, framing};
use agent_wire::tally::Tally;
use aya_ebpf::programs::SkBuffContext;

use crate::calls;
use crate::flow::{Flow, phase};
use crate::http1;
use crate::kernel;
use crate::machine::Packet;
use crate::tallies;

/// Answers looked for behind one in its segment.
const ANSWERS_BEHIND: u32 = 4;

/// A request begins behind the one at hand.
#[inline(always)]
pub(crate) fn add(flow: &mut Flow) {
    flow.flags.set::<{ flag::PIPELINED }>();
    tallies::count(Tally::PIPELINED);
    if flow.is_client_side() && flow.queued != u16::MAX {
        flow.queued += 1;
    }
}

/// The bytes behind a request begin with `first`; 0 where that is not known. They are a request by
/// their letter: what old clients send behind a body is a line end.
#[inline(always)]
pub(crate) fn begins(flow: &mut Flow, first: u8) {
    if first.wrapping_sub(b'A') < 26 {
        add(flow);
    } else {
        flow.flags.set::<{ flag::PIPELINED }>();
        tallies::count(Tally::PIPELINED);
    }
}

/// The answer to one begins.
#[inline(always)]
pub(crate) fn answered(flow: &mut Flow) {
    if flow.queued != 0 {
        flow.queued -= 1;
    }
}

/// A response ended. Where its end could not be told from what is behind it, how many are left is not
/// known.
#[inline(always)]
pub(crate) fn response_ended(flow: &mut Flow) {
    let has_end = match flow.exchange.framing {
        framing::CHUNKED => flow.chunks.seen() == Seen::Last,
        framing::NONE | framing::LENGTH => true,
        _ => false,
    };
    if !has_end {
        is_unknown(flow);
    }
}

/// A response of a client that pipelines ended in `payload`: the bytes behind it are the answer to the
/// next request. Some proxies gather small answers (Apache httpd).
#[inline(always)]
pub(crate) fn answered_behind(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload, now: u64) {
    let mut round = 0;
    while round < ANSWERS_BEHIND {
        let len = behind(flow);
        if kernel::opaque(&flow.phase) != phase::IDLE || len < 8 || len > u64::from(payload.len) {
            return;
        }
        let rest = Payload {
            offset: payload.offset + payload.len - len as u32,
            len: len as u32,
            seq: 0,
            hole: 0,
        };
        if Packet(ctx).prefix(rest) & SEVEN_BYTES != HTTP_1 {
            return;
        }
        http1::begin_unread(flow, now);
        answered(flow);
        http1::response_begins(flow, len, now);
        calls::read_head(ctx, flow, rest, now);
        round += 1;
    }
}

/// Bytes that came in one segment with the response that ended last, and behind it.
#[inline(always)]
fn behind(flow: &Flow) -> u64 {
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

/// How many wait is not known any more.
#[inline(always)]
pub(crate) fn is_unknown(flow: &mut Flow) {
    flow.queued = 0;
}

/// The connection ends: begins the exchange of a request that waits, so that its end is told. Of
/// those that waited while another was under way it is not known what the proxy would have done.
#[inline(always)]
pub(crate) fn connection_ends(flow: &mut Flow, now: u64) {
    let waits = flow.queued != 0 && flow.phase == phase::IDLE;
    flow.queued = 0;
    if waits {
        http1::begin_unread(flow, now);
        flow.phase = phase::REQUEST;
    }
}
