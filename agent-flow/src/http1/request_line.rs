//! Whether bytes begin as an HTTP/1 request does.
//!
//! In: the first eight bytes as a word. Out: yes or no; no header and no path is read.

/// The first four bytes of HEAD, as the low half of a little-endian word.
pub const HEAD: u64 = u32::from_le_bytes(*b"HEAD") as u64;
/// The same of CONNECT.
pub const CONN: u64 = u32::from_le_bytes(*b"CONN") as u64;

/// True when `start` begins as a request line does; with fewer than eight bytes, when it
/// still may. RFC 9110 methods, WebDAV (RFC 4918) and what caches use.
#[inline(always)]
pub fn is_request(start: u64, len: u32) -> bool {
    if len == 0 {
        return false;
    }
    begins(start, len, b"GET \0\0\0\0", 4)
        || begins(start, len, b"POST \0\0\0", 5)
        || begins(start, len, b"HEAD \0\0\0", 5)
        || begins(start, len, b"PUT \0\0\0\0", 4)
        || begins(start, len, b"DELETE \0", 7)
        || begins(start, len, b"OPTIONS ", 8)
        || begins(start, len, b"PATCH \0\0", 6)
        || begins(start, len, b"CONNECT ", 8)
        || begins(start, len, b"TRACE \0\0", 6)
        || begins(start, len, b"PROPFIND", 8)
        || begins(start, len, b"PROPPATC", 8)
        || begins(start, len, b"MKCOL \0\0", 6)
        || begins(start, len, b"COPY \0\0\0", 5)
        || begins(start, len, b"MOVE \0\0\0", 5)
        || begins(start, len, b"LOCK \0\0\0", 5)
        || begins(start, len, b"UNLOCK \0", 7)
        || begins(start, len, b"REPORT \0", 7)
        || begins(start, len, b"SEARCH \0", 7)
        || begins(start, len, b"MKCALEND", 8)
        || is_short_method(start, len)
}

/// A token of up to six capitals, a space and a slash: a method that is not in the list. Other
/// protocols begin with a word and a space, too (SMTP's `EHLO name`); not with a path behind it.
#[inline(always)]
fn is_short_method(start: u64, len: u32) -> bool {
    let mut rest = start;
    let mut at = 0;
    while at < 7 {
        let next = (rest & 0xff) as u32;
        if next.wrapping_sub(u32::from(b'A')) >= 26 {
            break;
        }
        rest >>= 8;
        at += 1;
    }
    at > 0 && at + 2 <= len && rest & 0xffff == u64::from(u16::from_le_bytes(*b" /"))
}

#[inline(always)]
fn begins(start: u64, len: u32, token: &[u8; 8], token_len: u32) -> bool {
    let count = if len < token_len { len } else { token_len };
    let mask = if count >= 8 {
        u64::MAX
    } else {
        (1u64 << ((count & 7) * 8)) - 1
    };
    (start ^ u64::from_le_bytes(*token)) & mask == 0
}
