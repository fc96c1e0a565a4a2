//! Giving up what is not needed once the probes are attached.

use std::fs;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

/// 1 and 2: `bpf(2)` is for CAP_BPF only; before 5.19 that means all of it, since then only
/// what makes something new (`__sys_bpf()` in kernel/bpf/syscall.c).
const UNPRIVILEGED_BPF_DISABLED: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";

/// What is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Names as Kubernetes writes them.
    pub names: Vec<&'static str>,
}

/// A right could not be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot give up {what}: {source}")]
pub struct ShedError {
    /// Which.
    pub what: &'static str,
    /// Why.
    pub source: Errno,
}

/// Gives up every capability but `SYS_PTRACE`, by which the executables of new processes are
/// read, and `BPF` where the kernel wants it for reading a map. What cannot be regained by
/// starting a program either (no_new_privs).
///
/// It is of this thread and of those that it starts: call it before there are others.
/// `maps_can_be_read` tries to.
///
/// # Errors
/// The kernel refuses, which it has no reason to.
pub fn shed(maps_can_be_read: impl Fn() -> bool) -> Result<Kept, ShedError> {
    let held = held_for_good()?;
    let useful = held & (CapabilitySet::SYS_PTRACE | CapabilitySet::BPF);
    reduce(useful, useful - CapabilitySet::BPF, "capabilities")?;
    let kept = if may_do_without_bpf() && maps_can_be_read() {
        useful - CapabilitySet::BPF
    } else {
        useful
    };
    reduce(kept, kept, "CAP_BPF")?;
    let names = [
        (CapabilitySet::BPF, "BPF"),
        (CapabilitySet::SYS_PTRACE, "SYS_PTRACE"),
    ];
    Ok(Kept {
        names: names
            .into_iter()
            .filter(|(set, _)| kept.contains(*set))
            .map(|(_, name)| name)
            .collect(),
    })
}

/// Gives up every capability but `NET_ADMIN`, by which a packet program is attached to a cgroup
/// (`bpf_prog_attach_check_attach_type`, kernel/bpf/syscall.c); and `BPF`, where `bpf(2)` is for those
/// who have it, before 5.19.
///
/// # Errors
/// As [`shed`].
pub(super) fn keep_net_admin() -> Result<(), ShedError> {
    let kept = held_for_good()? & (CapabilitySet::NET_ADMIN | CapabilitySet::BPF);
    let kept = if makes_links_without_bpf() {
        kept - CapabilitySet::BPF
    } else {
        kept
    };
    reduce(kept, kept, "capabilities")
}

/// What this thread may do, with what would come back by starting a program given up.
fn held_for_good() -> Result<CapabilitySet, ShedError> {
    set_no_new_privs(true).map_err(failed("new privileges"))?;
    // Before 4.3 there is none, and the probes need 5.10.
    clear_ambient_capability_set().map_err(failed("ambient capabilities"))?;
    let held = capabilities(None).map_err(failed("capabilities"))?;
    Ok(held.permitted)
}

fn reduce(
    permitted: CapabilitySet,
    effective: CapabilitySet,
    what: &'static str,
) -> Result<(), ShedError> {
    let sets = CapabilitySets {
        effective,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed(what))
}

fn failed(what: &'static str) -> impl Fn(Errno) -> ShedError {
    move |source| ShedError { what, source }
}

/// Since 5.19 what makes nothing new is open to all. A link is nothing new: maps, programs and BTF are
/// (`__sys_bpf()`, kernel/bpf/syscall.c).
fn makes_links_without_bpf() -> bool {
    const SINCE: (u32, u32) = (5, 19);
    may_do_without_bpf() && super::needs::running().is_some_and(|version| version >= SINCE)
}

/// Where `bpf(2)` is open to all, that maps can be read says nothing: it may be closed later.
fn may_do_without_bpf() -> bool {
    fs::read_to_string(UNPRIVILEGED_BPF_DISABLED).is_ok_and(|value| value.trim() != "0")
}
