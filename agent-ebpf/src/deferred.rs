//! Data that comes with the packet that completes a handshake.
//!
//! That packet passes the hook of the listener, for the connection has no socket yet
//! (`tcp_v4_rcv`, net/ipv4/tcp_ipv4.c). It is the rule where the listener waits for data
//! (TCP_DEFER_ACCEPT: Apache httpd, nginx `listen ... deferred`), and happens wherever the last
//! packet of a handshake is lost. What it carried is kept for the socket, which the kernel makes
//! next on the same CPU, without a packet in between.
//!
//! A listener whose accept queue is full makes no socket (`tcp_check_req`,
//! net/ipv4/tcp_minisocks.c): the client sends its data again, and what was kept must go to nobody
//! else. The next handshake on this CPU passes the hook of its listener first, which forgets what
//! is kept; and only a socket with the same ports may take it.

use agent_flow::bytes::Payload;
use agent_flow::recognition;
use agent_wire::limits::HEAD_BYTES;
use agent_wire::tally::Tally;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkBuffContext;

use crate::calls;
use crate::flow::Flow;
use crate::kernel::{self, Sock};
use crate::packet::{self, Segment};
use crate::tallies;
use crate::world::Bare;

/// The socket is made within this time, or never, ns. That takes microseconds, and as long as the CPU is
/// taken away meanwhile: the kernel is not interrupted by its own tasks there, a virtual machine is by
/// others. Shorter: a request is reported nowhere. Longer: nothing, for ports are compared.
const MADE_WITHIN: u64 = 1_000_000_000;

/// What came before the socket.
#[repr(C)]
struct Early {
    at_ns: u64,
    seq: u32,
    len: u32,
    local: [u8; 16],
    remote: [u8; 16],
    local_port: u16,
    remote_port: u16,
    reserved: u32,
    bytes: [u8; HEAD_BYTES],
}

#[btf_map]
static EARLY: PerCpuArray<Early, 1> = PerCpuArray::new();

/// Data arrived at a listener.
#[inline(always)]
pub(crate) fn keep(ctx: &SkBuffContext, segment: &Segment) {
    let Some(early) = EARLY.get_ptr_mut(0).map(kernel::value) else {
        return;
    };
    early.forget();
    let header = calls::proxy_header(ctx, Payload::at(segment.tcp.offset, segment.tcp.len));
    if header >= segment.tcp.len {
        // What stands behind it comes when there is a socket.
        return;
    }
    let left = segment.tcp.len - header;
    early.at_ns = kernel::now();
    early.seq = segment.tcp.seq.wrapping_add(header);
    early.len = left;
    early.local_port = segment.destination;
    early.remote_port = segment.source;
    packet::addresses(ctx, segment, &mut early.remote, &mut early.local);
    let len = if left > HEAD_BYTES as u32 {
        HEAD_BYTES as u32
    } else {
        left
    };
    let at = segment.tcp.offset + header;
    if !kernel::load_at::<HEAD_BYTES, _>(ctx, at, &mut early.bytes, 0, len) {
        early.at_ns = 0;
        tallies::count(Tally::HEADERS_UNREADABLE);
    }
}

/// A packet without data arrived at a listener: the next socket is of that packet.
#[inline(always)]
pub(crate) fn forget() {
    if let Some(early) = EARLY.get_ptr_mut(0).map(kernel::value) {
        early.forget();
    }
}

impl Early {
    #[inline(always)]
    fn forget(&mut self) {
        if self.at_ns != 0 {
            self.at_ns = 0;
            tallies::count(Tally::EARLY_DATA_LEFT);
        }
    }
}

/// `flow` is a new connection that a client opened: take in what came with it.
#[inline(always)]
pub(crate) fn take(flow: &mut Flow, sk: Sock) {
    let Some(early) = EARLY.get_ptr_mut(0).map(kernel::value) else {
        return;
    };
    let at = early.at_ns;
    if at == 0 {
        return;
    }
    if kernel::now().wrapping_sub(at) > MADE_WITHIN
        || sk.ports() != (early.local_port, early.remote_port)
    {
        early.forget();
        return;
    }
    early.at_ns = 0;
    flow.header.local = early.local;
    flow.header.remote = early.remote;
    flow.addressed = 1;
    flow.header.local_port = early.local_port;
    flow.header.remote_port = early.remote_port;
    let payload = Payload {
        offset: 0,
        len: early.len,
        seq: early.seq,
        hole: 0,
    };
    recognition::early(&Bare(sk), flow, &early.bytes, payload, at);
}
