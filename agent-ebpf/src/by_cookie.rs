//! What kernels before 5.11 need instead: there a typed tracepoint may not reach a socket's
//! storage (`bpf_sk_storage_get` for tracing programs, 5.11), and sockets tell no errors
//! (`sock:inet_sk_error_report`, 5.15).
//!
//! Flows lie in a map, found by the socket's cookie, which classic tracepoints tell. Changes of
//! state come from callbacks (sock_ops), asked for when a socket starts to connect or is accepted;
//! a callback changes nothing but which of them come. Resets that leave are seen as packets. The
//! errno of an error is not told: a socket that goes to CLOSE without a reset, and not by its own
//! thread, was taken down by the kernel, for a reason not known.
//!
//! On newer kernels the daemon makes the map as small as a map can be and loads none of these
//! programs, and the verifier takes the calls out of the others.

use agent_wire::record::flag;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RETRANS_CB, BPF_SOCK_OPS_RETRANS_CB_FLAG,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB,
};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{SockOpsContext, TracePointContext};

use crate::flow::{self, Flow};
use crate::kernel::{self, Sock};
use crate::lifecycle;
use crate::serving;

/// Flows by cookie; the daemon sets how many.
#[btf_map]
static FLOWS_BY_COOKIE: HashMap<u64, Flow, 1> = HashMap::new();

/// A flow without anything in it, larger than the stack.
#[btf_map]
static NOTHING: Array<Flow, 1> = Array::new();

/// `sock_cookie` in the tracepoints that have the layout of `tcp_event_sk`; the daemon compares
/// it with what tracefs says.
const COOKIE: usize = 64;

#[inline(always)]
pub(crate) fn get(cookie: u64) -> Option<&'static mut Flow> {
    FLOWS_BY_COOKIE.get_ptr_mut(cookie).map(kernel::value)
}

/// The flow of a socket, made when it has none; `None` when the map is full.
#[inline(always)]
pub(crate) fn get_or_create(cookie: u64) -> Option<&'static mut Flow> {
    if let Some(flow) = get(cookie) {
        return Some(flow);
    }
    let nothing: &Flow = NOTHING.get_ptr_mut(0).map(kernel::value)?;
    let _ = FLOWS_BY_COOKIE.insert(cookie, nothing, 0);
    get(cookie)
}

/// The flow of the socket of a classic tracepoint.
#[inline(always)]
pub(crate) fn flow_of(ctx: &TracePointContext) -> Option<&'static mut Flow> {
    get(kernel::field(ctx, COOKIE)?)
}

/// The socket is gone, and its flow with it.
#[inline(always)]
pub(crate) fn destroyed(ctx: &TracePointContext) {
    let Some(cookie) = kernel::field::<u64>(ctx, COOKIE) else {
        return;
    };
    if let Some(flow) = get(cookie) {
        if flow.flags.has::<{ flag::LOCAL_RESET }>() {
            lifecycle::tell_reset_sent(flow);
        }
        lifecycle::destroyed(flow);
        let _ = FLOWS_BY_COOKIE.remove(cookie);
    }
}

/// A reset leaves as a packet. Only noted, for the packet programs have no stack to tell it; it is
/// told when the socket is destroyed.
#[inline(always)]
pub(crate) fn reset_leaves(flow: &mut Flow) {
    if !flow.flags.has::<{ flag::PEER_RESET }>() {
        flow.flags.set::<{ flag::LOCAL_RESET }>();
    }
}

/// TCP calls back.
#[inline(always)]
pub(crate) fn callback(ctx: &SockOpsContext) {
    let Some(sk) = Sock::of_callback(ctx) else {
        return;
    };
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            ask_for_more(ctx);
            lifecycle::opening(sk);
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => ask_for_more(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => serving::begins(),
        BPF_SOCK_OPS_STATE_CB => {
            lifecycle::state_changed(sk, ctx.arg(0) as i32, ctx.arg(1) as i32);
        }
        BPF_SOCK_OPS_RETRANS_CB => {
            if let Some(flow) = flow::of(sk) {
                lifecycle::retransmitted(flow);
            }
        }
        _ => {}
    }
}

/// Beside what other programs have asked for.
#[inline(always)]
fn ask_for_more(ctx: &SockOpsContext) {
    let more = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG;
    let _ = ctx.set_cb_flags((ctx.cb_flags() | more) as i32);
}
