//! A TCP segment on a socket: what its header says of the peer, and what of its bytes is new.
//!
//! In: each segment of a connection. Out: new bytes go to [`crate::recognition`]. Every segment passes
//! here, so the ways out come early: no payload, a connection that is not HTTP.

use agent_wire::record::flag;
use agent_wire::tally::Tally;

use crate::bytes::Payload;
use crate::clients;
use crate::ending;
use crate::flow::{Flow, phase};
use crate::machine::Machine;
use crate::recognition;
use crate::unread;
use crate::world::{FlowOf, Source, World};

/// Segments out of order that may wait for the start of a head. Too small: where the head is lost
/// and much was under way behind it, the status is not known (a window of 1.5 MB is 1000 segments).
/// Too large: a stream that is followed wrongly is taken up again late.
const AHEAD_LIMIT: u16 = 1024;

/// TCP flags, byte 13 of the header (RFC 9293, 3.1).
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

/// What the header of a TCP segment says, and where its payload is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// [`FIN`] and its like.
    pub flags: u8,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window offered, unscaled: 0 is 0 at any scale.
    pub window: u16,
    /// Where the payload starts in the source.
    pub offset: u32,
    /// Bytes of payload.
    pub len: u32,
}

impl Segment {
    #[inline(always)]
    fn payload(&self) -> Payload {
        Payload {
            offset: self.offset,
            len: self.len,
            seq: self.seq,
            hole: 0,
        }
    }
}

/// A segment leaves.
#[inline(always)]
pub fn sent<S: Source>(source: &S, flow: &mut FlowOf<S>, segment: &Segment) {
    if segment.flags & SYN != 0 {
        flow.header.syns = flow.header.syns.wrapping_add(1);
        flow.sent.end = segment.seq.wrapping_add(1);
        flow.sent.known = 1;
    }
    let unread = unread::follows(flow);
    if segment.len > 0 {
        if unread {
            unread::sent(source.world(), flow, segment.payload());
        } else {
            clients::sent(flow);
        }
    }
    if flow.phase >= phase::TUNNEL {
        return;
    }
    if segment.len > 0
        && let Some(payload) = new_bytes(source, flow, segment, true)
    {
        recognition::bytes(source, flow, payload, true);
    }
    // A proxy that closes with the answer still queued is in FIN_WAIT1 long before its last
    // byte leaves: on the client side the FIN packet, not the state, ends the exchange.
    if segment.flags & FIN != 0 && flow.is_client_side() {
        ending::client_side_fin_sent(source.world(), flow);
    }
}

/// A segment arrives.
#[inline(always)]
pub fn received<S: Source>(source: &S, flow: &mut FlowOf<S>, segment: &Segment) {
    if segment.flags & RST != 0 {
        if segment.flags & ACK != 0 {
            flow.flags.set::<{ flag::RESET_HAD_ACK }>();
        } else {
            flow.flags.clear::<{ flag::RESET_HAD_ACK }>();
        }
    }
    let unread = unread::follows(flow);
    if flow.phase >= phase::TUNNEL && !unread {
        return;
    }
    if segment.flags & ACK != 0 {
        if flow.acked == 0 || segment.ack.wrapping_sub(flow.acked) as i32 > 0 {
            flow.acked = segment.ack;
        }
        if flow.header.retransmits != 0 {
            flow.flags.set::<{ flag::PEER_ANSWERS }>();
        }
        if segment.flags & RST == 0 && flow.window_counts == 0 {
            if segment.window == 0 {
                flow.flags.set::<{ flag::ZERO_WINDOW }>();
            } else {
                flow.flags.clear::<{ flag::ZERO_WINDOW }>();
            }
        }
    }
    if segment.flags & SYN != 0 {
        flow.received.end = segment.seq.wrapping_add(1);
        flow.received.known = 1;
    }
    if unread && segment.len > 0 {
        unread::received(source.world(), flow, segment.payload());
    }
    if flow.phase >= phase::TUNNEL {
        return;
    }
    if segment.len > 0
        && let Some(payload) = new_bytes(source, flow, segment, false)
    {
        recognition::bytes(source, flow, payload, false);
    }
}

/// What of the segment was not seen before.
///
/// `end` follows the stream without a hole while a head is awaited or read: heads need
/// their bytes in order. In a body only the highest byte counts: what a hole lacks is counted
/// with what came behind it, and the late segment is one that carries nothing new.
#[inline(always)]
fn new_bytes<S: Source>(
    source: &S,
    flow: &mut FlowOf<S>,
    segment: &Segment,
    sent: bool,
) -> Option<Payload> {
    let end = segment.seq.wrapping_add(segment.len);
    let ordered = !sent && order_matters(flow);
    let stream = if sent {
        &mut flow.sent
    } else {
        &mut flow.received
    };
    if stream.known == 0 {
        stream.known = 1;
        stream.end = segment.seq;
    }
    let was = stream.end;
    if end.wrapping_sub(was) as i32 <= 0 {
        source.world().count(Tally::RETRANSMITTED);
        return None;
    }
    let gap = segment.seq.wrapping_sub(was) as i32;
    if gap > 0 && ordered {
        if flow.ahead < AHEAD_LIMIT {
            flow.ahead += 1;
            if flow.ahead == 1 || end.wrapping_sub(flow.ahead_end) as i32 > 0 {
                flow.ahead_end = end;
                flow.ahead_tail = if segment.len >= 8 {
                    source
                        .load_u64(segment.offset + segment.len - 8)
                        .unwrap_or(0)
                        .swap_bytes()
                } else {
                    0
                };
            }
            return None;
        }
        flow.flags.set::<{ flag::HEAD_CUT }>();
        source.world().count(Tally::HEAD_REORDERED);
    }
    if gap > 0 {
        flow.chunks.lose();
    }
    let stream = if sent {
        &mut flow.sent
    } else {
        &mut flow.received
    };
    stream.end = end;
    if gap < 0 {
        let seen = was.wrapping_sub(segment.seq);
        return Some(Payload {
            offset: segment.offset + seen,
            len: segment.len - seen,
            seq: was,
            hole: 0,
        });
    }
    Some(Payload {
        offset: segment.offset,
        len: segment.len,
        seq: segment.seq,
        hole: gap as u32,
    })
}

/// True when received bytes are part of a head, or may start one.
#[inline(always)]
fn order_matters<M: Machine>(flow: &Flow<M>) -> bool {
    match flow.phase {
        phase::UNKNOWN => flow.header.opened_ns != 0,
        phase::IDLE => true,
        phase::REQUEST_HEAD => flow.is_client_side(),
        phase::REQUEST | phase::RESPONSE_HEAD => flow.is_upstream_side(),
        _ => false,
    }
}
