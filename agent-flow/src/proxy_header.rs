//! The PROXY protocol header that a load balancer puts before what its client says.
//!
//! In: the first bytes of a connection. Out: how many of them are the header, so that what stands behind
//! it is read as if it came first.
//! Source: the PROXY protocol, versions 1 and 2, sections 2.1 and 2.2 (haproxy.org, `proxy-protocol.txt`).

use crate::bytes::{Bytes, Payload};

/// How version 1 begins, a line of text.
const V1: u64 = u64::from_le_bytes(*b"PROXY \0\0");
const V1_MASK: u64 = (1 << 48) - 1;
/// Bytes of the longest line of version 1, its end included.
const V1_MAX_BYTES: u32 = 107;

/// How version 2 begins, the first eight bytes and the four behind them.
const V2: u64 = u64::from_le_bytes(*b"\r\n\r\n\0\r\nQ");
const V2_REST: u32 = u32::from_le_bytes(*b"UIT\n");
/// Bytes of version 2 before the part whose length its last two give.
const V2_FIXED_BYTES: u32 = 16;

/// Whether a connection whose first eight bytes are `start` may begin with such a header.
#[inline(always)]
pub fn may_begin(start: u64) -> bool {
    start & V1_MASK == V1 || start == V2
}

/// Bytes of the header at the front of `payload`; 0 when there is none, or its end is not among them.
#[inline(always)]
pub fn length(bytes: &(impl Bytes + ?Sized), payload: Payload) -> u32 {
    let start = bytes.prefix(payload);
    let length = if start & V1_MASK == V1 {
        line(bytes, payload)
    } else if start == V2 {
        binary(bytes, payload)
    } else {
        0
    };
    if length > payload.len { 0 } else { length }
}

#[inline(always)]
fn line(bytes: &(impl Bytes + ?Sized), payload: Payload) -> u32 {
    let mut at = 0;
    while at < V1_MAX_BYTES {
        if at >= payload.len {
            break;
        }
        let Some(next) = bytes.load_u8(payload.offset + at) else {
            break;
        };
        at += 1;
        if next == b'\n' {
            return at;
        }
    }
    0
}

#[inline(always)]
fn binary(bytes: &(impl Bytes + ?Sized), payload: Payload) -> u32 {
    if payload.len < V2_FIXED_BYTES {
        return 0;
    }
    let Some(rest) = bytes.load_u64(payload.offset + 8) else {
        return 0;
    };
    if rest as u32 != V2_REST {
        return 0;
    }
    let length = ((rest >> 48) as u16).swap_bytes();
    V2_FIXED_BYTES + u32::from(length)
}
