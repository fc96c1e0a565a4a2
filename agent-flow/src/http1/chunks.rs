//! The chunks of an upstream's chunked body (RFC 9112, section 7.1), followed from size to size.
//!
//! In: body bytes in order. Out: whether what stands where a chunk size must stand is one. It
//! costs a few loads a chunk; where chunks are many and small, or bytes come out of order, it is
//! given up, and the end of the body is known by its last bytes alone.

use agent_wire::record::flag;

use crate::bytes::{Bytes, Payload};
use crate::flags::Flags;
use crate::machine::Machine;

/// Chunks followed in one segment.
const CHUNKS_A_SEGMENT: u32 = 8;
/// Digits of a size: what a word holds beside the line end.
const DIGITS: u32 = 7;
/// The last chunk, and the blank line behind it, without trailers.
const LAST_CHUNK: u64 = u64::from_le_bytes(*b"0\r\n\r\n\0\0\0");
const LAST_CHUNK_BYTES: u32 = 5;
const FIVE_BYTES: u64 = (1 << (LAST_CHUNK_BYTES * 8)) - 1;

/// [`Chunks::state`].
mod state {
    /// Following.
    pub(super) const FOLLOWING: u32 = 0;
    /// The size of the last chunk, 0, was seen.
    pub(super) const LAST: u32 = 1;
    /// Given up.
    pub(super) const LOST: u32 = 2;
}

/// Where the next chunk size stands.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Chunks {
    /// Bytes before it, from the start of the next segment.
    ahead: u64,
    state: u32,
    /// Bytes in the segment of the last chunk, behind the blank line that ends the body.
    behind: u32,
}

/// How far a chunked body was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A chunk is under way, or its size is awaited.
    Middle,
    /// The last chunk's size was there.
    Last,
    /// It was not followed.
    Unknown,
}

impl Chunks {
    /// A chunked body begins: `follow` it, or not.
    #[inline(always)]
    pub fn begin(&mut self, follow: bool) {
        self.ahead = 0;
        self.behind = 0;
        self.state = if follow {
            state::FOLLOWING
        } else {
            state::LOST
        };
    }

    /// Bytes are missing, or come in the wrong order.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.state = state::LOST;
    }

    /// How far the body was seen.
    #[inline(always)]
    pub fn seen(&self) -> Seen {
        match self.state {
            state::FOLLOWING => Seen::Middle,
            state::LAST => Seen::Last,
            _ => Seen::Unknown,
        }
    }

    /// Where the next size stands is known.
    #[inline(always)]
    pub fn is_followed(&self) -> bool {
        self.state == state::FOLLOWING
    }

    /// Bytes in its segment behind the end of the body, if that was followed.
    #[inline(always)]
    pub fn behind(&self) -> u64 {
        u64::from(self.behind)
    }

    /// Body bytes in order, of a body that is followed.
    #[inline(always)]
    pub fn follow<M: Machine>(
        &mut self,
        bytes: &(impl Bytes + ?Sized),
        flags: &Flags<M>,
        body: Payload,
    ) {
        if !self.is_followed() {
            return;
        }
        let mut round = 0;
        while round < CHUNKS_A_SEGMENT {
            let ahead = M::opaque(&self.ahead);
            if ahead >= u64::from(body.len) {
                break;
            }
            let at = ahead as u32;
            let rest = Payload::at(body.offset + at, body.len - at);
            self.next_size(flags, bytes.prefix(rest), rest.len);
            if M::opaque(&self.state) != state::FOLLOWING {
                return;
            }
            round += 1;
        }
        let ahead = M::opaque(&self.ahead);
        match ahead.checked_sub(u64::from(body.len)) {
            Some(left) => self.ahead = left,
            None => self.state = state::LOST,
        }
    }

    /// Reads the size that stands in `line`, the first byte in the low byte, `len` of them there, and
    /// moves on to the next.
    #[inline(always)]
    fn next_size<M: Machine>(&mut self, flags: &Flags<M>, line: u64, len: u32) {
        let mut rest = line;
        let mut size = 0u64;
        let mut digits = 0u32;
        while digits < DIGITS {
            let next = (rest & 0xff) as u32;
            let letter = (next | 0x20).wrapping_sub(u32::from(b'a'));
            let digit = next.wrapping_sub(u32::from(b'0'));
            if digit < 10 {
                size = size << 4 | u64::from(digit);
            } else if letter < 6 {
                size = size << 4 | u64::from(letter + 10);
            } else {
                break;
            }
            rest >>= 8;
            digits += 1;
        }
        if digits >= len || digits >= DIGITS {
            // The line goes on in the next segment, or the chunk is very large.
            M::store(&mut self.state, state::LOST);
            return;
        }
        let next = (rest & 0xff) as u32;
        let ends = next == u32::from(b'\r');
        let extends =
            next == u32::from(b';') || next == u32::from(b' ') || next == u32::from(b'\t');
        if digits == 0 || !(ends || extends) {
            flags.set::<{ flag::BAD_CHUNK }>();
            M::store(&mut self.state, state::LOST);
        } else if extends {
            M::store(&mut self.state, state::LOST);
        } else if size == 0 {
            M::store(&mut self.state, state::LAST);
            if line & FIVE_BYTES == LAST_CHUNK && len > LAST_CHUNK_BYTES {
                self.behind = len - LAST_CHUNK_BYTES;
            }
        } else {
            // Size, line end, data, line end.
            let ahead = M::opaque(&self.ahead);
            M::store(&mut self.ahead, ahead + u64::from(digits) + 2 + size + 2);
        }
    }
}
