//! The machine of eBPF, as [`agent_flow`] asks for it.
//!
//! In: what that crate wants to read, write or compare. Out: the instructions of [`crate::kernel`],
//! which the verifier and the compiler want.

use agent_flow::machine::{Machine, SharedByte};

use crate::kernel::{self, Byte};

/// The machine that a program in the kernel runs on.
pub(crate) struct Kernel;

impl SharedByte for Byte {
    #[inline(always)]
    fn get(&self) -> u8 {
        Self::get(self)
    }

    #[inline(always)]
    fn set(&self, value: u8) {
        Self::set(self, value);
    }
}

impl Machine for Kernel {
    type Byte = Byte;

    #[inline(always)]
    fn opaque<T: Copy>(value: &T) -> T {
        kernel::opaque(value)
    }

    #[inline(always)]
    fn store<T: Copy>(to: &mut T, value: T) {
        kernel::store(to, value);
    }

    #[inline(always)]
    fn assign<T: Copy>(to: &mut T, from: &T) {
        kernel::assign(to, from);
    }

    #[inline(always)]
    fn copy<const LEN: usize, const N: usize, const M: usize>(from: &[u8; N], to: &mut [u8; M]) {
        kernel::copy::<LEN, N, M>(from, to);
    }

    #[inline(always)]
    fn word<const N: usize>(bytes: &[u8; N], at: u32) -> u64 {
        kernel::word(bytes, at)
    }

    #[inline(always)]
    fn byte<const N: usize>(bytes: &[u8; N], at: u32) -> u8 {
        kernel::byte(bytes, at)
    }

    #[inline(always)]
    fn bounded<const BELOW: u32>(value: u32) -> u32 {
        kernel::bounded::<BELOW>(value)
    }

    #[inline(always)]
    fn not_zero(value: u64) -> u64 {
        kernel::not_zero(value)
    }
}
