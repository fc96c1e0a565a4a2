//! What the daemon knows of the running kernel, and of what it was asked for.
//!
//! Set before the object is loaded: the verifier knows them as constants, and takes out what is not
//! needed.

use agent_wire::reset_reason::NUMBERS;
use aya_ebpf::Global;

/// The kernel says why a reset is sent. The daemon sets it when it loads.
#[unsafe(no_mangle)]
pub(super) static RESET_HAS_REASON: Global<u8> = Global::new(0);

/// The code of [`agent_wire::reset_reason`] for each number that the kernel has for a reason. The
/// daemon sets it when it loads.
#[unsafe(no_mangle)]
pub(super) static RESET_REASONS: [Global<u8>; NUMBERS] = [const { Global::new(0) }; NUMBERS];

/// The kernel says why a reset is sent.
#[inline(always)]
pub(crate) fn reset_has_reason() -> bool {
    RESET_HAS_REASON.load() != 0
}

/// The code for the kernel's `number` of a reason.
#[inline(always)]
pub(crate) fn reset_reason(number: u32) -> u8 {
    RESET_REASONS[number as usize % NUMBERS].load()
}

/// Not 0 where tracepoints cannot reach a socket's storage (before 5.11): see `by_cookie.rs`.
/// Set by the daemon before it loads the object, so that the verifier takes out the other way.
#[unsafe(no_mangle)]
pub(super) static BY_COOKIE: Global<u8> = Global::new(0);

/// Flows are found by the socket's cookie.
#[inline(always)]
pub(crate) fn by_cookie() -> bool {
    BY_COOKIE.load() != 0
}

/// Not 0: the programs do nothing, so that what it costs to have them attached can be measured.
/// The daemon sets it when it loads; else the verifier takes the question out.
#[unsafe(no_mangle)]
pub(super) static IDLE: Global<u8> = Global::new(0);

/// Nothing is to be done.
#[inline(always)]
pub(crate) fn idle() -> bool {
    IDLE.load() != 0
}

/// Not 0: a part of the host is watched, and [`crate::scope`] is to be asked. The daemon sets it when
/// it loads; else the verifier takes the question out.
#[unsafe(no_mangle)]
pub(super) static SCOPED: Global<u8> = Global::new(0);

/// A part of the host is watched.
#[inline(always)]
pub(crate) fn is_scoped() -> bool {
    SCOPED.load() != 0
}

/// Not 0: what goes well may be told in brief. The daemon sets it when it loads; else the verifier takes
/// all of that out.
#[unsafe(no_mangle)]
pub(super) static TELLS_IN_BRIEF: Global<u8> = Global::new(0);

/// What goes well may be told in brief.
#[inline(always)]
pub(crate) fn tells_in_brief() -> bool {
    TELLS_IN_BRIEF.load() != 0
}

/// Where `struct sock` has `sk_err`, bytes, as the kernel's BTF says; 0: not known. The daemon sets
/// it when it loads.
#[unsafe(no_mangle)]
pub(super) static SK_ERR: Global<u32> = Global::new(0);

/// The same for the port of its peer (`skc_dport`) and its own (`skc_num`).
#[unsafe(no_mangle)]
pub(super) static PORTS: [Global<u32>; 2] = [const { Global::new(0) }; 2];

/// The same for its network namespace (`skc_net`), and where that has its inode; and where `struct
/// task_struct` has `nsproxy`, and that has `net_ns`.
#[unsafe(no_mangle)]
pub(super) static NETWORK: [Global<u32>; 4] = [const { Global::new(0) }; 4];

/// The same for the last of `sk_error_queue`.
#[unsafe(no_mangle)]
pub(super) static LAST_QUEUED: Global<u32> = Global::new(0);

/// Where `struct sk_buff` has the `struct sock_extended_err` of a queued error, bytes; 0: not known.
#[unsafe(no_mangle)]
pub(super) static EXTENDED_ERROR: Global<u32> = Global::new(0);

/// Where `struct task_struct` has `signal`, `exit_code` and `tgid`, and `struct signal_struct` has
/// `live` and `oom_mm`, bytes, as the kernel's BTF says; zeros: not known. The daemon sets them when
/// it loads.
#[unsafe(no_mangle)]
pub(super) static PROCESS: [Global<u32>; 5] = [const { Global::new(0) }; 5];

/// Where `struct pt_regs` has the first arguments of a system call, bytes. The daemon sets it when it
/// loads.
#[unsafe(no_mangle)]
pub(super) static ARGUMENTS: [Global<u32>; 3] = [const { Global::new(0) }; 3];
