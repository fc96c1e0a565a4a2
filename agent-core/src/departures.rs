//! Clients that left before their proxy closed: those whose talk is not read, TLS most often, and those
//! that reset what came after their FIN.
//!
//! In: when each left. Out: whether one that had sent its FIN was gone, or only shut its sending side down
//! and read on; and whether the client of an attempt was gone when its proxy gave it up. The
//! thread that made the attempt had read from one client last; where that says nothing, only the time
//! is left: a proxy that lets go of an upstream right after a client left did it for that one.

use std::collections::VecDeque;

use crate::attempt::Trial;
use crate::cause::Certainty;
use crate::observation::Nanos;
use crate::proxies::Habits;
use crate::recent::Recent;
use crate::timing::YOUNG_US;

/// Clients that are remembered, and the last of them in their order.
const REMEMBERED: usize = 16_384;
const LATEST: usize = 256;

/// A proxy lets go within this time, ns: nginx, Envoy, Caddy and Traefik take less than 1 ms. Too small: a
/// busy proxy is not believed. Too large: clients leave all the time.
const AT_ONCE: Nanos = 5_000_000;

/// The same where only one client left in that time, ns.
const SOON: Nanos = 50_000_000;

/// Who left, and when.
#[derive(Debug)]
pub(crate) struct Departures {
    /// Clients that reset after their FIN.
    reset: Recent<u64, ()>,
    by_cookie: Recent<u64, Nanos>,
    /// The latest, with the process that served them.
    latest: VecDeque<(Nanos, u32)>,
}

impl Default for Departures {
    fn default() -> Self {
        Self {
            reset: Recent::new(REMEMBERED),
            by_cookie: Recent::new(REMEMBERED),
            latest: VecDeque::new(),
        }
    }
}

impl Departures {
    /// The client of the connection `cookie` left.
    pub(crate) fn left(&mut self, cookie: u64, tgid: Option<u32>, at: Nanos) {
        self.by_cookie.insert(cookie, at);
        if let Some(tgid) = tgid {
            if self.latest.len() >= LATEST {
                self.latest.pop_front();
            }
            self.latest.push_back((at, tgid));
        }
    }

    /// The client of the connection `cookie` had sent its FIN, and resets what it gets.
    pub(crate) fn reset(&mut self, cookie: u64) {
        self.reset.insert(cookie, ());
    }

    /// The client of this connection reset what it got after its FIN.
    pub(crate) fn has_reset(&self, cookie: u64) -> bool {
        self.reset.get(&cookie).is_some()
    }

    /// When the client of this connection left.
    fn of(&self, cookie: u64) -> Option<Nanos> {
        self.by_cookie.get(&cookie).copied()
    }

    /// When the last client of the process left that did so just before `at`. One that leaves
    /// afterwards may have had its answer.
    fn just_before(&self, tgid: u32, at: Nanos) -> Option<Nanos> {
        let before = self.latest.iter().rev();
        let before = before.filter(|(left, _)| *left <= at);
        let soon = before.take_while(|(left, _)| at.saturating_sub(*left) <= SOON);
        let mut of_process = soon.filter(|(_, of)| *of == tgid);
        let (left, _) = of_process.next()?;
        let at_once = at.saturating_sub(*left) <= AT_ONCE;
        (at_once || of_process.next().is_none()).then_some(*left)
    }

    /// When the client of the attempt left before the proxy closed, where that client's talk is not read.
    /// Strong where the thread that made the attempt acts for whom it has read from last; a guess where
    /// it may have been another's.
    pub(crate) fn of_client(&self, trial: &Trial, habits: Habits) -> Option<(Nanos, Certainty)> {
        let tgid = trial.tgid.filter(|_| trial.parent.is_none())?;
        let young = trial
            .errand
            .filter(|errand| trial.own_errand && errand.age_us <= YOUNG_US);
        let left = young.and_then(|errand| self.of(errand.cookie.get()));
        let before = self.just_before(tgid, trial.ended);
        let left = left.filter(|left| *left <= trial.ended);
        let sure = match left {
            // It closes upstream before it answers. HAProxy answers first, and its client may leave then.
            Some(_) if habits.sends_at_once => Certainty::Strong,
            _ => Certainty::Guess,
        };
        let at = left.or(before)?;
        Some((at.min(trial.ended), sure))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_cookie.len() + self.reset.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.by_cookie.forgotten() + self.reset.forgotten()
    }
}
