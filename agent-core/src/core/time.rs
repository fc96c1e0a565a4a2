//! What happens by the mere passing of time: grace runs out, stale state goes.

use super::Core;
use crate::attempt::Finish;
use crate::event::Event;
use crate::observation::{Nanos, Side};
use crate::table::Key;

impl Core {
    /// Ends the wait of everything due by `now`. Lost ends go first: an attempt that is
    /// given up may be what a request waits for.
    pub(super) fn expire(&mut self, now: Nanos, out: &mut Vec<Event>) {
        while let Some((side, key)) = self.exchanges.pop_straggler(now) {
            self.end_was_lost(side, key, out);
        }
        while let Some(mut trial) = self.exchanges.pop_orphan(now) {
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
        while let Some(key) = self.exchanges.pop_waiting(now) {
            self.resolve(key, out);
        }
    }

    /// The next exchange began, or the connection is gone, while this exchange is under
    /// way: its end is late or lost.
    pub(super) fn suspect_lost_end(&mut self, side: Side, key: Key, out: &mut Vec<Event>) {
        if let Some((side, key)) = self.exchanges.wait_for_end(self.pace.now(), side, key) {
            self.end_was_lost(side, key, out);
        }
    }

    /// The end did not come. With a status the exchange is told as far as it went; without
    /// one nothing is known, and nothing is told.
    pub(super) fn end_was_lost(&mut self, side: Side, key: Key, out: &mut Vec<Event>) {
        match side {
            Side::Client => {
                if !self.exchanges.end_unseen(key, None) {
                    return;
                }
                self.connections.mark_ended(key);
                self.request_ended(key, out);
            }
            Side::Upstream => {
                let Some(mut trial) = self.exchanges.take_attempt(key) else {
                    return;
                };
                self.connections.mark_ended(key);
                trial.finish(Finish::Lost);
                if trial.code().is_some() {
                    self.settle(trial, out);
                } else {
                    self.counts.attempts.ends_lost += 1;
                    if let Some(parent) = trial.parent {
                        self.exchanges.no_longer_serves(key, parent.key);
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
        let idle_since = self.pace.before(self.limits.idle);
        let stuck_since = self.pace.before(self.limits.stuck);

        for (key, request) in self.exchanges.take_stuck_requests(stuck_since) {
            self.counts.requests.swept += 1;
            self.connections.no_longer_current(key);
            // Its attempts are reported without it.
            for mut trial in request.tries {
                trial.parent = None;
                self.tell_alone(trial, out);
            }
        }
        for key in self.exchanges.drop_stuck_attempts(stuck_since) {
            self.counts.attempts.swept += 1;
            self.connections.no_longer_current(key);
        }
        self.exchanges.forget_unjoined(idle_since);
        self.connections.sweep(idle_since);
        self.unread.sweep(idle_since);
        self.processes.sweep(idle_since);
    }
}
