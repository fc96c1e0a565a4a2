//! What the core tells the daemon.

use std::net::SocketAddr;
use std::slice;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::cause::{Cause, Certainty, How};
use crate::observation::{Ended, Nanos, Opening, Phase, RequestHead, ResetDirection, TlsAlert};
pub use crate::witness::Witnesses;

/// One thing worth counting or telling.
#[derive(Clone, Debug)]
pub enum Event {
    /// An active open of a proxy was decided, of whatever protocol.
    Connect(ConnectDone),
    /// A client's request is over, and its outcome and that of its attempts are final: it brings them.
    /// Each request comes once, and so does each attempt, here or in [`Event::LoneAttempt`].
    Request(Arc<Request>),
    /// An attempt is over and its outcome is final, and no request brings it: none is known for it, or its
    /// request came before.
    LoneAttempt(Arc<Attempt>),
    /// A reset on a proxy's upstream-side or other outgoing connection.
    Reset(ResetSeen),
    /// A TLS handshake with an upstream was completed.
    Tls(TlsDone),
    /// Retransmitted segments and round-trip time, since the last such event of the socket.
    Tcp(TcpSeen),
    /// A health check is over. It is no attempt of a request.
    Check(Arc<Check>),
}

impl Event {
    /// The attempts that it brings, in order of start.
    pub fn attempts(&self) -> &[Arc<Attempt>] {
        match self {
            Self::Request(request) => &request.attempts,
            Self::LoneAttempt(attempt) => slice::from_ref(attempt),
            Self::Connect(_) | Self::Reset(_) | Self::Tls(_) | Self::Tcp(_) | Self::Check(_) => &[],
        }
    }
}

/// A proxy: what metrics and incidents name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Label value, from the executable or the configuration.
    pub name: Arc<str>,
    /// Thread group.
    pub tgid: u32,
}

/// The remote end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// Address and port.
    Inet(SocketAddr),
    /// Unix socket path.
    Unix(Arc<str>),
    /// Not known: it failed before an address was named.
    Unknown,
}

/// An active open, decided.
#[derive(Clone, Debug)]
pub struct ConnectDone {
    /// Who connected.
    pub proxy: Proxy,
    /// Where to.
    pub upstream: Upstream,
    /// Established or not.
    pub result: ConnectResult,
    /// From SYN to outcome, seconds.
    pub seconds: f64,
    /// SYNs beyond the first.
    pub syn_retransmits: u16,
}

/// A TLS handshake, completed.
#[derive(Clone, Debug)]
pub struct TlsDone {
    /// Who connected.
    pub proxy: Proxy,
    /// Where to.
    pub upstream: Upstream,
    /// ClientHello to application data, seconds.
    pub seconds: f64,
}

/// Label `result` of `why502_tcp_connects_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectResult {
    /// Handshake complete.
    Established,
    /// Refused.
    Refused,
    /// No answer, the proxy gave up.
    TimeoutProxy,
    /// No answer, the kernel gave up.
    TimeoutKernel,
    /// Unreachable.
    Unreachable,
    /// Local error.
    LocalError,
}

/// How an attempt was joined to its client request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Join {
    /// The thread that sent or connected had touched the client's socket last.
    Errand,
    /// Same request line in the same process while the request was open, the only such.
    RequestLine,
    /// The same end of the path in the same process while the request was open, the only such: the
    /// proxy rewrites paths.
    PathEnd,
    /// The request's answer, an error, followed the failure at once, and no other request's did.
    Answer,
    /// The request's next attempt followed the failure at once.
    Retry,
    /// No other request of the process waited for an upstream then.
    Waiting,
    /// Not looked for: the attempt and its request went well, and both were told in brief.
    InBrief,
    /// Not joined.
    None,
}

/// One try at one upstream.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Who tried.
    pub proxy: Proxy,
    /// Whom.
    pub upstream: Upstream,
    /// This end's address; unspecified where it has none.
    pub local: SocketAddr,
    /// Socket cookie of the upstream connection.
    pub cookie: u64,
    /// Number of the exchange on that connection.
    pub index: u32,
    /// How it is joined.
    pub join: Join,
    /// How sure it is that it was made for that request; `None` when it is joined to none. The
    /// certainty of its failure is that of the cause alone.
    pub join_certainty: Option<Certainty>,
    /// What spoke for that request.
    pub witnesses: Witnesses,
    /// Request head as sent upstream.
    pub head: Option<RequestHead>,
    /// Start: connect for a fresh connection, else first request byte.
    pub started: Nanos,
    /// End of it.
    pub ended: Nanos,
    /// The connection had carried an exchange before; `None` when not known.
    pub reused: Option<bool>,
    /// Idle time before this request on a reused connection, seconds.
    pub idle_seconds: Option<f64>,
    /// SYN to ESTABLISHED, fresh connections only, seconds.
    pub connect_seconds: Option<f64>,
    /// Last request byte to first response byte, seconds.
    pub first_byte_seconds: Option<f64>,
    /// Start to complete response head, seconds (nginx `$upstream_header_time`).
    pub header_seconds: Option<f64>,
    /// Start to last response byte or failure, seconds (nginx `$upstream_response_time`).
    pub response_seconds: f64,
    /// Status code the upstream answered, if it did.
    pub code: Option<u16>,
    /// `None` when it succeeded.
    pub failure: Option<Failure>,
    /// The request still succeeded; `None` when its request is not known.
    pub masked: Option<bool>,
    /// The numbers behind it.
    pub evidence: Evidence,
}

/// Why and how surely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// How surely.
    pub certainty: Certainty,
    /// In which part of the attempt.
    pub phase: Phase,
    /// By what.
    pub how: How,
}

/// Numbers kept per attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// errno, where the kernel gave one.
    pub errno: Option<u16>,
    /// SYNs sent.
    pub syns: u16,
    /// Segments retransmitted during the attempt.
    pub retransmits: u32,
    /// Request bytes sent.
    pub request_bytes: u64,
    /// Of these acknowledged.
    pub request_acked: u64,
    /// Response bytes received.
    pub response_bytes: u64,
    /// Content-Length of the response.
    pub content_length: Option<u64>,
    /// The RST had the ACK flag; `None` without RST.
    pub reset_had_ack: Option<bool>,
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: Option<u32>,
    /// The upstream's last acknowledgement offered no window: it did not read.
    pub zero_window: bool,
    /// How the upstream's process ended under the attempt, if it did and runs on this host.
    pub process_ended: Option<Ended>,
    /// Why the upstream sent RST, in the kernel's words (`enum sk_rst_reason`), where it runs on
    /// this host and the kernel says so (since 6.10).
    pub reset_reason: Option<&'static str>,
    /// The TLS alert that ended the handshake, where it passed in clear.
    pub tls_alert: Option<TlsAlert>,
    /// What the upstream's first bytes are, where they are not what the proxy asked for.
    pub opening: Option<Opening>,
    /// The server that the ClientHello of a failed handshake named; `None` when that is not known.
    pub server_name: Option<ServerName>,
    /// Bytes that the request has by its head, that included; `None` where the head does not say.
    pub request_length: Option<u64>,
    /// Requests that the connection had carried before; `None` where it was not seen from its opening.
    pub carried: Option<u32>,
    /// A process of the upstream, if it is on this host, had read from the connection when the
    /// proxy closed it; `None` when that is not known.
    pub read: Option<bool>,
}

/// What a ClientHello says of the server's name (RFC 6066, 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// Nothing.
    Absent,
    /// It names this one.
    Sent(SmolStr),
}

/// What one client asked, and what became of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who answered.
    pub proxy: Proxy,
    /// Who asked.
    pub client: SocketAddr,
    /// Cookie of the client-side socket.
    pub cookie: u64,
    /// Number of the exchange on it.
    pub index: u32,
    /// Request head.
    pub head: Option<RequestHead>,
    /// First request byte.
    pub started: Nanos,
    /// Last response byte, or the end without one.
    pub ended: Nanos,
    /// First request byte to last response byte, seconds.
    pub seconds: f64,
    /// Status code given; `None` when the client got no answer.
    pub code: Option<u16>,
    /// The answer is complete by its framing.
    pub complete: bool,
    /// The client left before its answer was complete.
    pub client_left: bool,
    /// For a gateway error (5xx, or no answer): why.
    pub error: Option<Failure>,
    /// The attempt that `error` comes from, index into `attempts`.
    pub error_attempt: Option<usize>,
    /// For [`crate::cause::Cause::NoLiveUpstream`]: why the upstreams were given up before.
    pub origin: Option<Cause>,
    /// The health check that failed with that, if it was one.
    pub origin_check: Option<Arc<Check>>,
    /// Attempts, in order of start.
    pub attempts: Vec<Arc<Attempt>>,
}

/// A health check: an attempt that a proxy made by itself, for no request.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Who checked.
    pub proxy: Proxy,
    /// Whom.
    pub upstream: Upstream,
    /// Socket cookie of the connection.
    pub cookie: u64,
    /// Number of the exchange on it.
    pub index: u32,
    /// Method; `None` for one that only connects, or did not come further.
    pub method: Option<SmolStr>,
    /// Path without query.
    pub path: Option<SmolStr>,
    /// Status it was answered with.
    pub code: Option<u16>,
    /// Why it failed; `None` for one that passed. [`Cause::UpstreamStatus`] for a status of 400 or
    /// more.
    pub failure: Option<Cause>,
    /// When it was over.
    pub ended: Nanos,
    /// From the connect, or the first request byte, to its end.
    pub seconds: f64,
}

/// A reset seen.
#[derive(Clone, Debug)]
pub struct ResetSeen {
    /// Whose socket.
    pub proxy: Proxy,
    /// The peer.
    pub upstream: Upstream,
    /// Which way.
    pub direction: ResetDirection,
    /// When in the connection's life.
    pub phase: Phase,
}

/// TCP health of a proxy's outgoing connection.
#[derive(Clone, Debug)]
pub struct TcpSeen {
    /// Whose socket.
    pub proxy: Proxy,
    /// The peer.
    pub upstream: Upstream,
    /// Segments retransmitted since the last such event.
    pub retransmits: u32,
    /// Smoothed round-trip time, seconds.
    pub rtt_seconds: Option<f64>,
}
