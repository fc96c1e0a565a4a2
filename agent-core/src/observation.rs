//! What the kernel side tells, checked and typed: the core's input.

#[cfg(feature = "serde")]
mod flag_names;
mod seen;
mod tls;

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;

use agent_wire::record::flag;
use smol_str::SmolStr;

use crate::network::Network;

pub use seen::Seen;
pub use tls::{Opening, TlsAlert, TlsHandshake};

/// Nanoseconds of `CLOCK_MONOTONIC`. 0 never occurs: "not seen" is `None`.
pub type Nanos = u64;

/// A process asked for a name, or got the answer. Nothing is known of the socket it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Lookup {
    /// When that was.
    pub time: Nanos,
    /// Thread group of the asking thread.
    pub tgid: u32,
    /// The errand of the asking thread.
    pub errand: Option<Errand>,
    /// When it asked.
    pub asked: Nanos,
    /// Transaction id of question and answer (RFC 1035, 4.1.1); `None` where it was not recorded.
    #[cfg_attr(feature = "serde", serde(default))]
    pub id: Option<u16>,
    /// What the answer says; `None` for the question.
    pub answer: Option<DnsAnswer>,
}

/// What one checked record says of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Observation {
    /// Which socket, and how its TCP fares.
    pub socket: Socket,
    /// What happened on it.
    pub what: What,
}

impl Observation {
    /// When that began which it tells of, where it tells of more than a moment: a connect, or an
    /// exchange.
    pub fn began(&self) -> Option<Nanos> {
        match &self.what {
            What::Connect { .. } => self.socket.opened,
            What::Request { exchange, .. }
            | What::Response { exchange, .. }
            | What::End { exchange }
            | What::InBrief { exchange }
            | What::Unread { exchange } => exchange.request.get(),
            What::ConnectErrno { .. }
            | What::UnixConnect { .. }
            | What::Close { .. }
            | What::Tls { .. }
            | What::Hello { .. }
            | What::Abandoned { .. }
            | What::Tcp
            | What::Ignored
            | What::ClientLeft
            | What::UnreadClient { .. }
            | What::Disturbed
            | What::Death { .. }
            | What::Reset { .. } => None,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Ended {
    /// A signal took it down, signal(7).
    Signal(u32),
    /// By itself, with this exit status.
    Status(u8),
    /// The kernel killed it for want of memory.
    OutOfMemory,
}

impl Ended {
    /// A signal took it down, the kernel's for want of memory included.
    pub fn is_kill(self) -> bool {
        matches!(self, Self::Signal(_) | Self::OutOfMemory)
    }

    /// Not of its own will: only with status 0 does a process say that all is well.
    pub fn is_crash(self) -> bool {
        self != Self::Status(0)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum What {
    /// An active open was decided.
    Connect {
        /// Established, or how it failed.
        outcome: ConnectOutcome,
        /// The errand of the connecting thread.
        errand: Option<Errand>,
        /// A listener on this host got the SYN and did not answer it.
        listener_silent: bool,
    },
    /// `connect(2)` failed before any packet left (`socket.errno` says why).
    ConnectErrno {
        /// The errand of the connecting thread.
        errand: Option<Errand>,
    },
    /// `connect(2)` on a Unix stream socket returned (`socket.errno` is `None` on success).
    UnixConnect {
        /// `sun_path`, an abstract name with a leading `@`.
        path: String,
        /// The errand of the connecting thread.
        errand: Option<Errand>,
    },
    /// A request has begun.
    Request {
        /// The exchange so far.
        exchange: Exchange,
        /// The request head, as far as it was captured and parses.
        head: Option<RequestHead>,
    },
    /// The final response head is complete (or is not HTTP: `socket.flags.not_http`).
    Response {
        /// The exchange so far; `end` tells whether it ended with the same segment.
        exchange: Exchange,
        /// The response head as far as it parses.
        head: Option<ResponseHead>,
        /// What it starts as, if not HTTP.
        #[cfg_attr(
            feature = "serde",
            serde(default, skip_serializing_if = "Option::is_none")
        )]
        opening: Option<Opening>,
    },
    /// The exchange ended.
    End {
        /// The exchange, final.
        exchange: Exchange,
    },
    /// An exchange is over and went well: complete, answered at once and with a status below 500. Of its
    /// heads and lengths nothing is told.
    InBrief {
        /// The exchange, final.
        exchange: Exchange,
    },
    /// Something went wrong in a process (`socket.tgid`) whose exchanges were told in brief: those that
    /// end from now on are told whole.
    Disturbed,
    /// The connection is gone.
    Close {
        /// This end sent something on it.
        talked: bool,
    },
    /// A TLS handshake with an upstream was decided.
    Tls {
        /// How far it went.
        handshake: TlsHandshake,
        /// The errand of the connecting thread.
        errand: Option<Errand>,
    },
    /// A ClientHello left for an upstream.
    Hello {
        /// The server that it names (RFC 6066, 3); `None` when it names none.
        server_name: Option<SmolStr>,
    },
    /// A client closed before a byte answered the first request of its connection. `socket.tgid` is
    /// who had read from that connection by then, `None` for nobody.
    Abandoned {
        /// Network namespace of the connection.
        network: Option<Network>,
    },
    /// How TCP fares on a connection that is not HTTP (`socket` says).
    Tcp,
    /// Its process is to be left alone: nothing more comes of the connection.
    Ignored,
    /// The client of a connection whose talk is not read has left: its FIN or RST came first.
    ClientLeft,
    /// An outgoing connection whose talk is not read is used for another request, or its last use is over.
    Unread {
        /// What TCP tells of that use: of heads and framing nothing is known.
        exchange: Exchange,
    },
    /// A process read from a connection that a client opened, and nothing of it is read here.
    UnreadClient {
        /// What is spoken on it.
        talk: Talk,
    },
    /// A process (`socket.tgid`) ends, and closes the connection it served.
    Death {
        /// How.
        #[cfg_attr(feature = "serde", serde(flatten))]
        ended: Ended,
        /// Network namespace of the connection.
        #[cfg_attr(feature = "serde", serde(default))]
        network: Option<Network>,
    },
    /// A reset was received or sent.
    Reset {
        /// Which way.
        direction: ResetDirection,
        /// In which part of the connection's life.
        phase: Phase,
        /// Why it was sent, a code of [`agent_wire::reset_reason`], where the kernel says so.
        reason: Option<u16>,
    },
}

/// Which socket a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Socket {
    /// Socket cookie, unique until reboot; 0 where there is none.
    pub cookie: u64,
    /// When this happened.
    pub time: Nanos,
    /// Which end it is.
    pub side: Side,
    /// Owning thread group, when known.
    pub tgid: Option<u32>,
    /// When it was opened (SYN sent, or accepted); `None` when before the agent started.
    pub opened: Option<Nanos>,
    /// This end.
    pub local: SocketAddr,
    /// The peer.
    pub remote: SocketAddr,
    /// Kernel error, errno.
    pub errno: Option<u16>,
    /// SYNs sent.
    pub syns: u16,
    /// Segments retransmitted so far on this connection, SYNs not counted.
    pub retransmits: u32,
    /// Smoothed round-trip time, microseconds; not of connections that clients opened.
    pub srtt_us: Option<u32>,
    /// What else is known.
    pub flags: Flags,
}

/// [`agent_wire::record::flag`], one field each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// The connection was seen from its first packet.
    pub fn seen_open(self) -> bool {
        self.has(flag::SEEN_OPEN)
    }

    /// This end opened the connection.
    pub fn active_open(self) -> bool {
        self.has(flag::ACTIVE_OPEN)
    }

    /// The received reset had the ACK flag.
    pub fn reset_had_ack(self) -> bool {
        self.has(flag::RESET_HAD_ACK)
    }

    /// A reset was received.
    pub fn peer_reset(self) -> bool {
        self.has(flag::PEER_RESET)
    }

    /// The peer's FIN was received.
    pub fn peer_fin(self) -> bool {
        self.has(flag::PEER_FIN)
    }

    /// The peer acknowledged something after the last retransmission: it is there.
    pub fn peer_answers(self) -> bool {
        self.has(flag::PEER_ANSWERS)
    }

    /// A soft error (ICMP) was reported.
    pub fn soft_error(self) -> bool {
        self.has(flag::SOFT_ERROR)
    }

    /// The head could not be read whole: framing is not known.
    pub fn head_cut(self) -> bool {
        self.has(flag::HEAD_CUT)
    }

    /// The request was pipelined: only its answer was seen.
    pub fn no_request(self) -> bool {
        self.has(flag::NO_REQUEST)
    }

    /// The response does not start as an HTTP/1 response.
    pub fn not_http(self) -> bool {
        self.has(flag::NOT_HTTP)
    }

    /// More than one request was under way at once on this connection.
    pub fn pipelined(self) -> bool {
        self.has(flag::PIPELINED)
    }

    /// The peer offers no window: it does not read.
    pub fn zero_window(self) -> bool {
        self.has(flag::ZERO_WINDOW)
    }

    /// The body is chunked by its head and does not start with a chunk.
    pub fn bad_chunk(self) -> bool {
        self.has(flag::BAD_CHUNK)
    }

    /// The acting thread owns the connection: the errand is its own.
    pub fn own_errand(self) -> bool {
        self.has(flag::OWN_ERRAND)
    }

    fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

/// Which end of an HTTP connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Side {
    /// Not known, or not HTTP.
    Unknown,
    /// The peer is a client: requests arrive here.
    Client,
    /// The peer is an upstream: requests leave here.
    Upstream,
}

/// Result of an active open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ConnectOutcome {
    /// The handshake completed.
    Established,
    /// A reset answered the SYN.
    Reset,
    /// This end closed before an answer came: its own timer, usually.
    ClosedByUs,
    /// The kernel gave up; `Socket::errno` says why (110, 113, 101, 111 by ICMP ...).
    KernelError,
}

/// What is spoken on a connection that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Talk {
    /// TLS.
    Tls,
    /// HTTP/2 in clear text.
    Http2,
    /// Something else than HTTP.
    Other,
    /// Its beginning was before the agent's, and it is not known either who opened it.
    BeforeAgent,
}

/// What a name server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DnsAnswer {
    /// RCODE (RFC 1035, 4.1.1).
    pub rcode: u8,
    /// Records in the answer section.
    pub records: u16,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum End {
    /// Complete by its framing.
    Complete,
    /// The peer sent FIN (complete, where the framing is until close).
    PeerFin,
    /// The peer reset.
    PeerReset,
    /// This end closed.
    LocalClose,
    /// This end reset.
    LocalReset,
    /// The kernel gave up, `Socket::errno` says why.
    KernelError,
    /// The next request began first: the end was not seen.
    Superseded,
    /// Became a tunnel (101, CONNECT).
    Tunnel,
}

/// How the end of a response body is told (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Framing {
    /// The head is not complete.
    Unknown,
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Until close.
    Close,
}

/// Which way a reset went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ResetDirection {
    /// The peer sent it.
    Received,
    /// This end sent it.
    Sent,
}

/// Part of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Phase {
    /// Handshake.
    Connect,
    /// TLS handshake.
    Tls,
    /// Established, nothing under way.
    Idle,
    /// Request being sent or waiting for the first response byte.
    Request,
    /// Response head begun, not complete.
    Head,
    /// Response body.
    Body,
    /// Tunnel, or not HTTP.
    Opaque,
}

/// The client request a thread touched last when it connected or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Errand {
    /// Cookie of the client-side socket.
    pub cookie: NonZero<u64>,
    /// Which request on it, from 0.
    pub index: u32,
    /// How long before, microseconds.
    pub age_us: u32,
}

/// One request and its response on one socket, as the kernel side saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Exchange {
    /// Number on this connection, from 0 from the open or the pick-up.
    pub index: u32,
    /// How it ended; `None` while under way.
    pub end: Option<End>,
    /// Framing of the response.
    pub framing: Framing,
    /// Status code, 0 for none.
    pub status: u16,
    /// First request byte.
    pub request: Seen,
    /// Last request byte before the first response byte.
    pub request_last: Seen,
    /// First byte of the final response head.
    pub first_byte: Seen,
    /// Response head complete.
    pub head: Seen,
    /// Last response byte.
    pub last_byte: Seen,
    /// End of the exchange before on this connection.
    pub idle_since: Seen,
    /// The peer's FIN.
    pub peer_fin: Seen,
    /// Request bytes sent or received.
    pub request_bytes: u64,
    /// Of these, bytes the peer acknowledged.
    pub request_acked: u64,
    /// Response bytes.
    pub response_bytes: u64,
    /// Bytes of the response heads, 0 when incomplete.
    pub head_bytes: u32,
    /// Bytes of the request head, 0 when incomplete.
    pub request_head_bytes: u32,
    /// Of a chunked response: its chunks were followed, so that its end was not missed.
    #[cfg_attr(feature = "serde", serde(default = "followed"))]
    pub chunks_followed: bool,
    /// The sending thread's errand (upstream side).
    pub errand: Option<Errand>,
}

/// What is kept of a request head. Never more than this leaves the agent. Most of these words are short
/// enough to be kept in place, without memory of their own; ids are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RequestHead {
    /// Method token.
    pub method: SmolStr,
    /// Request target without its query.
    pub path: SmolStr,
    /// Host.
    pub host: Option<SmolStr>,
    /// `x-request-id` or like it.
    pub request_id: Option<Arc<str>>,
    /// Trace id of `traceparent` (W3C), 32 hex digits.
    pub trace_id: Option<Arc<str>>,
    /// Content-Length of the request, where given.
    pub content_length: Option<u64>,
    /// Transfer-Encoding of the request ends in chunked.
    pub chunked: bool,
}

/// What is kept of a response head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// The head breaks the grammar after its status line. Some proxies let that pass: no failure alone.
    pub malformed: bool,
    /// An interim response (1xx) came before it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub interim: bool,
}

#[cfg(feature = "serde")]
fn followed() -> bool {
    true
}
