//! Processes that begin to listen, so that the daemon attaches the packet programs where a proxy
//! starts before it is asked for anything.

use aya_ebpf::btf_maps::Queue;
use aya_ebpf::macros::btf_map;

use crate::connecting;
use crate::kernel;
use crate::output;
use crate::scope;

/// When, and which thread group: 0 where the kernel does not tell. Read by the daemon, which each wakes;
/// more than this many in one of its rounds are found by looking through all processes.
#[btf_map]
static SERVING: Queue<[u64; 2], 256> = Queue::new();

/// The running process begins to listen.
#[inline(always)]
pub(crate) fn begins() {
    // Callbacks come of what is inside only, and cannot ask.
    if !kernel::by_cookie() && !scope::is_inside() {
        return;
    }
    let entry = [kernel::now(), u64::from(connecting::thread_group())];
    // Full, the daemon sees that it is.
    let _pushed = SERVING.push(entry, 0);
    output::wake();
}
