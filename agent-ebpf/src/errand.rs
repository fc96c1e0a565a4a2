//! Whom a thread works for: the client request it touched last.
//!
//! A proxy reads a request and, in the same thread, connects or writes to an upstream.
//! `tcp:tcp_rcv_space_adjust` fires in `tcp_recvmsg`, in the reading thread, so the last
//! client socket read by the thread that begins an attempt is the attempt's parent. A
//! thread that reads or closes an upstream socket works for that socket's request again:
//! that joins the retry after a failure.
//!
//! One slot a thread, found by a hash of its task pointer and checked against it: two
//! threads that share a slot forget each other's errand, they never take it over.
//!
//! The kernel may give the `task_struct` of a thread that ended to a new one, which then has the old
//! errand until it reads from a socket itself. The errand's age shows it, except where a thread
//! connects within milliseconds of its start and of the other's end: no program type has a number
//! of the thread on every kernel (a packet program has none before 6.12).

use agent_flow::clients;
use agent_flow::flow::phase;
use agent_wire::limits::ERRAND_SLOTS;
use agent_wire::record::{Errand, flag};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;

use crate::attention;
use crate::flow::Flow;
use crate::kernel;
use crate::lifecycle;
use crate::machine::Kernel;

#[btf_map]
static ERRANDS: Array<Slot, { ERRAND_SLOTS as usize }> = Array::new();

/// A thread's errand.
#[repr(C)]
pub(crate) struct Slot {
    task: u64,
    cookie: u64,
    since_ns: u64,
    index: u32,
    /// Thread group, which packet programs cannot ask for.
    tgid: u32,
}

/// The errand of the running thread; zero when it has none.
///
/// Not by way of an `Option`: the compiler keeps what it would hold on the stack, unset where
/// there is none, and reads it before it looks ("invalid read from stack", before 6.3).
#[inline(always)]
pub(crate) fn current(now: u64) -> Errand {
    let task = kernel::task();
    match slot(task) {
        Some(slot) if slot.is_of(task) => slot.errand(now),
        _ => Errand::default(),
    }
}

/// The errand of the running thread and its thread group; `None` when it has no errand.
#[inline(always)]
pub(crate) fn of_server_thread(now: u64) -> Option<(Errand, u32)> {
    let task = kernel::task();
    let slot = slot(task)?;
    if slot.is_of(task) {
        Some((slot.errand(now), slot.tgid))
    } else {
        None
    }
}

impl Slot {
    #[inline(always)]
    fn is_of(&self, task: u64) -> bool {
        self.task == task && self.cookie != 0
    }

    #[inline(always)]
    fn errand(&self, now: u64) -> Errand {
        let age_us = now.saturating_sub(self.since_ns) / 1000;
        let age_us = if age_us > u64::from(u32::MAX) {
            u32::MAX
        } else {
            age_us as u32
        };
        Errand {
            cookie: self.cookie,
            index: self.index,
            age_us,
        }
    }
}

/// The running thread, of the group `tgid`, works for `cookie`'s request number `index` from now on.
#[inline(always)]
fn begin(cookie: u64, index: u32, tgid: u32) {
    let task = kernel::task();
    if let Some(slot) = slot(task) {
        slot.task = 0;
        slot.cookie = cookie;
        slot.index = index;
        slot.since_ns = kernel::now();
        slot.tgid = tgid;
        slot.task = task;
    }
}

/// A thread copied data from the socket of `flow` to itself.
#[inline(always)]
pub(crate) fn data_read(flow: &mut Flow) {
    let opaque = flow.phase == phase::OPAQUE && flow.flags.has::<{ flag::ACTIVE_OPEN }>();
    if opaque || flow.phase == phase::PARKED || flow.ignored != 0 {
        return;
    }
    let task = kernel::task();
    if flow.task != task {
        flow.task = task;
        flow.network = kernel::network_of_thread();
        let tgid = kernel::tgid();
        if flow.header.tgid != tgid {
            flow.header.tgid = tgid;
            if attention::is_ignored(tgid) {
                lifecycle::found_ignored(flow);
                return;
            }
        }
    }
    touched(flow);
    clients::data_read(&Kernel, flow);
}

/// The running thread, which is the one that `flow` is known to belong to, acted on it: it is on
/// that flow's errand.
#[inline(always)]
pub(crate) fn touched(flow: &Flow) {
    if flow.is_upstream_side() || flow.flags.has::<{ flag::ACTIVE_OPEN }>() {
        let errand = flow.exchange.errand;
        if errand.cookie != 0 {
            begin(errand.cookie, errand.index, flow.header.tgid);
        }
    } else {
        // An accepted socket that is not HTTP (TLS, say) counts too: an attempt made for it
        // must not be joined to the plain request this thread read before.
        begin(flow.header.cookie, flow.exchange.index, flow.header.tgid);
    }
}

#[inline(always)]
fn slot(task: u64) -> Option<&'static mut Slot> {
    let hash = (task >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    ERRANDS
        .get_ptr_mut((hash as u32) & (ERRAND_SLOTS - 1))
        .map(kernel::value)
}
