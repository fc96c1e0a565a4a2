//! Which processes are looked at: all but those the daemon lists.
//!
//! A process that serves or asks a lot and never does both for one request is no proxy: the
//! daemon parks it, and its messages are not read any more. What an upstream's death or reset
//! says is told all the same.

use agent_flow::flow::phase;
use agent_wire::attention::{IGNORED, IN_BRIEF, PARKED, WATCHED};
use agent_wire::limits::IGNORED_PROCESSES;
use agent_wire::record::{Header, kind};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::btf_map;

use crate::flow::Flow;
use crate::kernel;
use crate::lifecycle;
use crate::output;

/// Attention by process, one of [`agent_wire::attention`]; written by the daemon.
#[btf_map]
static ATTENTION: HashMap<u32, u8, { IGNORED_PROCESSES as usize }> = HashMap::new();

/// Grows when a process is listed, so that a connection asks only then whether its own is;
/// written by the daemon.
#[btf_map]
static LISTINGS: Array<u64, 1> = Array::new();

/// The process asked to be left alone.
#[inline(always)]
pub(crate) fn is_ignored(tgid: u32) -> bool {
    of(tgid) == IGNORED
}

/// Nothing is to be told of what the process opens.
#[inline(always)]
pub(crate) fn opens_unseen(tgid: u32) -> bool {
    matches!(of(tgid), IGNORED | PARKED)
}

/// Whether exchanges of the process of this connection are told in brief where they go well.
#[inline(always)]
pub(crate) fn tells_in_brief(flow: &mut Flow) -> bool {
    if !kernel::tells_in_brief() || flow.header.tgid == 0 {
        return false;
    }
    let Some(listings) = LISTINGS.get_ptr_mut(0) else {
        return false;
    };
    let listings = kernel::opaque(kernel::value(listings)) as u32;
    if flow.asked != listings {
        flow.asked = listings;
        flow.in_brief = u8::from(of(flow.header.tgid) == IN_BRIEF);
    }
    flow.in_brief != 0
}

/// Something went wrong in the process: where its exchanges were told in brief, they are not from now on.
#[inline(always)]
pub(crate) fn disturbed(tgid: u32, now: u64) {
    let Some(attention) = ATTENTION.get_ptr_mut(tgid).map(kernel::value) else {
        return;
    };
    if kernel::opaque(attention) != IN_BRIEF {
        return;
    }
    kernel::store(attention, WATCHED);
    if let Some(listings) = LISTINGS.get_ptr_mut(0) {
        kernel::add(kernel::value(listings), 1);
    }
    output::emit_with(kind::DISTURBED, now, |record: &mut Header| {
        kernel::assign(record, &Header::default());
        record.tgid = tgid;
    });
}

/// Whether the process of this connection was listed since it was asked last, before a request begins:
/// then it is not looked at any more.
#[inline(always)]
pub(crate) fn is_withdrawn(flow: &mut Flow) -> bool {
    let Some(listings) = LISTINGS.get_ptr_mut(0) else {
        return false;
    };
    let listings = kernel::opaque(kernel::value(listings));
    if flow.listings == listings as u32 || flow.header.tgid == 0 {
        return false;
    }
    flow.listings = listings as u32;
    match of(flow.header.tgid) {
        PARKED => flow.phase = phase::PARKED,
        IGNORED => lifecycle::ignore(flow),
        _ => return false,
    }
    true
}

#[inline(always)]
fn of(tgid: u32) -> u8 {
    match ATTENTION.get_ptr_mut(tgid) {
        Some(attention) => *kernel::value(attention),
        None => 0,
    }
}
