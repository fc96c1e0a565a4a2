//! Connections whose server ends: an upstream that crashes, is killed, or exits.
//!
//! The kernel closes the sockets of a process in its last thread (`do_exit`, kernel/exit.c). By then
//! the process has no thread left that runs, and the status that its parent will get is known: of
//! the whole process, whatever signal the kernel used to stop its other threads.

use agent_wire::record::{Death, ended, flag, kind};

use crate::flow::Flow;
use crate::kernel::{self, Ending, Sock};
use crate::output;

/// What `wait(2)` has for the signal, and where it has the exit status.
const SIGNAL: u32 = 0x7f;
const STATUS_AT: u32 = 8;

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
    let tgid = ending.tgid();
    if flow.header.tgid == 0 {
        // Nobody read from it.
        flow.header.tgid = tgid;
    }
    let wait_status = ending.wait_status();
    let out_of_memory = ending.is_for_memory();
    let network = if kernel::by_cookie() {
        flow.network
    } else {
        sk.network()
    };
    output::emit_with(kind::DEATH, kernel::now(), |record: &mut Death| {
        flow.head(&mut record.header);
        record.header.tgid = tgid;
        record.signal = wait_status & SIGNAL;
        record.status = (wait_status >> STATUS_AT) as u8;
        record.ended = if out_of_memory {
            ended::OUT_OF_MEMORY
        } else if wait_status & SIGNAL == 0 {
            ended::EXITED
        } else {
            ended::KILLED
        };
        record.reserved = 0;
        record.network = network;
        record.reserved_2 = 0;
    });
}
