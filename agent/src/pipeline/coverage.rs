//! Of the errors that clients were given, how many were explained.

use agent_core::cause::{Cause, Certainty};
use agent_core::event::Request;

use crate::metrics::report::Coverage;

/// Counts what a client was given. What was seen and what was said of it are counted apart, so
/// that an error of which nothing was said would show.
pub(super) fn count(coverage: &mut Coverage, request: &Request) {
    if !request.code.is_some_and(|code| (500..600).contains(&code)) {
        return;
    }
    coverage.seen += 1;
    match request.error.map(|error| (error.cause, error.certainty)) {
        // That it was somebody else, as a guess, explains nothing.
        Some((Cause::Unattributed, _) | (Cause::ProxyGenerated, Certainty::Guess)) => {
            coverage.unattributed += 1;
        }
        Some(_) => coverage.explained += 1,
        None => {}
    }
}
