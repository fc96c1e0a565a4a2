//! Records between the ring and the core: taken out, and not looked at yet.
//!
//! Whatever was lost before a record was written is in the probes' counters by the time the
//! record is here. So the counters are looked at between the two, and the core knows of a loss
//! before it decides anything by what came behind it.

use std::mem::offset_of;

use agent_core::observation::Nanos;
use agent_wire::record::Header;

use super::Source;

/// Where a record has its time.
const TIME: usize = offset_of!(Header, time_ns);

/// Records in a slice. More: memory, up to 5 KB each and 0.5 KB as a rule. Fewer: the counters
/// are looked at more often for nothing.
pub(super) const RECORDS: usize = 512;

/// When that was what a record tells.
pub(super) fn time_of(record: &[u8]) -> Option<Nanos> {
    let time = record.get(TIME..)?.first_chunk()?;
    Some(Nanos::from_ne_bytes(*time))
}

/// What a record is, one of [`agent_wire::record::kind`].
pub(super) fn kind_of(record: &[u8]) -> Option<u8> {
    record.first().copied()
}

/// Some records, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Slice {
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Slice {
    /// Takes the oldest out of the source, in place of those here. False when there were none.
    pub(super) fn fill(&mut self, source: &mut impl Source) -> bool {
        let Self { bytes, ends } = self;
        bytes.clear();
        ends.clear();
        source.drain(RECORDS, |record| {
            bytes.extend_from_slice(record);
            ends.push(bytes.len());
        }) > 0
    }

    /// The newest of them is of a time behind `time`.
    pub(super) fn is_past(&self, time: Nanos) -> bool {
        let start = self.ends.iter().rev().nth(1).copied().unwrap_or(0);
        let newest = self.bytes.get(start..).and_then(time_of);
        newest.is_some_and(|newest| newest > time)
    }

    /// The records, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied();
        starts
            .zip(ends)
            .filter_map(|(start, end)| self.bytes.get(start..end))
    }
}
