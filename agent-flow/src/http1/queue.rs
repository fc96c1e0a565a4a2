//! Requests that a client sends before the one at hand is answered (RFC 9112, section 9.3.2).
//!
//! In: where the bytes of another request begin. Out: how many wait, at least: of several in one
//! segment only the first is seen. They are not read; the answer to one begins its exchange, in a
//! segment of its own or behind the answer before it. One that waits when its connection ends got
//! none, which is told as well ([`crate::http1::exchange::connection_ends`]).

use agent_wire::record::{flag, framing};
use agent_wire::tally::Tally;

use crate::flow::Flow;
use crate::http1::chunks::Seen;
use crate::machine::Machine;
use crate::world::World;

/// A request begins behind the one at hand.
#[inline(always)]
pub fn add<W: World>(world: &W, flow: &mut Flow<W>) {
    flow.flags.set::<{ flag::PIPELINED }>();
    world.count(Tally::PIPELINED);
    if flow.is_client_side() && flow.queued != u16::MAX {
        flow.queued += 1;
    }
}

/// The bytes behind a request begin with `first`; 0 where that is not known. They are a request by
/// their letter: what old clients send behind a body is a line end.
#[inline(always)]
pub fn begins<W: World>(world: &W, flow: &mut Flow<W>, first: u8) {
    if first.wrapping_sub(b'A') < 26 {
        add(world, flow);
    } else {
        flow.flags.set::<{ flag::PIPELINED }>();
        world.count(Tally::PIPELINED);
    }
}

/// The answer to one begins.
#[inline(always)]
pub fn answered<M: Machine>(flow: &mut Flow<M>) {
    if flow.queued != 0 {
        flow.queued -= 1;
    }
}

/// A response ended. Where its end could not be told from what is behind it, how many are left is not
/// known.
#[inline(always)]
pub fn response_ended<M: Machine>(flow: &mut Flow<M>) {
    let has_end = match flow.exchange.framing {
        framing::CHUNKED => flow.chunks.seen() == Seen::Last,
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
}
