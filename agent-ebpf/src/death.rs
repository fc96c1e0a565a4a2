//! Connections whose server ends: an upstream that crashes, is killed, or exits.
//!
//! The kernel closes the sockets of a process in its last thread (`do_exit`, kernel/exit.c). By then
//! the process has no thread left that runs, and the status that its parent will get is known: of
//! the whole process, whatever signal the kernel used to stop its other threads.
//!
//! Another process may hold the socket longer: a program that the server ran inherited it. Then that
//! one's end closes it, and tells nothing of the server; so crashes are remembered for a while.

use agent_wire::limits::CRASHED_PROCESSES;
use agent_wire::record::{Death, ended, flag, kind};
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;

use crate::flow::Flow;
use crate::kernel::{self, Ending, Sock};
use crate::output;

/// What `wait(2)` has for the signal, and where it has the exit status.
const SIGNAL: u32 = 0x7f;
const STATUS_AT: u32 = 8;

/// For how long a crash is remembered, ns. Shorter: a program that runs on hides the crash of who ran
/// it. Longer: another process may have its number by then.
const REMEMBERED: u64 = 60_000_000_000;

/// Processes that crashed, by thread group.
#[btf_map]
static CRASHED: LruHashMap<u32, Ended, { CRASHED_PROCESSES as usize }> = LruHashMap::new();

/// How a process ended, and when.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ended {
    at_ns: u64,
    wait_status: u32,
    /// 1 when it was killed for want of memory.
    out_of_memory: u32,
}

impl Ended {
    #[inline(always)]
    fn of(ending: Ending, at_ns: u64) -> Self {
        Self {
            at_ns,
            wait_status: ending.wait_status(),
            out_of_memory: u32::from(ending.is_for_memory()),
        }
    }
}

/// The running thread ends: remembers it when its process crashed.
#[inline(always)]
pub(crate) fn ends() {
    let Some(ending) = Ending::of_the_running_process() else {
        return;
    };
    let ended = Ended::of(ending, kernel::now());
    if ended.wait_status != 0 {
        // Full, the one that is looked for least makes room.
        let _inserted = CRASHED.insert(ending.tgid(), ended, 0);
    }
}

/// The running thread closes the socket of `flow`: tells it when its process ends.
#[inline(always)]
pub(crate) fn closes(flow: &mut Flow, sk: Sock) {
    // Without addresses no packet of it was seen: it is not in the cgroup that is watched.
    if flow.flags.has::<{ flag::ACTIVE_OPEN }>() || flow.addressed == 0 || flow.ignored != 0 {
        return;
    }
    let Some(ending) = Ending::of_the_running_process() else {
        return;
    };
    let now = kernel::now();
    let mut tgid = ending.tgid();
    let mut ended = Ended::of(ending, now);
    let reader = flow.header.tgid;
    if reader == 0 {
        // Nobody read from it.
        flow.header.tgid = tgid;
    } else if reader != tgid
        && let Some(crash) = crash_of(reader)
        && now.wrapping_sub(crash.at_ns) < REMEMBERED
    {
        (tgid, ended) = (reader, crash);
    }
    let network = if kernel::by_cookie() {
        flow.network
    } else {
        sk.network()
    };
    output::emit_with(kind::DEATH, now, |record: &mut Death| {
        flow.head(&mut record.header);
        record.header.tgid = tgid;
        record.signal = ended.wait_status & SIGNAL;
        record.status = (ended.wait_status >> STATUS_AT) as u8;
        record.ended = if ended.out_of_memory != 0 {
            ended::OUT_OF_MEMORY
        } else if ended.wait_status & SIGNAL == 0 {
            ended::EXITED
        } else {
            ended::KILLED
        };
        record.reserved = 0;
        record.network = network;
        record.reserved_2 = 0;
    });
}

#[inline(always)]
fn crash_of(tgid: u32) -> Option<Ended> {
    CRASHED.get_ptr_mut(tgid).map(|ended| *kernel::value(ended))
}
