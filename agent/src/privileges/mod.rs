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
