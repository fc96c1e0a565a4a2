//! Processes that a signal takes down: an upstream that crashes, or is killed for its memory.
//!
//! `signal:signal_deliver` runs in the process that gets the signal, before its sockets are
//! closed, for SIGKILL as well (`get_signal`, kernel/signal.c).

use core::ffi::c_void;

use agent_wire::record::{Death, Header, flag, kind, side};
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;

use crate::flow::Flow;
use crate::kernel;
use crate::output;

/// Processes that were taken down lately, for their connections that are not read: which of them
/// served what is only worth a record then.
#[btf_map]
static DYING: LruHashMap<u32, u8, 64> = LruHashMap::new();

const SIG_DFL: u64 = 0;
const SIGKILL: u32 = 9;

/// One bit for each signal whose default action ends the process (signal(7)): HUP, INT, QUIT,
/// ILL, TRAP, ABRT, BUS, FPE, KILL, USR1, SEGV, USR2, PIPE, ALRM, TERM, XCPU, XFSZ, SYS.
const FATAL: u64 = 1 << 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 24
    | 1 << 25
    | 1 << 31;

/// The running process gets `signal`, and does with it what `action` (`struct k_sigaction *`) says.
#[inline(always)]
pub(crate) fn signal_delivered(signal: u32, action: *const c_void) {
    if signal > 63 || FATAL & (1 << (signal & 63)) == 0 {
        return;
    }
    if signal != SIGKILL && kernel::signal_handler(action) != SIG_DFL {
        return;
    }
    let _ = DYING.insert(kernel::tgid(), 1, 0);
    output::emit(
        &Death {
            header: Header {
                tgid: kernel::tgid(),
                ..Header::default()
            },
            signal,
            reserved: 0,
        },
        kind::DEATH,
        kernel::now(),
    );
}

/// The end of a connection that the process of `flow` served and that is not read: told where that
/// process was taken down, for the daemon knows such connections by nothing else.
#[inline(always)]
pub(crate) fn served_end(flow: &mut Flow) {
    let unread = flow.header.side == side::UNKNOWN && !flow.has(flag::ACTIVE_OPEN);
    if !unread || flow.addressed == 0 || flow.header.tgid == 0 {
        return;
    }
    if DYING.get_ptr(flow.header.tgid).is_some() {
        output::emit(&flow.header, kind::TCP, kernel::now());
    }
}
