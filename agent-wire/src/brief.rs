//! Exchanges that went well, told in brief; and what is held of them until that is known.
//!
//! A record each, without the heads. The heads wait in a map of the kernel side, where the daemon finds
//! those of exchanges that are under way.

use core::mem::size_of;

use crate::limits::{HELD_EXCHANGES, HELD_REQUEST_BYTES, HELD_RESPONSE_BYTES};
use crate::record::{Header, MessageHead, Record};

/// [`crate::record::kind::BRIEF`]: an exchange that is complete, was answered below 500 and at once, and of
/// which nothing else is worth a word. Times are in `*_us`, microseconds, saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Brief {
    /// As in [`Header`].
    pub kind: u8,
    /// One of [`crate::record::side`].
    pub side: u8,
    /// Bits of [`crate::record::flag`].
    pub flags: u16,
    /// Thread group that owns the socket.
    pub tgid: u32,
    /// The last byte of the response, or the end that completed it, ns.
    pub time_ns: u64,
    /// Socket cookie.
    pub cookie: u64,
    /// First request byte, ns.
    pub request_ns: u64,
    /// This end's address, its bytes as in [`Header`].
    pub local: [u64; 2],
    /// The peer's address.
    pub remote: [u64; 2],
    /// This end's port, host order.
    pub local_port: u16,
    /// The peer's port, host order.
    pub remote_port: u16,
    /// Which exchange on this connection.
    pub index: u32,
    /// Status code of the response.
    pub status: u16,
    /// One of [`crate::record::end`].
    pub end: u8,
    /// One of [`crate::record::framing`].
    pub framing: u8,
    /// From the first request byte to the last.
    pub request_us: u32,
    /// From the first request byte to the first of the response.
    pub first_byte_us: u32,
    /// From the first request byte to the end of the response head.
    pub head_us: u32,
    /// Before the first request byte: since the exchange before on this connection; of the first one, since
    /// the connection was opened. [`UNKNOWN_US`] when that was not seen.
    pub before_us: u32,
    /// Smoothed round-trip time; 0 when not measured.
    pub srtt_us: u32,
}

/// [`Brief::before_us`]: not known.
pub const UNKNOWN_US: u32 = u32::MAX;

impl Record for Brief {
    #[inline(always)]
    fn stamp(&mut self, kind: u8, time_ns: u64) {
        self.kind = kind;
        self.time_ns = time_ns;
    }
}

/// A head that is held: a record that is complete, and may be emitted as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HeldHead<const BYTES: usize> {
    /// The record, but for the bytes of the head.
    pub fixed: MessageHead,
    /// The bytes of the head; [`MessageHead::captured`] of them count.
    pub bytes: [u8; BYTES],
}

/// What is held of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Held {
    /// Its request.
    pub request: HeldHead<HELD_REQUEST_BYTES>,
    /// Its response.
    pub response: HeldHead<HELD_RESPONSE_BYTES>,
    /// What of it counts, one of [`holds`].
    pub holds: u64,
}

/// The place of an exchange, by the cookie of its connection and its number there.
#[inline(always)]
pub fn place(cookie: u64, index: u32) -> u32 {
    let number = cookie.wrapping_mul(2).wrapping_add(index as u64);
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    hash as u32 & (HELD_EXCHANGES - 1)
}

/// What is at a place.
pub mod holds {
    /// Nothing, or it is being written.
    pub const NOTHING: u64 = 0;
    /// A request.
    pub const REQUEST: u64 = 1;
    /// And its response.
    pub const RESPONSE: u64 = 2;
    /// The same two of an exchange that is over and was told in brief. Of its request the bytes count, with
    /// what its connection was at its end. They stay until the place is taken again.
    pub const ENDED_REQUEST: u64 = 3;
    /// See [`ENDED_REQUEST`].
    pub const ENDED_RESPONSE: u64 = 4;
}

const _: () = {
    assert!(size_of::<Brief>() == 96);
    assert!(size_of::<HeldHead<8>>() == size_of::<MessageHead>() + 8);
    assert!(
        size_of::<Held>()
            == 2 * size_of::<MessageHead>() + HELD_REQUEST_BYTES + HELD_RESPONSE_BYTES + 8
    );
    // Up to the cookie it is laid out as a header is.
    assert!(core::mem::offset_of!(Brief, cookie) == core::mem::offset_of!(Header, cookie));
    assert!(core::mem::offset_of!(Brief, time_ns) == core::mem::offset_of!(Header, time_ns));
    assert!(core::mem::offset_of!(Brief, tgid) == core::mem::offset_of!(Header, tgid));
};
