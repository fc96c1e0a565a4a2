//! What is known of the end of an attempt from elsewhere than its own connection.
//!
//! It is gathered when the attempt is over and only asked afterwards.

use crate::cause::Certainty;
use crate::observation::{Ended, Nanos};
use crate::patience;

/// What is known of the end of an attempt from elsewhere than its own connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Around {
    /// How the upstream's process ended under this attempt.
    pub(crate) process_ended: Option<Ended>,
    /// Why the upstream reset the connection, a code of [`agent_wire::reset_reason`].
    pub(crate) reset_reason: Option<u16>,
    /// A process had read from the upstream's end of the connection when that was closed here.
    pub(crate) read: Option<bool>,
    /// The status that its proxy gives when it has waited too long.
    pub(crate) timeout_code: Option<u16>,
    /// Its proxy takes an interim response for the answer, and that for a bad one.
    pub(crate) refuses_interim: bool,
    /// How others like it fared that waited.
    pub(crate) others: patience::Seen,
    /// A health check of its upstream had failed just before.
    pub(crate) check_failed: bool,
    /// When its client left, of one whose talk is not read, and how sure it is that it was its own.
    pub(crate) client_left: Option<(Nanos, Certainty)>,
}
