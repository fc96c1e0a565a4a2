//! What this kernel and these rights allow: each program is shown to the verifier, none is
//! attached, nothing stays.

use aya::Btf;

use super::{Capability, KernelError, Options, catalog, cgroup, load_object};

/// Every ability, needed ones included, with the kernel's own words where it is off.
///
/// # Errors
/// The object itself cannot be loaded (rights, BTF, cgroup): nothing would run.
pub fn survey(options: &Options) -> Result<Vec<Capability>, KernelError> {
    cgroup::open(options.cgroup.as_deref())?;
    let mut ebpf = load_object(options)?;
    let btf = Btf::from_sys_fs().map_err(KernelError::NoBtf)?;
    Ok(catalog::load_all(&mut ebpf, &btf))
}
