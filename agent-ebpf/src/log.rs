//! What the probes say of themselves, for `why502 run --probe-log`.
//!
//! The level is a constant that the daemon sets before it loads the object: with it at 0 the
//! verifier takes these lines out of the programs, and they cost nothing. Never called from the
//! packet programs: with it on, a line for every packet would be the load.

use aya_log_ebpf::{debug, info, warn};

use crate::flow::Flow;

/// A connection's handshake is decided.
#[inline(always)]
pub(crate) fn connected(flow: &Flow, outcome: u8) {
    let header = &flow.header;
    info!(
        &(),
        "socket {}: process {} connected to port {}: outcome {}, {} SYNs, errno {}",
        header.cookie,
        header.tgid,
        header.remote_port,
        outcome,
        header.syns,
        header.errno
    );
}

/// A connection is gone.
#[inline(always)]
pub(crate) fn closed(flow: &Flow, how: u8) {
    let header = &flow.header;
    info!(
        &(),
        "socket {}: closed, end {}, side {}, phase {}, flags {:x}, {} retransmits",
        header.cookie,
        how,
        header.side,
        flow.phase,
        flow.flags.bits(),
        header.retransmits
    );
}

/// A reset was seen.
#[inline(always)]
pub(crate) fn reset(flow: &Flow, direction: u8) {
    info!(
        &(),
        "socket {}: reset, direction {}, phase {}", flow.header.cookie, direction, flow.phase
    );
}

/// A socket's state changed.
#[inline(always)]
pub(crate) fn state(flow: &Flow, old: i32, new: i32) {
    debug!(
        &(),
        "socket {}: TCP state {} to {}", flow.header.cookie, old, new
    );
}

/// A socket cannot be watched.
#[inline(always)]
pub(crate) fn no_storage(cookie: u64) {
    warn!(&(), "socket {}: no memory for its storage", cookie);
}
