//! Entry points of the probes: one function a hook, and nothing else.
//!
//! In: packets at the cgroup root, TCP tracepoints, `connect(2)`. Out: records in the ring
//! ([`output`]) and tallies ([`tallies`]). A probe never changes, drops or delays a packet:
//! the packet programs always return [`PASS`]. What happened on a socket is decided here;
//! why it happened is not (that is `agent-core`'s).
//!
//! Reading order: [`packet`] → [`segment`] → [`http1`] and [`head`], or [`tls`] (what the bytes mean), then
//! [`lifecycle`] (what TCP says), [`connecting`] (what `connect(2)` says), [`listener`] (what
//! became of a SYN), [`errand`] (whom a thread works for), [`attention`] (who is looked at), [`dns`], [`death`], [`log`]. State lives in
//! [`flow`], one per socket, in the socket's storage.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod attention;
mod body;
mod chunks;
mod connecting;
mod death;
mod deferred;
mod dns;
mod errand;
mod flow;
mod head;
mod http1;
mod kernel;
mod lifecycle;
mod listener;
mod log;
mod output;
mod packet;
mod request_line;
mod scan;
mod scratch;
mod segment;
mod tallies;
mod tls;

use aya_ebpf::macros::{btf_tracepoint, cgroup_skb, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, SkBuffContext, TracePointContext};

/// Let the packet go on: the only verdict these programs have.
const PASS: i32 = 1;

#[cgroup_skb(egress)]
fn packet_out(ctx: SkBuffContext) -> i32 {
    segment::sent(&ctx);
    PASS
}

#[cgroup_skb(ingress)]
fn packet_in(ctx: SkBuffContext) -> i32 {
    segment::received(&ctx);
    PASS
}

// void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
fn state_changed(ctx: BtfTracePointContext) -> i32 {
    lifecycle::state_changed(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

// void tcp_receive_reset(struct sock *sk)
#[btf_tracepoint(function = "tcp_receive_reset")]
fn reset_received(ctx: BtfTracePointContext) -> i32 {
    lifecycle::reset_received(ctx.arg(0));
    0
}

// void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb,
//                     const enum sk_rst_reason reason)    [the reason since 6.10]
#[btf_tracepoint(function = "tcp_send_reset")]
fn reset_sent(ctx: BtfTracePointContext) -> i32 {
    // Where there is no such argument, the verifier does not let it be read.
    let reason = if kernel::reset_has_reason() {
        kernel::reset_reason(ctx.arg(2))
    } else {
        0
    };
    lifecycle::reset_sent(ctx.arg(0), reason);
    0
}

// void tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb, ...)
#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmitted(ctx: BtfTracePointContext) -> i32 {
    lifecycle::retransmitted(ctx.arg(0));
    0
}

// void inet_sk_error_report(const struct sock *sk)
#[btf_tracepoint(function = "inet_sk_error_report")]
fn error_reported(ctx: BtfTracePointContext) -> i32 {
    lifecycle::error_reported(ctx.arg(0));
    0
}

// The same tracepoint, classic: it has the errno that the typed one has not. Attached
// first, so that it runs first and leaves the errno for the typed one.
#[tracepoint(category = "sock", name = "inet_sk_error_report")]
fn error_number(ctx: TracePointContext) -> u32 {
    lifecycle::error_number(&ctx);
    0
}

// void tcp_destroy_sock(struct sock *sk)
#[btf_tracepoint(function = "tcp_destroy_sock")]
fn destroyed(ctx: BtfTracePointContext) -> i32 {
    lifecycle::destroyed(ctx.arg(0));
    0
}

// void tcp_rcv_space_adjust(struct sock *sk): fires once per receive that copied data, in
// the thread that reads.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
fn data_read(ctx: BtfTracePointContext) -> i32 {
    errand::data_read(ctx.arg(0));
    0
}

#[tracepoint(category = "syscalls", name = "sys_enter_socket")]
fn socket_enter(ctx: TracePointContext) -> u32 {
    connecting::socket_enter(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_socket")]
fn socket_exit(ctx: TracePointContext) -> u32 {
    connecting::socket_exit(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_enter_connect")]
fn connect_enter(ctx: TracePointContext) -> u32 {
    connecting::connect_enter(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
fn connect_exit(ctx: TracePointContext) -> u32 {
    connecting::connect_exit(&ctx);
    0
}

#[tracepoint(category = "signal", name = "signal_deliver")]
fn signal_delivered(ctx: TracePointContext) -> u32 {
    death::signal_delivered(&ctx);
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
