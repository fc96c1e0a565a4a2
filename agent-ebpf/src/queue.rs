//! Requests that a client sends before the one at hand is answered (RFC 9112, section 9.3.2).
//!
//! In: where the bytes of another request begin. Out: how many wait, at least: of several in one
//! segment only the first is seen. They are not read; the answer to one begins its exchange. One that
//! waits when its connection ends got none, which is told as well.

use agent_wire::record::{flag, framing};
use agent_wire::tally::Tally;

use crate::chunks::{self, Seen};
use crate::flow::{Flow, phase};
use crate::http1;
use crate::tallies;

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

/// A response ended. Bytes behind it in its last segment are of the answer to the next request: how
/// many are left is not known then.
#[inline(always)]
pub(crate) fn response_ended(flow: &mut Flow) {
    let body = if flow.exchange.framing == framing::LENGTH {
        flow.exchange.content_length
    } else {
        0
    };
    let is_whole = if flow.exchange.framing == framing::CHUNKED {
        chunks::seen(flow) == Seen::Last
    } else {
        flow.exchange.response_bytes <= u64::from(flow.exchange.head_bytes) + body
    };
    if !is_whole {
        flow.queued = 0;
    }
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
