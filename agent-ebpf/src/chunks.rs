//! The chunks of an upstream's chunked body (RFC 9112, section 7.1), followed from size to size.
//!
//! In: body bytes in order. Out: whether what stands where a chunk size must stand is one. It
//! costs a few loads a chunk; where chunks are many and small, or bytes come out of order, it is
//! given up, and the end of the body is known by its last bytes alone.

use agent_wire::record::flag;
use aya_ebpf::programs::SkBuffContext;

use crate::flow::Flow;
use crate::kernel::{self, store};
use crate::request_line::prefix;
use crate::segment::Payload;

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
#[derive(Clone, Copy)]
pub(crate) struct Chunks {
    /// Bytes before it, from the start of the next segment.
    ahead: u64,
    state: u32,
    /// Bytes in the segment of the last chunk, behind the blank line that ends the body.
    behind: u32,
}

/// A chunked body begins: `follow` it, or not.
#[inline(always)]
pub(crate) fn begin(flow: &mut Flow, follow: bool) {
    flow.chunks.ahead = 0;
    flow.chunks.behind = 0;
    flow.chunks.state = if follow {
        state::FOLLOWING
    } else {
        state::LOST
    };
}

/// Bytes are missing, or come in the wrong order.
#[inline(always)]
pub(crate) fn lose(flow: &mut Flow) {
    flow.chunks.state = state::LOST;
}

/// How far a chunked body was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A chunk is under way, or its size is awaited.
    Middle,
    /// The last chunk's size was there.
    Last,
    /// It was not followed.
    Unknown,
}

/// How far the body was seen.
#[inline(always)]
pub(crate) fn seen(flow: &Flow) -> Seen {
    match flow.chunks.state {
        state::FOLLOWING => Seen::Middle,
        state::LAST => Seen::Last,
        _ => Seen::Unknown,
    }
}

/// Where the next size stands is known.
#[inline(always)]
pub(crate) fn is_followed(flow: &Flow) -> bool {
    flow.chunks.state == state::FOLLOWING
}

/// How many bytes are behind the end of the body in its segment, where that is followed.
#[inline(always)]
pub(crate) fn behind(flow: &Flow) -> u64 {
    u64::from(flow.chunks.behind)
}

/// Body bytes in order, of a body that is followed.
#[inline(always)]
pub(crate) fn follow(ctx: &SkBuffContext, flow: &mut Flow, body: Payload) {
    if !is_followed(flow) {
        return;
    }
    let mut round = 0;
    while round < CHUNKS_A_SEGMENT {
        let ahead = kernel::opaque(&flow.chunks.ahead);
        if ahead >= u64::from(body.len) {
            break;
        }
        let at = ahead as u32;
        let rest = Payload {
            offset: body.offset + at,
            len: body.len - at,
            seq: 0,
            hole: 0,
        };
        next_size(flow, prefix(ctx, rest), rest.len);
        if kernel::opaque(&flow.chunks.state) != state::FOLLOWING {
            return;
        }
        round += 1;
    }
    let ahead = kernel::opaque(&flow.chunks.ahead);
    match ahead.checked_sub(u64::from(body.len)) {
        Some(left) => flow.chunks.ahead = left,
        None => flow.chunks.state = state::LOST,
    }
}

/// Reads the size that stands in `line`, the first byte in the low byte, `len` of them there, and
/// moves on to the next.
#[inline(always)]
fn next_size(flow: &mut Flow, line: u64, len: u32) {
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
        store(&mut flow.chunks.state, state::LOST);
        return;
    }
    let next = (rest & 0xff) as u32;
    let ends = next == u32::from(b'\r');
    let extends = next == u32::from(b';') || next == u32::from(b' ') || next == u32::from(b'\t');
    if digits == 0 || !(ends || extends) {
        flow.flags.set::<{ flag::BAD_CHUNK }>();
        store(&mut flow.chunks.state, state::LOST);
    } else if extends {
        store(&mut flow.chunks.state, state::LOST);
    } else if size == 0 {
        store(&mut flow.chunks.state, state::LAST);
        if line & FIVE_BYTES == LAST_CHUNK && len > LAST_CHUNK_BYTES {
            flow.chunks.behind = len - LAST_CHUNK_BYTES;
        }
    } else {
        // Size, line end, data, line end.
        let ahead = kernel::opaque(&flow.chunks.ahead);
        store(
            &mut flow.chunks.ahead,
            ahead + u64::from(digits) + 2 + size + 2,
        );
    }
}
