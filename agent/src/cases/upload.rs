//! The upstream closed while the proxy was still sending it the request.

use agent_core::cause::{Cause, Certainty};

use super::{Found, Kind, Scene};

pub(super) const ANSWERED_EARLY: Kind = Kind {
    name: "answered_before_upload_ended",
    causes: &[Cause::ClosedBeforeResponse],
    evidence: "A response came from the upstream while the proxy was still sending the request, and the client got an error of the proxy's own.",
    meaning: "The upstream answered {code} before it had the whole request, and closed; the proxy, still sending, lost that answer.",
    fix: "See why the upstream answers {code} (413: its limit for bodies, as client_max_body_size, LimitRequestBody, post_max_size), refuse such uploads at the proxy, or have the upstream read on.",
    find: answered_early,
};

pub(super) const CLOSED_DURING_UPLOAD: Kind = Kind {
    name: "closed_during_upload",
    causes: &[Cause::ClosedBeforeResponse],
    evidence: "The upstream closed with part of the request not sent yet, by its head and Content-Length, and no response byte had come.",
    meaning: "The upstream closed after {sent} of {length} bytes of the request were sent, without an answer.",
    fix: "See the upstream's limits for uploads: size (413 in its log), time for reading a body, memory or disk for it; else what its log says of that second.",
    find: closed_during_upload,
};

fn answered_early(scene: &Scene<'_>) -> Option<Found> {
    let code = scene.attempt.code?;
    let found = Found::new(Certainty::Strong).fact("code", code);
    let Some((sent, length)) = sent_of(scene) else {
        return Some(found);
    };
    let found = found.fact("sent", sent);
    Some(found.more("length", Some(length), |length| {
        format!("{sent} of {length} bytes were sent.")
    }))
}

fn closed_during_upload(scene: &Scene<'_>) -> Option<Found> {
    let (sent, length) = sent_of(scene)?;
    let found = Found::new(Certainty::Proof);
    Some(found.fact("sent", sent).fact("length", length))
}

/// Bytes of the request that were sent, and all that it has, where that is more.
fn sent_of(scene: &Scene<'_>) -> Option<(u64, u64)> {
    let evidence = &scene.attempt.evidence;
    let length = evidence.request_length?;
    (evidence.request_bytes < length).then_some((evidence.request_bytes, length))
}

#[cfg(test)]
mod tests {
    use agent_core::cause::{Cause, Certainty, How};
    use agent_core::event::Failure;
    use agent_core::observation::Phase;

    use crate::cases;
    use crate::identity::Peer;
    use crate::samples::failed_attempt;

    fn case(code: Option<u16>, length: Option<u64>) -> Option<(&'static str, String)> {
        let mut attempt = failed_attempt();
        attempt.failure = Some(Failure {
            cause: Cause::ClosedBeforeResponse,
            certainty: Certainty::Guess,
            phase: Phase::Request,
            how: How::Rst,
        });
        attempt.code = code;
        attempt.evidence.request_length = length;
        let case = cases::of(&attempt, &Peer::default())?;
        Some((case.name, case.meaning))
    }

    #[test]
    fn how_much_of_an_upload_was_sent_is_told_where_its_length_is_known() {
        assert_eq!(case(None, None), None);
        assert_eq!(case(None, Some(412)), None, "all was sent");
        let (name, meaning) = case(None, Some(9000)).expect("a case");
        assert_eq!(name, "closed_during_upload");
        assert!(meaning.contains("412 of 9000 bytes"), "{meaning}");
        let (name, meaning) = case(Some(413), Some(9000)).expect("a case");
        assert_eq!(name, "answered_before_upload_ended");
        assert!(meaning.contains("answered 413"), "{meaning}");
        assert!(meaning.contains("412 of 9000 bytes"), "{meaning}");
        let (name, meaning) = case(Some(413), None).expect("a case");
        assert_eq!(name, "answered_before_upload_ended");
        assert!(!meaning.contains("bytes were"), "{meaning}");
    }
}
