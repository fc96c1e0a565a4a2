//! A TCP segment on a socket: what of it is new, and who should look at it.
//!
//! Goes in: every packet of every TCP socket on the host, so the ways out come early:
//! not TCP, no flow and no payload, a flow that is not HTTP.

use agent_flow::bytes::Payload;
use agent_wire::record::flag;
use agent_wire::tally::Tally;
use aya_ebpf::programs::SkBuffContext;

use crate::by_cookie;
use crate::clients;
use crate::deferred;
use crate::dns;
use crate::flow::{Flow, phase};
use crate::http1;
use crate::kernel::{self, Sock};
use crate::lifecycle;
use crate::listener;
use crate::packet::{self, ACK, FIN, RST, SYN, Segment};
use crate::tallies;
use crate::tls;
use crate::unread;

/// Segments out of order that may wait for the start of a head. Too small: where the head is lost
/// and much was under way behind it, the status is not known (a window of 1.5 MB is 1000 segments).
/// Too large: a stream that is followed wrongly is taken up again late.
const AHEAD_LIMIT: u16 = 1024;

/// A segment leaves.
#[inline(always)]
pub(crate) fn sent(ctx: &SkBuffContext) {
    let Some(segment) = packet::parse(ctx) else {
        dns::sent(ctx);
        return;
    };
    if segment.flags & (SYN | ACK) == SYN | ACK {
        listener::syn_answered(ctx, &segment);
        return;
    }
    let Some(sk) = Sock::of_packet(ctx) else {
        return;
    };
    let Some(flow) = flow_of(sk, &segment) else {
        return;
    };
    if kernel::by_cookie() && segment.flags & RST != 0 {
        by_cookie::reset_leaves(flow);
    }
    if segment.flags & SYN != 0 {
        flow.header.syns = flow.header.syns.wrapping_add(1);
        flow.sent.end = segment.seq.wrapping_add(1);
        flow.sent.known = 1;
    }
    if flow.addressed == 0 {
        flow.addressed = 1;
        flow.header.local_port = segment.source;
        flow.header.remote_port = segment.destination;
        let header = &mut flow.header;
        packet::addresses(ctx, &segment, &mut header.local, &mut header.remote);
    }
    let unread = unread::follows(flow);
    if segment.len > 0 {
        if unread {
            unread::sent(flow, &segment);
        } else {
            clients::sent(flow);
        }
    }
    if flow.phase >= phase::TUNNEL {
        return;
    }
    if segment.len > 0
        && let Some(payload) = new_bytes(ctx, flow, &segment, true)
    {
        bytes(ctx, flow, sk, payload, true);
    }
    // A proxy that closes with the answer still queued is in FIN_WAIT1 long before its last
    // byte leaves: on the client side the FIN packet, not the state, ends the exchange.
    if segment.flags & FIN != 0 && flow.is_client_side() {
        lifecycle::client_side_fin_sent(flow);
    }
}

/// A segment arrives.
#[inline(always)]
pub(crate) fn received(ctx: &SkBuffContext) {
    let Some(segment) = packet::parse(ctx) else {
        dns::received(ctx);
        return;
    };
    if segment.flags & (SYN | ACK) == SYN {
        listener::syn_arrived(ctx, &segment);
        return;
    }
    let Some(sk) = Sock::of_packet(ctx) else {
        return;
    };
    if sk.is_listening() {
        if segment.len > 0 {
            deferred::keep(ctx, &segment);
        } else {
            deferred::forget();
        }
        return;
    }
    let Some(flow) = flow_of(sk, &segment) else {
        return;
    };
    if flow.addressed == 0 {
        flow.addressed = 1;
        flow.header.local_port = segment.destination;
        flow.header.remote_port = segment.source;
        let header = &mut flow.header;
        packet::addresses(ctx, &segment, &mut header.remote, &mut header.local);
    }
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
        if segment.flags & RST == 0 {
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
        unread::received(flow, &segment);
    }
    if flow.phase >= phase::TUNNEL {
        return;
    }
    if segment.len > 0
        && let Some(payload) = new_bytes(ctx, flow, &segment, false)
    {
        bytes(ctx, flow, sk, payload, false);
    }
}

/// New bytes: to whom they speak.
#[inline(always)]
fn bytes(ctx: &SkBuffContext, flow: &mut Flow, sk: Sock, payload: Payload, sent: bool) {
    if flow.phase == phase::HANDSHAKE {
        tls::bytes(ctx, flow, payload, sent);
    } else {
        http1::bytes(ctx, flow, sk, payload, sent);
    }
}

/// The flow of the packet's socket. A socket without one is picked up at its next payload:
/// it was there before the agent.
#[inline(always)]
fn flow_of(sk: Sock, segment: &Segment) -> Option<&'static mut Flow> {
    if let Some(flow) = Flow::of(sk) {
        return Some(flow);
    }
    if segment.len == 0 || segment.flags & (SYN | RST) != 0 {
        return None;
    }
    Flow::open(sk, sk.cookie(), false)
}

/// What of the segment was not seen before.
///
/// `end` follows the stream without a hole while a head is awaited or read: heads need
/// their bytes in order. In a body only the highest byte counts: what a hole lacks is counted
/// with what came behind it, and the late segment is one that carries nothing new.
#[inline(always)]
fn new_bytes(
    ctx: &SkBuffContext,
    flow: &mut Flow,
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
        tallies::count(Tally::RETRANSMITTED);
        return None;
    }
    let gap = segment.seq.wrapping_sub(was) as i32;
    if gap > 0 && ordered {
        if flow.ahead < AHEAD_LIMIT {
            flow.ahead += 1;
            if flow.ahead == 1 || end.wrapping_sub(flow.ahead_end) as i32 > 0 {
                flow.ahead_end = end;
                flow.ahead_tail = if segment.len >= 8 {
                    kernel::load_u64(ctx, segment.offset + segment.len - 8)
                        .unwrap_or(0)
                        .swap_bytes()
                } else {
                    0
                };
            }
            return None;
        }
        flow.flags.set::<{ flag::HEAD_CUT }>();
        tallies::count(Tally::HEAD_REORDERED);
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
fn order_matters(flow: &Flow) -> bool {
    match flow.phase {
        phase::UNKNOWN => flow.header.opened_ns != 0,
        phase::IDLE => true,
        phase::REQUEST_HEAD => flow.is_client_side(),
        phase::REQUEST | phase::RESPONSE_HEAD => flow.is_upstream_side(),
        _ => false,
    }
}
