//! The core's idea of the time, and when what it does now and then is due.
//!
//! It reads no clock: time is that of the observations and of [`crate::Core::advance`].

use crate::observation::Nanos;
use crate::timing::SECOND;

/// How often stale state is looked for, ns. Too small: walks all tables often. Too large:
/// state outlives its limit by as much.
const SWEEP_EVERY: Nanos = 10 * SECOND;

/// How often attempts are looked through for those that still wait, ns.
const LOOK_EVERY: Nanos = SECOND;

/// How often connections may make room for new ones, ns: it walks their table.
const SQUEEZE_EVERY: Nanos = SECOND;

/// The time, and what is due.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    now: Nanos,
    next_sweep: Nanos,
    next_squeeze: Nanos,
    next_look: Nanos,
}

impl Pace {
    /// The latest time that was named, ns of `CLOCK_MONOTONIC`.
    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// The time `ago` ns before now; 0 where there is none.
    pub(crate) fn before(&self, ago: Nanos) -> Nanos {
        self.now.saturating_sub(ago)
    }

    /// Time went on; never back.
    pub(crate) fn advance(&mut self, now: Nanos) {
        self.now = self.now.max(now);
    }

    /// Stale state is to be looked for now.
    pub(crate) fn sweeps(&mut self) -> bool {
        is_due(&mut self.next_sweep, self.now, SWEEP_EVERY)
    }

    /// Connections may make room now.
    pub(crate) fn squeezes(&mut self) -> bool {
        is_due(&mut self.next_squeeze, self.now, SQUEEZE_EVERY)
    }

    /// Attempts that still wait are to be looked for now.
    pub(crate) fn looks(&mut self) -> bool {
        is_due(&mut self.next_look, self.now, LOOK_EVERY)
    }
}

/// It is due, and is due next after `every`.
fn is_due(next: &mut Nanos, now: Nanos, every: Nanos) -> bool {
    let is_due = now >= *next;
    if is_due {
        *next = now.saturating_add(every);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::{LOOK_EVERY, Pace};

    #[test]
    fn time_never_goes_back_and_what_is_due_is_due_once() {
        let mut pace = Pace::default();
        assert!(pace.looks());
        for (now, due) in [(LOOK_EVERY - 1, false), (LOOK_EVERY, true), (5, false)] {
            pace.advance(now);
            assert_eq!(pace.looks(), due, "{now}");
        }
        assert_eq!((pace.now(), pace.before(2 * LOOK_EVERY)), (LOOK_EVERY, 0));
    }
}
