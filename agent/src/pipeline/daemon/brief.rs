//! Which processes are told of in brief, and when no more.
//!
//! In: proxies at which nothing went wrong lately. Out: how the kernel side is to attend to them. It ends
//! that by itself when something goes wrong, and says so; and every now and then a process is looked at
//! whole for a moment, so that it stays known where its requests go, how long they take and what else it does.

use agent_core::observation::Nanos;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Daemon;
use crate::kernel::Attention;

/// How often one looks who may be told of in brief, ns.
const LOOK_EVERY: Nanos = 100_000_000;

/// How often one looks for what has been under way for long, ns.
const LOOK_UNDER_WAY_EVERY: Nanos = 1_000_000_000;

/// For how long a process is told of in brief before it is looked at whole, ns. Shorter: it costs more.
/// Longer: what is learned of it is older. What proxies wait for is remembered for ten minutes.
const IN_BRIEF: Nanos = 30_000_000_000;

/// For how long records wait, ns. A proxy that refuses a complete answer gives its error less than a
/// millisecond later. Shorter: on a busy machine the two come apart. Longer: so comes all that is reported.
const LINGER: Nanos = 20_000_000;

/// For how long it is looked at whole then, ns.
const WHOLE: Nanos = 1_000_000_000;

/// How a proxy is told of, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    InBrief(Nanos),
    Whole(Nanos),
}

/// The processes of which some are told of in brief.
#[derive(Debug, Default)]
pub(super) struct Brief {
    /// The operator wants it.
    wanted: bool,
    told: FxHashMap<u32, Told>,
    looked: Nanos,
    looked_under_way: Nanos,
}

impl Brief {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Something went wrong in a process at `at`.
    pub(super) fn disturbed(&mut self, tgid: u32, at: Nanos) {
        self.told.insert(tgid, Told::Whole(at));
    }

    /// What is to be changed, if `may_be` may be told of in brief at `now`.
    fn changes(&mut self, may_be: &FxHashSet<u32>, now: Nanos) -> Vec<(u32, Attention)> {
        let mut changes = Vec::new();
        self.told.retain(|tgid, told| {
            let may_be = may_be.contains(tgid);
            match *told {
                Told::InBrief(since) if !may_be || now.saturating_sub(since) >= IN_BRIEF => {
                    changes.push((*tgid, Attention::Watch));
                    *told = Told::Whole(now);
                    true
                }
                Told::InBrief(_) => true,
                Told::Whole(_) => may_be,
            }
        });
        for tgid in may_be {
            let told = self.told.entry(*tgid).or_insert(Told::Whole(0));
            if let Told::Whole(since) = *told
                && now.saturating_sub(since) >= WHOLE
            {
                changes.push((*tgid, Attention::InBrief));
                *told = Told::InBrief(now);
            }
        }
        changes
    }
}

impl Daemon {
    /// How long records wait for a failure after them, ns, if exchanges are reported in brief.
    pub(in crate::pipeline) fn lingers(&self) -> Option<Nanos> {
        self.brief.wanted.then_some(LINGER)
    }

    /// Whether it is time to look what has been under way for long.
    pub(in crate::pipeline) fn looks_what_is_under_way(&mut self, now: Nanos) -> bool {
        let is_due = now.saturating_sub(self.brief.looked_under_way) >= LOOK_UNDER_WAY_EVERY;
        if is_due {
            self.brief.looked_under_way = now;
        }
        is_due && self.brief.wanted
    }

    /// Decides who is told of in brief from now on: nobody while somebody wants all told, or all is recorded.
    pub(super) fn choose_brief(&mut self, now: Nanos) {
        let is_due = now.saturating_sub(self.brief.looked) >= LOOK_EVERY;
        if !self.brief.wanted || !is_due {
            return;
        }
        self.brief.looked = now;
        let all_is_wanted = self.recorder.is_some() || self.sink.stream.is_wanted(false);
        let may_be = if all_is_wanted {
            FxHashSet::default()
        } else {
            self.core.may_be_told_in_brief().collect()
        };
        let changes = self.brief.changes(&may_be, now);
        self.changes_of_attention.extend(changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn a_process_is_told_of_in_brief_but_for_a_moment_every_now_and_then() {
        let mut brief = Brief::default();
        let both = FxHashSet::from_iter([7]);
        let none = FxHashSet::default();
        let to = |attention| vec![(7, attention)];

        assert_eq!(brief.changes(&both, 100 * SECOND), to(Attention::InBrief));
        assert_eq!(brief.changes(&both, 129 * SECOND), []);
        assert_eq!(brief.changes(&both, 130 * SECOND), to(Attention::Watch));
        assert_eq!(brief.changes(&both, 130 * SECOND + WHOLE / 2), []);
        assert_eq!(brief.changes(&both, 131 * SECOND), to(Attention::InBrief));
        assert_eq!(brief.changes(&none, 132 * SECOND), to(Attention::Watch));
        assert_eq!(brief.changes(&none, 133 * SECOND), []);
        assert!(brief.told.is_empty(), "{brief:?}");
    }

    #[test]
    fn one_that_was_disturbed_is_whole_for_a_while() {
        let mut brief = Brief::default();
        let may_be = FxHashSet::from_iter([7]);
        brief.changes(&may_be, 100 * SECOND);

        brief.disturbed(7, 101 * SECOND);

        assert_eq!(brief.changes(&may_be, 101 * SECOND + WHOLE / 2), []);
        let again = brief.changes(&may_be, 102 * SECOND);
        assert_eq!(again, [(7, Attention::InBrief)]);
    }
}
