//! Records that wait for a moment, and are brought into the order of their time where something went wrong.
//!
//! Of a process whose exchanges are told in brief, the head of a request that went wrong comes when it is
//! over, behind what came after it; others that are under way then are found where their heads are held; and
//! a proxy may have refused an answer that had been told in brief a moment before. The core wants them all
//! in the order of their time.

use agent_core::observation::Nanos;
use agent_wire::brief::Brief;
use agent_wire::plain;
use agent_wire::record::{Header, MessageHead, end, kind};
use rustc_hash::FxHashSet;

use super::slice::{kind_of, time_of};
use super::source::Source;
use crate::kernel::KernelError;

/// Some records, as they came.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    records: Vec<Place>,
}

/// A record among the bytes.
#[derive(Clone, Copy, Debug)]
struct Place {
    time: Nanos,
    start: usize,
    end: usize,
}

impl Gathered {
    /// One more.
    pub(super) fn add(&mut self, record: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.records.push(Place {
            // One without a time is none, which the decoder says.
            time: time_of(record).unwrap_or(0),
            start,
            end: self.bytes.len(),
        });
    }

    /// The heads of what is under way, as far as it began at `latest`.
    pub(super) fn add_held(&mut self, source: &impl Source, latest: Nanos) {
        let held = source.held(|record| {
            if time_of(record).is_some_and(|time| time <= latest) {
                self.add(record);
            }
        });
        warn_of(held);
    }

    /// Adds the heads of exchanges reported in brief, of processes in which something went wrong.
    pub(super) fn recall(&mut self, source: &impl Source) {
        let all = || self.records.iter().filter_map(|place| self.at(*place));
        let is_disturbed = |record: &&[u8]| kind_of(record) == Some(kind::DISTURBED);
        let disturbed = all().filter(is_disturbed).filter_map(plain::read::<Header>);
        let disturbed: FxHashSet<u32> = disturbed.map(|header| header.tgid).collect();
        let mut recalled = Self::default();
        let mut told = FxHashSet::default();
        for brief in all().filter_map(brief_of) {
            if disturbed.contains(&brief.tgid) {
                let ended = source.ended(brief.cookie, brief.index, |record| {
                    // The last of a short answer says that it is over, too.
                    if is_over(record) {
                        told.insert((brief.cookie, brief.index));
                    }
                    recalled.add(record);
                });
                warn_of(ended);
            }
        }
        let is_told = |brief: Brief| told.contains(&(brief.cookie, brief.index));
        let bytes = &self.bytes;
        self.records.retain(|place| {
            let record = bytes.get(place.start..place.end);
            !record.and_then(brief_of).is_some_and(is_told)
        });
        recalled.until(Nanos::MAX, |record| self.add(record));
    }

    /// Hands out all of them in the order of their time.
    pub(super) fn in_order(&mut self, each: impl FnMut(&[u8])) {
        self.records.sort_by_key(|place| (place.time, place.start));
        self.until(Nanos::MAX, each);
    }

    /// Hands out those that came before the first that is of a time behind `time`; the others wait.
    pub(super) fn until(&mut self, time: Nanos, mut each: impl FnMut(&[u8])) {
        let is_later = |place: &Place| place.time > time;
        let count = self.records.iter().position(is_later);
        let count = count.unwrap_or(self.records.len());
        for place in self.records.iter().take(count) {
            if let Some(record) = self.at(*place) {
                each(record);
            }
        }
        let Some(Place { start: first, .. }) = self.records.get(count).copied() else {
            self.records.clear();
            self.bytes.clear();
            return;
        };
        self.records.drain(..count);
        self.bytes.drain(..first);
        for Place { start, end, .. } in &mut self.records {
            *start -= first;
            *end -= first;
        }
    }

    fn at(&self, place: Place) -> Option<&[u8]> {
        self.bytes.get(place.start..place.end)
    }
}

/// The record of an exchange in brief, if it is one.
fn brief_of(record: &[u8]) -> Option<Brief> {
    plain::read(record).filter(|_| kind_of(record) == Some(kind::BRIEF))
}

/// Whether the exchange of a head is over with it.
fn is_over(head: &[u8]) -> bool {
    plain::read::<MessageHead>(head).is_some_and(|head| head.exchange.end != end::OPEN)
}

fn warn_of(read: Result<(), KernelError>) {
    if let Err(error) = read {
        tracing::warn!(%error, "heads that are held back cannot be read");
    }
}
