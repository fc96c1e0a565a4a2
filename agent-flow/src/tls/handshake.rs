//! A TLS handshake with an upstream: how far it went, and who gave it up.
//!
//! In: the bytes of an outgoing connection that begins with a ClientHello. Out: one TLS record:
//! application data followed, or how the connection ended before that. Only record headers and
//! alerts in clear are read ([`crate::tls::records`]), and of the ClientHello the name of the
//! server, which has a record of its own; what follows the handshake is not.

use agent_wire::limits::SERVER_NAME_BYTES;
use agent_wire::record::{Hello, Tls, end, kind};

use crate::bytes::Payload;
use crate::flow::{Flow, phase};
use crate::tls::hello;
use crate::tls::records::records;
use crate::unread;
use crate::world::{FlowOf, Source, World};

/// A ClientHello leaves.
#[inline(always)]
pub fn begin<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload) {
    flow.phase = phase::HANDSHAKE;
    flow.request_seq = payload.seq;
    flow.tls.hello_ns = source.world().now();
    tell_name(source, flow, payload);
    bytes(source, flow, payload, true);
}

/// Tells which server the ClientHello names, or that it names none; nothing when not all of it is here.
#[inline(always)]
fn tell_name<S: Source>(source: &S, flow: &FlowOf<S>, payload: Payload) {
    let Some(name) = hello::server_name(source, payload) else {
        return;
    };
    source
        .world()
        .emit(kind::HELLO, flow.tls.hello_ns, |record: &mut Hello| {
            flow.head(&mut record.header);
            record.named = u8::from(name.named);
            record.reserved = [0; 5];
            let most = SERVER_NAME_BYTES as u32;
            let told = if name.len < most { name.len } else { most };
            let is_there =
                source.load_at::<SERVER_NAME_BYTES, _>(name.at, &mut record.name, 0, told);
            // What was not written is not read.
            record.name_len = if is_there { name.len as u16 } else { 0 };
        });
}

/// New bytes while the handshake is under way.
#[inline(always)]
pub fn bytes<S: Source>(source: &S, flow: &mut FlowOf<S>, payload: Payload, sent: bool) {
    let world = source.world();
    if !sent && flow.tls.reply == 0 {
        flow.tls.reply_ns = world.now();
        flow.tls.reply = source.load_u8(payload.offset).unwrap_or(0);
    }
    if records(source, &mut flow.tls, payload, sent, || world.now()) {
        finish(world, flow, end::COMPLETE, world.now());
        unread::after_handshake(world, flow, payload.len);
    }
}

/// The handshake is over: tell it, and look away.
#[inline(always)]
pub fn finish<W: World>(world: &W, flow: &mut Flow<W>, how: u8, now: u64) {
    flow.phase = phase::OPAQUE;
    let sent = flow.sent.end.wrapping_sub(flow.acked) as i32;
    world.emit(kind::TLS, now, |record: &mut Tls| {
        flow.head(&mut record.header);
        W::assign(&mut record.errand, &flow.exchange.errand);
        record.hello_ns = flow.tls.hello_ns;
        record.reply_ns = flow.tls.reply_ns;
        record.peer_fin_ns = flow.exchange.peer_fin_ns;
        record.finished_ns = flow.tls.finished_ns;
        record.outcome = how;
        record.reply = flow.tls.reply;
        record.alert_by = flow.tls.alert_by;
        record.alert = flow.tls.alert;
        record.unacked = if sent > 0 { sent as u32 } else { 0 };
    });
}
