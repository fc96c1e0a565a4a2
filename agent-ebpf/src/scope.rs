//! Which processes are watched, and since when packets are seen.
//!
//! The callbacks are attached to the cgroup that is watched, and see its sockets only; the packet
//! programs to that one, or to the cgroups in it where proxies are. Programs at tracepoints and functions see the
//! sockets of the whole host, and ask here first.

use agent_wire::record::flag;
use aya_ebpf::btf_maps::{Array, CgroupArray};
use aya_ebpf::macros::btf_map;

use crate::flow::Flow;
use crate::kernel::{self, Sock};

/// The cgroup; written by the daemon.
#[btf_map]
static WATCHED: CgroupArray<1> = CgroupArray::new();

/// When the packet programs were last attached to another cgroup, ns; the largest number while they
/// are. Written by the daemon.
#[btf_map]
static ATTACHED: Array<u64, 1> = Array::new();

/// The running process is in the cgroup that is watched, or in one below it. For programs at
/// tracepoints and functions, where the running process is the one that acts.
#[inline(always)]
pub(crate) fn is_inside() -> bool {
    !kernel::is_scoped() || WATCHED.current_task_under_cgroup(0) == Ok(true)
}

/// The first packet of `flow` passes, and begins no connection. Where it opened before the packet
/// programs were attached, others may have passed unseen: unless the kernel counts none, it is as one that
/// was there before the agent. `seq`: the packet's, where it leaves with data.
#[inline(always)]
pub(crate) fn first_packet(flow: &mut Flow, sk: Sock, seq: Option<u32>) {
    let Some(attached) = ATTACHED.get_ptr_mut(0) else {
        return;
    };
    let attached = kernel::opaque(kernel::value(attached));
    let is_older = flow.header.opened_ns != 0 && flow.header.opened_ns < attached;
    if is_older && !sk.is_fresh(seq) {
        flow.flags.clear::<{ flag::SEEN_OPEN }>();
        flow.header.opened_ns = 0;
        let cookie = flow.header.cookie;
        flow.is_picked_up(cookie);
    }
}
