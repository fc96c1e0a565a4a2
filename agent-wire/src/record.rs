//! Records in the ring buffer, in the order a connection's life produces them.
//!
//! Every record but [`crate::brief::Brief`] starts with [`Header`]. Integers are in host byte order: both sides run on
//! the same machine. Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`);
//! 0 means "not seen". Addresses are IPv6, IPv4 as v4-mapped (RFC 4291, 2.5.5.2).

use core::mem::size_of;

use crate::limits::{SERVER_NAME_BYTES, UNIX_PATH_BYTES};
use crate::plain::Plain;

/// What a record tells. Values are part of the layout.
pub mod kind {
    /// [`super::Connect`]: an active open was decided, one way or the other.
    pub const CONNECT: u8 = 1;
    /// [`super::MessageHead`] and head bytes: a request has begun.
    pub const REQUEST: u8 = 2;
    /// [`super::MessageHead`] and head bytes: the response head is complete.
    pub const RESPONSE: u8 = 3;
    /// [`super::End`]: an exchange ended after its response head, or without one.
    pub const END: u8 = 4;
    /// [`super::End`]: a connection is gone; its exchange part is zero.
    pub const CLOSE: u8 = 5;
    /// [`super::Reset`]: a reset was received or sent.
    pub const RESET: u8 = 6;
    /// [`super::Connect`]: `connect(2)` failed before any packet left.
    pub const CONNECT_ERRNO: u8 = 7;
    /// [`super::UnixConnect`]: `connect(2)` on a Unix socket returned.
    pub const UNIX_CONNECT: u8 = 8;
    /// [`super::Tls`]: a TLS handshake with an upstream was decided, one way or the other.
    pub const TLS: u8 = 9;
    /// [`super::Dns`]: a name was asked for, or the answer came.
    pub const DNS: u8 = 10;
    /// [`super::Death`]: a process ends, and with it a connection that it served.
    pub const DEATH: u8 = 11;
    /// [`super::Header`] alone: how TCP fares on a connection that is not HTTP.
    pub const TCP: u8 = 12;
    /// [`super::Header`] alone: the process of a connection is to be left alone, which was not known
    /// when its request was told. Nothing more comes of it.
    pub const IGNORED: u8 = 13;
    /// [`super::End`]: how a request fares on an outgoing connection whose talk is not read. With
    /// [`super::end::OPEN`] a kept connection is used for another; else the last use of it is over.
    pub const UNREAD: u8 = 14;
    /// [`super::Hello`]: a ClientHello left for an upstream, and all of it could be read.
    pub const HELLO: u8 = 15;
    /// [`super::Abandoned`]: a client closed before a byte answered the first request of its connection.
    pub const ABANDONED: u8 = 16;
    /// [`super::Header`] alone: the client of a connection whose talk is not read has closed or reset it
    /// while it waited: a process has read from it and sent nothing since.
    pub const CLIENT_LEFT: u8 = 17;
    /// [`super::UnreadClient`]: a process read from a connection that is not read here.
    pub const UNREAD_CLIENT: u8 = 18;
    /// [`crate::brief::Brief`]: an exchange that went well, of a process whose exchanges are told in brief.
    pub const BRIEF: u8 = 19;
    /// [`super::Header`] alone, of no socket: something went wrong in such a process (`tgid`). What ends
    /// there from now on is told whole.
    pub const DISTURBED: u8 = 20;
    /// One more than the largest kind.
    pub const COUNT: usize = 21;
}

/// Which end of an HTTP connection this socket is.
pub mod side {
    /// Not known (yet), or not HTTP.
    pub const UNKNOWN: u8 = 0;
    /// Requests arrive here: the peer is a client.
    pub const CLIENT: u8 = 1;
    /// Requests leave here: the peer is an upstream.
    pub const UPSTREAM: u8 = 2;
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// The connection was seen from its first packet.
    pub const SEEN_OPEN: u16 = 1 << 0;
    /// This end opened the connection.
    pub const ACTIVE_OPEN: u16 = 1 << 1;
    /// The peer's FIN was received.
    pub const PEER_FIN: u16 = 1 << 2;
    /// This end closed or shut down its sending side.
    pub const LOCAL_FIN: u16 = 1 << 3;
    /// A reset was received.
    pub const PEER_RESET: u16 = 1 << 4;
    /// A reset was sent.
    pub const LOCAL_RESET: u16 = 1 << 5;
    /// The received reset had the ACK flag.
    pub const RESET_HAD_ACK: u16 = 1 << 6;
    /// A soft error (ICMP, `sk_err_soft`) was reported.
    pub const SOFT_ERROR: u16 = 1 << 7;
    /// Something arrived after the last retransmission: the peer is there.
    pub const PEER_ANSWERS: u16 = 1 << 8;
    /// The head was longer than could be read, or had a hole: framing is not known.
    pub const HEAD_CUT: u16 = 1 << 9;
    /// The response does not start as an HTTP/1 response.
    pub const NOT_HTTP: u16 = 1 << 10;
    /// More than one request was under way at once on this connection.
    pub const PIPELINED: u16 = 1 << 11;
    /// The request of this exchange was not seen (pipelined, or lost).
    pub const NO_REQUEST: u16 = 1 << 12;
    /// The thread that acted is the one that owns the connection: the errand is its own.
    pub const OWN_ERRAND: u16 = 1 << 13;
    /// The last acknowledgement offered no window: the peer does not read, or did not when this end closed.
    pub const ZERO_WINDOW: u16 = 1 << 14;
    /// The body is chunked by its head and does not start with a chunk.
    pub const BAD_CHUNK: u16 = 1 << 15;
}

/// How an exchange ended. Values are part of the layout.
pub mod end {
    /// Not ended: an END record follows.
    pub const OPEN: u8 = 0;
    /// The response is complete by its framing.
    pub const COMPLETE: u8 = 1;
    /// The peer sent FIN.
    pub const PEER_FIN: u8 = 2;
    /// The peer reset.
    pub const PEER_RESET: u8 = 3;
    /// This end closed.
    pub const LOCAL_CLOSE: u8 = 4;
    /// This end reset.
    pub const LOCAL_RESET: u8 = 5;
    /// The kernel gave up (`Header::errno` says why).
    pub const KERNEL_ERROR: u8 = 6;
    /// The next request began before this response was seen to end.
    pub const SUPERSEDED: u8 = 7;
    /// 101, or 2xx to CONNECT: the connection is a tunnel from here.
    pub const TUNNEL: u8 = 8;
    /// One more than the largest value.
    pub const COUNT: u8 = 9;
}

/// How the end of a response body is told (RFC 9112, 6.3).
pub mod framing {
    /// Not known: the head is not complete.
    pub const UNKNOWN: u8 = 0;
    /// No body: HEAD, 204, 304, or Content-Length 0.
    pub const NONE: u8 = 1;
    /// `Exchange::content_length` bytes.
    pub const LENGTH: u8 = 2;
    /// Transfer-Encoding: chunked.
    pub const CHUNKED: u8 = 3;
    /// Until the peer closes.
    pub const CLOSE: u8 = 4;
    /// One more than the largest value.
    pub const COUNT: u8 = 5;
}

/// [`Exchange::content_length`] of a chunked response whose chunks were not followed to its end.
pub const UNFOLLOWED: u64 = 1;

/// The part of the connection's life in which a reset fell.
pub mod phase {
    /// Before the handshake was complete.
    pub const CONNECT: u8 = 0;
    /// Established, no request under way.
    pub const IDLE: u8 = 1;
    /// The request was being sent, no response byte yet.
    pub const REQUEST: u8 = 2;
    /// The response head was being received.
    pub const HEAD: u8 = 3;
    /// The response body was being received.
    pub const BODY: u8 = 4;
    /// The connection is a tunnel or not HTTP.
    pub const OPAQUE: u8 = 5;
    /// One more than the largest value.
    pub const COUNT: u8 = 6;
}

/// Start of every record: which socket, when, and how its TCP fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`side`].
    pub side: u8,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Thread group that owns the socket, 0 when not known yet.
    pub tgid: u32,
    /// When this happened, ns.
    pub time_ns: u64,
    /// Socket cookie: unique until reboot. 0 for records without a socket.
    pub cookie: u64,
    /// When the active open began (SYN) or the connection was accepted, ns.
    pub opened_ns: u64,
    /// This end's address.
    pub local: [u8; 16],
    /// The peer's address.
    pub remote: [u8; 16],
    /// This end's port, host order.
    pub local_port: u16,
    /// The peer's port, host order.
    pub remote_port: u16,
    /// Kernel error on this socket, errno, 0 for none.
    pub errno: u16,
    /// SYNs sent.
    pub syns: u16,
    /// Segments retransmitted so far, SYNs not counted.
    pub retransmits: u32,
    /// Smoothed round-trip time, us; 0 when not measured, and of connections that clients opened.
    pub srtt_us: u32,
}

/// A record that goes through the ring. Each begins as a [`Header`] does, up to the cookie.
pub trait Record: Plain {
    /// Says what it is, one of [`kind`], and when that was, ns.
    fn stamp(&mut self, kind: u8, time_ns: u64);
}

impl Record for Header {
    #[inline(always)]
    fn stamp(&mut self, kind: u8, time_ns: u64) {
        self.kind = kind;
        self.time_ns = time_ns;
    }
}

macro_rules! records {
    ($($record:ty),*) => {
        $(impl Record for $record {
            #[inline(always)]
            fn stamp(&mut self, kind: u8, time_ns: u64) {
                self.header.stamp(kind, time_ns);
            }
        })*
    };
}

records!(
    Connect,
    MessageHead,
    End,
    Reset,
    Tls,
    Hello,
    Abandoned,
    Dns,
    Death,
    UnixConnect,
    UnreadClient
);

/// The errand a thread is on: the client request it touched last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Errand {
    /// Cookie of the client-side socket, 0 for none.
    pub cookie: u64,
    /// Which request on that connection, from 0.
    pub index: u32,
    /// How long before this record the thread touched it, us, saturating.
    pub age_us: u32,
}

/// What is known of one exchange (a request and its response) on one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exchange {
    /// Which exchange on this connection, counted from 0 from the open or the pick-up.
    pub index: u32,
    /// One of [`end`].
    pub end: u8,
    /// One of [`framing`], of the response.
    pub framing: u8,
    /// Status code of the response as the kernel side read it, 0 for none.
    pub status: u16,
    /// First request byte, ns.
    pub request_ns: u64,
    /// Last request byte before the first response byte, ns.
    pub request_last_ns: u64,
    /// First response byte (of the final head; interim 1xx heads are skipped), ns.
    pub first_byte_ns: u64,
    /// The byte that completed the response head, ns.
    pub head_ns: u64,
    /// Last response byte so far, ns.
    pub last_byte_ns: u64,
    /// End of the previous exchange on this connection, ns; 0 for the first.
    pub idle_since_ns: u64,
    /// The peer's FIN, ns.
    pub peer_fin_ns: u64,
    /// Request bytes, head and body.
    pub request_bytes: u64,
    /// Of these, bytes the peer had acknowledged, its FIN or RST included.
    pub request_acked: u64,
    /// Response bytes, heads and body framing included.
    pub response_bytes: u64,
    /// Bytes of the response head, interim heads included; 0 when incomplete.
    pub head_bytes: u32,
    /// Bytes of the request head; 0 when incomplete.
    pub request_head_bytes: u32,
    /// Content-Length of the response where [`framing::LENGTH`]; [`UNFOLLOWED`] for a chunked
    /// one whose chunks were not all followed, so that its end may have passed unseen.
    pub content_length: u64,
    /// The errand of the thread that sent the request (upstream side only).
    pub errand: Errand,
}

/// [`kind::CONNECT`] and [`kind::CONNECT_ERRNO`]: an active open was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Connect {
    /// Which socket; `opened_ns` is the start and `time_ns` the outcome.
    pub header: Header,
    /// The errand of the thread that connected.
    pub errand: Errand,
    /// [`end::COMPLETE`] when established, else how it failed.
    pub outcome: u8,
    /// 1 when a listener on this host got the SYN and did not answer it.
    pub listener_silent: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// [`kind::REQUEST`] and [`kind::RESPONSE`]: followed by `captured` head bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MessageHead {
    /// Which socket.
    pub header: Header,
    /// The exchange as far as it went.
    pub exchange: Exchange,
    /// How many of the bytes that follow are the message's.
    pub captured: u32,
    /// Where the final head starts among them (after interim 1xx heads).
    pub final_start: u32,
}

/// [`kind::END`], [`kind::CLOSE`] and [`kind::UNREAD`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct End {
    /// Which socket.
    pub header: Header,
    /// The exchange. In a CLOSE it is zero but for `request_bytes`: not 0 when this end sent
    /// anything at all. In an UNREAD its request is what this end sent, its response what it
    /// received, and nothing is known of heads and framing.
    pub exchange: Exchange,
}

/// [`kind::RESET`]: a reset was received or sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reset {
    /// Which socket; [`flag::PEER_RESET`] or [`flag::LOCAL_RESET`] says which way.
    pub header: Header,
    /// One of [`phase`].
    pub phase: u8,
    /// 1 when received, 2 when sent.
    pub direction: u8,
    /// Why it was sent, a code of [`crate::reset_reason`]; 0 when the kernel does not say.
    pub reason: u16,
    /// Zero.
    pub reserved: u32,
}

/// [`Reset::direction`]: the peer sent it.
pub const RESET_RECEIVED: u8 = 1;
/// [`Reset::direction`]: this end sent it.
pub const RESET_SENT: u8 = 2;

/// [`kind::TLS`]: a TLS handshake that this end began was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tls {
    /// Which socket.
    pub header: Header,
    /// The errand of the thread that connected.
    pub errand: Errand,
    /// ClientHello left, ns.
    pub hello_ns: u64,
    /// First byte of the peer's reply, ns.
    pub reply_ns: u64,
    /// The peer's FIN, ns.
    pub peer_fin_ns: u64,
    /// This end finished its part of the handshake, ns; 0 before.
    pub finished_ns: u64,
    /// [`end::COMPLETE`] when application data followed, else how it failed.
    pub outcome: u8,
    /// First byte of the peer's reply: a TLS content type (RFC 8446, 5.1), or of something
    /// else. 0 when none came.
    pub reply: u8,
    /// 1 when the peer sent an alert in clear, 2 when this end did.
    pub alert_by: u8,
    /// Its description (RFC 8446, 6).
    pub alert: u8,
    /// Bytes of the handshake that this end sent and that were not acknowledged.
    pub unacked: u32,
}

/// [`Tls::alert_by`]: the peer.
pub const ALERT_BY_PEER: u8 = 1;
/// [`Tls::alert_by`]: this end.
pub const ALERT_BY_US: u8 = 2;

/// [`kind::HELLO`]: what a ClientHello says of the server's name (RFC 6066, 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Hello {
    /// Which socket.
    pub header: Header,
    /// 1 when it names the server, 0 when it does not.
    pub named: u8,
    /// Zero.
    pub reserved: [u8; 5],
    /// Bytes of the name: more than [`SERVER_NAME_BYTES`] when it is cut.
    pub name_len: u16,
    /// The name.
    pub name: [u8; SERVER_NAME_BYTES],
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            header: Header::default(),
            named: 0,
            reserved: [0; 5],
            name_len: 0,
            name: [0; SERVER_NAME_BYTES],
        }
    }
}

/// [`kind::ABANDONED`]: a client closed before a byte answered the first request of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Abandoned {
    /// Which socket; `tgid` is who had read from it by then, 0 for nobody.
    pub header: Header,
    /// Network namespace of the socket, the inode of `/proc/PID/ns/net`; 0 when not known.
    pub network: u32,
    /// Zero.
    pub reserved: u32,
}

/// [`kind::DNS`]: a thread on a client's errand asked for a name (UDP port 53), or the answer
/// to that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Dns {
    /// `tgid` asked; `remote` is the name server.
    pub header: Header,
    /// The errand of the thread that asked.
    pub errand: Errand,
    /// When it asked, ns.
    pub asked_ns: u64,
    /// 1 for an answer, 0 for a question.
    pub answered: u8,
    /// RCODE of the answer (RFC 1035, 4.1.1).
    pub rcode: u8,
    /// ANCOUNT of the answer.
    pub answers: u16,
    /// Transaction id.
    pub id: u16,
    /// Zero.
    pub reserved: u16,
}

/// How a process ended.
pub mod ended {
    /// By a signal.
    pub const KILLED: u8 = 0;
    /// By itself.
    pub const EXITED: u8 = 1;
    /// By SIGKILL of the kernel, for want of memory.
    pub const OUT_OF_MEMORY: u8 = 2;
    /// One more than the largest value.
    pub const COUNT: u8 = 3;
}

/// [`kind::DEATH`]: the process `header.tgid` ends, and closes the connection it served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Death {
    /// Which process (`tgid`), when, and the socket that it closes.
    pub header: Header,
    /// Signal number (signal(7)), 0 when it ended by itself.
    pub signal: u32,
    /// One of [`ended`].
    pub ended: u8,
    /// Exit status, when it ended by itself.
    pub status: u8,
    /// Zero.
    pub reserved: u16,
    /// Network namespace of the socket, the inode of `/proc/PID/ns/net`; 0 when not known.
    pub network: u32,
    /// Zero.
    pub reserved_2: u32,
}

/// What a client speaks on a connection that is not read, by its first bytes.
pub mod talk {
    /// Not known.
    pub const UNKNOWN: u8 = 0;
    /// TLS.
    pub const TLS: u8 = 1;
    /// HTTP/2 in clear text, with prior knowledge (RFC 9113, 3.3).
    pub const HTTP2: u8 = 2;
    /// Something else than HTTP.
    pub const OTHER: u8 = 3;
    /// Its beginning was before the agent's, and it is not known either who opened it.
    pub const BEFORE_AGENT: u8 = 4;
    /// One more than the largest value.
    pub const COUNT: u8 = 5;
}

/// [`kind::UNREAD_CLIENT`]: a process read from a connection that a client opened, and nothing of it
/// is read here. Once for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UnreadClient {
    /// Which socket, and the process that read (`tgid`).
    pub header: Header,
    /// One of [`talk`], not [`talk::UNKNOWN`].
    pub talk: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// [`kind::UNIX_CONNECT`]: `connect(2)` on a Unix stream socket returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UnixConnect {
    /// `errno` 0 when it succeeded; no addresses, no cookie.
    pub header: Header,
    /// The errand of the thread that connected.
    pub errand: Errand,
    /// Bytes of `path` that count.
    pub path_len: u16,
    /// Zero.
    pub reserved: [u8; 6],
    /// `sun_path`; the first byte is 0 for an abstract name.
    pub path: Path,
}

/// A Unix socket path, padded to a multiple of eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Path {
    /// The bytes of `sun_path`.
    pub bytes: [u8; UNIX_PATH_BYTES],
    /// Zero.
    pub reserved: [u8; 4],
}

impl Default for Path {
    fn default() -> Self {
        Self {
            bytes: [0; UNIX_PATH_BYTES],
            reserved: [0; 4],
        }
    }
}

// The layouts, field by field: a field added without thought for padding stops the build.
const _: () = {
    assert!(size_of::<Header>() == 2 + 2 + 4 + 3 * 8 + 2 * 16 + 4 * 2 + 2 * 4);
    assert!(size_of::<Errand>() == 16);
    assert!(size_of::<Exchange>() == 8 + 10 * 8 + 8 + 8 + 16);
    assert!(size_of::<Connect>() == size_of::<Header>() + size_of::<Errand>() + 8);
    assert!(size_of::<MessageHead>() == size_of::<Header>() + size_of::<Exchange>() + 8);
    assert!(size_of::<End>() == size_of::<Header>() + size_of::<Exchange>());
    assert!(size_of::<Reset>() == size_of::<Header>() + 8);
    assert!(size_of::<Tls>() == size_of::<Header>() + size_of::<Errand>() + 4 * 8 + 8);
    assert!(size_of::<Hello>() == size_of::<Header>() + 8 + SERVER_NAME_BYTES);
    assert!(size_of::<Abandoned>() == size_of::<Header>() + 8);
    assert!(size_of::<Dns>() == size_of::<Header>() + size_of::<Errand>() + 8 + 8);
    assert!(size_of::<Death>() == size_of::<Header>() + 16);
    assert!(size_of::<UnreadClient>() == size_of::<Header>() + 8);
    assert!(
        size_of::<UnixConnect>()
            == size_of::<Header>() + size_of::<Errand>() + 8 + UNIX_PATH_BYTES + 4
    );
};
