//! nginx: `<what> (<errno>: <text>) while <action>` in the error log.

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::{Saying, says, silent};

const CLOSED_IN_HEAD: &str = "upstream prematurely closed connection while reading response header";
const RESET_IN_HEAD: &str =
    "recv() failed (104: Connection reset by peer) while reading response header";
const CLOSED_IN_BODY: &str = "upstream prematurely closed connection while reading upstream";
const RESET_IN_BODY: &str = "failed (104: Connection reset by peer) while reading upstream";
const RESET: &str = "failed (104: Connection reset by peer) while";
const BROKEN_PIPE: &str = "failed (32: Broken pipe) while sending request to upstream";
const TIMED_OUT_CONNECTING: &str =
    "upstream timed out (110: Connection timed out) while connecting to upstream";
const TIMED_OUT_IN_HEAD: &str =
    "upstream timed out (110: Connection timed out) while reading response header";

#[rustfmt::skip] // A table: one saying a line.
pub(super) static SAYINGS: [Saying; 46] = [
    says(Cause::ConnectRefused, "502", "failed (2: No such file or directory) while connecting to upstream").errno(2),
    says(Cause::ConnectRefused, "502", "failed (111: Connection refused) while connecting to upstream"),
    says(Cause::ConnectTimeout, "502", "failed (110: Connection timed out) while connecting to upstream").how(How::Errno),
    says(Cause::ConnectTimeout, "504", TIMED_OUT_CONNECTING),
    says(Cause::AcceptQueueFull, "502", "failed (11: Resource temporarily unavailable) while connecting to upstream").errno(11),
    says(Cause::AcceptQueueFull, "504", TIMED_OUT_CONNECTING),
    says(Cause::HostUnreachable, "502", "failed (101: Network is unreachable) while connecting to upstream").errno(101),
    says(Cause::HostUnreachable, "502", "failed (113: No route to host) while connecting to upstream").errno(113),
    says(Cause::HostUnreachable, "502", "while connecting to upstream").how(How::Icmp).note("`failed (113: No route to host)`, or `failed (111: Connection refused)` where the ICMP said port unreachable"),
    says(Cause::HostUnreachable, "502", "failed (113: No route to host) while connecting to upstream"),
    says(Cause::ConnectLocalError, "502", "failed (99: Cannot assign requested address) while connecting to upstream").errno(99),
    says(Cause::ConnectLocalError, "502", "failed (13: Permission denied) while connecting to upstream").errno(13),
    says(Cause::ConnectLocalError, "502", "failed (1: Operation not permitted) while connecting to upstream").errno(1),
    says(Cause::ConnectLocalError, "500", "socket() failed (24: Too many open files)").errno(24),
    says(Cause::ConnectLocalError, "502", "while connecting to upstream"),
    says(Cause::TlsFailed, "504", "upstream timed out (110: Connection timed out) while SSL handshaking to upstream").how(How::Timeout),
    says(Cause::TlsFailed, "502", "while SSL handshaking to upstream").note("with `SSL_do_handshake() failed`, `peer closed connection in SSL handshake` or `upstream SSL certificate verify error`"),
    says(Cause::KeepaliveRace, "502, or 200 after a retry", CLOSED_IN_HEAD).errno(32),
    says(Cause::KeepaliveRace, "502, or 200 after a retry", RESET_IN_HEAD).how(How::Rst),
    says(Cause::KeepaliveRace, "502, or 200 after a retry", CLOSED_IN_HEAD),
    says(Cause::ClosedBeforeResponse, "502", BROKEN_PIPE).errno(32),
    says(Cause::ClosedBeforeResponse, "502", RESET).how(How::Rst).note("`reading response header`, `sending request to upstream` or `connecting to upstream`, whichever came first"),
    says(Cause::ClosedBeforeResponse, "502", CLOSED_IN_HEAD),
    says(Cause::UpstreamCrashed, "200, cut", RESET_IN_BODY).phase(Phase::Body).how(How::Rst),
    says(Cause::UpstreamCrashed, "200, cut", CLOSED_IN_BODY).phase(Phase::Body),
    says(Cause::UpstreamCrashed, "502", RESET_IN_HEAD).how(How::Rst),
    says(Cause::UpstreamCrashed, "502", CLOSED_IN_HEAD),
    says(Cause::TruncatedResponse, "200, cut", RESET_IN_BODY).phase(Phase::Body).how(How::Rst),
    says(Cause::TruncatedResponse, "200, cut", CLOSED_IN_BODY).phase(Phase::Body),
    says(Cause::TruncatedResponse, "502", RESET_IN_HEAD).how(How::Rst),
    says(Cause::TruncatedResponse, "502", CLOSED_IN_HEAD),
    says(Cause::InvalidResponse, "cut, or nothing", "upstream sent invalid chunked response").phase(Phase::Body),
    says(Cause::InvalidResponse, "raw bytes, no status", "upstream sent no valid HTTP/1.0 header").unanswered().note("`$status` is 009"),
    says(Cause::InvalidResponse, "502", "upstream sent ").note("followed by `invalid header`; of framing that 1.31 refuses, by `duplicate header line`, `invalid \"Content-Length\" header`, `unknown \"Transfer-Encoding\"`, or the names of both fields"),
    says(Cause::HeaderTooBig, "502", "upstream sent too big header while reading response header"),
    says(Cause::ResponseTimeout, "200, cut", "upstream timed out (110: Connection timed out) while reading upstream").phase(Phase::Body),
    says(Cause::ResponseTimeout, "504", TIMED_OUT_IN_HEAD),
    says(Cause::RequestStalled, "504", "upstream timed out (110: Connection timed out) while sending request to upstream"),
    says(Cause::PathLost, "200, cut", "readv() failed (110: Connection timed out) while reading upstream").phase(Phase::Body).how(How::Errno),
    says(Cause::PathLost, "502", "recv() failed (110: Connection timed out) while reading response header").how(How::Errno),
    says(Cause::PathLost, "504", TIMED_OUT_IN_HEAD),
    silent(Cause::UpstreamStatus, "the upstream's", "nothing in the error log; `$upstream_status` in the access log"),
    says(Cause::NoLiveUpstream, "502", "no live upstreams while connecting to upstream"),
    says(Cause::DnsFailure, "502", "could not be resolved"),
    silent(Cause::ProxyGenerated, "503 and others", "`limiting requests, excess` or `limiting connections by zone`; nothing for `return 503`"),
    says(Cause::ClientAbort, "499 in the log", "client prematurely closed connection").note("level info"),
];
