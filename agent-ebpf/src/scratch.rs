//! Spaces to gather and scan heads in ([`Space`]).
//!
//! Each CPU has a few. A probe may be interrupted on its CPU by another (a packet in
//! interrupt context, or a task that preempts), so a space is taken before use: whoever
//! finds its own mark alone on it owns it. Marks are added atomically, so two probes never
//! both find theirs alone.

use core::ops::{Deref, DerefMut};

use agent_flow::world::Space;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;

use crate::kernel;

/// Spaces of one CPU: one in process context, one in interrupt context, and two for tasks
/// preempted in the middle.
const SPACES: usize = 4;

#[btf_map]
static SPACE: PerCpuArray<Slot, SPACES> = PerCpuArray::new();

/// A space, and who has it.
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) space: Space,
    marks: u64,
    /// Which of this CPU's it is, for [`at`].
    index: u32,
    reserved: u32,
}

/// A space that the running probe has taken.
pub(crate) struct Lent(&'static mut Slot);

impl Lent {
    /// Which of this CPU's it is, for [`at`].
    #[inline(always)]
    pub(crate) fn index(&self) -> u32 {
        self.0.index
    }
}

impl Deref for Lent {
    type Target = Space;

    #[inline(always)]
    fn deref(&self) -> &Space {
        &self.0.space
    }
}

impl DerefMut for Lent {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Space {
        &mut self.0.space
    }
}

/// A space of this CPU that nobody else uses, to be given back; `None` when all are in use.
///
/// The running probe alone knows which it is: were that written where others can write, two could
/// use one space, or give back what is not theirs.
#[inline(always)]
pub(crate) fn take() -> Option<Lent> {
    let mut index = 0;
    while index < SPACES as u32 {
        let slot = SPACE.get_ptr_mut(index).map(kernel::value)?;
        kernel::add(&mut slot.marks, 1);
        if kernel::opaque(&slot.marks) == 1 {
            slot.index = index;
            return Some(Lent(slot));
        }
        kernel::add(&mut slot.marks, -1);
        index += 1;
    }
    None
}

/// Ends the use of a space.
#[inline(always)]
pub(crate) fn give_back(space: Lent) {
    kernel::add(&mut space.0.marks, -1);
}

/// The space of that index on this CPU, which the caller has taken.
#[inline(always)]
pub(crate) fn at(index: u32) -> Option<&'static mut Slot> {
    SPACE.get_ptr_mut(index).map(kernel::value)
}
