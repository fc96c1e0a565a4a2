//! What happens by the mere passing of time: grace runs out, stale state goes.

use super::Core;
use crate::attempt::Finish;
use crate::event::Event;
use crate::observation::{Nanos, Side};
use crate::table::Key;
use crate::timing::SECOND;

/// How often stale state is looked for, ns. Too small: walks all tables often. Too large:
/// state outlives its limit by as much.
const SWEEP_EVERY: Nanos = 10 * SECOND;

impl Core {
    /// Ends the wait of everything due by `now`. Lost ends go first: an attempt that is
    /// given up may be what a request waits for.
    pub(super) fn expire(&mut self, now: Nanos, out: &mut Vec<Event>) {
        while let Some((side, key)) = self.stragglers.pop_due(now) {
            self.end_was_lost(side, key, out);
        }
        while let Some(mut trial) = self.orphans.pop_due(now) {
            self.held -= 1;
            self.join(&mut trial, false);
            if trial.parent.is_none() {
                self.join_by_answer(&mut trial);
            }
            if trial.parent.is_none() {
                self.join_by_touch(&mut trial);
            }
            if trial.parent.is_some() {
                self.settle(trial, out);
            } else {
                self.tell_alone(trial, out);
            }
        }
        while let Some(key) = self.waiting.pop_due(now) {
            self.resolve(key, out);
        }
    }

    /// The next exchange began, or the connection is gone, while this exchange is under
    /// way: its end is late or lost.
    pub(super) fn suspect_lost_end(&mut self, side: Side, key: Key, out: &mut Vec<Event>) {
        let straggling = match side {
            Side::Client => self.requests.edit(key, |request| {
                std::mem::replace(&mut request.straggling, true)
            }),
            Side::Upstream => self
                .attempts
                .get_mut(key)
                .map(|trial| std::mem::replace(&mut trial.straggling, true)),
            Side::Unknown => None,
        };
        if straggling != Some(false) {
            return;
        }
        if let Some((side, key)) = self.stragglers.push(self.clock, (side, key)) {
            self.end_was_lost(side, key, out);
        }
    }

    /// The end did not come. With a status the exchange is told as far as it went; without
    /// one nothing is known, and nothing is told.
    pub(super) fn end_was_lost(&mut self, side: Side, key: Key, out: &mut Vec<Event>) {
        match side {
            Side::Client => {
                let ended = self.requests.edit(key, |request| {
                    let first = request.end.is_none();
                    let last_seen = request.last_seen();
                    request.end.get_or_insert((None, last_seen));
                    first
                });
                if ended != Some(true) {
                    return;
                }
                self.connections.mark_ended(key);
                self.request_ended(key, out);
            }
            Side::Upstream => {
                let Some(mut trial) = self.attempts.remove(key) else {
                    return;
                };
                self.connections.mark_ended(key);
                trial.finish(Finish::Lost);
                if trial.code().is_some() {
                    self.settle(trial, out);
                } else {
                    self.counts.attempts.ends_lost += 1;
                    if let Some(parent) = trial.parent {
                        self.no_longer_open(parent.key, key);
                        self.resolve_if_ready(parent.key, out);
                    }
                }
            }
            Side::Unknown => {}
        }
    }

    /// Forgets what has been silent for too long. Nothing is told of it: what still lives
    /// is taken up again with its next record.
    pub(super) fn sweep(&mut self, out: &mut Vec<Event>) {
        self.next_sweep = self.clock.saturating_add(SWEEP_EVERY);
        let idle_since = self.clock.saturating_sub(self.limits.idle);
        let stuck_since = self.clock.saturating_sub(self.limits.stuck);

        let mut loose = Vec::new();
        for key in self.requests.stuck_since(stuck_since) {
            if let Some(request) = self.requests.remove(key) {
                // Its attempts are told without it.
                loose.extend(request.tries);
            }
            self.counts.requests.swept += 1;
            self.connections.no_longer_current(key);
        }
        self.requests.sweep();
        for mut trial in loose {
            self.held -= 1;
            trial.parent = None;
            self.tell_alone(trial, out);
        }

        let mut stuck = Vec::new();
        self.attempts.retain(|key, trial| {
            let keep = trial.ended >= stuck_since;
            if !keep {
                stuck.push((*key, trial.parent));
            }
            keep
        });
        for (key, parent) in stuck {
            self.counts.attempts.swept += 1;
            self.connections.no_longer_current(key);
            if let Some(parent) = parent {
                self.no_longer_open(parent.key, key);
            }
        }
        self.unjoined.sweep(idle_since);
        self.connections.sweep(idle_since);
        self.unread.sweep(idle_since);
        self.processes.sweep(idle_since);
    }
}
