//! What this kernel and these rights allow: each program is shown to the verifier, some are
//! attached for a moment, nothing stays.

use super::{Capability, KernelError, Options, Verified, catalog, cgroup, load_the_right_way};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Every ability, needed ones included, with the kernel's own words where it is off.
    pub capabilities: Vec<Capability>,
    /// Every program, in the order of loading.
    pub programs: Vec<Verified>,
}

/// Looks at every program.
///
/// # Errors
/// The object itself cannot be loaded (rights, BTF, cgroup): nothing would run.
pub fn survey(options: &Options) -> Result<Survey, KernelError> {
    cgroup::open(options.cgroup.as_deref())?;
    let (mut ebpf, btf, way) = load_the_right_way(options)?;
    let (capabilities, programs) = catalog::load_all(&mut ebpf, &btf, way);
    Ok(Survey {
        capabilities,
        programs,
    })
}
