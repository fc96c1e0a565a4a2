//! Space to gather and scan a head in, larger than the stack.
//!
//! Each CPU has a few. A probe may be interrupted on its CPU by another (a packet in
//! interrupt context, or a task that preempts), so a space is taken before use: whoever
//! finds its own mark alone on it owns it. Marks are added atomically, so two probes never
//! both find theirs alone.

use agent_flow::bytes::Payload;
use agent_flow::http1::scan::{Lines, Scan};
use agent_wire::limits::{HEAD_BYTES, HEAD_SLACK_BYTES};
use agent_wire::record::MessageHead;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;

use crate::kernel;

/// Bytes appended at a time to a head that comes in pieces.
pub(crate) const APPEND_BYTES: usize = 1024;

/// Spaces of one CPU: one in process context, one in interrupt context, and two for tasks
/// preempted in the middle.
const SPACES: usize = 4;

#[btf_map]
static SPACE: PerCpuArray<Space, SPACES> = PerCpuArray::new();

/// A record in the making. The record comes first, so that it can be told from here.
#[repr(C)]
pub(crate) struct Space {
    pub(crate) fixed: MessageHead,
    pub(crate) bytes: [u8; HEAD_BYTES + APPEND_BYTES + HEAD_SLACK_BYTES],
    pub(crate) lines: Lines,
    /// What the scanner found in the head at hand.
    pub(crate) scan: Scan,
    /// The bytes at hand.
    pub(crate) at: Payload,
    /// The time at hand, ns.
    pub(crate) now_ns: u64,
    marks: u64,
    /// Which of this CPU's it is, for [`at`].
    pub(crate) index: u32,
    reserved: u32,
}

/// A space of this CPU that nobody else uses, to be given back; `None` when all are in use.
///
/// The running probe alone knows which it is: were that written where others can write, two could
/// use one space, or give back what is not theirs.
#[inline(always)]
pub(crate) fn take() -> Option<&'static mut Space> {
    let mut index = 0;
    while index < SPACES as u32 {
        let space = SPACE.get_ptr_mut(index).map(kernel::value)?;
        kernel::add(&mut space.marks, 1);
        if kernel::opaque(&space.marks) == 1 {
            space.index = index;
            return Some(space);
        }
        kernel::add(&mut space.marks, -1);
        index += 1;
    }
    None
}

/// Ends the use of a space.
#[inline(always)]
pub(crate) fn give_back(space: &mut Space) {
    kernel::add(&mut space.marks, -1);
}

/// The space of that index, of whoever took it on this CPU.
#[inline(always)]
pub(crate) fn at(index: u32) -> Option<&'static mut Space> {
    SPACE.get_ptr_mut(index).map(kernel::value)
}
