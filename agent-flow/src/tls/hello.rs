//! A ClientHello (RFC 8446, 4.1.2): the name of the server in it (RFC 6066, 3).
//!
//! In: a segment. Out: where it has the name, and how long that is. Nothing when not all of the hello
//! is in the segment.

use crate::bytes::{Bytes, Payload};
use crate::tls::records::RECORD_HEADER_BYTES;

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

/// What a ClientHello says of the server's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// It names the server.
    pub named: bool,
    /// Where the name starts in the source.
    pub at: u32,
    /// Bytes of the name.
    pub len: u32,
}

/// Which server the ClientHello in `payload` names, or that it names none; nothing when not all of it
/// is here.
#[inline(always)]
pub fn server_name(bytes: &(impl Bytes + ?Sized), payload: Payload) -> Option<ServerName> {
    let (mut at, end) = extensions(bytes, payload)?;
    let mut named = false;
    let mut round = 0;
    while round < EXTENSIONS && at < end {
        let mut header = [0u8; 4];
        if !bytes.load(at, &mut header, EXTENSION_HEADER_BYTES) {
            return None;
        }
        if header[0] | header[1] == 0 {
            named = true;
            break;
        }
        at += EXTENSION_HEADER_BYTES + u32::from(u16::from_be_bytes([header[2], header[3]]));
        round += 1;
    }
    if !named && at != end {
        return None;
    }
    let len = if named {
        load_u16(bytes, at + BEFORE_NAME - 2).unwrap_or(0)
    } else {
        0
    };
    Some(ServerName {
        named,
        at: at + BEFORE_NAME,
        len,
    })
}

/// Where the extensions of a ClientHello begin and end; `None` when the segment is none.
#[inline(always)]
fn extensions(bytes: &(impl Bytes + ?Sized), payload: Payload) -> Option<(u32, u32)> {
    let hello = payload.offset + RECORD_HEADER_BYTES;
    if bytes.load_u8(hello)? != CLIENT_HELLO {
        return None;
    }
    let mut at = hello + BEFORE_SESSION_ID;
    at += 1 + u32::from(bytes.load_u8(at)?);
    // Cipher suites, then compression methods.
    at += 2 + load_u16(bytes, at)?;
    at += 1 + u32::from(bytes.load_u8(at)?);
    let len = load_u16(bytes, at)?;
    at += 2;
    Some((at, at + len))
}

#[inline(always)]
fn load_u16(from: &(impl Bytes + ?Sized), offset: u32) -> Option<u32> {
    let mut bytes = [0u8; 2];
    if from.load(offset, &mut bytes, 2) {
        Some(u32::from(u16::from_be_bytes(bytes)))
    } else {
        None
    }
}
