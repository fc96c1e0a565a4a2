//! What is known about each cause: what it means, what proves it, what to check, what fixes
//! it, what looks the same, and what each proxy writes into its own log.
//!
//! Data, not branches: a cause is one [`Entry`], a proxy one list of [`words::Saying`]. It goes
//! into events and incidents (`words`, `fix`), and `docs/diagnosing.md` is printed from it
//! ([`page`]). Nothing here decides a cause.

mod causes;
pub mod page;
pub mod tls_alerts;
pub mod words;

use agent_core::cause::Cause;

use self::causes::{connect, request, response};

/// How many causes there are. [`Cause::Unattributed`] is the last.
const COUNT: usize = Cause::Unattributed as usize + 1;

/// All causes, in the order of the enum.
pub const ENTRIES: [&Entry; COUNT] = [
    &connect::CONNECT_REFUSED,
    &connect::CONNECT_TIMEOUT,
    &connect::ACCEPT_QUEUE_FULL,
    &connect::HOST_UNREACHABLE,
    &connect::CONNECT_LOCAL_ERROR,
    &connect::TLS_FAILED,
    &response::KEEPALIVE_RACE,
    &response::CLOSED_BEFORE_RESPONSE,
    &response::UPSTREAM_CRASHED,
    &response::TRUNCATED_RESPONSE,
    &response::INVALID_RESPONSE,
    &response::HEADER_TOO_BIG,
    &response::RESPONSE_TIMEOUT,
    &response::REQUEST_STALLED,
    &response::PATH_LOST,
    &response::UPSTREAM_STATUS,
    &request::NO_LIVE_UPSTREAM,
    &request::DNS_FAILURE,
    &request::PROXY_GENERATED,
    &request::CLIENT_ABORT,
    &request::UNATTRIBUTED,
];

/// What is known about one cause.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which.
    pub cause: Cause,
    /// What it means, one sentence.
    pub meaning: &'static str,
    /// What to add to the numbers in a line about it, a few words; may be empty.
    pub gloss: &'static str,
    /// What the agent saw when it says so.
    pub evidence: &'static str,
    /// What to look at.
    pub check: &'static [Check],
    /// The usual fix, one line.
    pub fix: &'static str,
    /// What looks the same and is not, and how it is told apart.
    pub lookalikes: &'static [&'static str],
}

/// One thing to look at.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What for.
    pub question: &'static str,
    /// With which command; may be empty.
    pub command: &'static str,
}

/// What is known about a cause.
pub fn of(cause: Cause) -> &'static Entry {
    match cause {
        Cause::ConnectRefused => &connect::CONNECT_REFUSED,
        Cause::ConnectTimeout => &connect::CONNECT_TIMEOUT,
        Cause::AcceptQueueFull => &connect::ACCEPT_QUEUE_FULL,
        Cause::HostUnreachable => &connect::HOST_UNREACHABLE,
        Cause::ConnectLocalError => &connect::CONNECT_LOCAL_ERROR,
        Cause::TlsFailed => &connect::TLS_FAILED,
        Cause::KeepaliveRace => &response::KEEPALIVE_RACE,
        Cause::ClosedBeforeResponse => &response::CLOSED_BEFORE_RESPONSE,
        Cause::UpstreamCrashed => &response::UPSTREAM_CRASHED,
        Cause::TruncatedResponse => &response::TRUNCATED_RESPONSE,
        Cause::InvalidResponse => &response::INVALID_RESPONSE,
        Cause::HeaderTooBig => &response::HEADER_TOO_BIG,
        Cause::ResponseTimeout => &response::RESPONSE_TIMEOUT,
        Cause::RequestStalled => &response::REQUEST_STALLED,
        Cause::PathLost => &response::PATH_LOST,
        Cause::UpstreamStatus => &response::UPSTREAM_STATUS,
        Cause::NoLiveUpstream => &request::NO_LIVE_UPSTREAM,
        Cause::DnsFailure => &request::DNS_FAILURE,
        Cause::ProxyGenerated => &request::PROXY_GENERATED,
        Cause::ClientAbort => &request::CLIENT_ABORT,
        Cause::Unattributed => &request::UNATTRIBUTED,
    }
}

/// The cause of this label.
pub fn by_label(label: &str) -> Option<Cause> {
    ENTRIES
        .iter()
        .map(|entry| entry.cause)
        .find(|cause| cause.label() == label)
}

/// All labels, in the order of the enum.
pub fn labels() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|entry| entry.cause.label())
}

/// Where the page about a cause is, relative to the repository.
pub fn reference(cause: Cause) -> String {
    format!("docs/diagnosing.md#{}", cause.label())
}

const fn check(question: &'static str, command: &'static str) -> Check {
    Check { question, command }
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES, by_label, of};

    #[test]
    fn every_cause_is_known_once_and_under_its_own_name() {
        for (at, entry) in ENTRIES.iter().enumerate() {
            assert_eq!(entry.cause as usize, at, "{:?}", entry.cause);
            assert_eq!(of(entry.cause).cause, entry.cause);
            assert_eq!(by_label(entry.cause.label()), Some(entry.cause));
        }
        assert_eq!(by_label("slow"), None);
    }

    #[test]
    fn what_is_known_is_short_enough_for_a_line() {
        for entry in ENTRIES {
            let label = entry.cause.label();
            assert!(
                !entry.meaning.is_empty() && entry.meaning.len() <= 160,
                "{label}: meaning"
            );
            assert!(
                !entry.fix.is_empty() && entry.fix.len() <= 160,
                "{label}: fix"
            );
            assert!(!entry.evidence.is_empty(), "{label}: evidence");
            assert!(!entry.check.is_empty(), "{label}: check");
            assert!(entry.gloss.len() <= 48, "{label}: gloss");
            assert!(
                !entry.fix.contains('\n') && !entry.meaning.contains('\n'),
                "{label}"
            );
        }
    }
}
