//! Names that a proxy asks for while it serves a request: UDP to and from port 53.
//!
//! Only threads that work for a client are looked at, and only their questions and what the
//! answers say of success. No name leaves the kernel.

use agent_wire::record::{Dns, Errand, Header, kind};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkBuffContext;

use crate::errand;
use crate::kernel::{self, Sock};
use crate::output;
use crate::packet::{self, Datagram};

const PORT: u16 = 53;

/// A resolver's socket.
#[repr(C)]
struct Asking {
    asked_ns: u64,
    errand: Errand,
    tgid: u32,
    reserved: u32,
}

#[btf_map]
static ASKING: SkStorage<Asking> = SkStorage::new();

/// A packet that is no TCP segment leaves.
#[inline(always)]
pub(crate) fn sent(ctx: &SkBuffContext) {
    let Some(datagram) = packet::datagram(ctx) else {
        return;
    };
    if datagram.destination != PORT {
        return;
    }
    // A datagram is sent by the thread that has something to say: the running one.
    let now = kernel::now();
    let Some((errand, tgid)) = errand::of_server_thread(now) else {
        return;
    };
    let Some(asking) =
        Sock::of_packet(ctx).and_then(|sk| kernel::storage_get_or_create(&ASKING, sk))
    else {
        return;
    };
    asking.asked_ns = now;
    asking.errand = errand;
    asking.tgid = tgid;
    tell(ctx, &datagram, asking, now, false);
}

/// A packet that is no TCP segment arrives.
#[inline(always)]
pub(crate) fn received(ctx: &SkBuffContext) {
    let Some(datagram) = packet::datagram(ctx) else {
        return;
    };
    if datagram.source != PORT {
        return;
    }
    let Some(asking) = Sock::of_packet(ctx).and_then(|sk| kernel::storage_get(&ASKING, sk)) else {
        return;
    };
    tell(ctx, &datagram, asking, kernel::now(), true);
}

#[inline(always)]
fn tell(ctx: &SkBuffContext, datagram: &Datagram, asking: &Asking, now: u64, answered: bool) {
    // Id, flags, QDCOUNT, ANCOUNT (RFC 1035, 4.1.1).
    let Some(start) = kernel::load_u64(ctx, datagram.offset) else {
        return;
    };
    let bytes = start.to_le_bytes();
    output::emit(
        &Dns {
            header: Header {
                tgid: asking.tgid,
                ..Header::default()
            },
            errand: asking.errand,
            asked_ns: asking.asked_ns,
            answered: u8::from(answered),
            rcode: bytes[3] & 0x0f,
            answers: u16::from_be_bytes([bytes[6], bytes[7]]),
            id: u16::from_be_bytes([bytes[0], bytes[1]]),
            reserved: 0,
        },
        kind::DNS,
        now,
    );
}
