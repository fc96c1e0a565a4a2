//! Apache httpd: `(<errno>)<text>: AH<number>: <what>` in the error log.

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::{Saying, says, silent};

const NO_STATUS_LINE: &str = "AH01102: error reading status line from remote server";
const OWN_TIMER_CONNECTING: &str = "(70007)The timeout specified has expired: AH00957";

#[rustfmt::skip] // A table: one saying a line.
pub(super) static SAYINGS: [Saying; 36] = [
    says(Cause::ConnectRefused, "503", "(2)No such file or directory: AH02454").errno(2),
    says(Cause::ConnectRefused, "503", "(111)Connection refused: AH").note("AH00957, or AH02454 for a Unix socket"),
    says(Cause::ConnectTimeout, "503", "(110)Connection timed out: AH00957").how(How::Errno),
    says(Cause::ConnectTimeout, "503", OWN_TIMER_CONNECTING),
    silent(Cause::AcceptQueueFull, "nothing", "blocks without limit on a full Unix socket").errno(11),
    says(Cause::AcceptQueueFull, "503", OWN_TIMER_CONNECTING),
    says(Cause::HostUnreachable, "503", "(101)Network is unreachable: AH00957").errno(101),
    says(Cause::HostUnreachable, "503", "(113)No route to host: AH00957"),
    says(Cause::ConnectLocalError, "503", "(99)Cannot assign requested address: AH00957").errno(99),
    says(Cause::ConnectLocalError, "503", "(13)Permission denied: AH").errno(13),
    says(Cause::ConnectLocalError, "503", "AH00957"),
    says(Cause::TlsFailed, "500", "AH00898: Error during SSL Handshake with remote server").note("and AH02003 or AH02276 without the request's id"),
    says(Cause::KeepaliveRace, "502 or nothing", NO_STATUS_LINE).note("the client's connection is closed silently when it was used before; the access log says 502"),
    silent(Cause::ClosedBeforeResponse, "503 or 502", "(104) before AH00957 where the RST came before the connect was over, else AH01084 or AH01102").how(How::Rst).unsent(),
    says(Cause::ClosedBeforeResponse, "502", "AH01084").sending().note("(104) or (32) in the same line"),
    says(Cause::ClosedBeforeResponse, "502 or nothing", NO_STATUS_LINE).note("(104) in the same line is a RST, (20014) a FIN"),
    says(Cause::UpstreamCrashed, "200, cut", "AH01110").phase(Phase::Body),
    says(Cause::UpstreamCrashed, "502", NO_STATUS_LINE),
    silent(Cause::TruncatedResponse, "200", "nothing, where the reset passes for the end of a body until close").phase(Phase::Body).complete(),
    says(Cause::TruncatedResponse, "200, cut", "AH01110").phase(Phase::Body),
    says(Cause::TruncatedResponse, "502", "AH10404").note("or AH01102 (70014) when not even the status line was whole"),
    says(Cause::InvalidResponse, "200, cut", "AH01110").phase(Phase::Body),
    silent(Cause::InvalidResponse, "502 or 500", "AH01106 for a header, AH01102 for the status line, AH01110 for framing, AH02429 or AH02430 for a character; what is not HTTP at all may pass as 200"),
    says(Cause::HeaderTooBig, "502", "AH10124"),
    says(Cause::ResponseTimeout, "200, cut", "AH01110").phase(Phase::Body),
    says(Cause::ResponseTimeout, "502", "AH10404").phase(Phase::Head).note("or AH01102 where not even the status line was whole"),
    says(Cause::ResponseTimeout, "502", NO_STATUS_LINE).note("(70007) in the same line"),
    says(Cause::RequestStalled, "504", "AH01084").note("(70007) in the same line"),
    says(Cause::PathLost, "502", NO_STATUS_LINE),
    silent(Cause::UpstreamStatus, "the upstream's", "nothing in the error log"),
    says(Cause::NoLiveUpstream, "503", "AH01170").note("balancers only; AH00940 for a single member"),
    says(Cause::DnsFailure, "500", "DNS lookup failure for"),
    silent(Cause::ProxyGenerated, "503", "AH00941 when `max=` is reached"),
    says(Cause::ClientAbort, "nothing", "AH01110").phase(Phase::Body).how(How::Timeout),
    says(Cause::ClientAbort, "nothing", NO_STATUS_LINE).how(How::Timeout).note("(70007) in the same line: it waits on for the upstream"),
    silent(Cause::ClientAbort, "nothing", "not known, where the upstream answered or closed in time"),
];
