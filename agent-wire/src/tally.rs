//! Counters the kernel side keeps, one slot each in a per-CPU array.
//!
//! A skip is a decision not to look; a loss is something that should have been told and
//! was not. Each has a name that becomes a metric label.

use crate::record::kind;

/// A counter's slot in the per-CPU array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally(pub u32);

/// Records handed to the ring, by kind: slot `EMITTED + kind`.
pub const EMITTED: u32 = 0;
/// Records lost because the ring was full, by kind: slot `RING_FULL + kind`.
pub const RING_FULL: u32 = EMITTED + kind::COUNT as u32;

const REST: u32 = RING_FULL + kind::COUNT as u32;

impl Tally {
    /// Loss: socket storage could not be made (memory), the socket is not watched.
    pub const STORAGE_FAILED: Self = Self(REST);
    /// Loss: too many threads inside `connect(2)` at once.
    pub const CONNECTING_FULL: Self = Self(REST + 1);
    /// Loss: a head was longer than `HEAD_BYTES`; its end was not found.
    pub const HEAD_TOO_LONG: Self = Self(REST + 2);
    /// Loss: a head had more than one hole from reordering; part of it was not read.
    pub const HEAD_REORDERED: Self = Self(REST + 3);
    /// Skip: a connection was found not to be HTTP/1.
    pub const NOT_HTTP: Self = Self(REST + 4);
    /// Skip: response bytes with no request before them.
    pub const UNSOLICITED: Self = Self(REST + 5);
    /// Skip: request bytes that start no request (the rest of an upload answered early).
    pub const LEFTOVER: Self = Self(REST + 6);
    /// Skip: a request sent before the response to the one before had begun.
    pub const PIPELINED: Self = Self(REST + 7);
    /// Skip: a segment that carried nothing new.
    pub const RETRANSMITTED: Self = Self(REST + 8);
    /// Loss: packet headers could not be read.
    pub const HEADERS_UNREADABLE: Self = Self(REST + 9);
    /// Loss: every scratch space of the CPU was taken by interrupted probes.
    pub const SCRATCH_BUSY: Self = Self(REST + 10);
    /// Loss: a change of a socket's state was not seen; a connect or an exchange ended by it.
    pub const STATE_MISSED: Self = Self(REST + 11);
    /// Skip: data came to a listener and no socket was made for it, as when the accept queue is
    /// full. The client sends it again.
    pub const EARLY_DATA_LEFT: Self = Self(REST + 12);
}

/// Number of slots.
pub const SLOTS: u32 = REST + 13;

/// Every skip and loss with its metric label; `true` marks a loss.
pub const NAMED: [(Tally, &str, bool); 13] = [
    (Tally::STORAGE_FAILED, "storage_failed", true),
    (Tally::CONNECTING_FULL, "connecting_full", true),
    (Tally::HEAD_TOO_LONG, "head_too_long", true),
    (Tally::HEAD_REORDERED, "head_reordered", true),
    (Tally::NOT_HTTP, "not_http", false),
    (Tally::UNSOLICITED, "unsolicited", false),
    (Tally::LEFTOVER, "leftover", false),
    (Tally::PIPELINED, "pipelined", false),
    (Tally::RETRANSMITTED, "retransmitted", false),
    (Tally::HEADERS_UNREADABLE, "headers_unreadable", true),
    (Tally::SCRATCH_BUSY, "scratch_busy", true),
    (Tally::STATE_MISSED, "state_missed", true),
    (Tally::EARLY_DATA_LEFT, "early_data_left", false),
];

/// The metric label of a record kind; `None` for a kind that is not one.
pub fn kind_name(record_kind: u8) -> Option<&'static str> {
    Some(match record_kind {
        kind::CONNECT => "connect",
        kind::REQUEST => "request",
        kind::RESPONSE => "response",
        kind::END => "end",
        kind::CLOSE => "close",
        kind::RESET => "reset",
        kind::CONNECT_ERRNO => "connect_errno",
        kind::UNIX_CONNECT => "unix_connect",
        kind::TLS => "tls",
        kind::DNS => "dns",
        kind::DEATH => "death",
        kind::TCP => "tcp",
        kind::IGNORED => "ignored",
        kind::UNREAD => "unread",
        kind::HELLO => "hello",
        kind::ABANDONED => "abandoned",
        kind::CLIENT_LEFT => "client_left",
        kind::UNREAD_CLIENT => "unread_client",
        kind::BRIEF => "brief",
        kind::DISTURBED => "disturbed",
        _ => return None,
    })
}
