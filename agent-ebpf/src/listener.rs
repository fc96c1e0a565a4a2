//! What became of a SYN that arrived at a listener of this host.
//!
//! A listener whose accept queue is full drops the SYN without a word (`tcp_conn_request`,
//! net/ipv4/tcp_input.c); on the wire that looks like a lost packet. Here it does not: the SYN
//! passes the listener's ingress hook, and no SYN-ACK passes its egress hook.

use agent_wire::limits::UNANSWERED_SYNS;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkBuffContext;

use crate::flow::Flow;
use crate::packet::{self, Segment};

/// Who asked whom.
#[repr(C)]
#[derive(Clone, Copy)]
struct Asked {
    client: [u8; 16],
    server: [u8; 16],
    client_port: u16,
    server_port: u16,
}

/// SYNs not answered yet.
#[btf_map]
static SYNS: LruHashMap<Asked, u8, { UNANSWERED_SYNS as usize }> = LruHashMap::new();

/// A SYN arrived at a listener.
#[inline(always)]
pub(crate) fn syn_arrived(ctx: &SkBuffContext, segment: &Segment) {
    let mut asked = Asked {
        client: [0; 16],
        server: [0; 16],
        client_port: segment.source,
        server_port: segment.destination,
    };
    packet::addresses(ctx, segment, &mut asked.client, &mut asked.server);
    let _ = SYNS.insert(asked, 1, 0);
}

/// A SYN-ACK left.
#[inline(always)]
pub(crate) fn syn_answered(ctx: &SkBuffContext, segment: &Segment) {
    let mut asked = Asked {
        client: [0; 16],
        server: [0; 16],
        client_port: segment.destination,
        server_port: segment.source,
    };
    packet::addresses(ctx, segment, &mut asked.server, &mut asked.client);
    let _ = SYNS.remove(asked);
}

/// The SYN of `flow` arrived at a listener of this host and was not answered.
#[inline(always)]
pub(crate) fn is_silent(flow: &Flow) -> bool {
    let asked = Asked {
        client: flow.header.local,
        server: flow.header.remote,
        client_port: flow.header.local_port,
        server_port: flow.header.remote_port,
    };
    SYNS.get_ptr(asked).is_some()
}
