//! Where bytes come from, and which of them are at hand.
//!
//! In: an offset and a length. Out: bytes, or the word that they cannot be read. A source is a
//! packet in the kernel, and a slice on the host.

/// A source of bytes.
pub trait Bytes {
    /// Copies `len` bytes at `offset` into `to`; the caller keeps `1 <= len <= N`. False when they
    /// are not there.
    fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N], len: u32) -> bool;

    /// Copies `len` bytes at `offset` to `at` in `to`; false when `len` is 0 or more than `MAX`, or
    /// they are not there. The caller keeps `at + MAX <= N`. `MAX` is a power of two.
    fn load_at<const MAX: usize, const N: usize>(
        &self,
        offset: u32,
        to: &mut [u8; N],
        at: u32,
        len: u32,
    ) -> bool;

    /// Eight bytes at `offset`, the first in the low byte.
    #[inline(always)]
    fn load_u64(&self, offset: u32) -> Option<u64> {
        let mut bytes = [0u8; 8];
        if self.load(offset, &mut bytes, 8) {
            Some(u64::from_le_bytes(bytes))
        } else {
            None
        }
    }

    /// The byte at `offset`.
    #[inline(always)]
    fn load_u8(&self, offset: u32) -> Option<u8> {
        let mut byte = [0u8; 1];
        if self.load(offset, &mut byte, 1) {
            Some(byte[0])
        } else {
            None
        }
    }

    /// The first eight bytes of `payload`, zero-padded, the first in the low byte.
    #[inline(always)]
    fn prefix(&self, payload: Payload) -> u64 {
        if payload.len >= 8 {
            return self.load_u64(payload.offset).unwrap_or(0);
        }
        let mut start = 0u64;
        let mut at = 0u32;
        while at < 7 {
            if at >= payload.len {
                break;
            }
            if let Some(next) = self.load_u8(payload.offset + at) {
                start |= u64::from(next) << (at * 8);
            }
            at += 1;
        }
        start
    }
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N], len: u32) -> bool {
        let (offset, len) = (offset as usize, len as usize);
        let Some(from) = self.get(offset..).and_then(|rest| rest.get(..len)) else {
            return false;
        };
        to[..len].copy_from_slice(from);
        true
    }

    fn load_at<const MAX: usize, const N: usize>(
        &self,
        offset: u32,
        to: &mut [u8; N],
        at: u32,
        len: u32,
    ) -> bool {
        let (offset, at, len) = (offset as usize, at as usize, len as usize);
        if len == 0 || len > MAX {
            return false;
        }
        let Some(from) = self.get(offset..).and_then(|rest| rest.get(..len)) else {
            return false;
        };
        to[at..at + len].copy_from_slice(from);
        true
    }
}

/// Bytes of a stream, and where their source has them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Where they start in the source.
    pub offset: u32,
    /// How many.
    pub len: u32,
    /// Sequence number of the first.
    pub seq: u32,
    /// Bytes before them that were not seen: a body's hole, which a late segment fills.
    pub hole: u32,
}

impl Payload {
    /// Bytes of which only the place counts.
    #[inline(always)]
    pub fn at(offset: u32, len: u32) -> Self {
        Self {
            offset,
            len,
            seq: 0,
            hole: 0,
        }
    }
}
