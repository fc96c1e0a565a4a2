//! Traefik: the errors of Go's HTTP client, in its log at level DEBUG only. Measured with 3.7,
//! but for what the note of a line says.

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::{Saying, says, silent};

/// The head waits for 4 KB of body, or for the whole.
const CUT: &str = "200, cut; nothing where less than 4 KB came";
const RESET: &str = "read: connection reset by peer";

#[rustfmt::skip] // A table: one saying a line.
pub(super) static SAYINGS: [Saying; 38] = [
    says(Cause::ConnectRefused, "502", "connect: connection refused"),
    says(Cause::ConnectTimeout, "504", "connect: connection timed out").how(How::Errno),
    says(Cause::ConnectTimeout, "504", "i/o timeout").note("`dial tcp` in the same line; 30 s unless configured"),
    says(Cause::AcceptQueueFull, "504", "i/o timeout"),
    says(Cause::HostUnreachable, "502", "connect: network is unreachable").errno(101),
    says(Cause::HostUnreachable, "502", "connect: no route to host"),
    says(Cause::ConnectLocalError, "502", "connect: cannot assign requested address").errno(99),
    says(Cause::ConnectLocalError, "502", "connect: permission denied").errno(13),
    says(Cause::ConnectLocalError, "502", "dial "),
    says(Cause::TlsFailed, "504", "TLS handshake timeout").how(How::Timeout).note("after 10 s, from its source"),
    silent(Cause::TlsFailed, "502; 500", "`remote error: tls: ` for an alert and `EOF` for a close, with 502; `tls: first record does not look like a TLS handshake` for plain text and `x509: ` for the certificate, with 500"),
    says(Cause::KeepaliveRace, "502, or 200 after a retry", RESET).how(How::Rst),
    silent(Cause::KeepaliveRace, "502, or 200 after a retry", "`EOF`, `http: server closed idle connection` (500), or with a body `write: broken pipe`, whichever of its two sides is heard first"),
    says(Cause::ClosedBeforeResponse, "502", "connection reset by peer").how(How::Rst).unsent().note("behind `read:`, or `connect:` where it came before the connect was over"),
    silent(Cause::ClosedBeforeResponse, "502", "`read: connection reset by peer`, or `write tcp` with `use of closed network connection`, whichever of its two sides is heard first").how(How::Rst).sending(),
    says(Cause::ClosedBeforeResponse, "502", RESET).how(How::Rst),
    says(Cause::ClosedBeforeResponse, "502", "EOF"),
    says(Cause::UpstreamCrashed, CUT, "unexpected EOF").phase(Phase::Body),
    says(Cause::UpstreamCrashed, "502", RESET).how(How::Rst),
    says(Cause::UpstreamCrashed, "502", "EOF"),
    says(Cause::TruncatedResponse, CUT, RESET).phase(Phase::Body).how(How::Rst),
    says(Cause::TruncatedResponse, CUT, "unexpected EOF").phase(Phase::Body),
    silent(Cause::TruncatedResponse, "500", "`unexpected EOF`, or `malformed MIME header` when a line was cut"),
    says(Cause::InvalidResponse, CUT, "invalid byte in chunk length").phase(Phase::Body),
    says(Cause::InvalidResponse, "500", "malformed HTTP response").unsent().note("the upstream spoke first"),
    says(Cause::InvalidResponse, "500", "transport connection broken").note("`malformed HTTP response`, status code or MIME header, or a framing field, behind it"),
    silent(Cause::HeaderTooBig, "not known", "takes heads of several MiB"),
    silent(Cause::ResponseTimeout, CUT, "it has no timer for the silence within a body").phase(Phase::Body),
    says(Cause::ResponseTimeout, "504", "timeout awaiting response headers").note("off unless configured"),
    silent(Cause::RequestStalled, "nothing", "it has no timer for sending a request"),
    says(Cause::PathLost, "504", "connection timed out").how(How::Errno),
    says(Cause::PathLost, "504", "timeout awaiting response headers"),
    silent(Cause::UpstreamStatus, "the upstream's", "nothing but the access log"),
    silent(Cause::NoLiveUpstream, "503", "nothing in the log; the answer's body is `no available server`"),
    says(Cause::DnsFailure, "502", "dial tcp: lookup ").note("`no such host`, `server misbehaving` or `i/o timeout` in the same line"),
    silent(Cause::ProxyGenerated, "429, 503 and others", "inFlightReq and rateLimit answer 429; ipAllowList what it is set to"),
    silent(Cause::ClientAbort, "cut", "nothing but the access log").phase(Phase::Body),
    says(Cause::ClientAbort, "499 in the log", "context canceled"),
];
