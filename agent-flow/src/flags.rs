//! The flags of a connection while it lives.
//!
//! Packets of both directions and the tracepoints write flags of one connection, and may do so at
//! once on several CPUs. Each flag has a byte of its own and is written without being read, so a
//! write to one flag cannot undo or repeat a write to another. A record carries them as bits.

use crate::machine::{Machine, SharedByte};

/// What `agent_wire::record::Header::flags` has bits for.
const FLAGS: usize = u16::BITS as usize;

/// One byte for each of [`agent_wire::record::flag`], 0 or 1.
#[repr(C)]
pub struct Flags<M: Machine> {
    bytes: [M::Byte; FLAGS],
}

impl<M: Machine> Default for Flags<M> {
    fn default() -> Self {
        Self {
            bytes: Default::default(),
        }
    }
}

impl<M: Machine> Flags<M> {
    /// Sets one flag.
    #[inline(always)]
    pub fn set<const FLAG: u16>(&self) {
        self.byte::<FLAG>().set(1);
    }

    /// Clears one flag.
    #[inline(always)]
    pub fn clear<const FLAG: u16>(&self) {
        self.byte::<FLAG>().set(0);
    }

    /// True when the flag is set.
    #[inline(always)]
    pub fn has<const FLAG: u16>(&self) -> bool {
        self.byte::<FLAG>().get() != 0
    }

    /// All flags as a record has them.
    #[inline(always)]
    pub fn bits(&self) -> u16 {
        let mut bits = 0;
        let mut at = 0;
        while at < FLAGS {
            bits |= u16::from(self.bytes[at].get()) << at;
            at += 1;
        }
        bits
    }

    #[inline(always)]
    fn byte<const FLAG: u16>(&self) -> &M::Byte {
        const { assert!(FLAG.is_power_of_two(), "one flag at a time") };
        &self.bytes[FLAG.trailing_zeros() as usize]
    }
}
