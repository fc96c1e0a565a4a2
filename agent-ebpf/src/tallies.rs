//! Counters of every record, skip and loss: one per-CPU slot each.

use agent_wire::tally::{EMITTED, RING_FULL, SLOTS, Tally};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;

use crate::kernel;

#[btf_map]
static TALLIES: PerCpuArray<u64, { SLOTS as usize }> = PerCpuArray::new();

/// One more of `tally`.
#[inline(always)]
pub(crate) fn count(tally: Tally) {
    add(tally.0);
}

/// A record of `kind` went into the ring.
#[inline(always)]
pub(crate) fn emitted(kind: u8) {
    add(EMITTED + u32::from(kind));
}

/// How many records of `kind` went into the ring on this CPU.
#[inline(always)]
pub(crate) fn so_far(kind: u8) -> u64 {
    match TALLIES.get_ptr_mut(EMITTED + u32::from(kind)) {
        Some(value) => kernel::opaque(kernel::value(value)),
        None => 0,
    }
}

/// A record of `kind` found the ring full.
#[inline(always)]
pub(crate) fn ring_full(kind: u8) {
    add(RING_FULL + u32::from(kind));
}

#[inline(always)]
fn add(slot: u32) {
    if let Some(value) = TALLIES.get_ptr_mut(slot) {
        kernel::increment(value);
    }
}
