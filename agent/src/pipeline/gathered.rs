//! Records out of their order, brought into it.
//!
//! Of a process whose exchanges are told in brief, the head of a request that went wrong comes when it is
//! over, behind what came after it; and others that are under way then are found where their heads are held.
//! The core wants them all in the order of their time.

use agent_core::observation::Nanos;

use super::slice::time_of;
use super::source::Source;

/// Some records.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    /// The time of each, and where it is.
    records: Vec<(Nanos, usize, usize)>,
}

impl Gathered {
    /// One more.
    pub(super) fn add(&mut self, record: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        // One without a time is none, which the decoder says.
        let time = time_of(record).unwrap_or(0);
        self.records.push((time, start, self.bytes.len()));
    }

    /// The heads of what is under way, as far as it began at `latest`.
    pub(super) fn add_held(&mut self, source: &impl Source, latest: Nanos) {
        let held = source.held(|record| {
            if time_of(record).is_some_and(|time| time <= latest) {
                self.add(record);
            }
        });
        if let Err(error) = held {
            tracing::warn!(%error, "what is under way cannot be read");
        }
    }

    /// All of them in the order of their time, which are not kept any more.
    pub(super) fn take(&mut self, mut each: impl FnMut(&[u8])) {
        let Self { bytes, records } = self;
        records.sort_by_key(|(time, start, _)| (*time, *start));
        for (_, start, end) in records.drain(..) {
            if let Some(record) = bytes.get(start..end) {
                each(record);
            }
        }
        bytes.clear();
    }
}
