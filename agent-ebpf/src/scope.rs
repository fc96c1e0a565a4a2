//! Which processes are in the cgroup that is watched.
//!
//! The packet programs and the callbacks are attached to it, and see its sockets only. Programs at
//! tracepoints and functions see those of the whole host, and ask here first.

use aya_ebpf::btf_maps::CgroupArray;
use aya_ebpf::macros::btf_map;

use crate::kernel;

/// The cgroup; written by the daemon.
#[btf_map]
static WATCHED: CgroupArray<1> = CgroupArray::new();

/// The running process is in the cgroup that is watched, or in one below it. For programs at
/// tracepoints and functions, where the running process is the one that acts.
#[inline(always)]
pub(crate) fn is_inside() -> bool {
    !kernel::is_scoped() || WATCHED.current_task_under_cgroup(0) == Ok(true)
}
