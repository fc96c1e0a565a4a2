//! Varnish: the tag FetchError in `varnishlog`. Its client gets "Backend fetch failed".

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::{Saying, says, silent};

const NOBODY: &str = "`unhealthy` of a backend, `returned no backend` of a director; a repeated errno, or `errno 0 (Success)`, is a hold-down";

#[rustfmt::skip] // A table: one saying a line.
pub(super) static SAYINGS: [Saying; 38] = [
    says(Cause::ConnectRefused, "503", "fail errno 2").errno(2),
    says(Cause::ConnectRefused, "503", "fail errno 111 (Connection refused)"),
    says(Cause::ConnectTimeout, "503", "fail errno 110 (Connection timed out)"),
    says(Cause::AcceptQueueFull, "503", "fail errno 11 ").errno(11),
    says(Cause::AcceptQueueFull, "503", "fail errno 110 (Connection timed out)"),
    says(Cause::HostUnreachable, "503", "fail errno 101").errno(101),
    says(Cause::HostUnreachable, "503", "fail errno 113").errno(113),
    says(Cause::HostUnreachable, "503", "fail errno 110").how(How::Icmp),
    says(Cause::HostUnreachable, "503", "fail errno 113"),
    says(Cause::ConnectLocalError, "503", "fail errno 99").errno(99).note("and 10 s of hold-down"),
    says(Cause::ConnectLocalError, "503", "fail errno 13").errno(13).note("and 10 s of hold-down"),
    says(Cause::ConnectLocalError, "503", "fail errno"),
    silent(Cause::TlsFailed, "none", "speaks no TLS to backends"),
    says(Cause::KeepaliveRace, "503, or 200 after a retry", "HTC eof (-1)"),
    says(Cause::ClosedBeforeResponse, "503", "req.body read error").sending(),
    silent(Cause::ClosedBeforeResponse, "503", "`fail errno 104` where the RST came before the connect was over, else `HTC eof (-1)`").how(How::Rst).unsent(),
    says(Cause::ClosedBeforeResponse, "503", "HTC eof (-1)"),
    silent(Cause::UpstreamCrashed, "200, cut", "`straight insufficient bytes`, `chunked read err` or `eof socket fail`").phase(Phase::Body),
    says(Cause::UpstreamCrashed, "503", "HTC eof (-1)"),
    says(Cause::TruncatedResponse, "200, cut", "Connection reset by peer").phase(Phase::Body).how(How::Rst),
    silent(Cause::TruncatedResponse, "200, cut", "`straight insufficient bytes`, `chunked read err` or `eof socket fail`").phase(Phase::Body),
    says(Cause::TruncatedResponse, "503", "HTC eof (-1)"),
    says(Cause::InvalidResponse, "503, or 200, cut", "chunked header non-hex").phase(Phase::Body),
    says(Cause::InvalidResponse, "503", "HTC eof (-1)").how(How::Fin),
    says(Cause::InvalidResponse, "503", "timeout").waited().note("for the rest of a head"),
    says(Cause::InvalidResponse, "503", "http format error").note("or `Received junk`; of an interim response, `Body cannot be fetched` under the tag Error"),
    silent(Cause::HeaderTooBig, "503", "`overflow` above http_resp_size, `http format error` when one line is above http_resp_hdr_len"),
    says(Cause::ResponseTimeout, "200, cut", "Resource temporarily unavailable").phase(Phase::Body),
    says(Cause::ResponseTimeout, "503", "timeout").phase(Phase::Head),
    says(Cause::ResponseTimeout, "503", "first byte timeout"),
    silent(Cause::RequestStalled, "nothing", "no timer ends it"),
    says(Cause::PathLost, "503", "first byte timeout"),
    silent(Cause::UpstreamStatus, "the upstream's", "nothing but BerespStatus"),
    silent(Cause::NoLiveUpstream, "503", NOBODY),
    silent(Cause::DnsFailure, "none", "names are resolved when the VCL loads"),
    silent(Cause::ProxyGenerated, "503", "`busy` when max_connections is reached"),
    says(Cause::ClientAbort, "nothing", "first byte timeout").how(How::Timeout).note("it waits on for the upstream"),
    silent(Cause::ClientAbort, "nothing", "keeps fetching, and may log a failure later"),
];
