//! Everything the core is fed, as one type: what a recording is made of.
//!
//! In: what the daemon would tell the core by one call. Out: the same call. A recording is a
//! list of [`Input`]s; fed to an empty core with the same limits, it gives the same events.
//! With the feature `serde` an input can be written down and read again. It holds what the core
//! may know and no more: typed observations, never the bytes they were made of.

use crate::core::Core;
use crate::decode::Record;
use crate::event::Event;
use crate::observation::{Lookup, Nanos, Observation};
use crate::process::ProcessInfo;

/// One thing the core is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all inputs are observations, and none is kept"
)]
pub enum Input {
    /// [`Core::observe`].
    Observe(Observation),
    /// [`Core::look_up`].
    LookUp(Lookup),
    /// [`Core::know_process`].
    KnowProcess {
        /// Thread group.
        tgid: u32,
        /// What it is.
        info: ProcessInfo,
    },
    /// [`Core::forget_process`].
    ForgetProcess {
        /// Thread group.
        tgid: u32,
    },
    /// [`Core::look_again`].
    LookAgain {
        /// Thread group.
        tgid: u32,
    },
    /// [`Core::records_lost`].
    RecordsLost,
    /// [`Core::connects_unseen`].
    ConnectsUnseen,
    /// [`Core::advance`].
    Advance {
        /// `CLOCK_MONOTONIC`, ns.
        now: Nanos,
    },
    /// [`Core::finish`].
    Finish,
}

impl From<Record> for Input {
    fn from(record: Record) -> Self {
        match record {
            Record::Observation(observation) => Self::Observe(observation),
            Record::Lookup(lookup) => Self::LookUp(lookup),
        }
    }
}

impl Core {
    /// Does what the input says.
    pub fn feed(&mut self, input: Input, out: &mut Vec<Event>) {
        match input {
            Input::Observe(observation) => self.observe(observation, out),
            Input::LookUp(lookup) => self.look_up(lookup),
            Input::KnowProcess { tgid, info } => self.know_process(tgid, info),
            Input::ForgetProcess { tgid } => self.forget_process(tgid),
            Input::LookAgain { tgid } => self.look_again(tgid),
            Input::RecordsLost => self.records_lost(),
            Input::ConnectsUnseen => self.connects_unseen(),
            Input::Advance { now } => self.advance(now, out),
            Input::Finish => self.finish(out),
        }
    }
}
