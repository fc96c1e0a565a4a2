//! The client request that an attempt belongs to, as far as that is known.

use crate::cause::Certainty;
use crate::event::Join;
use crate::table::Key;
use crate::witness::Witnesses;

/// The client request that an attempt belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) key: Key,
    pub(crate) join: Join,
    /// The most that a verdict may claim which needs this join.
    pub(crate) surety: Certainty,
    /// What spoke for it.
    pub(crate) witnesses: Witnesses,
    /// Joined by errand and request line: its process passes requests on.
    pub(crate) forwarding: bool,
}
