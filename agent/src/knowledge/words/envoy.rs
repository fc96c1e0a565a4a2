//! Envoy: response code details and response flags in the access log.

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::{Saying, says, silent};

/// Of whichever timer it was: the evidence does not tell.
const TIMER: &str = "_timeout";
const TIMERS: &str = "`response_timeout` (UT) is the route's, `upstream_per_try_timeout` and `upstream_per_try_idle_timeout` (UT) are those of one try, `stream_idle_timeout` (SI), `max_duration_timeout` (UMSDR)";
const CONNECT_TIMEOUT: &str = "upstream_reset_before_response_started{connection_timeout}";
const TERMINATED: &str = "upstream_reset_before_response_started{connection_termination}";
const PROTOCOL: &str = "upstream_reset_before_response_started{protocol_error}";
const PROTOCOL_LATER: &str = "upstream_reset_after_response_started{protocol_error}";

#[rustfmt::skip] // A table: one saying a line.
pub(super) static SAYINGS: [Saying; 33] = [
    says(Cause::ConnectRefused, "503 UF", "No_such_file_or_directory").errno(2),
    says(Cause::ConnectRefused, "503 UF", "connect_error:_Connection_refused").note("older: `{connection_failure}`"),
    silent(Cause::ConnectTimeout, "503 UF", "its own timer is always sooner (5 s)").how(How::Errno),
    says(Cause::ConnectTimeout, "503 UF", CONNECT_TIMEOUT),
    says(Cause::AcceptQueueFull, "503 UF", "Resource_temporarily_unavailable").errno(11),
    says(Cause::AcceptQueueFull, "503 UF", CONNECT_TIMEOUT),
    says(Cause::HostUnreachable, "503 UF", "Network_is_unreachable").errno(101),
    says(Cause::HostUnreachable, "503 UF", "No_route_to_host").errno(113),
    says(Cause::HostUnreachable, "503 UF", "No_route_to_host"),
    says(Cause::ConnectLocalError, "503 UF", "Permission_denied").errno(13),
    says(Cause::ConnectLocalError, "503 UF", "immediate_connect_error"),
    says(Cause::TlsFailed, "503 UF", CONNECT_TIMEOUT).how(How::Timeout),
    says(Cause::TlsFailed, "503 UF", "remote_connection_failure").how(How::Fin),
    says(Cause::TlsFailed, "503 UF", "TLS_error"),
    says(Cause::KeepaliveRace, "503 UC", TERMINATED),
    says(Cause::ClosedBeforeResponse, "503 UC or UF", "upstream_reset_before_response_started{").how(How::Rst).note("`connection_termination`, or `delayed_connect_error:_Connection_reset_by_peer` where the RST came before the request left"),
    says(Cause::ClosedBeforeResponse, "503 UC", TERMINATED),
    says(Cause::UpstreamCrashed, "200, cut, UPE", PROTOCOL_LATER).phase(Phase::Body),
    says(Cause::UpstreamCrashed, "503 UC", TERMINATED),
    says(Cause::TruncatedResponse, "200", "via_upstream").phase(Phase::Body).complete().note("a body until close"),
    says(Cause::TruncatedResponse, "200, cut, UPE", PROTOCOL_LATER).phase(Phase::Body),
    says(Cause::TruncatedResponse, "502 UPE", PROTOCOL),
    says(Cause::InvalidResponse, "200, cut, UPE", PROTOCOL_LATER).phase(Phase::Body),
    says(Cause::InvalidResponse, "502 UPE", PROTOCOL),
    silent(Cause::HeaderTooBig, "not known", "takes heads of 60 KiB and more"),
    says(Cause::ResponseTimeout, "504, or 200, cut", TIMER).note(TIMERS),
    silent(Cause::RequestStalled, "nothing", "no timer ends it: the route's starts after the request"),
    says(Cause::PathLost, "504", TIMER).note(TIMERS),
    says(Cause::UpstreamStatus, "the upstream's", "via_upstream"),
    says(Cause::NoLiveUpstream, "503 UH", "no_healthy_upstream"),
    says(Cause::DnsFailure, "503 UH", "no_healthy_upstream").note("flag UH, or DF"),
    silent(Cause::ProxyGenerated, "503 and others", "`overflow` (UO, circuit breaker), `direct_response`, `cluster_not_found` (NC), `maintenance_mode`"),
    says(Cause::ClientAbort, "0 DC in the log", "downstream_remote_disconnect"),
];
