//! HAProxy: the termination state in the log line, first event and session phase.

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::{Saying, says, silent};

const SILENT_CLOSE: &str = "closes its client without a line in the log";

#[rustfmt::skip] // A table: one saying a line.
pub(super) static SAYINGS: [Saying; 42] = [
    says(Cause::ConnectRefused, "503", "sC--").how(How::Icmp),
    says(Cause::ConnectRefused, "503, after 4 tries in 3 s", "SC--"),
    says(Cause::ConnectTimeout, "503", "SC--").how(How::Errno),
    says(Cause::ConnectTimeout, "503, after 4 tries", "sC--"),
    says(Cause::AcceptQueueFull, "503", "SC--").errno(11).note("and `check backlog size on the server` to syslog"),
    says(Cause::AcceptQueueFull, "503", "sC--"),
    says(Cause::HostUnreachable, "503", "sC--").how(How::Icmp).note("its own timer is sooner than the kernel"),
    says(Cause::HostUnreachable, "503", "SC--").errno(101),
    says(Cause::HostUnreachable, "503", "SC--").errno(113),
    says(Cause::HostUnreachable, "503", "SC--"),
    says(Cause::ConnectLocalError, "503", "no free ports").errno(99),
    says(Cause::ConnectLocalError, "503", "SC--"),
    says(Cause::TlsFailed, "503", "sC--").how(How::Timeout),
    says(Cause::TlsFailed, "503, after 4 tries", "SC--"),
    silent(Cause::KeepaliveRace, "nothing", SILENT_CLOSE).unanswered(),
    says(Cause::KeepaliveRace, "502", "SH--"),
    says(Cause::ClosedBeforeResponse, "nothing", "SD--").sending().unanswered().note("status -1 in the log"),
    silent(Cause::ClosedBeforeResponse, "nothing", SILENT_CLOSE).unanswered(),
    silent(Cause::ClosedBeforeResponse, "503 or 502", "`SC--` where the RST came before the connect was over, else `SH--`").how(How::Rst).unsent(),
    says(Cause::ClosedBeforeResponse, "502", "SH--"),
    silent(Cause::UpstreamCrashed, "nothing", SILENT_CLOSE).unanswered(),
    says(Cause::UpstreamCrashed, "200, cut", "SD--").phase(Phase::Body),
    says(Cause::UpstreamCrashed, "502", "SH--"),
    says(Cause::TruncatedResponse, "200, cut", "SD--").phase(Phase::Body),
    says(Cause::TruncatedResponse, "502", "SH--"),
    says(Cause::InvalidResponse, "502", "PH--"),
    says(Cause::HeaderTooBig, "502", "PH--"),
    says(Cause::ResponseTimeout, "200, cut", "sD--").phase(Phase::Body),
    says(Cause::ResponseTimeout, "504", "sH--"),
    says(Cause::RequestStalled, "nothing", "sD--").note("status -1 in the log"),
    says(Cause::PathLost, "502", "SH--").how(How::Errno),
    says(Cause::PathLost, "504", "sH--"),
    silent(Cause::UpstreamStatus, "the upstream's", "`----`, as for success"),
    says(Cause::NoLiveUpstream, "502", "DH--").phase(Phase::Request).note("with `on-marked-down shutdown-sessions`"),
    says(Cause::NoLiveUpstream, "503", "<NOSRV>").note("with `SC--`; with `LR--` a rule answered"),
    silent(Cause::DnsFailure, "503", "not known"),
    silent(Cause::ProxyGenerated, "503 and others", "`sQ--` queue, `PR--` refused or `LR--` answered by a rule, `PC--`/`RC--` out of resources"),
    says(Cause::ClientAbort, "nothing", "sD--").phase(Phase::Body).how(How::Timeout),
    says(Cause::ClientAbort, "nothing", "sH--").how(How::Timeout).note("2.6 without `option abortonclose` waits on for the upstream"),
    says(Cause::ClientAbort, "nothing", "CC--").phase(Phase::Connect),
    says(Cause::ClientAbort, "nothing", "CD--").phase(Phase::Body),
    says(Cause::ClientAbort, "nothing", "CH--"),
];
