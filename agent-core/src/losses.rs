//! What is known to be missing of what the core is fed, so that no verdict is surer than its evidence.

use crate::observation::Nanos;

/// What is known to be missing.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// When records were last known to be missing.
    records_at: Option<Nanos>,
    /// Connects to Unix sockets are not reported.
    connects: bool,
}

impl Losses {
    /// Records are missing from before the time that [`Losses::advance`] names next.
    pub(crate) fn lose_records(&mut self) {
        self.records_at = Some(Nanos::MAX);
    }

    /// The kernel does not report connect(2): attempts at Unix sockets pass unseen.
    pub(crate) fn lose_connects(&mut self) {
        self.connects = true;
    }

    /// Time went on to `now`. When a loss was is not known, only that it was before.
    pub(crate) fn advance(&mut self, now: Nanos) {
        self.records_at = self.records_at.map(|at| at.min(now));
    }

    /// No record is known to be missing since `time`.
    pub(crate) fn none_since(&self, time: Nanos) -> bool {
        self.records_at.is_none_or(|at| at < time)
    }

    /// Attempts at Unix sockets pass unseen.
    pub(crate) fn connects_unseen(&self) -> bool {
        self.connects
    }
}

#[cfg(test)]
mod tests {
    use super::Losses;

    #[test]
    fn a_loss_counts_until_time_has_gone_on_behind_it() {
        let mut losses = Losses::default();
        assert!(losses.none_since(0));

        losses.lose_records();
        assert!(!losses.none_since(1000), "it may have been at any time");

        losses.advance(100);
        losses.advance(200);
        for (time, none) in [(99, false), (100, false), (101, true)] {
            assert_eq!(losses.none_since(time), none, "{time}");
        }
    }
}
