//! Entry points of the probes: one function a hook, and nothing else.
//!
//! In: packets at the cgroup that is watched, or at those of proxies in it, TCP tracepoints, `connect(2)`. Out: records in the ring
//! ([`output`]) and tallies ([`tallies`]). A probe never changes, drops or delays a packet:
//! the packet programs always return [`PASS`]. What happened on a socket is decided here;
//! why it happened is not (that is `agent-core`'s).
//!
//! Reading order: [`packet`] → [`segment`] → the crate `agent-flow` (what the bytes mean, and their
//! number), which asks [`world`] and [`machine`]. Then [`lifecycle`] (what TCP says), [`connecting`] (what
//! `connect(2)` says), [`listener`] (what became of a SYN), [`errand`] (whom a thread works for),
//! [`attention`] and [`scope`] (who is looked at), [`held`] (what is told in brief), [`serving`] (who begins to listen), [`by_cookie`] (old kernels), [`dns`], [`death`],
//! [`log`]. State lives in [`flow`], one per socket, in the socket's storage.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod attention;
mod by_cookie;
mod calls;
mod connecting;
mod death;
mod deferred;
mod dns;
mod errand;
mod flow;
mod held;
mod kernel;
mod lifecycle;
mod listener;
mod log;
mod machine;
mod output;
mod packet;
mod scope;
mod scratch;
mod segment;
mod serving;
mod tallies;
mod world;

use aya_ebpf::macros::{btf_tracepoint, cgroup_skb, fentry, fexit, sock_ops, tracepoint};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, FExitContext, SkBuffContext, SockOpsContext,
    TracePointContext,
};

use crate::flow::Flow;
use crate::kernel::{Registers, Sock};

// The macros write an entry around each function. Of the three that run for every message it is one
// with the function: a call and its return are not cheap where the kernel guards returns.

/// Let the packet go on: the only verdict these programs have.
const PASS: i32 = 1;

#[cgroup_skb(egress)]
#[inline(always)]
fn packet_out(ctx: SkBuffContext) -> i32 {
    if kernel::idle() {
        return PASS;
    }
    segment::sent(&ctx);
    PASS
}

#[cgroup_skb(ingress)]
#[inline(always)]
fn packet_in(ctx: SkBuffContext) -> i32 {
    if kernel::idle() {
        return PASS;
    }
    segment::received(&ctx);
    PASS
}

// void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
fn state_changed(ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(sk) = Sock::from_arg(ctx.arg(0)) {
        lifecycle::state_changed(sk, ctx.arg(1), ctx.arg(2));
    }
    0
}

// void tcp_receive_reset(struct sock *sk)
#[btf_tracepoint(function = "tcp_receive_reset")]
fn reset_received(ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(flow) = flow_of(&ctx) {
        lifecycle::reset_received(flow);
    }
    0
}

// void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb,
//                     const enum sk_rst_reason reason)    [the reason since 6.10]
#[btf_tracepoint(function = "tcp_send_reset")]
fn reset_sent(ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    // Where there is no such argument, the verifier does not let it be read.
    let reason = if kernel::reset_has_reason() {
        kernel::reset_reason(ctx.arg(2))
    } else {
        0
    };
    if let Some(flow) = flow_of(&ctx) {
        lifecycle::reset_sent(flow, reason);
    }
    0
}

// void tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb, ...)
#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmitted(ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(flow) = flow_of(&ctx) {
        lifecycle::retransmitted(flow);
    }
    0
}

// void inet_sk_error_report(const struct sock *sk)
#[btf_tracepoint(function = "inet_sk_error_report")]
fn error_reported(ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(sk) = Sock::from_arg(ctx.arg(0))
        && let Some(flow) = flow::of(sk)
    {
        lifecycle::error_reported(flow, sk);
    }
    0
}

// void tcp_destroy_sock(struct sock *sk)
#[btf_tracepoint(function = "tcp_destroy_sock")]
fn destroyed(ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(flow) = flow_of(&ctx) {
        lifecycle::destroyed(flow);
    }
    0
}

// void tcp_rcv_space_adjust(struct sock *sk): fires once per receive that copied data, in
// the thread that reads.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
#[inline(always)]
fn data_read(ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(flow) = flow_of(&ctx) {
        errand::data_read(flow);
    }
    0
}

// void sched_process_exit(struct task_struct *p): in each thread that ends, before it closes its files.
#[btf_tracepoint(function = "sched_process_exit")]
fn process_ends(_ctx: BtfTracePointContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    death::ends();
    0
}

// The same again for kernels before 5.11, whose typed tracepoints cannot reach a socket's
// storage: see `by_cookie`. Not loaded elsewhere.
#[sock_ops]
fn state_callback(ctx: SockOpsContext) -> u32 {
    if kernel::idle() {
        return 1;
    }
    by_cookie::callback(&ctx);
    1
}

#[tracepoint(category = "tcp", name = "tcp_receive_reset")]
fn reset_received_by_cookie(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(flow) = by_cookie::flow_of(&ctx) {
        lifecycle::reset_received(flow);
    }
    0
}

#[tracepoint(category = "tcp", name = "tcp_destroy_sock")]
fn destroyed_by_cookie(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    by_cookie::destroyed(&ctx);
    0
}

#[tracepoint(category = "tcp", name = "tcp_rcv_space_adjust")]
fn data_read_by_cookie(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    if let Some(flow) = by_cookie::flow_of(&ctx) {
        errand::data_read(flow);
    }
    0
}

// long __x64_sys_socket(const struct pt_regs *regs), and its like: the daemon knows the names.
#[fexit]
fn socket_made(ctx: FExitContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    let registers = Registers::from_arg(ctx.arg(0));
    let [family, socket_type] = [0, 1].map(|number| registers.argument(number));
    connecting::socket_made(family, socket_type, ctx.arg(1));
    0
}

#[fexit]
fn bind_returned(ctx: FExitContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    let registers = Registers::from_arg(ctx.arg(0));
    connecting::bound(registers.argument(0), ctx.arg(1));
    0
}

#[fentry]
fn connect_called(ctx: FEntryContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    let registers = Registers::from_arg(ctx.arg(0));
    let [fd, address, length] = [0, 1, 2].map(|number| registers.argument(number));
    connecting::called(fd, address, length);
    0
}

#[fexit]
fn connect_returned(ctx: FExitContext) -> i32 {
    if kernel::idle() {
        return 0;
    }
    connecting::returned(ctx.arg(1));
    0
}

// The same again for kernels that attach nothing to functions (arm64 before 6.4). While somebody
// listens at such a tracepoint, every system call of the host takes a slower way.
#[tracepoint(category = "syscalls", name = "sys_enter_socket")]
fn socket_enter(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    connecting::socket_enter(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_socket")]
fn socket_exit(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    connecting::socket_exit(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_enter_bind")]
fn bind_enter(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    connecting::bind_enter(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_bind")]
fn bind_exit(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    connecting::bind_exit(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_enter_connect")]
fn connect_enter(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    connecting::connect_enter(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
fn connect_exit(ctx: TracePointContext) -> u32 {
    if kernel::idle() {
        return 0;
    }
    connecting::connect_exit(&ctx);
    0
}

/// The flow of the socket that is a typed tracepoint's first argument.
fn flow_of(ctx: &BtfTracePointContext) -> Option<&'static mut Flow> {
    Sock::from_arg(ctx.arg(0)).and_then(flow::of)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
