//! What this kernel and these rights allow: each program is shown to the verifier, some are
//! attached for a moment, nothing stays.

use super::{Capability, KernelError, Options, Verified, attaching, cgroup, load_the_right_way};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Every ability, needed ones included, with the kernel's own words where it is off.
    pub capabilities: Vec<Capability>,
    /// Every program, in the order of loading.
    pub programs: Vec<Verified>,
    /// Classic tracepoints are needed: tracefs, and what opens it.
    pub uses_tracepoints: bool,
    /// Why connects are seen at tracepoints, if programs at functions are refused.
    pub why_tracepoints: Option<String>,
}

/// Looks at every program.
///
/// # Errors
/// The object itself cannot be loaded (rights, BTF, cgroup): nothing would run.
pub fn survey(options: &Options) -> Result<Survey, KernelError> {
    cgroup::find(options.cgroup.as_deref())?;
    let (mut ebpf, btf, way, why_tracepoints) = load_the_right_way(options)?;
    let (capabilities, programs) = attaching::load_all(&mut ebpf, &btf, way);
    Ok(Survey {
        capabilities,
        programs,
        uses_tracepoints: way.uses_tracepoints(),
        why_tracepoints,
    })
}
