//! Which client request an attempt belongs to.
//!
//! In: the errand of the thread that connected or sent, and the request line. Out: a
//! [`Parent`], or none. A join that could be wrong has a smaller surety, and no verdict that needs
//! it is surer than that.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use crate::attempt::Trial;
use crate::cause::Certainty;
use crate::event::{Join, Upstream};
use crate::observation::{Nanos, RequestHead};
use crate::proxies::Habits;
use crate::request::OpenRequest;
use crate::table::{Key, Table};

/// Up to this age an errand is taken as the reason for what the thread did, us. Event loops
/// read the client and go upstream 10 to 400 us apart (nginx, HAProxy, Envoy, kernel 6.18).
/// Too small: a busy loop's own attempts are lost. Too large: the thread may have touched
/// this client last without acting for it.
pub(crate) const YOUNG_US: u32 = 20_000;

/// By how much records of two CPUs may disagree about the time, ns.
pub(crate) const SLACK: Nanos = 1_000_000;

/// An answer that followed a failure within this time may have been given on its account, ns.
pub(crate) const AT_ONCE: Nanos = 20_000_000;

/// A proxy connects within this time after it has read the request, ns. Beyond it, who waits
/// longest says nothing.
const CONNECTS_WITHIN: Nanos = 5_000_000;

/// A retry that follows a failure within this time is one, ns.
pub(crate) const RETRIED_AT_ONCE: Nanos = 2_000_000;

/// Requests with the same line that are listed one by one. With more, the line alone tells
/// nothing.
const SAME_LINE: usize = 64;

/// The client request an attempt belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) key: Key,
    pub(crate) join: Join,
    /// The most that a verdict may claim which needs this join.
    pub(crate) surety: Certainty,
    /// Joined by errand and request line: its process passes requests on.
    pub(crate) forwarding: bool,
}

/// What came of looking for a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) parent: Option<Parent>,
    /// There was an errand, and it was of no use.
    pub(crate) errand_failed: bool,
}

/// Open requests by request line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    by_hash: FxHashMap<u64, Line>,
}

#[derive(Debug, Default)]
struct Line {
    listed: Vec<Listed>,
    unlisted: usize,
}

/// A request, and of it what most are told apart by.
#[derive(Clone, Copy, Debug)]
struct Listed {
    key: Key,
    started: Nanos,
}

impl Lines {
    /// Lists a request; the hash is to be kept for [`Lines::remove`].
    pub(crate) fn insert(&mut self, key: Key, started: Nanos, head: &RequestHead) -> u64 {
        let hash = hash(head);
        let line = self.by_hash.entry(hash).or_default();
        if line.listed.len() < SAME_LINE {
            line.listed.push(Listed { key, started });
        } else {
            line.unlisted += 1;
        }
        hash
    }

    pub(crate) fn remove(&mut self, key: Key, hash: u64) {
        let Some(line) = self.by_hash.get_mut(&hash) else {
            return;
        };
        match line.listed.iter().position(|listed| listed.key == key) {
            Some(at) => {
                line.listed.swap_remove(at);
            }
            None => line.unlisted = line.unlisted.saturating_sub(1),
        }
        if line.listed.is_empty() && line.unlisted == 0 {
            self.by_hash.remove(&hash);
        }
    }

    /// Requests with this line, at most [`SAME_LINE`] of them.
    fn listed(&self, head: &RequestHead) -> &[Listed] {
        self.by_hash
            .get(&hash(head))
            .map_or(&[], |line| line.listed.as_slice())
    }

    fn candidates(&self, head: &RequestHead) -> &[Listed] {
        match self.by_hash.get(&hash(head)) {
            Some(line) if line.unlisted == 0 => &line.listed,
            _ => &[],
        }
    }
}

/// Looks for the request that `trial` belongs to: by errand first, then by request line.
///
/// `habits` say whether the process goes upstream for a request before it reads another: then the
/// errand alone is proof, else only together with the request line.
pub(crate) fn find(
    trial: &Trial,
    habits: Habits,
    is_proxy: bool,
    requests: &Table<Key, Box<OpenRequest>>,
    lines: &Lines,
) -> Found {
    let by_line = |wanted: Option<Key>| {
        let known = is_proxy || wanted.is_some();
        known.then(|| by_request_line(trial, requests, lines, wanted))?
    };
    // The errand of a connect, or of what was sent on an open connection.
    let sent = trial
        .exchange
        .as_ref()
        .is_some_and(|exchange| exchange.errand.is_some());
    let acts_at_once = if sent {
        habits.sends_at_once
    } else {
        habits.connects_at_once
    };
    let Some(errand) = trial.errand else {
        return Found {
            parent: by_line(None),
            errand_failed: false,
        };
    };
    let key = Key {
        cookie: errand.cookie.get(),
        index: errand.index,
    };
    let by_errand = requests.get(key).and_then(|request| {
        let same_process = match (request.tgid, trial.tgid) {
            (Some(client_side), Some(upstream_side)) => client_side == upstream_side,
            _ => true,
        };
        if !same_process || !is_open_at(request, trial.errand_at) {
            return None;
        }
        let parent = |surety| Parent {
            key,
            join: Join::Errand,
            surety,
            forwarding: false,
        };
        let young = errand.age_us <= YOUNG_US;
        let sure = young && trial.own_errand;
        match (&trial.head, &request.head) {
            (Some(sent), Some(asked)) if same_line(sent, asked) => {
                let alone = by_line(Some(key)).is_some();
                let acts_at_once = acts_at_once && !others_wait(trial, key, requests, lines);
                let surety = match (alone, young) {
                    // Two witnesses that know nothing of each other.
                    (true, true) => Certainty::Proof,
                    (false, true) if trial.own_errand && acts_at_once => Certainty::Proof,
                    (false, true) if trial.own_errand => Certainty::Guess,
                    // The thread was elsewhere for a while: only when no other fits.
                    (true, false) => Certainty::Strong,
                    (false, _) => return None,
                };
                Some(Parent {
                    forwarding: sure,
                    ..parent(surety)
                })
            }
            // Another request has this line: the thread took that one up in between.
            (Some(_), Some(_)) if let Some(other) = by_line(None) => Some(other),
            // The proxy rewrote the path, or one of the heads could not be read.
            _ if trial.exchange.is_some() => match (acts_at_once, habits.connects_at_once) {
                (true, _) => sure.then(|| parent(Certainty::Strong)),
                // It does for connects, so most of what it sends is of the client it read last.
                (false, true) => sure.then(|| parent(Certainty::Guess)),
                (false, false) => None,
            },
            // A connect has no request line. A request that is being served already asks for no
            // other upstream: a timer acted for somebody else (nginx's limit_req, a cache lock).
            _ if young => {
                let free = acts_at_once && request.open.is_empty();
                free.then(|| parent(Certainty::Proof))
            }
            // A try again by timer: same request, same upstream.
            _ => request
                .tries
                .iter()
                .any(|earlier| earlier.upstream == trial.upstream)
                .then(|| parent(Certainty::Strong)),
        }
    });
    match by_errand {
        Some(parent) => Found {
            parent: Some(parent),
            errand_failed: false,
        },
        None => Found {
            parent: by_line(None),
            errand_failed: true,
        },
    }
}

/// Whether another request with the line that `trial` sent has waited for so long that the proxy did
/// not go upstream for it when it read it: a timer may act for it now (nginx's limit_req).
fn others_wait(
    trial: &Trial,
    but: Key,
    requests: &Table<Key, Box<OpenRequest>>,
    lines: &Lines,
) -> bool {
    let Some(sent) = &trial.head else {
        return false;
    };
    let at = trial.errand_at;
    lines.listed(sent).iter().any(|Listed { key, started }| {
        // First, because where requests are brief it is no for all of them.
        if !is_late(*started, at) {
            return false;
        }
        let waits = |request: &OpenRequest| {
            let asked = request.head.as_ref();
            let served = !request.open.is_empty() || !request.tries.is_empty();
            request.tgid.is_none_or(|tgid| Some(tgid) == trial.tgid)
                && (!served || request.served_by_guess)
                && !request.is_answered()
                && asked.is_some_and(|asked| same_line(sent, asked))
        };
        *key != but && requests.get(*key).is_some_and(|request| waits(request))
    })
}

/// The only open request with the same request line that is not being served already, or
/// the one that carries the same ids; `wanted` must be that one.
fn by_request_line(
    trial: &Trial,
    requests: &Table<Key, Box<OpenRequest>>,
    lines: &Lines,
    wanted: Option<Key>,
) -> Option<Parent> {
    let sent = trial.head.as_ref()?;
    let at = trial
        .exchange
        .as_ref()
        .and_then(|exchange| exchange.request.get())?;
    let mut only = None;
    let mut more = false;
    let mut by_id = None;
    let mut more_by_id = false;
    let has_ids = sent.request_id.is_some() || sent.trace_id.is_some();
    for Listed { key, started } in lines.candidates(sent) {
        if *started >= at {
            continue;
        }
        let Some(request) = requests.get(*key) else {
            continue;
        };
        let Some(asked) = &request.head else { continue };
        // A connection has no owner until it is read from. Whoever connects to where the request
        // arrived is a client of this proxy, on the same host.
        let same_process = match (request.tgid, trial.tgid) {
            (Some(asked), Some(sent)) => asked == sent,
            _ => trial.upstream != Upstream::Inet(request.server()),
        };
        let served = !request.open.is_empty();
        let fits = same_process
            && (!served || request.served_by_guess)
            && is_open_at(request, at)
            && same_line(sent, asked);
        if !fits {
            continue;
        }
        if served {
            // What serves it may be another's, and this attempt its own.
            more |= wanted != Some(*key);
        } else {
            more |= only.replace(*key).is_some();
        }
        if more && !has_ids {
            // No id will tell which of them it is.
            return None;
        }
        if served {
            continue;
        }
        let same = |one: &Option<Arc<str>>, other: &Option<Arc<str>>| one.is_some() && one == other;
        if same(&sent.request_id, &asked.request_id) || same(&sent.trace_id, &asked.trace_id) {
            more_by_id |= by_id.replace(*key).is_some();
        }
    }
    let key = match (by_id, only) {
        (Some(key), _) if !more_by_id => key,
        (_, Some(key)) if !more => key,
        _ => return None,
    };
    (wanted.is_none_or(|wanted| wanted == key)).then_some(Parent {
        key,
        join: Join::RequestLine,
        surety: Certainty::Strong,
        forwarding: false,
    })
}

/// Of requests that ended in an error for which no attempt is known, the one that a failed attempt
/// without a request most likely belongs to: it was open all the while, and its answer followed
/// the failure at once. With several such, as a guess, one that the attempt followed at once, and
/// of those the first: a proxy serves in the order in which it reads, and its timers run out in
/// the order in which it sets them.
pub(crate) fn by_answer<'a>(
    trial: &Trial,
    unexplained: impl Iterator<Item = (Key, &'a OpenRequest)>,
) -> Option<Parent> {
    let mut best: Option<((bool, Nanos), Key)> = None;
    let mut more = false;
    for (key, request) in unexplained {
        let Some(answered) = request.outcome().answer_began else {
            continue;
        };
        let same_process = request.tgid.is_some() && request.tgid == trial.tgid;
        let fits_line = match (&trial.head, &request.head) {
            (Some(sent), Some(asked)) => same_line(sent, asked),
            _ => true,
        };
        // HAProxy answers and then closes upstream.
        let around = request.started <= trial.started
            && answered >= trial.started
            && answered.saturating_add(SLACK) >= trial.ended;
        let after = answered.abs_diff(trial.ended);
        if !same_process || !fits_line || !around || after > AT_ONCE {
            continue;
        }
        more |= best.is_some();
        let rank = (is_late(request.started, trial.started), request.started);
        if best.is_none_or(|(least, _)| rank < least) {
            best = Some((rank, key));
        }
    }
    let (_, key) = best?;
    Some(Parent {
        key,
        join: Join::Answer,
        surety: if more {
            Certainty::Guess
        } else {
            Certainty::Strong
        },
        forwarding: false,
    })
}

/// Whether a failed connect fits a request that waits: as the first try, soon after the request came;
/// as another, when it goes to an upstream that was tried, whenever the proxy's timer says, or
/// follows a try at once.
pub(crate) fn is_try_of(failed: &Trial, request: &OpenRequest) -> bool {
    let after = |time: Nanos| failed.started.saturating_sub(time);
    let fits = if request.tries.is_empty() {
        !is_late(request.started, failed.started)
    } else {
        request.tries.iter().any(|earlier| {
            earlier.upstream == failed.upstream || after(earlier.ended) <= RETRIED_AT_ONCE
        })
    };
    fits && request.end.is_none()
}

/// Whether the answer followed no known attempt at once, so that one that nobody claimed may be the
/// last of this request. Only connects that were joined for want of another request leave such gaps.
pub(crate) fn lacks_last_try(request: &OpenRequest) -> bool {
    let outcome = request.outcome();
    let answered = outcome.answer_began.unwrap_or(outcome.ended);
    request.tries.iter().all(|trial| {
        let join = trial.parent.map(|parent| parent.join);
        join == Some(Join::Waiting) && answered.saturating_sub(trial.ended) > AT_ONCE
    })
}

/// A failed attempt without a request belongs to the request whose next attempt, `next`, followed
/// it at once.
pub(crate) fn is_followed_by(failed: &Trial, next: &Trial, request: &OpenRequest) -> bool {
    let after = next.started.checked_sub(failed.ended);
    failed.exchange.is_none()
        && failed.tgid == next.tgid
        && failed.started.saturating_add(SLACK) >= request.started
        && after.is_some_and(|after| after <= RETRIED_AT_ONCE)
}

/// A proxy would have gone upstream for what it read at `since`, had it been its own.
pub(crate) fn is_late(since: Nanos, at: Nanos) -> bool {
    at.saturating_sub(since) > CONNECTS_WITHIN
}

fn is_open_at(request: &OpenRequest, at: Nanos) -> bool {
    request.is_open_at(at) || request.is_open_at(at.saturating_add(SLACK))
}

fn same_line(one: &RequestHead, other: &RequestHead) -> bool {
    one.path == other.path && one.method == other.method
}

fn hash(head: &RequestHead) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(head.path.as_bytes());
    hasher.write(head.method.as_bytes());
    hasher.finish()
}
