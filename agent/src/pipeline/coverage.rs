//! Of the errors that clients were given, how many were explained.

use agent_core::cause::{Cause, Certainty};
use agent_core::event::Request;

use crate::metrics::report::Coverage;

/// Counts a request whose client got an error: a 5xx, or a closed connection without an answer. Errors
/// seen and errors explained are counted separately, so that a 5xx without any verdict shows.
pub(super) fn count(coverage: &mut Coverage, request: &Request) {
    let is_error = match request.code {
        Some(code) => (500..600).contains(&code),
        None => !request.client_left && request.error.is_some(),
    };
    if !is_error {
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

#[cfg(test)]
mod tests {
    use agent_core::UnreadClients;
    use agent_core::event::Failure;

    use super::*;
    use crate::samples::{failed_attempt, request};

    fn counted(code: impl Into<Option<u16>>, cause: Cause, certainty: Certainty) -> Coverage {
        let mut coverage = Coverage::default();
        let mut told = request(code.into(), vec![failed_attempt()]);
        told.error = told.error.map(|error| Failure {
            cause,
            certainty,
            ..error
        });
        count(&mut coverage, &told);
        coverage
    }

    #[test]
    fn that_it_was_the_proxy_as_a_guess_explains_nothing() {
        let unattributed = Coverage {
            seen: 1,
            unattributed: 1,
            ..Coverage::default()
        };
        let explained = Coverage {
            seen: 1,
            explained: 1,
            ..Coverage::default()
        };
        for (cause, certainty, expected) in [
            (Cause::ProxyGenerated, Certainty::Guess, unattributed),
            (Cause::ProxyGenerated, Certainty::Strong, explained),
            (Cause::Unattributed, Certainty::Guess, unattributed),
            (Cause::NoLiveUpstream, Certainty::Guess, explained),
        ] {
            let coverage = counted(503, cause, certainty);
            assert_eq!(coverage, expected, "{cause:?} {certainty:?}");
        }
        let proof = Certainty::Proof;
        assert_eq!(counted(None, Cause::ClosedBeforeResponse, proof), explained);
        let not_given = counted(404, Cause::ConnectRefused, proof);
        assert_eq!(not_given, Coverage::default());
    }

    #[test]
    fn a_client_that_is_not_read_counts_as_one_that_was_not_explained() {
        let unread_clients = UnreadClients {
            tls: 2,
            http2: 1,
            ..UnreadClients::default()
        };
        let none_read = Coverage {
            unread_clients,
            ..Coverage::default()
        };
        assert!(none_read.share().abs() < f64::EPSILON);
        let one_read = Coverage {
            unread_clients,
            ..counted(502, Cause::ConnectRefused, Certainty::Proof)
        };
        assert!((one_read.share() - 0.25).abs() < f64::EPSILON);
        assert!((Coverage::default().share() - 1.0).abs() < f64::EPSILON);
    }
}
