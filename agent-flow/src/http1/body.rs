//! Where the body of a response ends, by its framing (RFC 9112, section 6.3).
//!
//! In: counted bytes, and the last eight of a chunked body. Out: whether the response is complete.
//! Bytes are counted, not read: of a chunked body the chunk sizes are ([`crate::http1::chunks`]).

use agent_wire::record::{flag, framing};

use crate::bytes::{Bytes, Payload};
use crate::flow::Flow;
use crate::http1::chunks::Seen;
use crate::http1::scan::SEVEN_BYTES;
use crate::machine::Machine;

/// "\r\n0\r\n\r\n": the last chunk, with the line end before it.
const LAST_CHUNK: u64 = u64::from_be_bytes(*b"\0\r\n0\r\n\r\n");

/// "\r\n\r\n".
const BLANK_LINE: u64 = u32::from_be_bytes(*b"\r\n\r\n") as u64;

/// The response at hand has all its bytes.
#[inline(always)]
pub fn is_complete<M: Machine>(flow: &Flow<M>) -> bool {
    match flow.exchange.framing {
        framing::NONE => true,
        framing::LENGTH => {
            flow.exchange.response_bytes
                >= u64::from(flow.exchange.head_bytes) + flow.exchange.content_length
        }
        framing::CHUNKED => {
            let tail = flow.tail;
            match flow.chunks.seen() {
                // Trailers may stand between the last chunk and the blank line. Behind that may be the
                // next answer, which is not to be taken for more of them.
                Seen::Last => has_clear_end(flow) || may_go_on(flow),
                Seen::Unknown => tail & SEVEN_BYTES == LAST_CHUNK,
                // What looks like the end is part of a chunk.
                Seen::Middle => false,
            }
        }
        _ => false,
    }
}

/// The end of a chunked body that was followed is the end of its segment, or it is known what is behind.
#[inline(always)]
pub fn has_clear_end<M: Machine>(flow: &Flow<M>) -> bool {
    let is_blank = flow.tail & 0xffff_ffff == BLANK_LINE;
    flow.chunks.seen() == Seen::Last && (flow.chunks.behind() != 0 || is_blank)
}

/// Behind what this end sends may be its answer to another request.
#[inline(always)]
pub fn may_go_on<M: Machine>(flow: &Flow<M>) -> bool {
    flow.is_client_side() && flow.flags.has::<{ flag::PIPELINED }>()
}

/// Keeps the last bytes of a chunked body, across segments.
#[inline(always)]
pub fn keep_tail<M: Machine>(bytes: &impl Bytes, flow: &mut Flow<M>, payload: Payload) {
    if payload.len >= 8 {
        if let Some(last) = bytes.load_u64(payload.offset + payload.len - 8) {
            flow.tail = last.swap_bytes();
        }
        return;
    }
    let mut at = 0;
    while at < 7 {
        if at >= payload.len {
            break;
        }
        if let Some(next) = bytes.load_u8(payload.offset + at) {
            flow.tail = (flow.tail << 8) | u64::from(next);
        }
        at += 1;
    }
}
