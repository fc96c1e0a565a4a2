//! Which processes are looked at: all but those the daemon lists.
//!
//! A process that serves or asks a lot and never does both for one request is no proxy: the
//! daemon parks it, and its messages are not read any more. What an upstream's death or reset
//! says is told all the same.

use agent_flow::flow::phase;
use agent_wire::attention::{IGNORED, PARKED};
use agent_wire::limits::IGNORED_PROCESSES;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::btf_map;

use crate::flow::Flow;
use crate::kernel;
use crate::lifecycle;

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
    of(tgid) != 0
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
