//! Records of TLS: how far a handshake went, by their headers and alerts in clear (RFC 8446, 5.1; RFC
//! 5246, 6.2.1).
//!
//! In: the bytes of a handshake, in order. Out: a [`Handshake`]. In TLS 1.3 this end's Finished looks
//! like application data, and a proxy may refuse the certificate after it.

use agent_wire::record::{ALERT_BY_PEER, ALERT_BY_US};

use crate::bytes::{Bytes, Payload};

/// Content types (RFC 8446, 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Content type, version, length.
pub const RECORD_HEADER_BYTES: u32 = 5;
/// An alert in clear: level and description.
const CLEAR_ALERT_BYTES: u32 = 2;
/// The longest encrypted alert of TLS 1.3: level, description, content type, a tag of 16. An
/// encrypted Finished is longer.
const SEALED_ALERT_BYTES: u32 = 19;
/// The longest encrypted Finished of TLS 1.2, that of CBC with SHA-384: an initialization vector of
/// 16, the message of 16, a MAC of 48, padding. A hello of TLS 1.3, which may follow a change of
/// keys too (RFC 8446, D.4), is longer.
const SEALED_FINISHED_BYTES: u32 = 96;
/// AlertDescription of who closes (RFC 8446, 6.1).
const CLOSE_NOTIFY: u8 = 0;
/// Records looked at in one segment. A flight has fewer; what is behind is not looked at.
const RECORDS_A_SEGMENT: u32 = 6;

/// Record boundaries of one direction.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Records {
    /// Bytes left of the record under way.
    left: u32,
    /// Boundaries were lost: nothing more is read.
    lost: u32,
}

/// A handshake under way.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Handshake {
    /// ClientHello left, ns.
    pub hello_ns: u64,
    /// First byte of the peer's reply, ns.
    pub reply_ns: u64,
    /// This end finished its part of the handshake, ns; 0 before.
    pub finished_ns: u64,
    sent: Records,
    received: Records,
    /// First byte of the peer's reply; 0 when none came.
    pub reply: u8,
    /// Who sent an alert in clear, or this end one that is sealed when it had finished, [`ALERT_BY_PEER`] or
    /// [`ALERT_BY_US`]; 0 for nobody.
    pub alert_by: u8,
    /// Its description (RFC 8446, 6); of one that is sealed that of who closes.
    pub alert: u8,
    /// This end changed to the negotiated keys.
    changed: u8,
    /// The peer did.
    peer_changed: u8,
    reserved: [u8; 3],
}

/// Follows the records of a segment. True when the handshake is done: this end sends
/// application data after its Finished.
#[inline(always)]
pub fn records(
    bytes: &impl Bytes,
    tls: &mut Handshake,
    payload: Payload,
    is_sent: bool,
    now: impl Fn() -> u64,
) -> bool {
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
            || !bytes.load(payload.offset + at, &mut header, RECORD_HEADER_BYTES)
            || header[1] != 3
        {
            lost = 1;
            break;
        }
        let content = header[0];
        let len = u32::from(u16::from_be_bytes([header[3], header[4]]));
        if content == ALERT && len == CLEAR_ALERT_BYTES && tls.alert_by == 0 {
            let description = bytes.load_u8(payload.offset + at + RECORD_HEADER_BYTES + 1);
            tls.alert = description.unwrap_or(0);
            tls.alert_by = if is_sent { ALERT_BY_US } else { ALERT_BY_PEER };
        } else if content == APPLICATION_DATA && is_sent && len > SEALED_ALERT_BYTES {
            if tls.finished_ns == 0 {
                tls.finished_ns = now();
            } else {
                done = true;
            }
        } else if (content == ALERT || content == APPLICATION_DATA)
            && is_sent
            && tls.finished_ns != 0
            && tls.alert_by == 0
        {
            // Sealed, after the handshake: this end closes.
            tls.alert = CLOSE_NOTIFY;
            tls.alert_by = ALERT_BY_US;
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
            tls.finished_ns = now();
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
