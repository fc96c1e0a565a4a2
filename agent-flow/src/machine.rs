//! What differs between the machine of eBPF and any other: how a value is read so that the verifier
//! walks little, and how several CPUs share a byte.
//!
//! In: values and arrays. Out: the same values. The methods have a plain form here, which the host
//! uses. The probes replace each one with the instructions that the verifier and the compiler for eBPF
//! want; what a method returns never differs.

/// A byte that several CPUs may read and write at once. Each access is one load or one store.
pub trait SharedByte: Default {
    /// The value.
    fn get(&self) -> u8;

    /// Replaces the value, without reading it.
    fn set(&self, value: u8);
}

impl SharedByte for core::cell::Cell<u8> {
    #[inline(always)]
    fn get(&self) -> u8 {
        Self::get(self)
    }

    #[inline(always)]
    fn set(&self, value: u8) {
        Self::set(self, value);
    }
}

/// A machine that the code of this crate runs on.
pub trait Machine {
    /// One flag of a connection.
    type Byte: SharedByte;

    /// A read that the compiler cannot reason about. The verifier forgets what it knew of the
    /// value as well, so it sees that two ways through a loop are the same.
    #[inline(always)]
    fn opaque<T: Copy>(value: &T) -> T {
        *value
    }

    /// A write that the compiler cannot keep in a register instead: see [`Machine::opaque`].
    #[inline(always)]
    fn store<T: Copy>(to: &mut T, value: T) {
        *to = value;
    }

    /// Copies `from` to `to`, whose size is a multiple of eight bytes.
    #[inline(always)]
    fn assign<T: Copy>(to: &mut T, from: &T) {
        *to = *from;
    }

    /// Copies the first `LEN` bytes of `from` into `to`.
    #[inline(always)]
    fn copy<const LEN: usize, const N: usize, const M: usize>(from: &[u8; N], to: &mut [u8; M]) {
        to[..LEN].copy_from_slice(&from[..LEN]);
    }

    /// Eight bytes at `at` of `bytes`, the first in the low byte; the caller keeps `at + 8 <= N`.
    #[inline(always)]
    fn word<const N: usize>(bytes: &[u8; N], at: u32) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at as usize..at as usize + 8]);
        u64::from_le_bytes(word)
    }

    /// The byte at `at` of `bytes`; the caller keeps `at < N`.
    #[inline(always)]
    fn byte<const N: usize>(bytes: &[u8; N], at: u32) -> u8 {
        bytes[at as usize]
    }

    /// `value`, which was compared with `BELOW`, a power of two, and is less.
    #[inline(always)]
    fn bounded<const BELOW: u32>(value: u32) -> u32 {
        value & (BELOW - 1)
    }

    /// 0 for 0, else 1, without a branch.
    #[inline(always)]
    fn not_zero(value: u64) -> u64 {
        u64::from(value != 0)
    }
}
