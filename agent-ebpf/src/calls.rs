//! What the verifier walks once, instead of once for every way that leads to it: global functions, of
//! which it assumes nothing but the types of what they are given (Linux 5.6).
//!
//! They find by themselves what the caller has at hand: before 5.13 a global function takes numbers and
//! the context only. So they change what the caller has a reference to, by a way that the compiler does not
//! see ([`changed_by`]).
#![expect(
    unsafe_code,
    reason = "names that the loader finds, and one instruction for the compiler"
)]

use agent_flow::bytes::Payload;
use agent_flow::http1::{head, scan};
use agent_flow::proxy_header;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::SkBuffContext;

use crate::attention;
use crate::flow::{self, Flow};
use crate::held;
use crate::kernel;
use crate::kernel::Sock;
use crate::machine::Kernel;
use crate::scratch::{self, Lent};
use crate::world::Packet;

/// Runs `call`, which changes `value` by a way that the compiler does not see, the map it is in: what was
/// written to it is there before, and what is read of it is read anew behind.
#[inline(always)]
fn changed_by<T>(value: &mut T, call: impl FnOnce()) {
    exposed(value);
    call();
    exposed(value);
}

#[inline(always)]
fn exposed<T>(value: &mut T) {
    // SAFETY: changes nothing. No instruction at all would share its place with the next one's, which
    // the kernel refuses in line information.
    unsafe {
        core::arch::asm!(
            "{value} = {value}",
            value = in(reg) core::ptr::from_mut(value),
            options(nostack),
        );
    }
}

/// [`agent_flow::http1::head::read`].
#[inline(always)]
pub(crate) fn read_head(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload, now: u64) {
    changed_by(flow, || {
        head_of(ctx.skb.skb, payload.offset, payload.len, now);
    });
}

/// [`agent_flow::http1::chunks::Chunks::follow`].
#[inline(always)]
pub(crate) fn follow_chunks(ctx: &SkBuffContext, flow: &mut Flow, body: Payload) {
    changed_by(flow, || {
        chunks_of(ctx.skb.skb, body.offset, body.len);
    });
}

/// [`agent_flow::proxy_header::length`].
#[inline(always)]
pub(crate) fn proxy_header(ctx: &SkBuffContext, payload: Payload) -> u32 {
    proxy_header_of(ctx.skb.skb, payload.offset, payload.len)
}

/// [`agent_flow::http1::scan::scan`] of what is in `space`.
#[inline(always)]
pub(crate) fn scan_head(space: &mut Lent) {
    let index = space.index();
    changed_by(&mut **space, || {
        scan_of(index);
    });
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn head_of(skb: *mut __sk_buff, offset: u32, len: u32, now: u64) -> u32 {
    let ctx = SkBuffContext::new(skb);
    if let Some(sk) = Sock::of_packet(&ctx)
        && let Some(flow) = flow::of(sk)
    {
        let packet = Packet { ctx: &ctx, sk };
        head::read(&packet, flow, Payload::at(offset, len), now);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn chunks_of(skb: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let ctx = SkBuffContext::new(skb);
    if let Some(sk) = Sock::of_packet(&ctx)
        && let Some(flow) = flow::of(sk)
    {
        let packet = Packet { ctx: &ctx, sk };
        let body = Payload::at(offset, len);
        flow.chunks.follow(&packet, &flow.flags, body);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn proxy_header_of(skb: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let ctx = SkBuffContext::new(skb);
    let Some(sk) = Sock::of_packet(&ctx) else {
        return 0;
    };
    let packet = Packet { ctx: &ctx, sk };
    proxy_header::length(&packet, Payload::at(offset, len))
}

/// [`held::emit`].
#[inline(always)]
pub(crate) fn emit_held(held: u16, is_response: bool) -> bool {
    held_out(u32::from(held), u32::from(is_response)) != 0
}

/// [`held::emit_brief`].
#[inline(always)]
pub(crate) fn emit_brief(held: u16, now: u64) {
    brief_out(u32::from(held), now);
}

/// [`attention::disturbed`].
#[inline(always)]
pub(crate) fn disturbed(tgid: u32, now: u64) {
    if kernel::tells_in_brief() {
        disturbed_of(tgid, now);
    }
}

/// [`held::give_back`].
#[inline(always)]
pub(crate) fn give_back_held(held: u16) {
    held_back(u32::from(held));
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn held_out(held: u32, is_response: u32) -> u32 {
    u32::from(held::emit(held, is_response != 0))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn brief_out(held: u32, now: u64) -> u32 {
    held::emit_brief(held, now);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn disturbed_of(tgid: u32, now: u64) -> u32 {
    attention::disturbed(tgid, now);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn held_back(held: u32) -> u32 {
    held::give_back(held);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_of(space: u32) -> u32 {
    if let Some(slot) = scratch::at(space) {
        let space = &mut slot.space;
        scan::scan::<Kernel, _>(&space.bytes, &mut space.lines, &mut space.scan);
    }
    0
}
