//! What this kernel and these rights allow: each program is shown to the verifier, none is
//! attached, nothing stays.

use aya::Btf;

use super::{Capability, KernelError, Options, Verified, catalog, cgroup, load_object};

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
    let mut ebpf = load_object(options)?;
    let btf = Btf::from_sys_fs().map_err(KernelError::NoBtf)?;
    let (capabilities, programs) = catalog::load_all(&mut ebpf, &btf);
    Ok(Survey {
        capabilities,
        programs,
    })
}
