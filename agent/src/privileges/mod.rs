//! What the agent must be allowed, and giving up what it needs no longer.
//!
//! In: the capabilities of this process, and what the host makes necessary. Out: what is
//! missing, by name, with what is off without it and how to give it; and after the probes are
//! attached, a process that can do little ([`shed`](fn@shed), [`refuse_changes`]). `docs/security.md` has the table
//! for operators; how it was found is in `docs/decisions/0012-least-privilege.md`.

mod needs;
mod seccomp;
mod shed;

pub use needs::{Necessity, Need, Needs, is_in_user_namespace};
pub use seccomp::{FilterError, refuse_changes};
pub use shed::{Kept, ShedError, shed};

/// What the thread gives up that attaches programs while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Every capability but the one that attaching takes.
    pub capabilities: bool,
    /// System calls that change something else.
    pub system_calls: bool,
}

impl Default for Confinement {
    fn default() -> Self {
        Self {
            capabilities: true,
            system_calls: true,
        }
    }
}

/// Leaves this thread, and those that it starts, the right to attach a program to a cgroup, by the
/// command `link_create` of bpf(2). That there is no filter for system calls stops nothing.
///
/// # Errors
/// The kernel keeps a right, which it has no reason to.
pub fn keep_attaching(confinement: Confinement, link_create: u32) -> Result<(), ShedError> {
    let Confinement {
        capabilities,
        system_calls,
    } = confinement;
    if capabilities {
        shed::keep_net_admin()?;
    }
    if system_calls && let Err(error) = seccomp::refuse_all_but(link_create) {
        tracing::warn!(%error, "no filter for system calls (seccomp) of the thread that attaches");
    }
    Ok(())
}
