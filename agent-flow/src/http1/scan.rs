//! Finds the end of a head and the fields that frame its body.
//!
//! In: head bytes, gathered in one place. Out: a [`Scan`]. First the line feeds, eight bytes
//! at a time, then the lines: a head of 300 bytes costs some 40 short steps and ten longer
//! ones. It recognises, it does not parse: that is the daemon's, from a copy.
//!
//! What the loops find is kept in map memory, not in registers: the verifier forgets what
//! it knew of such values, sees that two ways through a step are the same, and walks each
//! step once. For the same end the two loops are apart, and have few branches.

use agent_wire::limits::HEAD_BYTES;

use crate::machine::Machine;

const ONES: u64 = 0x0101_0101_0101_0101;
const SEVENS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const LINE_FEEDS: u64 = ONES * b'\n' as u64;
const LOWER: u64 = 0x2020_2020_2020_2020;

/// Line feeds looked at in one word: what header lines of at least four bytes can have.
/// The verifier holds the branches not yet walked of every step at once and allows 8,192
/// ("The sequence of 8193 jumps is too complex").
const LINE_FEEDS_A_WORD: u32 = 2;
/// Places for lines of a head; a power of two. One less is looked at, and a head whose end is not
/// among them is not understood: it counts as too long.
const LINES: usize = 128;
/// Bytes of a Content-Length value looked at: blanks and the digits of 64 bits.
const LENGTH_BYTES: u32 = 23;

/// Digits that 64 bits hold in any case, with room for the bytes of the head.
const SAFE_DIGITS: u32 = 18;
/// A length that no body reaches.
const NEVER: u64 = u64::MAX / 2;

/// Bits of [`Scan::found`].
pub mod found {
    /// A Content-Length field.
    pub const LENGTH: u32 = 1 << 0;
    /// A Transfer-Encoding field.
    pub const CHUNKED: u32 = 1 << 1;
}

/// What was found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Value of Content-Length, bytes; meaningless without [`found::LENGTH`].
    pub content_length: u64,
    /// Where the final head starts: interim (1xx) responses before it are skipped.
    pub start: u32,
    /// Where the body starts; 0 while the head is not complete.
    pub end: u32,
    /// Bits of [`found`].
    pub found: u32,
    /// Status code of a response, else 0.
    pub status: u32,
    /// Where the value of Content-Length starts, 0 for none.
    pub length_at: u32,
    /// In: how many bytes to look at. Out: [`HEAD_BYTES`] when more bytes would not complete the head.
    pub len: u32,
    /// In: not 0 for a response.
    pub is_response: u32,
    /// The first blank line ends the final head.
    to_first_blank: u32,
}

/// "HTTP/1." in the first seven bytes of a little-endian word.
pub const HTTP_1: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
/// Selects seven bytes.
pub const SEVEN_BYTES: u64 = 0x00ff_ffff_ffff_ffff;

/// Where the lines of a head start.
#[repr(C)]
pub struct Lines {
    start: [u16; LINES],
    count: u32,
    reserved: u32,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            start: [0; LINES],
            count: 0,
            reserved: 0,
        }
    }
}

/// Scans the first `scan.len` bytes of `bytes`. The array is longer than [`HEAD_BYTES`] by
/// what a step may look ahead.
///
/// The length is read anew at each use: a comparison would teach the verifier its range,
/// another one on each way through a step, and no two states would be the same.
#[inline(always)]
pub fn scan<M: Machine, const N: usize>(bytes: &[u8; N], lines: &mut Lines, scan: &mut Scan) {
    M::store(&mut scan.content_length, 0);
    M::store(&mut scan.start, 0);
    M::store(&mut scan.end, 0);
    M::store(&mut scan.found, 0);
    M::store(&mut scan.status, 0);
    M::store(&mut scan.length_at, 0);
    find_lines::<M, N>(bytes, lines, scan);
    read_lines::<M, N>(bytes, lines, scan);
}

/// Notes where lines start, up to the blank one that ends the head.
#[inline(always)]
fn find_lines<M: Machine, const N: usize>(bytes: &[u8; N], lines: &mut Lines, scan: &mut Scan) {
    M::store(&mut lines.count, 0);
    // Behind an interim head comes another: then every line is noted.
    let code = M::word(bytes, 9);
    let interim = M::opaque(&scan.is_response) != 0 && is_interim(code);
    M::store(&mut scan.to_first_blank, u32::from(!interim));
    let mut at = 0u32;
    while at < HEAD_BYTES as u32 {
        if at >= M::opaque(&scan.len) {
            return;
        }
        // The high bit of each byte that is a line feed, exactly.
        let mixed = M::word(bytes, at) ^ LINE_FEEDS;
        let mut hits = !(((mixed & SEVENS) + SEVENS) | mixed | SEVENS);
        let mut left = LINE_FEEDS_A_WORD;
        while left > 0 {
            if hits == 0 {
                break;
            }
            // The bits below the lowest mark, as ones, counted by bytes: where the byte
            // after the line feed is.
            let below = (hits & hits.wrapping_neg()).wrapping_sub(1);
            let after = ((below & ONES).wrapping_mul(ONES) >> 56) & 0xf;
            hits &= hits - 1;
            let line = at + after as u32;
            let count = M::opaque(&lines.count);
            // What is too much goes to the last place, which is not read.
            let over = M::not_zero(u64::from(count / LINES as u32)) as u32;
            let place = count | over.wrapping_neg();
            lines.start[place as usize & (LINES - 1)] = line as u16;
            M::store(&mut lines.count, count + 1);
            let next = M::word(bytes, line);
            let is_text = M::not_zero(next & 0xff ^ LF) & M::not_zero(next & 0xffff ^ CR_LF);
            if is_text < u64::from(M::opaque(&scan.to_first_blank)) {
                return;
            }
            left -= 1;
        }
        at += 8;
    }
}

/// Reads the lines noted, up to the one that ends the final head.
#[inline(always)]
fn read_lines<M: Machine, const N: usize>(bytes: &[u8; N], lines: &Lines, scan: &mut Scan) {
    let mut index = 0;
    while index < LINES - 1 {
        if index as u32 >= M::opaque(&lines.count) {
            return;
        }
        let line = u32::from(M::opaque(&lines.start[index]));
        if line > HEAD_BYTES as u32 || ends_head::<M, N>(bytes, line, scan) {
            return;
        }
        index += 1;
    }
    // Its end is not among them: no more bytes of it would change that.
    M::store(&mut scan.len, HEAD_BYTES as u32);
}

/// True for the code of an interim response other than 101, as its first digits stand in
/// the low bytes.
#[inline(always)]
fn is_interim(code: u64) -> bool {
    code & 0xff == u64::from(b'1') && code & 0x00ff_ffff != SWITCHING
}

/// Looks at the line that starts at `line`. True when the final head ends with it.
///
/// The fields are compared without a branch: what they are is kept in masks.
#[inline(always)]
fn ends_head<M: Machine, const N: usize>(bytes: &[u8; N], line: u32, scan: &mut Scan) -> bool {
    let eight = M::word(bytes, line);
    if eight & 0xff == LF {
        return head_end::<M, N>(bytes, line + 1, scan);
    }
    if eight & 0xffff == CR_LF {
        return head_end::<M, N>(bytes, line + 2, scan);
    }
    let next = M::word(bytes, line + 8);
    let is_other =
        M::not_zero((eight | LOWER) ^ CONTENT | (next & SEVEN_BYTES | LOWER) ^ LENGTH) as u32;
    let keep = is_other.wrapping_neg();
    let length_at = (M::opaque(&scan.length_at) & keep) | ((line + 15) & !keep);
    M::store(&mut scan.length_at, length_at);
    // A message with Transfer-Encoding ends as its chunks do. (A response whose last
    // coding is not chunked ends with the connection; nobody sends that.)
    let is_other = M::not_zero((eight | LOWER) ^ TRANSFER | (next | LOWER) ^ ENCODING) as u32;
    let found = M::opaque(&scan.found) | ((is_other ^ 1) * found::CHUNKED);
    M::store(&mut scan.found, found);
    false
}

const LF: u64 = b'\n' as u64;
const CR_LF: u64 = u16::from_le_bytes(*b"\r\n") as u64;
const SWITCHING: u64 = u32::from_le_bytes(*b"101\0") as u64;
const CONTENT: u64 = u64::from_le_bytes(*b"content-") | LOWER;
const LENGTH: u64 = u64::from_le_bytes(*b"length:\0") | LOWER;
const TRANSFER: u64 = u64::from_le_bytes(*b"transfer") | LOWER;
const ENCODING: u64 = u64::from_le_bytes(*b"-encodin") | LOWER;

/// A head ends at `end`. False when it is interim: the final one follows.
#[inline(always)]
fn head_end<M: Machine, const N: usize>(bytes: &[u8; N], end: u32, scan: &mut Scan) -> bool {
    if end > M::opaque(&scan.len) {
        return false;
    }
    if M::opaque(&scan.is_response) != 0 {
        let start = M::opaque(&scan.start);
        if start >= HEAD_BYTES as u32 {
            return false;
        }
        if is_interim(M::word(bytes, start + 9)) {
            M::store(&mut scan.start, end);
            M::store(&mut scan.found, 0);
            M::store(&mut scan.length_at, 0);
            return false;
        }
    }
    M::store(&mut scan.end, end);
    true
}

/// Reads the numbers of a complete head: status code and Content-Length.
#[inline(always)]
pub fn numbers<M: Machine, const N: usize>(bytes: &[u8; N], scan: &mut Scan) {
    let start = M::opaque(&scan.start);
    if M::opaque(&scan.is_response) != 0 && start < HEAD_BYTES as u32 {
        scan.status = status::<M, N>(bytes, M::bounded::<{ HEAD_BYTES as u32 }>(start));
    }
    content_length::<M, N>(bytes, scan);
}

/// The status code of the response head at `start`, 0 when it has none.
#[inline(always)]
fn status<M: Machine, const N: usize>(bytes: &[u8; N], start: u32) -> u32 {
    let hundreds = u32::from(M::byte(bytes, start + 9)).wrapping_sub(u32::from(b'0'));
    let tens = u32::from(M::byte(bytes, start + 10)).wrapping_sub(u32::from(b'0'));
    let ones = u32::from(M::byte(bytes, start + 11)).wrapping_sub(u32::from(b'0'));
    if hundreds > 9 || tens > 9 || ones > 9 {
        return 0;
    }
    hundreds * 100 + tens * 10 + ones
}

/// Reads the Content-Length value, if a field was found.
#[inline(always)]
fn content_length<M: Machine, const N: usize>(bytes: &[u8; N], scan: &mut Scan) {
    let at = M::opaque(&scan.length_at);
    if at == 0 || at >= HEAD_BYTES as u32 {
        return;
    }
    let at = M::bounded::<{ HEAD_BYTES as u32 }>(at);
    let mut value = 0u64;
    let mut digits = 0u32;
    let mut step = 0u32;
    while step < LENGTH_BYTES {
        let next = u32::from(M::byte(bytes, at + step));
        let digit = next.wrapping_sub(u32::from(b'0'));
        if digit <= 9 {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            digits += 1;
        } else if digits > 0 || (next != u32::from(b' ') && next != u32::from(b'\t')) {
            break;
        }
        step += 1;
    }
    if digits > 0 {
        // A length of more digits wraps. No body comes to its end then, whatever is refused.
        scan.content_length = if digits > SAFE_DIGITS { NEVER } else { value };
        scan.found |= found::LENGTH;
    }
}
