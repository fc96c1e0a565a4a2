//! What counts as soon, at once or late, where several parts of the core ask.
//!
//! Times are in nanoseconds, ages of errands in microseconds, as the probes report them.

use crate::observation::Nanos;

/// One second, ns.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Up to this age an errand is taken as the reason for what the thread did, us. Event loops
/// read the client and go upstream 10 to 400 us apart (nginx, HAProxy, Envoy, kernel 6.18).
/// Too small: a busy loop's own attempts are lost. Too large: the thread may have touched
/// this client last without acting for it.
pub(crate) const YOUNG_US: u32 = 20_000;

/// A thread that acts for the client it has just read from does so within this time, us. Shorter: on a
/// slow machine its own attempts are joined as guesses. Longer: so are fewer of those that a timer made.
pub(crate) const AT_HAND_US: u32 = 1_000;

/// By how much records of two CPUs may disagree about the time, ns.
pub(crate) const SLACK: Nanos = 1_000_000;

/// An answer that followed a failure within this time may have been given on its account, ns.
pub(crate) const AT_ONCE: Nanos = 20_000_000;

/// An answer that followed a failure later than that, on a machine that took the CPUs away, may still
/// have been given on its account, ns. Shorter: on a busy host the error and its failure stay apart.
/// Longer: errors are told later.
pub(crate) const DELAYED: Nanos = 200_000_000;

/// A proxy connects within this time after it has read the request, ns. Beyond it, who waits
/// longest says nothing.
const CONNECTS_WITHIN: Nanos = 5_000_000;

/// No proxy waits for less, ns: timers are set in seconds. Shorter: what a proxy rejects is called a slow
/// application. Longer: so is not what a very short timer ends.
pub(crate) const SHORTEST_TIMER: Nanos = 50_000_000;

/// A retry that follows a failure within this time is one, ns.
pub(crate) const RETRIED_AT_ONCE: Nanos = 2_000_000;

/// A proxy would have gone upstream for what it read at `since`, had it been its own.
pub(crate) fn is_late(since: Nanos, at: Nanos) -> bool {
    at.saturating_sub(since) > CONNECTS_WITHIN
}
