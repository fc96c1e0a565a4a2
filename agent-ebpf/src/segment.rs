//! A packet: which socket it is of, and who should look at it.
//!
//! Goes in: every packet of every socket in the cgroups that the programs are attached to, so the
//! ways out come early: not TCP, no flow and no payload. What a segment says of its connection is `agent-flow`'s
//! ([`agent_flow::segment`]).

use agent_flow::segment::{self, ACK, RST, SYN};
use aya_ebpf::programs::SkBuffContext;

use crate::by_cookie;
use crate::deferred;
use crate::dns;
use crate::flow::{self, Flow};
use crate::kernel::{self, Sock};
use crate::listener;
use crate::packet::{self, Segment};
use crate::scope;
use crate::world::Packet;

/// A segment leaves.
#[inline(always)]
pub(crate) fn sent(ctx: &SkBuffContext) {
    let Some(segment) = packet::parse(ctx) else {
        dns::sent(ctx);
        return;
    };
    if segment.tcp.flags & (SYN | ACK) == SYN | ACK {
        listener::syn_answered(ctx, &segment);
        return;
    }
    let Some(sk) = Sock::of_packet(ctx) else {
        return;
    };
    let Some(flow) = flow_of(sk, &segment) else {
        return;
    };
    if kernel::by_cookie() && segment.tcp.flags & RST != 0 {
        by_cookie::reset_leaves(flow);
    }
    if flow.addressed == 0 {
        flow.addressed = 1;
        if segment.tcp.flags & SYN == 0 {
            let seq = (segment.tcp.len > 0).then_some(segment.tcp.seq);
            scope::first_packet(flow, sk, seq);
        }
        flow.header.local_port = segment.source;
        flow.header.remote_port = segment.destination;
        let header = &mut flow.header;
        packet::addresses(ctx, &segment, &mut header.local, &mut header.remote);
    }
    segment::sent(&Packet { ctx, sk }, flow, &segment.tcp);
}

/// A segment arrives.
#[inline(always)]
pub(crate) fn received(ctx: &SkBuffContext) {
    let Some(segment) = packet::parse(ctx) else {
        dns::received(ctx);
        return;
    };
    if segment.tcp.flags & (SYN | ACK) == SYN {
        listener::syn_arrived(ctx, &segment);
        return;
    }
    let Some(sk) = Sock::of_packet(ctx) else {
        return;
    };
    if sk.is_listening() {
        if segment.tcp.len > 0 {
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
        if segment.tcp.flags & SYN == 0 {
            scope::first_packet(flow, sk, None);
        }
        flow.header.local_port = segment.destination;
        flow.header.remote_port = segment.source;
        let header = &mut flow.header;
        packet::addresses(ctx, &segment, &mut header.remote, &mut header.local);
    }
    segment::received(&Packet { ctx, sk }, flow, &segment.tcp);
}

/// The flow of the packet's socket. A socket without one is picked up at its next payload:
/// it was there before the agent.
#[inline(always)]
fn flow_of(sk: Sock, segment: &Segment) -> Option<&'static mut Flow> {
    if let Some(flow) = flow::of(sk) {
        return Some(flow);
    }
    if segment.tcp.len == 0 || segment.tcp.flags & (SYN | RST) != 0 {
        return None;
    }
    flow::open(sk, sk.cookie(), false)
}
