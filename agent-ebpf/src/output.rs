//! Records into the ring.
//!
//! The reader polls, so a record does not wake it: a wake-up costs the proxy's CPU more
//! than the record. Only a ring that fills faster than the reader polls wakes it.
//!
//! Kind and time are written into the record, never into the socket's state: two CPUs may emit
//! records of one socket at once.

use agent_wire::limits::DEFAULT_RING_BYTES;
use agent_wire::record::{Header, Record};
use aya_ebpf::bindings::{
    BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use aya_ebpf::maps::ring_buf::RingBufEntry;

use crate::flow::Flow;
use crate::kernel;
use crate::tallies;

/// The daemon sets the size when it loads.
#[map]
static RING: RingBuf = RingBuf::with_byte_size(DEFAULT_RING_BYTES, 0);

/// Part of the ring, as a divisor, that may fill before the reader is woken.
const WAKE_AT_PART: u64 = 8;

/// Of how many records of a kind on a CPU one looks how full the ring is: a power of two.
const ASK_EVERY: u64 = 16;

/// Puts a record of `now` into the ring, or counts that it was full.
#[inline(always)]
pub(crate) fn emit<T: Record + 'static>(record: &T, record_kind: u8, now: u64) {
    match RING.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(*record).stamp(record_kind, now);
            submit(entry, record_kind);
        }
        None => tallies::ring_full(record_kind),
    }
}

/// Puts a record of `now` into the ring that `fill` writes in place: every field of it.
#[inline(always)]
pub(crate) fn emit_with<T: Record + 'static>(record_kind: u8, now: u64, fill: impl FnOnce(&mut T)) {
    match RING.reserve::<T>(0) {
        Some(mut entry) => {
            let record = kernel::assume_mut(&mut entry);
            fill(record);
            record.stamp(record_kind, now);
            submit(entry, record_kind);
        }
        None => tallies::ring_full(record_kind),
    }
}

#[inline(always)]
fn submit<T>(entry: RingBufEntry<T>, record_kind: u8) {
    let flags = flags(record_kind);
    tallies::emitted(record_kind);
    entry.submit(flags);
}

/// Copies the first `len` bytes of a record that was built elsewhere.
#[inline(always)]
pub(crate) fn copy<T>(record: &T, len: u32, record_kind: u8) {
    if kernel::ring_output(&RING, record, len, flags(record_kind)) {
        tallies::emitted(record_kind);
    } else {
        tallies::ring_full(record_kind);
    }
}

/// A record that is a header alone.
#[inline(always)]
pub(crate) fn header(flow: &Flow, record_kind: u8, now: u64) {
    emit_with(record_kind, now, |record: &mut Header| flow.head(record));
}

/// Wakes the reader at once: there is something for it elsewhere.
#[inline(always)]
pub(crate) fn wake() {
    // Full, it is awake already.
    if let Some(entry) = RING.reserve::<u64>(0) {
        entry.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}

/// Whether the record to come wakes the reader: asked now and then, for the ring's positions are
/// on the reader's CPU.
#[inline(always)]
fn flags(record_kind: u8) -> u64 {
    if tallies::so_far(record_kind) & (ASK_EVERY - 1) != 0 {
        return u64::from(BPF_RB_NO_WAKEUP);
    }
    let waiting = RING.query(u64::from(BPF_RB_AVAIL_DATA));
    let size = RING.query(u64::from(BPF_RB_RING_SIZE));
    if waiting > size / WAKE_AT_PART {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}
