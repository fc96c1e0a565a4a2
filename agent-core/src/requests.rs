//! Client requests under way or waiting for their verdict, and the ways to find those that an
//! attempt may have been made for.
//!
//! In: requests, and each change of one ([`Requests::edit`]). Out: candidates, by connection, by
//! request line, by the end of the path, and by process: those that wait for an upstream, and those
//! that ended in an error without an attempt that explains it. No question walks all requests: what
//! a question looks at is bounded by [`LOOKED_AT`].

use std::cell::Cell;
use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use rustc_hash::FxHashMap;

use crate::network::Network;
use crate::observation::{Nanos, RequestHead};
use crate::places::{Hashes, Owner, Place, Waits, Whose};
use crate::process::Processes;
use crate::request::OpenRequest;
use crate::servers::Servers;
use crate::table::{Key, Table};

/// Candidates of one kind that are looked at. Too small: under load none is found. Too large: each
/// failed connect of an outage costs as much.
const LOOKED_AT: usize = 64;

/// All requests that are held.
#[derive(Debug)]
pub(crate) struct Requests {
    table: Table<Key, Box<OpenRequest>>,
    /// By method and path.
    lines: Lines,
    /// By method and the last segment of the path.
    ends: Lines,
    /// By whose they are.
    queues: FxHashMap<Owner, Queues>,
    servers: Servers,
    /// Of [`Lines`]: clients choose paths, and could choose some that collide.
    seed: RandomState,
    /// How many requests were looked at to find one.
    looked_at: Cell<u64>,
    /// Attempts that are kept with requests.
    tries: usize,
}

/// Requests of one owner in the order of a time.
#[derive(Debug, Default)]
struct Queues {
    /// Without an attempt, by when they came.
    fresh: BTreeSet<(Nanos, Key)>,
    /// Between two attempts, by when the last one was over.
    tried: BTreeSet<(Nanos, Key)>,
    /// Over, in an error that no attempt explains, by when that was.
    failed: BTreeSet<(Nanos, Key)>,
}

impl Requests {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            table: Table::new(limit),
            lines: Lines::default(),
            ends: Lines::default(),
            queues: FxHashMap::default(),
            servers: Servers::default(),
            seed: RandomState::new(),
            looked_at: Cell::new(0),
            tries: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.table.refused()
    }

    /// Attempts that are over and kept with their request.
    pub(crate) fn tries(&self) -> usize {
        self.tries
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.table.contains(key)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&OpenRequest> {
        self.table.get(key).map(AsRef::as_ref)
    }

    /// As [`Requests::get`], of one of several that are looked through.
    pub(crate) fn look_at(&self, key: Key) -> Option<&OpenRequest> {
        self.looked_at.set(self.looked_at.get() + 1);
        self.get(key)
    }

    pub(crate) fn looked_at(&self) -> u64 {
        self.looked_at.get()
    }

    /// Adds the request that `make` makes where there is none; `false` when the table is full.
    pub(crate) fn insert_with(
        &mut self,
        key: Key,
        make: impl FnOnce() -> Box<OpenRequest>,
    ) -> bool {
        let there = self.table.get_or_insert_with(key, make).is_some();
        if there {
            self.list(key);
        }
        there
    }

    /// Changes a request. Every change goes this way, so that it is found by what it has become.
    pub(crate) fn edit<R>(
        &mut self,
        key: Key,
        change: impl FnOnce(&mut OpenRequest) -> R,
    ) -> Option<R> {
        let request = self.table.get_mut(key)?;
        let before = request.tries.len();
        let result = change(request);
        self.tries = self.tries - before + request.tries.len();
        self.list(key);
        Some(result)
    }

    /// The request is found by its line from now on.
    pub(crate) fn list_by_line(&mut self, key: Key, head: &RequestHead) {
        let Some(request) = self.table.get_mut(key) else {
            return;
        };
        if request.lines.is_some() {
            return;
        }
        let hashes = Hashes::of(&self.seed, head);
        request.lines = Some(hashes);
        let listed = Listed {
            key,
            started: request.started,
        };
        self.lines.insert(listed, hashes.line);
        self.ends.insert(listed, hashes.end);
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Box<OpenRequest>> {
        let request = self.table.remove(key)?;
        self.tries -= request.tries.len();
        if let Some(Hashes { line, end }) = request.lines {
            self.lines.remove(key, line);
            self.ends.remove(key, end);
        }
        if let Some(place) = request.place {
            self.unlist(key, place, request.server());
        }
        Some(request)
    }

    /// Requests that are not over. Walks all that are held.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = (Key, &OpenRequest)> {
        let open = self.table.iter().filter(|(_, one)| one.end.is_none());
        open.map(|(key, request)| (*key, request.as_ref()))
    }

    /// Requests that are stuck, those that came first before the others.
    pub(crate) fn stuck_since(&self, time: Nanos) -> Vec<Key> {
        let stuck = |request: &OpenRequest| request.end.is_none() && request.last_seen() < time;
        let all = self.table.iter().filter(|(_, request)| stuck(request));
        let mut stuck: Vec<_> = all.map(|(key, request)| (request.started, *key)).collect();
        stuck.sort_unstable();
        stuck.into_iter().map(|(_, key)| key).collect()
    }

    /// Addresses of which the process is known that answers there.
    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Those that made room for others.
    pub(crate) fn servers_forgotten(&self) -> u64 {
        self.servers.forgotten()
    }

    /// Drops what is kept for owners without requests.
    pub(crate) fn sweep(&mut self) {
        self.queues.retain(|_, queues| !queues.is_empty());
    }

    /// Process `tgid` of `network` has a client at `address`.
    pub(crate) fn saw_server(&mut self, address: SocketAddr, tgid: u32, network: Option<Network>) {
        self.servers.saw(address, tgid, network);
    }

    /// The process whose request it is, as far as is known.
    pub(crate) fn owner(&self, request: &OpenRequest) -> Option<u32> {
        request
            .tgid
            .or_else(|| self.servers.owner(request.server()))
    }

    /// Whether the request is of process `tgid`. While nobody has read it, it is of whoever answers
    /// where it arrived: a proxy that is reloaded has two processes there for a while, others have
    /// many. A process that is not known is not the same as another.
    pub(crate) fn is_of(
        &self,
        request: &OpenRequest,
        tgid: Option<u32>,
        processes: &Processes,
    ) -> bool {
        let Some(tgid) = tgid else { return false };
        match (request.tgid, self.owner(request)) {
            (Some(owner), _) => owner == tgid,
            (None, Some(owner)) => owner == tgid || processes.are_alike(owner, tgid),
            (None, None) => false,
        }
    }

    /// Whether the request may be of any process: nobody has read it yet, and nobody has ever answered
    /// where it arrived.
    pub(crate) fn is_nobodys(&self, request: &OpenRequest) -> bool {
        request.tgid.is_none() && !self.servers.is_known(request.server())
    }

    /// Requests with this line, and whether these are all.
    pub(crate) fn with_line(&self, head: &RequestHead) -> (&[Listed], bool) {
        self.lines.listed(Hashes::of(&self.seed, head).line)
    }

    /// Requests with the last segment of this path, and whether these are all.
    pub(crate) fn with_end(&self, head: &RequestHead) -> (&[Listed], bool) {
        self.ends.listed(Hashes::of(&self.seed, head).end)
    }

    /// Requests of the process, or perhaps of it, that wait for an upstream: those that came last
    /// before those that came before them, and the same of those between two attempts.
    pub(crate) fn waiting(
        &self,
        tgid: u32,
        by: Nanos,
    ) -> impl Iterator<Item = (Key, &OpenRequest)> {
        self.queues_of(tgid).flat_map(move |queues| {
            let fresh = queues.fresh.range(..=(by, Key::LAST)).rev();
            let tried = queues.tried.range(..=(by, Key::LAST)).rev();
            let keys = fresh.take(LOOKED_AT).chain(tried.take(LOOKED_AT));
            keys.filter_map(|(_, key)| Some((*key, self.look_at(*key)?)))
        })
    }

    /// Requests of the process whose last attempt was over then and that have no other.
    pub(crate) fn tried(
        &self,
        tgid: u32,
        between: RangeInclusive<Nanos>,
    ) -> impl Iterator<Item = (Key, &OpenRequest)> {
        self.range(tgid, between, |queues| &queues.tried)
    }

    /// Requests of the process that ended then, in an error that no attempt explains.
    pub(crate) fn failed(
        &self,
        tgid: u32,
        between: RangeInclusive<Nanos>,
    ) -> impl Iterator<Item = (Key, &OpenRequest)> {
        self.range(tgid, between, |queues| &queues.failed)
    }

    fn range(
        &self,
        tgid: u32,
        between: RangeInclusive<Nanos>,
        of: impl Fn(&Queues) -> &BTreeSet<(Nanos, Key)>,
    ) -> impl Iterator<Item = (Key, &OpenRequest)> {
        let (from, to) = (*between.start(), *between.end());
        let keys = self.queues_of(tgid).flat_map(move |queues| {
            let range = (from, Key::FIRST)..=(to.max(from), Key::LAST);
            of(queues).range(range).take(LOOKED_AT)
        });
        keys.filter_map(|(_, key)| Some((*key, self.look_at(*key)?)))
    }

    /// The queues in which requests of the process are, or may be.
    fn queues_of(&self, tgid: u32) -> impl Iterator<Item = &Queues> {
        let addresses = self.servers.addresses(tgid);
        let owners = [Owner::Process(tgid), Owner::Nobody];
        owners
            .into_iter()
            .chain(addresses.iter().map(|one| Owner::Address((*one).into())))
            .filter_map(|owner| self.queues.get(&owner))
    }

    fn list(&mut self, key: Key) {
        let Some(request) = self.table.get_mut(key) else {
            return;
        };
        let server = request.server();
        let whose = match request.tgid {
            Some(tgid) => Whose::Process(tgid),
            None if self.servers.owner(server).is_some() => Whose::Address,
            None => Whose::Nobody,
        };
        let place = request.waits().map(|waits| Place { whose, waits });
        let before = std::mem::replace(&mut request.place, place);
        if before == place {
            return;
        }
        if let Some(before) = before {
            self.unlist(key, before, server);
        }
        if let Some(Place { whose, waits }) = place {
            let queues = self.queues.entry(whose.owner(server)).or_default();
            let (queue, at) = queues.of(waits);
            queue.insert((at, key));
        }
    }

    fn unlist(&mut self, key: Key, Place { whose, waits }: Place, server: SocketAddr) {
        if let Some(queues) = self.queues.get_mut(&whose.owner(server)) {
            let (queue, at) = queues.of(waits);
            queue.remove(&(at, key));
        }
    }
}

impl Queues {
    fn of(&mut self, waits: Waits) -> (&mut BTreeSet<(Nanos, Key)>, Nanos) {
        match waits {
            Waits::Fresh(at) => (&mut self.fresh, at),
            Waits::Tried(at) => (&mut self.tried, at),
            Waits::Failed(at) => (&mut self.failed, at),
        }
    }

    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.tried.is_empty() && self.failed.is_empty()
    }
}

/// A request, and of it what most are told apart by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) key: Key,
    pub(crate) started: Nanos,
}

/// Requests by a hash of what they share.
#[derive(Debug, Default)]
struct Lines {
    by_hash: FxHashMap<u32, Line>,
}

#[derive(Debug, Default)]
struct Line {
    listed: Vec<Listed>,
    unlisted: usize,
}

impl Lines {
    fn insert(&mut self, one: Listed, hash: u32) {
        let line = self.by_hash.entry(hash).or_default();
        if line.listed.len() < LOOKED_AT {
            // Most are alone.
            line.listed.reserve_exact(1);
            line.listed.push(one);
        } else {
            line.unlisted += 1;
        }
    }

    fn remove(&mut self, key: Key, hash: u32) {
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

    fn listed(&self, hash: u32) -> (&[Listed], bool) {
        self.by_hash
            .get(&hash)
            .map_or((&[], true), |line| (&line.listed, line.unlisted == 0))
    }
}
