//! Why an attempt failed, or why a request got its 5xx.
//!
//! The names and their labels are here; the evidence each needs is in `rules`, in the
//! order in which it is asked for. Which attempt a request was answered for is in `answer`.

pub(crate) mod answer;
pub(crate) mod rules;

/// The cause of a failed attempt or of a gateway error. The label is the public name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The peer refused the connection.
    ConnectRefused,
    /// No answer to the SYN; who gave up is in [`How`].
    ConnectTimeout,
    /// The listener's queue was full: the upstream does not accept fast enough.
    AcceptQueueFull,
    /// ICMP unreachable, or no route.
    HostUnreachable,
    /// `connect(2)` failed locally: no port, no permission, no descriptor.
    ConnectLocalError,
    /// The TLS handshake with the upstream failed or was never finished.
    TlsFailed,
    /// The upstream closed an idle connection while the request was on its way.
    KeepaliveRace,
    /// The upstream closed after it had the request, without a response byte.
    ClosedBeforeResponse,
    /// The upstream's process died, by a signal or for want of memory, before it answered.
    UpstreamCrashed,
    /// The response began and is short.
    TruncatedResponse,
    /// The response is not HTTP/1.
    InvalidResponse,
    /// The proxy closed on a response head that does not fit its buffer.
    HeaderTooBig,
    /// The proxy gave up waiting for the response.
    ResponseTimeout,
    /// The upstream stopped reading the request, and the proxy gave up.
    RequestStalled,
    /// Established, but what was sent was never acknowledged: the network lost it.
    PathLost,
    /// The upstream itself answered so.
    UpstreamStatus,
    /// The proxy holds every upstream of the group to be down: no attempt, or one that it ended for that.
    NoLiveUpstream,
    /// No attempt: the upstream's name did not resolve.
    DnsFailure,
    /// No attempt: the proxy answered by itself, by a limit, a queue or its configuration.
    ProxyGenerated,
    /// The client left first. Not a fault of the upstream.
    ClientAbort,
    /// The evidence does not tell.
    Unattributed,
}

/// How sure a cause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Certainty {
    /// No other reading of the evidence.
    Proof,
    /// A lookalike is possible.
    Strong,
    /// More context is needed.
    Guess,
}

/// By what the attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum How {
    /// The peer's FIN.
    Fin,
    /// The peer's RST.
    Rst,
    /// The proxy's own timer.
    Timeout,
    /// The kernel's errno.
    Errno,
    /// An ICMP message.
    Icmp,
    /// None of these.
    None,
}

impl Cause {
    /// Label value: the public name.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::AcceptQueueFull => "accept_queue_full",
            Self::HostUnreachable => "host_unreachable",
            Self::ConnectLocalError => "connect_local_error",
            Self::TlsFailed => "tls_failed",
            Self::KeepaliveRace => "keepalive_race",
            Self::ClosedBeforeResponse => "closed_before_response",
            Self::UpstreamCrashed => "upstream_crashed",
            Self::TruncatedResponse => "truncated_response",
            Self::InvalidResponse => "invalid_response",
            Self::HeaderTooBig => "header_too_big",
            Self::ResponseTimeout => "response_timeout",
            Self::RequestStalled => "request_stalled",
            Self::PathLost => "path_lost",
            Self::UpstreamStatus => "upstream_status",
            Self::NoLiveUpstream => "no_live_upstream",
            Self::DnsFailure => "dns_failure",
            Self::ProxyGenerated => "proxy_generated",
            Self::ClientAbort => "client_abort",
            Self::Unattributed => "unattributed",
        }
    }
}

impl Certainty {
    /// Label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Strong => "strong",
            Self::Guess => "guess",
        }
    }

    /// One step less sure.
    pub(crate) fn lowered(self) -> Self {
        match self {
            Self::Proof => Self::Strong,
            Self::Strong | Self::Guess => Self::Guess,
        }
    }
}

impl How {
    /// Label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::Timeout => "timeout",
            Self::Errno => "errno",
            Self::Icmp => "icmp",
            Self::None => "none",
        }
    }
}
