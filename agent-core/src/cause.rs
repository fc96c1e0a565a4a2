//! Why an attempt failed, or why a request got its 5xx.
//!
//! The names and their labels are here; the evidence each needs is in `rules`, in the
//! order in which it is asked for.

pub(crate) mod rules;

/// The cause of a failed attempt or of a gateway error. The label is the public name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The peer refused the connection.
    ConnectRefused,
    /// No answer to the SYN; who gave up is in [`How`].
    ConnectTimeout,
    /// ICMP unreachable, or no route.
    HostUnreachable,
    /// `connect(2)` failed locally: no port, no permission, no descriptor.
    ConnectLocalError,
    /// The upstream closed an idle connection while the request was on its way.
    KeepaliveRace,
    /// The upstream closed after it had the request, without a response byte.
    ClosedBeforeResponse,
    /// The response began and is short.
    TruncatedResponse,
    /// The response is not HTTP/1.
    InvalidResponse,
    /// The proxy gave up waiting for the response.
    ResponseTimeout,
    /// The upstream itself answered so.
    UpstreamStatus,
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
            Self::HostUnreachable => "host_unreachable",
            Self::ConnectLocalError => "connect_local_error",
            Self::KeepaliveRace => "keepalive_race",
            Self::ClosedBeforeResponse => "closed_before_response",
            Self::TruncatedResponse => "truncated_response",
            Self::InvalidResponse => "invalid_response",
            Self::ResponseTimeout => "response_timeout",
            Self::UpstreamStatus => "upstream_status",
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
