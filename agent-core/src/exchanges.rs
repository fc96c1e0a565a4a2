//! Everything that is under way or waits for its verdict: requests, attempts, and attempts whose
//! request is not known.
//!
//! In: requests and attempts as they begin, change and end. Out: the same by their keys, and by the
//! process that they are of. An attempt has one place at a time: under way, with its request, or among
//! those without one; what is kept is counted from that. It knows nothing of verdicts and reports nothing.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use crate::attempt::Trial;
use crate::limits::Limits;
use crate::network::Network;
use crate::observation::{End, Nanos, RequestHead, Side};
use crate::orphans::Orphans;
use crate::parent::Parent;
use crate::process::Processes;
use crate::request::OpenRequest;
use crate::requests::Requests;
use crate::table::{Deadlines, Key, Table};
use crate::timing::{DELAYED, is_late};
use crate::unjoined::Unjoined;

/// All requests and attempts that are kept.
#[derive(Debug)]
pub(crate) struct Exchanges {
    requests: Requests,
    /// Attempts under way.
    attempts: Table<Key, Box<Trial>>,
    /// Failed attempts without a request.
    orphans: Orphans,
    /// When each process last had an attempt that was not joined.
    unjoined: Unjoined,
    /// Requests that are over, waiting for attempts to end, and for what those wait for then.
    waiting: Deadlines<Key>,
    /// Exchanges whose end must have been lost, unless it comes yet.
    stragglers: Deadlines<(Side, Key)>,
    /// Attempts that are kept at most, wherever they are.
    limit: usize,
    /// Attempts that are kept with one request at most.
    limit_per_request: usize,
    /// Attempts for which there was no room.
    refused: u64,
    /// Attempts that made room for later ones of their request.
    crowded_out: u64,
}

impl Exchanges {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            requests: Requests::new(limits.requests),
            attempts: Table::new(limits.attempts),
            orphans: Orphans::new(limits.attempts, limits.grace),
            unjoined: Unjoined::new(limits.processes),
            waiting: Deadlines::new(limits.requests, limits.grace.saturating_add(DELAYED)),
            stragglers: Deadlines::new(limits.requests, limits.grace),
            limit: limits.attempts,
            limit_per_request: limits.attempts_per_request.max(1),
            refused: 0,
            crowded_out: 0,
        }
    }

    /// Requests, and the ways to find one.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Failed attempts without a request.
    pub(crate) fn orphans(&self) -> &Orphans {
        &self.orphans
    }

    /// When each process last had an attempt that was not joined.
    pub(crate) fn unjoined(&self) -> &Unjoined {
        &self.unjoined
    }

    /// Attempts that are kept, under way and over.
    pub(crate) fn attempts(&self) -> usize {
        self.attempts.len() + self.requests.tries() + self.orphans.len()
    }

    /// Attempts for which there was no room.
    pub(crate) fn attempts_refused(&self) -> u64 {
        self.refused
    }

    /// Attempts that made room for later ones of their request.
    pub(crate) fn attempts_crowded_out(&self) -> u64 {
        self.crowded_out
    }

    /// The request with this key.
    pub(crate) fn request(&self, key: Key) -> Option<&OpenRequest> {
        self.requests.get(key)
    }

    /// Adds the request that `make` makes where there is none, and lists it by the line of `head`.
    /// Whether it is new; `None` when there is no room for it.
    pub(crate) fn begin_request(
        &mut self,
        key: Key,
        head: Option<&RequestHead>,
        make: impl FnOnce() -> Box<OpenRequest>,
    ) -> Option<bool> {
        let is_new = !self.requests.contains(key);
        if !self.requests.insert_with(key, make) {
            return None;
        }
        if let Some(head) = head {
            self.requests.list_by_line(key, head);
        }
        Some(is_new)
    }

    /// Changes a request.
    pub(crate) fn edit<R>(
        &mut self,
        key: Key,
        change: impl FnOnce(&mut OpenRequest) -> R,
    ) -> Option<R> {
        self.requests.edit(key, change)
    }

    /// The request is over by `end`, which no record says of it. `false` when it was over already, or is
    /// not kept.
    pub(crate) fn end_unseen(&mut self, key: Key, end: Option<End>) -> bool {
        let is_first = self.requests.edit(key, |request| {
            let is_first = request.end.is_none();
            let last_seen = request.last_seen();
            request.end.get_or_insert((end, last_seen));
            is_first
        });
        is_first == Some(true)
    }

    /// Takes a request out, with the attempts that are kept with it.
    pub(crate) fn take_request(&mut self, key: Key) -> Option<Box<OpenRequest>> {
        self.requests.remove(key)
    }

    /// Process `tgid` of `network` has a client at `address`.
    pub(crate) fn saw_server(&mut self, address: SocketAddr, tgid: u32, network: Option<Network>) {
        self.requests.saw_server(address, tgid, network);
    }

    /// Requests that have waited for an upstream since `at` or before, but those of other programs
    /// than `tgid`: an attempt that it began then may be their own. A request of which nobody knows
    /// who has read it, most often one of an upstream that is on this host as well, is taken for the
    /// process's only as long as that may connect for it.
    pub(crate) fn waiting_at(
        &self,
        tgid: u32,
        at: Nanos,
        processes: &Processes,
    ) -> impl Iterator<Item = (Key, &OpenRequest)> {
        let waiting = self.requests.waiting(tgid, at);
        waiting.filter(move |(_, request)| {
            let own = self.requests.is_of(request, Some(tgid), processes);
            let nobodys = self.requests.owner(request).is_none();
            let was_served = request
                .tries
                .iter()
                .any(|trial| trial.started <= at && trial.ended >= at);
            let is_its = own || (nobodys && !is_late(request.started, at));
            is_its && request.is_open_at(at) && !was_served
        })
    }

    /// Whether a request of the process `tgid` other than `except` waited for an upstream at `at`, or
    /// ended since in an error that nothing explains.
    pub(crate) fn has_waiting(
        &self,
        tgid: Option<u32>,
        at: Nanos,
        except: Option<Key>,
        processes: &Processes,
    ) -> bool {
        tgid.is_some_and(|tgid| {
            let answered = self.requests.failed(tgid, at..=Nanos::MAX);
            let mut waiting = self.waiting_at(tgid, at, processes).chain(answered);
            waiting.any(|(key, request)| Some(key) != except && request.is_open_at(at))
        })
    }

    /// Whether an attempt of the process that was joined to no request was over then, as far as is known.
    pub(crate) fn has_unjoined(&self, tgid: u32, between: RangeInclusive<Nanos>) -> bool {
        let last = self.unjoined.last_of(tgid);
        let mut orphans = self.orphans.over(Some(tgid), between.clone());
        last.is_some_and(|ended| between.contains(&ended)) || orphans.next().is_some()
    }

    /// Takes the last attempt from the first request of the process, other than `except`, whose last
    /// attempt was over then and `is_its`.
    pub(crate) fn take_last_try(
        &mut self,
        tgid: u32,
        over: RangeInclusive<Nanos>,
        except: Key,
        is_its: impl Fn(&Trial) -> bool,
    ) -> Option<Box<Trial>> {
        let mut tried = self.requests.tried(tgid, over);
        let (key, _) = tried.find(|(key, request)| {
            let is_its = || request.tries.last().is_some_and(|last| is_its(last));
            *key != except && is_its()
        })?;
        drop(tried);
        self.requests.edit(key, |request| request.tries.pop())?
    }

    /// There is room for another attempt; counted where there is none.
    pub(crate) fn has_room_for_attempt(&mut self) -> bool {
        let has_room = self.attempts() < self.limit;
        self.refused += u64::from(!has_room);
        has_room
    }

    /// An attempt is under way.
    pub(crate) fn begin_attempt(&mut self, trial: Box<Trial>) {
        self.attempts.insert(trial.key, trial);
    }

    /// The attempt under way with this key.
    pub(crate) fn attempt(&self, key: Key) -> Option<&Trial> {
        self.attempts.get(key).map(AsRef::as_ref)
    }

    /// The attempt with this key is under way.
    pub(crate) fn has_attempt(&self, key: Key) -> bool {
        self.attempts.contains(key)
    }

    /// As [`Exchanges::attempt`], to change it.
    pub(crate) fn attempt_mut(&mut self, key: Key) -> Option<&mut Trial> {
        self.attempts.get_mut(key).map(AsMut::as_mut)
    }

    /// All attempts under way.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = &Trial> {
        self.attempts.values().map(AsRef::as_ref)
    }

    /// Takes out an attempt that is over.
    pub(crate) fn take_attempt(&mut self, key: Key) -> Option<Box<Trial>> {
        self.attempts.remove(key)
    }

    /// The attempt `key` under way was made for the request of `parent`.
    pub(crate) fn serves(&mut self, key: Key, by_guess: bool, request: Key) {
        self.requests.edit(request, |request| {
            // Most have one.
            request.open.reserve_exact(1);
            request.open.push(key);
            request.served_by_guess |= by_guess;
        });
    }

    /// The attempt `key` is no longer under way and will not come to its request.
    pub(crate) fn no_longer_serves(&mut self, key: Key, request: Key) {
        self.requests
            .edit(request, |request| request.open.retain(|open| *open != key));
    }

    /// Puts an attempt that is over to its request. At the bound, that one's oldest is returned.
    pub(crate) fn put_to_request(&mut self, trial: Box<Trial>, key: Key) -> Option<Box<Trial>> {
        let most = self.limit_per_request;
        let oldest = self.requests.edit(key, |request| {
            request.open.retain(|open| *open != trial.key);
            // The last attempts are those that explain the answer.
            let oldest = (request.tries.len() >= most).then(|| request.tries.remove(0));
            request.tries.reserve_exact(1);
            request.tries.push(trial);
            oldest
        });
        self.crowds_out(oldest.flatten())
    }

    /// Another request than the attempt `key` will be joined to may have made it.
    pub(crate) fn doubt_orphan(
        &mut self,
        tgid: Option<u32>,
        between: RangeInclusive<Nanos>,
        key: Key,
    ) {
        if let Some(trial) = self.orphans.find_mut(tgid, between, key) {
            trial.may_be_anothers = true;
        }
    }

    /// Takes out the attempt `key` without a request, if it was over then.
    pub(crate) fn take_orphan(
        &mut self,
        tgid: Option<u32>,
        between: RangeInclusive<Nanos>,
        key: Key,
    ) -> Option<Box<Trial>> {
        self.orphans.take(tgid, between, key)
    }

    /// An attempt that was without a request is of that of `claim`. At the bound, it is returned.
    pub(crate) fn claim(&mut self, mut trial: Box<Trial>, claim: Parent) -> Option<Box<Trial>> {
        let most = self.limit_per_request;
        let left = self.requests.edit(claim.key, |request| {
            trial.adopt(claim, request.started);
            if request.tries.len() < most {
                request.tries.push(trial);
                return None;
            }
            Some(trial)
        });
        self.crowds_out(left.flatten())
    }

    /// A failed attempt waits for a request. At the bound, the oldest that waits is returned.
    pub(crate) fn wait_for_request(&mut self, now: Nanos, trial: Box<Trial>) -> Option<Box<Trial>> {
        self.orphans.push(now, trial)
    }

    /// An attempt of process `tgid` was over then and was not joined: it may belong to any request that
    /// was open.
    pub(crate) fn saw_unjoined(&mut self, tgid: u32, ended: Nanos) {
        self.unjoined.saw(tgid, ended);
    }

    /// A request that is over waits for its attempts. At the bound, the oldest that waits is returned.
    pub(crate) fn wait_for_attempts(&mut self, now: Nanos, key: Key) -> Option<Key> {
        self.waiting.push(now, key)
    }

    /// The end of an exchange is late or lost: it is waited for. At the bound, the oldest that is waited
    /// for is returned.
    pub(crate) fn wait_for_end(&mut self, now: Nanos, side: Side, key: Key) -> Option<(Side, Key)> {
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
            return None;
        }
        self.stragglers.push(now, (side, key))
    }

    /// The next exchange whose end did not come by `now`.
    pub(crate) fn pop_straggler(&mut self, now: Nanos) -> Option<(Side, Key)> {
        self.stragglers.pop_due(now)
    }

    /// The next attempt that found no request by `now`.
    pub(crate) fn pop_orphan(&mut self, now: Nanos) -> Option<Box<Trial>> {
        self.orphans.pop_due(now)
    }

    /// The next request that has waited long enough for its attempts by `now`.
    pub(crate) fn pop_waiting(&mut self, now: Nanos) -> Option<Key> {
        self.waiting.pop_due(now)
    }

    /// Takes from a request that is kept the attempts of other processes. Those under way go on without
    /// it; those that are over are returned.
    #[expect(
        clippy::vec_box,
        reason = "an attempt moves from here to its table: as a pointer"
    )]
    pub(crate) fn take_strangers(&mut self, key: Key) -> Vec<Box<Trial>> {
        let attempts = &mut self.attempts;
        let strangers = self.requests.edit(key, |request| {
            let_go(attempts, request);
            request.take_strangers()
        });
        strangers.unwrap_or_default()
    }

    /// Attempts under way of other processes go on without a request that was taken out.
    pub(crate) fn let_go(&mut self, request: &mut OpenRequest) {
        let_go(&mut self.attempts, request);
    }

    /// Takes out the requests without a record since `time`, those that came first before the others.
    pub(crate) fn take_stuck_requests(&mut self, time: Nanos) -> Vec<(Key, Box<OpenRequest>)> {
        let stuck = self.requests.stuck_since(time).into_iter();
        let taken = stuck.filter_map(|key| Some((key, self.requests.remove(key)?)));
        let taken = taken.collect();
        self.requests.sweep();
        taken
    }

    /// Drops attempts under way without a record since `time`; their keys.
    pub(crate) fn drop_stuck_attempts(&mut self, time: Nanos) -> Vec<Key> {
        let mut stuck = Vec::new();
        self.attempts.retain(|key, trial| {
            let keep = trial.ended >= time;
            if !keep {
                stuck.push((*key, trial.parent));
            }
            keep
        });
        for (key, parent) in &stuck {
            if let Some(parent) = parent {
                self.no_longer_serves(*key, parent.key);
            }
        }
        stuck.into_iter().map(|(key, _)| key).collect()
    }

    /// Forgets attempts that were not joined and over before `time`.
    pub(crate) fn forget_unjoined(&mut self, time: Nanos) {
        self.unjoined.sweep(time);
    }

    fn crowds_out(&mut self, trial: Option<Box<Trial>>) -> Option<Box<Trial>> {
        self.crowded_out += u64::from(trial.is_some());
        trial
    }
}

/// Attempts under way of other processes go on without the request.
fn let_go(attempts: &mut Table<Key, Box<Trial>>, request: &mut OpenRequest) {
    let mut open = std::mem::take(&mut request.open);
    open.retain(|key| match attempts.get_mut(*key) {
        Some(trial) if request.is_stranger(trial) => {
            trial.parent = None;
            false
        }
        _ => true,
    });
    request.open = open;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::attempt::Finish;
    use crate::cause::Certainty;
    use crate::event::{Join, Upstream};
    use crate::observation::{Exchange, Flags, Framing, Seen, Socket};
    use crate::transport::Transport;
    use crate::witness::Witnesses;

    const CLIENT: Key = Key {
        cookie: 1,
        index: 0,
    };

    fn socket(cookie: u64, time: Nanos) -> Socket {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Socket {
            cookie,
            time,
            side: Side::Unknown,
            tgid: Some(7),
            opened: None,
            local: nowhere,
            remote: nowhere,
            errno: None,
            syns: 0,
            retransmits: 0,
            srtt_us: None,
            flags: Flags::default(),
        }
    }

    fn trial(cookie: u64, time: Nanos) -> Box<Trial> {
        let socket = socket(cookie, time);
        let (transport, upstream) = (Transport::unused(&socket), Upstream::Unknown);
        let finish = Finish::Connect;
        Box::new(Trial::of_connection(
            &socket, transport, upstream, None, finish,
        ))
    }

    fn request() -> Box<OpenRequest> {
        let exchange = Exchange {
            index: 0,
            end: None,
            framing: Framing::Unknown,
            status: 0,
            request: Seen::told(1),
            request_last: Seen::default(),
            first_byte: Seen::default(),
            head: Seen::default(),
            last_byte: Seen::default(),
            idle_since: Seen::default(),
            peer_fin: Seen::default(),
            request_bytes: 0,
            request_acked: 0,
            response_bytes: 0,
            head_bytes: 0,
            request_head_bytes: 0,
            chunks_followed: true,
            errand: None,
        };
        Box::new(OpenRequest::new(&socket(1, 1), Some(7), exchange, None))
    }

    #[test]
    fn an_attempt_is_counted_wherever_it_is() {
        let mut exchanges = Exchanges::new(&Limits {
            attempts: 3,
            attempts_per_request: 2,
            ..Limits::default()
        });
        assert_eq!(exchanges.begin_request(CLIENT, None, request), Some(true));
        assert_eq!(exchanges.begin_request(CLIENT, None, request), Some(false));

        let claim = Parent {
            key: CLIENT,
            join: Join::Retry,
            surety: Certainty::Guess,
            witnesses: Witnesses::default(),
            forwarding: false,
        };
        exchanges.begin_attempt(trial(2, 10));
        assert_eq!(exchanges.attempts(), 1, "under way");
        let over = exchanges.take_attempt(trial(2, 10).key).unwrap();
        assert_eq!(exchanges.attempts(), 0, "taken out");
        assert!(exchanges.put_to_request(over, CLIENT).is_none());
        assert_eq!(exchanges.attempts(), 1, "with its request");
        assert!(exchanges.wait_for_request(20, trial(3, 20)).is_none());
        assert!(exchanges.wait_for_request(20, trial(4, 20)).is_none());
        assert_eq!(exchanges.attempts(), 3, "two more without one");
        assert!(!exchanges.has_room_for_attempt());

        let orphan = exchanges.take_orphan(Some(7), 20..=20, trial(3, 20).key);
        assert!(exchanges.claim(orphan.unwrap(), claim).is_none());
        assert_eq!(exchanges.attempts(), 3, "one was claimed");
        let last = exchanges.pop_orphan(Nanos::MAX).unwrap();
        let oldest = exchanges.put_to_request(last, CLIENT).unwrap();
        assert_eq!(
            (oldest.key.cookie, exchanges.attempts()),
            (2, 2),
            "crowded out"
        );

        let all = |_: &Trial| true;
        let lent = exchanges.take_last_try(7, 0..=Nanos::MAX, Key::LAST, all);
        assert_eq!(lent.unwrap().key.cookie, 4);
        assert_eq!(exchanges.take_request(CLIENT).unwrap().tries.len(), 1);
        assert_eq!(exchanges.attempts(), 0, "gone with its request");
        let counts = (
            exchanges.attempts_refused(),
            exchanges.attempts_crowded_out(),
        );
        assert_eq!(counts, (1, 1));
    }
}
