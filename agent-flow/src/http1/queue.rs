//! Requests that a client sends before the one at hand is answered (RFC 9112, section 9.3.2).
//!
//! In: where the bytes of another request begin. Out: how many wait, at least: of several in one
//! segment only the first is seen. They are not read; the answer to one begins its exchange, in a
//! segment of its own or behind the answer before it. One that waits when its connection ends got
//! none, which is reported too ([`crate::http1::exchange::connection_ends`]).

use agent_wire::record::{flag, framing};
use agent_wire::tally::Tally;

use crate::flow::{Flow, method};
use crate::http1::body;
use crate::machine::Machine;
use crate::world::World;

/// A request that begins with `start` comes behind the one at hand.
#[inline(always)]
pub fn add<W: World>(world: &W, flow: &mut Flow<W>, start: u64) {
    flow.flags.set::<{ flag::PIPELINED }>();
    world.count(Tally::PIPELINED);
    if flow.is_client_side() && flow.queued != u8::MAX {
        // No other method that is in use begins so.
        if start & 0xff == u64::from(b'H') && flow.queued < 8 {
            flow.queued_heads |= 1 << flow.queued;
        }
        flow.queued += 1;
    }
}

/// The bytes behind a request begin with `start`, `len` of them there. They are a request by their
/// letters: what old clients send behind a body is a line end.
#[inline(always)]
pub fn begins<W: World>(world: &W, flow: &mut Flow<W>, start: u64, len: u64) {
    let is_capital = |at: u64| (((start >> (at * 8)) & 0xff) as u8).wrapping_sub(b'A') < 26;
    if is_capital(0) && (len < 2 || is_capital(1)) && (len < 3 || is_capital(2)) {
        add(world, flow, start);
    } else {
        flow.flags.set::<{ flag::PIPELINED }>();
        world.count(Tally::PIPELINED);
    }
}

/// The answer to one begins, whose exchange has begun: by its method, if known, it has a body.
#[inline(always)]
pub fn answered<M: Machine>(flow: &mut Flow<M>) {
    if flow.queued != 0 {
        flow.queued -= 1;
        if flow.queued_heads & 1 != 0 {
            flow.method = method::HEAD;
        }
        flow.queued_heads >>= 1;
    }
}

/// A response ended. If its end is not known, how many requests are left is not known either.
#[inline(always)]
pub fn response_ended<M: Machine>(flow: &mut Flow<M>) {
    let has_end = match flow.exchange.framing {
        framing::CHUNKED => body::has_clear_end(flow),
        framing::NONE | framing::LENGTH => true,
        _ => false,
    };
    if !has_end {
        is_unknown(flow);
    }
}

/// How many wait is not known any more.
#[inline(always)]
pub fn is_unknown<M: Machine>(flow: &mut Flow<M>) {
    flow.queued = 0;
    flow.queued_heads = 0;
}
