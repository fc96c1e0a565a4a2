//! Exchanges that go well, told in one short record each, of processes where that is asked for.
//!
//! In: the heads of an exchange, as records that are complete, and its end. Out: nothing until it is over;
//! then a BRIEF record where it went well, else what was held back, as if it had never been. What does not
//! go well there is said first ([`World::disturbed`]), so that all that ends behind it is told whole.

use agent_wire::brief::{Brief, UNKNOWN_US};
use agent_wire::record::{Exchange, Header, end, flag, framing};

use crate::flow::Flow;
use crate::machine::Machine;
use crate::world::{Space, World};

/// An answer that began later than this after its request is told whole, ns: how long proxies wait is
/// learned from those. Not more than what counts as waiting there.
const AT_ONCE: u64 = 50_000_000;

/// The head of a request is complete, a record in `space`. True when it is held.
#[inline(always)]
pub fn begins<W: World>(world: &W, flow: &mut Flow<W>, space: &Space) -> bool {
    world.tells_in_brief(flow) && world.hold(flow, space, false)
}

/// The head of a response is complete, a record in `space`. True when it is held, or when the exchange ends
/// with it and was told.
#[inline(always)]
pub fn answered<W: World>(world: &W, flow: &mut Flow<W>, space: &Space, now: u64) -> bool {
    let is_over = flow.exchange.end != end::OPEN;
    if W::opaque(&flow.held) != 0 && goes_well(flow) {
        // A proxy may refuse an answer that is complete: it stays at hand for a moment.
        let stays = is_over && flow.is_upstream_side();
        let is_held = (stays || !is_over) && world.hold(flow, space, true);
        if is_held && !is_over || is_over && is_held == stays && tell(world, flow, now) {
            return true;
        }
        if is_held {
            world.let_out(flow);
            return true;
        }
    }
    // Of a connection that is told whole, too: what it failed of may be told in brief.
    if flow.exchange.status >= 500 || flow.flags.has::<{ flag::NOT_HTTP }>() {
        world.disturbed(flow, now);
    }
    let_out(world, flow);
    false
}

/// The exchange is over. True when it was told.
#[inline(always)]
pub fn ends<W: World>(world: &W, flow: &mut Flow<W>, now: u64) -> bool {
    if W::opaque(&flow.held) != 0 && goes_well(flow) && tell(world, flow, now) {
        return true;
    }
    if !has_ended_well(flow) || flow.exchange.status >= 500 {
        world.disturbed(flow, now);
    }
    let_out(world, flow);
    false
}

#[inline(always)]
fn let_out<W: World>(world: &W, flow: &mut Flow<W>) {
    if W::opaque(&flow.held) != 0 {
        world.let_out(flow);
    }
}

/// Nothing of the exchange at hand is worth a word, so far.
#[inline(always)]
fn goes_well<M: Machine>(flow: &Flow<M>) -> bool {
    let exchange = &flow.exchange;
    let is_told_whole = flow.flags.has::<{ flag::HEAD_CUT }>()
        || flow.flags.has::<{ flag::NOT_HTTP }>()
        || flow.flags.has::<{ flag::NO_REQUEST }>()
        || flow.flags.has::<{ flag::PIPELINED }>()
        || flow.flags.has::<{ flag::BAD_CHUNK }>();
    let is_asked = exchange.request_bytes >= flow.request_total;
    let waited = exchange
        .first_byte_ns
        .wrapping_sub(exchange.request_last_ns);
    !is_told_whole
        && is_asked
        && waited <= AT_ONCE
        && exchange.status >= 200
        && exchange.status < 500
        && (exchange.end == end::OPEN || has_ended_well(flow))
}

/// The exchange at hand ended as it should.
#[inline(always)]
fn has_ended_well<M: Machine>(flow: &Flow<M>) -> bool {
    let until_close = flow.exchange.framing == framing::CLOSE && flow.is_upstream_side();
    flow.exchange.end == end::COMPLETE || until_close && flow.exchange.end == end::PEER_FIN
}

/// Tells the exchange in brief; false when that is not asked for any more.
#[inline(always)]
fn tell<W: World>(world: &W, flow: &mut Flow<W>, now: u64) -> bool {
    if !world.tells_in_brief(flow) {
        return false;
    }
    world.tell_in_brief(flow, now);
    true
}

/// Writes the record in brief of an exchange: every field but its kind and its time.
#[inline(always)]
pub fn fill<M: Machine>(record: &mut Brief, header: &Header, exchange: &Exchange) {
    let began = exchange.request_ns;
    record.side = header.side;
    record.flags = header.flags;
    record.tgid = header.tgid;
    record.cookie = header.cookie;
    record.request_ns = began;
    record.local[0] = M::word(&header.local, 0);
    record.local[1] = M::word(&header.local, 8);
    record.remote[0] = M::word(&header.remote, 0);
    record.remote[1] = M::word(&header.remote, 8);
    record.local_port = header.local_port;
    record.remote_port = header.remote_port;
    record.index = exchange.index;
    record.status = exchange.status;
    record.end = exchange.end;
    record.framing = exchange.framing;
    record.request_us = micros(began, exchange.request_last_ns);
    record.first_byte_us = micros(began, exchange.first_byte_ns);
    record.head_us = micros(began, exchange.head_ns);
    record.before_us = if exchange.idle_since_ns != 0 {
        micros(exchange.idle_since_ns, began)
    } else if header.opened_ns != 0 {
        micros(header.opened_ns, began)
    } else {
        UNKNOWN_US
    };
    record.srtt_us = header.srtt_us;
}

/// From `from` to `to`, microseconds; the most that there is room for is not known.
#[inline(always)]
fn micros(from: u64, to: u64) -> u32 {
    let micros = to.saturating_sub(from) / 1000;
    if micros < u64::from(UNKNOWN_US) {
        micros as u32
    } else {
        UNKNOWN_US - 1
    }
}
