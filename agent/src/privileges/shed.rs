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
    let failed = |what| move |source| ShedError { what, source };
    set_no_new_privs(true).map_err(failed("new privileges"))?;
    // Before 4.3 there is none, and the probes need 5.10.
    clear_ambient_capability_set().map_err(failed("ambient capabilities"))?;
    let held = capabilities(None).map_err(failed("capabilities"))?;
    let useful = held.permitted & (CapabilitySet::SYS_PTRACE | CapabilitySet::BPF);
    let reduced = |permitted: CapabilitySet, effective: CapabilitySet| CapabilitySets {
        effective,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, reduced(useful, useful - CapabilitySet::BPF))
        .map_err(failed("capabilities"))?;
    let kept = if may_do_without_bpf() && maps_can_be_read() {
        useful - CapabilitySet::BPF
    } else {
        useful
    };
    set_capabilities(None, reduced(kept, kept)).map_err(failed("CAP_BPF"))?;
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

/// Where `bpf(2)` is open to all, that maps can be read says nothing: it may be closed later.
fn may_do_without_bpf() -> bool {
    fs::read_to_string(UNPRIVILEGED_BPF_DISABLED).is_ok_and(|value| value.trim() != "0")
}
