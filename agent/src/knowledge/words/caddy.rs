//! Caddy: the errors of Go's HTTP client in its log.

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::{Saying, says, silent};

const RESET: &str = "read: connection reset by peer";

#[rustfmt::skip] // A table: one saying a line.
pub(super) static SAYINGS: [Saying; 39] = [
    says(Cause::ConnectRefused, "502", "connect: no such file or directory").errno(2),
    says(Cause::ConnectRefused, "502", "connect: connection refused"),
    says(Cause::ConnectTimeout, "502", "connect: connection timed out").how(How::Errno),
    says(Cause::ConnectTimeout, "502", "i/o timeout").note("`dial tcp` in the same line"),
    says(Cause::AcceptQueueFull, "502", "connect: resource temporarily unavailable").errno(11),
    says(Cause::AcceptQueueFull, "502", "i/o timeout"),
    says(Cause::HostUnreachable, "502", "connect: network is unreachable").errno(101),
    says(Cause::HostUnreachable, "502", "connect: no route to host"),
    says(Cause::ConnectLocalError, "502", "connect: cannot assign requested address").errno(99),
    says(Cause::ConnectLocalError, "502", "connect: permission denied").errno(13),
    says(Cause::ConnectLocalError, "502", "dial "),
    says(Cause::TlsFailed, "504", "timeout").how(How::Timeout),
    silent(Cause::TlsFailed, "502", "`tls: ` for an alert or plain text, `x509: ` for the certificate, `EOF` for a close"),
    says(Cause::KeepaliveRace, "502, or 200 after a retry", RESET).how(How::Rst),
    silent(Cause::KeepaliveRace, "502, or 200 after a retry", "`EOF`, `http: server closed idle connection`, or with a body `write: broken pipe`, whichever of its two sides is heard first"),
    says(Cause::ClosedBeforeResponse, "502", "connection reset by peer").how(How::Rst).unsent().note("behind `read:`, or `connect:` where it came before the connect was over"),
    silent(Cause::ClosedBeforeResponse, "502", "`read: connection reset by peer`, or `write tcp` with `use of closed network connection`, whichever of its two sides is heard first").how(How::Rst).sending(),
    says(Cause::ClosedBeforeResponse, "502", RESET).how(How::Rst),
    says(Cause::ClosedBeforeResponse, "502", "EOF"),
    says(Cause::UpstreamCrashed, "200, cut", "unexpected EOF").phase(Phase::Body),
    says(Cause::UpstreamCrashed, "502", RESET).how(How::Rst),
    says(Cause::UpstreamCrashed, "502", "EOF"),
    says(Cause::TruncatedResponse, "200, cut", RESET).phase(Phase::Body).how(How::Rst),
    says(Cause::TruncatedResponse, "200, cut", "unexpected EOF").phase(Phase::Body).note("a chunked body may look complete to the client (2.6)"),
    silent(Cause::TruncatedResponse, "502", "`unexpected EOF`, or `malformed MIME header` when a line was cut"),
    says(Cause::InvalidResponse, "200, cut", "invalid byte in chunk length").phase(Phase::Body),
    silent(Cause::InvalidResponse, "502", "`malformed HTTP response`, or `readLoopPeekFailLocked` where the upstream spoke first").unsent(),
    says(Cause::InvalidResponse, "502", "transport connection broken").note("`malformed HTTP response`, status code or MIME header, or a framing field, behind it"),
    silent(Cause::HeaderTooBig, "not known", "takes heads of several MiB"),
    says(Cause::ResponseTimeout, "200, cut", "i/o timeout").phase(Phase::Body),
    says(Cause::ResponseTimeout, "504", "timeout awaiting response headers").note("off unless configured"),
    says(Cause::RequestStalled, "504", "i/o timeout").note("`write tcp` in the same line"),
    says(Cause::PathLost, "502", "read: connection timed out").how(How::Errno),
    says(Cause::PathLost, "504", "timeout awaiting response headers"),
    silent(Cause::UpstreamStatus, "the upstream's", "nothing but the access log"),
    says(Cause::NoLiveUpstream, "503", "no upstreams available"),
    says(Cause::DnsFailure, "502", "dial tcp: lookup ").note("`no such host`, `server misbehaving` or `i/o timeout` in the same line"),
    silent(Cause::ProxyGenerated, "any", "the access log only"),
    silent(Cause::ClientAbort, "499 in the log", "nothing but the access log (2.6: status 0); `context canceled` at level DEBUG"),
];
