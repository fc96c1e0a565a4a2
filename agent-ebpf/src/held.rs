//! The heads of exchanges that may be told in brief, held until they are over.
//!
//! In: records that are complete. Out: the same, when the exchange did not go well after all. The daemon
//! finds here what is under way. Each exchange has a place that its number leads to; one that finds it
//! taken is told whole. A place is taken by a mark that is added atomically, as in [`crate::scratch`].

use agent_flow::http1::brief;
use agent_flow::world::Space;
use agent_wire::brief::{Brief, Held, holds, place};
use agent_wire::limits::{HELD_EXCHANGES, HELD_REQUEST_BYTES, HELD_RESPONSE_BYTES};
use agent_wire::record::{MessageHead, kind};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;

use crate::calls;
use crate::flow::Flow;
use crate::kernel;
use crate::machine::Kernel;
use crate::output;

/// Read by the daemon.
#[btf_map]
static HELD: Array<Held, { HELD_EXCHANGES as usize }> = Array::new();

/// Who is in which place: 1 for one exchange. Read by the daemon.
#[btf_map]
static HOLDERS: Array<[u64; HELD_EXCHANGES as usize], 1> = Array::new();

/// Holds the request head in `space`; false when there is no room for it.
#[inline(always)]
pub(crate) fn request(flow: &mut Flow, space: &Space) -> bool {
    if kernel::opaque(&space.fixed.captured) > HELD_REQUEST_BYTES as u32 {
        return false;
    }
    let place = place(flow.header.cookie, flow.exchange.index);
    let Some(held) = take(place) else {
        return false;
    };
    kernel::assign(&mut held.request.fixed, &space.fixed);
    kernel::copy::<HELD_REQUEST_BYTES, _, _>(&space.bytes, &mut held.request.bytes);
    kernel::store(&mut held.holds, holds::REQUEST);
    flow.held = place as u16 + 1;
    true
}

/// Holds the response head in `space` behind its request; false when there is no room for it.
#[inline(always)]
pub(crate) fn response(flow: &Flow, space: &Space) -> bool {
    if kernel::opaque(&space.fixed.captured) > HELD_RESPONSE_BYTES as u32 {
        return false;
    }
    let Some(held) = at(u32::from(flow.held)) else {
        return false;
    };
    kernel::assign(&mut held.response.fixed, &space.fixed);
    kernel::copy::<HELD_RESPONSE_BYTES, _, _>(&space.bytes, &mut held.response.bytes);
    kernel::store(&mut held.holds, holds::RESPONSE);
    true
}

/// Emits what is held of the exchange at hand, and holds it no more.
#[inline(always)]
pub(crate) fn let_out(flow: &mut Flow) {
    let held = kernel::opaque(&flow.held);
    if held != 0 {
        flow.held = 0;
        if calls::emit_held(held, false) {
            calls::emit_held(held, true);
        }
        calls::give_back_held(held);
    }
}

/// Tells the exchange at hand in brief, and holds it no more. What is known of it goes by way of its place,
/// in the room of the request.
#[inline(always)]
pub(crate) fn tell_in_brief(flow: &mut Flow, now: u64) {
    let held = kernel::opaque(&flow.held);
    if let Some(what) = at(u32::from(held)) {
        flow.held = 0;
        let has_response = kernel::opaque(&what.holds) == holds::RESPONSE;
        let ended = if has_response {
            holds::ENDED_RESPONSE
        } else {
            holds::ENDED_REQUEST
        };
        kernel::store(&mut what.holds, ended);
        flow.head(&mut what.request.fixed.header);
        flow.exchange_into(&mut what.request.fixed.exchange);
        calls::emit_brief(held, now);
    }
}

/// Emits in brief what is known of the exchange at a place, one more than its number, and gives it back.
#[inline(always)]
pub(crate) fn emit_brief(held: u32, now: u64) {
    if let Some(what) = at(held) {
        let MessageHead {
            header, exchange, ..
        } = &what.request.fixed;
        output::emit_with(kind::BRIEF, now, |record: &mut Brief| {
            brief::fill::<Kernel>(record, header, exchange);
        });
    }
    free(held);
}

/// Holds nothing more of the exchange at hand.
#[inline(always)]
pub(crate) fn let_go(flow: &mut Flow) {
    let held = kernel::opaque(&flow.held);
    if held != 0 {
        flow.held = 0;
        calls::give_back_held(held);
    }
}

/// Emits one of the heads at a place, one more than its number; whether there is a response.
#[inline(always)]
pub(crate) fn emit(held: u32, is_response: bool) -> bool {
    let Some(what) = at(held) else {
        return false;
    };
    let (fixed, most, record_kind) = if is_response {
        (&what.response.fixed, HELD_RESPONSE_BYTES, kind::RESPONSE)
    } else {
        (&what.request.fixed, HELD_REQUEST_BYTES, kind::REQUEST)
    };
    let captured = kernel::opaque(&fixed.captured);
    if captured <= most as u32 {
        let len = size_of::<MessageHead>() as u32 + captured;
        output::copy(fixed, len, record_kind);
    }
    kernel::opaque(&what.holds) == holds::RESPONSE
}

/// Gives the place back, one more than its number.
#[inline(always)]
pub(crate) fn give_back(held: u32) {
    if let Some(what) = at(held) {
        kernel::store(&mut what.holds, holds::NOTHING);
    }
    free(held);
}

/// Lets others take the place, one more than its number; what is there stays until they do.
#[inline(always)]
fn free(held: u32) {
    if let Some(mark) = mark(held.wrapping_sub(1)) {
        kernel::add(mark, -1);
    }
}

#[inline(always)]
fn take(place: u32) -> Option<&'static mut Held> {
    let mark = mark(place)?;
    kernel::add(mark, 1);
    if kernel::opaque(mark) == 1 {
        let held = at(place + 1)?;
        kernel::store(&mut held.holds, holds::NOTHING);
        return Some(held);
    }
    kernel::add(mark, -1);
    None
}

#[inline(always)]
fn mark(place: u32) -> Option<&'static mut u64> {
    let holders = HOLDERS.get_ptr_mut(0).map(kernel::value)?;
    Some(&mut holders[place as usize & (HELD_EXCHANGES as usize - 1)])
}

#[inline(always)]
fn at(held: u32) -> Option<&'static mut Held> {
    HELD.get_ptr_mut(held.wrapping_sub(1)).map(kernel::value)
}
