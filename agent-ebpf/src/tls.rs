//! A TLS handshake with an upstream: how far it went, and who gave it up.
//!
//! In: the bytes of an outgoing connection that begins with a ClientHello. Out: one TLS record:
//! application data followed, or how the connection ended before that. In TLS 1.3 this end's
//! Finished looks like application data, and a proxy may refuse the certificate after it. Only record headers and
//! alerts in clear are read (RFC 8446, 5.1; RFC 5246, 6.2.1), and of the ClientHello the name of the
//! server, which has a record of its own; what follows the handshake is not.

use agent_flow::bytes::Payload;
use agent_wire::limits::SERVER_NAME_BYTES;
use agent_wire::record::{ALERT_BY_PEER, ALERT_BY_US, Hello, Tls, end, kind};
use aya_ebpf::programs::SkBuffContext;

use crate::flow::{Flow, phase};
use crate::kernel;
use crate::output;
use crate::unread;

/// Content types (RFC 8446, 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Content type, version, length.
const RECORD_HEADER_BYTES: u32 = 5;
/// An alert in clear: level and description.
const CLEAR_ALERT_BYTES: u32 = 2;
/// The longest encrypted alert of TLS 1.3: level, description, content type, a tag of 16. An
/// encrypted Finished is longer.
const SEALED_ALERT_BYTES: u32 = 19;
/// The longest encrypted Finished of TLS 1.2, that of CBC with SHA-384: an initialization vector of
/// 16, the message of 16, a MAC of 48, padding. A hello of TLS 1.3, which may follow a change of
/// keys too (RFC 8446, D.4), is longer.
const SEALED_FINISHED_BYTES: u32 = 96;
/// Records looked at in one segment. A flight has fewer; what is behind is not looked at.
const RECORDS_A_SEGMENT: u32 = 6;

/// Handshake type of a ClientHello (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// Handshake type and length, version, random: what is before the session's id.
const BEFORE_SESSION_ID: u32 = 1 + 3 + 2 + 32;
/// Extensions of a ClientHello that are looked at. Too few: that none names the server is not known.
/// Too many: the verifier's work. OpenSSL and BoringSSL send 14 at most.
const EXTENSIONS: u32 = 18;
/// Type and length of an extension.
const EXTENSION_HEADER_BYTES: u32 = 4;
/// Of the extension that names the server (RFC 6066, 3), before the name: its header, the length of
/// the list, the type of the name, its length.
const BEFORE_NAME: u32 = EXTENSION_HEADER_BYTES + 2 + 1 + 2;

/// Record boundaries of one direction.
#[repr(C)]
#[derive(Clone, Copy)]
struct Records {
    /// Bytes left of the record under way.
    left: u32,
    /// Boundaries were lost: nothing more is read.
    lost: u32,
}

/// A handshake under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Handshake {
    hello_ns: u64,
    reply_ns: u64,
    finished_ns: u64,
    sent: Records,
    received: Records,
    reply: u8,
    alert_by: u8,
    alert: u8,
    /// This end changed to the negotiated keys.
    changed: u8,
    /// The peer did.
    peer_changed: u8,
    reserved: [u8; 3],
}

/// A ClientHello leaves.
#[inline(always)]
pub(crate) fn begin(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload) {
    flow.phase = phase::HANDSHAKE;
    flow.request_seq = payload.seq;
    flow.tls.hello_ns = kernel::now();
    tell_name(ctx, flow, payload);
    bytes(ctx, flow, payload, true);
}

/// Tells which server the ClientHello names, or that it names none; nothing when not all of it is here.
#[inline(always)]
fn tell_name(ctx: &SkBuffContext, flow: &Flow, payload: Payload) {
    let Some((mut at, end)) = extensions(ctx, payload) else {
        return;
    };
    let mut named = false;
    let mut round = 0;
    while round < EXTENSIONS && at < end {
        let mut header = [0u8; 4];
        if !kernel::load(ctx, at, &mut header, EXTENSION_HEADER_BYTES) {
            return;
        }
        if header[0] | header[1] == 0 {
            named = true;
            break;
        }
        at += EXTENSION_HEADER_BYTES + u32::from(u16::from_be_bytes([header[2], header[3]]));
        round += 1;
    }
    if !named && at != end {
        return;
    }
    let len = if named {
        load_u16(ctx, at + BEFORE_NAME - 2).unwrap_or(0)
    } else {
        0
    };
    output::emit_with(kind::HELLO, flow.tls.hello_ns, |record: &mut Hello| {
        flow.head(&mut record.header);
        record.named = u8::from(named);
        record.reserved = [0; 5];
        let most = SERVER_NAME_BYTES as u32;
        let told = if len < most { len } else { most };
        let name = &mut record.name;
        let is_there =
            kernel::load_at::<SERVER_NAME_BYTES, _>(ctx, at + BEFORE_NAME, name, 0, told);
        // What was not written is not read.
        record.name_len = if is_there { len as u16 } else { 0 };
    });
}

/// Where the extensions of a ClientHello begin and end; `None` when the segment is none.
#[inline(always)]
fn extensions(ctx: &SkBuffContext, payload: Payload) -> Option<(u32, u32)> {
    let hello = payload.offset + RECORD_HEADER_BYTES;
    if kernel::load_u8(ctx, hello)? != CLIENT_HELLO {
        return None;
    }
    let mut at = hello + BEFORE_SESSION_ID;
    at += 1 + u32::from(kernel::load_u8(ctx, at)?);
    // Cipher suites, then compression methods.
    at += 2 + load_u16(ctx, at)?;
    at += 1 + u32::from(kernel::load_u8(ctx, at)?);
    let len = load_u16(ctx, at)?;
    at += 2;
    Some((at, at + len))
}

#[inline(always)]
fn load_u16(ctx: &SkBuffContext, offset: u32) -> Option<u32> {
    let mut bytes = [0u8; 2];
    if kernel::load(ctx, offset, &mut bytes, 2) {
        Some(u32::from(u16::from_be_bytes(bytes)))
    } else {
        None
    }
}

/// New bytes while the handshake is under way.
#[inline(always)]
pub(crate) fn bytes(ctx: &SkBuffContext, flow: &mut Flow, payload: Payload, sent: bool) {
    if !sent && flow.tls.reply == 0 {
        flow.tls.reply_ns = kernel::now();
        flow.tls.reply = kernel::load_u8(ctx, payload.offset).unwrap_or(0);
    }
    if records(ctx, &mut flow.tls, payload, sent) {
        finish(flow, end::COMPLETE, kernel::now());
        unread::after_handshake(flow, payload.len);
    }
}

/// The handshake is over: tell it, and look away.
#[inline(always)]
pub(crate) fn finish(flow: &mut Flow, how: u8, now: u64) {
    flow.phase = phase::OPAQUE;
    let sent = flow.sent.end.wrapping_sub(flow.acked) as i32;
    output::emit_with(kind::TLS, now, |record: &mut Tls| {
        flow.head(&mut record.header);
        kernel::assign(&mut record.errand, &flow.exchange.errand);
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

/// Follows the records of a segment. True when the handshake is done: this end sends
/// application data after its Finished.
#[inline(always)]
fn records(ctx: &SkBuffContext, tls: &mut Handshake, payload: Payload, is_sent: bool) -> bool {
    let mut at = if is_sent {
        tls.sent.left
    } else {
        tls.received.left
    };
    let mut lost = if is_sent {
        tls.sent.lost
    } else {
        tls.received.lost
    };
    let mut done = false;
    let mut round = 0;
    while round < RECORDS_A_SEGMENT {
        if lost != 0 || at >= payload.len {
            break;
        }
        let mut header = [0u8; 8];
        if payload.len - at < RECORD_HEADER_BYTES
            || !kernel::load(ctx, payload.offset + at, &mut header, RECORD_HEADER_BYTES)
            || header[1] != 3
        {
            lost = 1;
            break;
        }
        let content = header[0];
        let len = u32::from(u16::from_be_bytes([header[3], header[4]]));
        if content == ALERT && len == CLEAR_ALERT_BYTES && tls.alert_by == 0 {
            let description = kernel::load_u8(ctx, payload.offset + at + RECORD_HEADER_BYTES + 1);
            tls.alert = description.unwrap_or(0);
            tls.alert_by = if is_sent { ALERT_BY_US } else { ALERT_BY_PEER };
        } else if content == APPLICATION_DATA && is_sent && len > SEALED_ALERT_BYTES {
            if tls.finished_ns == 0 {
                tls.finished_ns = kernel::now();
            } else {
                done = true;
            }
        } else if content == CHANGE_CIPHER_SPEC {
            if is_sent {
                tls.changed = 1;
            } else {
                tls.peer_changed = 1;
            }
        } else if content == HANDSHAKE
            && len <= SEALED_FINISHED_BYTES
            && tls.changed != 0
            && (!is_sent || tls.peer_changed != 0)
            && tls.finished_ns == 0
        {
            // TLS 1.2: the second Finished, which is the peer's, or this end's when a session is
            // resumed (RFC 5246, 7.3). Both are done, and the proxy looks at what it was shown.
            tls.finished_ns = kernel::now();
        }
        at += RECORD_HEADER_BYTES + len;
        round += 1;
    }
    if at < payload.len {
        lost = 1;
    }
    let left = at.wrapping_sub(payload.len);
    if is_sent {
        tls.sent = Records { left, lost };
    } else {
        tls.received = Records { left, lost };
    }
    done
}
