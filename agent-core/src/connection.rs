//! Connections: what outlives a single exchange.
//!
//! In: the [`Socket`] part of each observation. Out: who owns the socket, when and on whose
//! errand it was opened, which exchanges ended, and how much was retransmitted since last
//! told. An entry may be dropped at any time and is made again from the next record: it
//! must hold nothing whose absence would turn into a false statement.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::address::Address;
use crate::event::Upstream;
use crate::observation::{Errand, Nanos, Seen, Side, Socket};
use crate::outgoing::{Outgoing, Use};
use crate::table::{Ended, Key, Table};

/// Which end opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    /// The peer, as far as is known.
    Peer,
    /// A client, which sends requests before those ahead of them are answered.
    Pipelines,
    /// This one.
    Own,
}

/// One TCP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) tgid: Option<u32>,
    pub(crate) side: Side,
    /// This end and the peer.
    ends: [Address; 2],
    opener: Opener,
    last_seen: Nanos,
    pub(crate) ended: Ended,
    /// The exchange under way: of HTTP/1 there is one at a time.
    current: Option<u32>,
    /// The handshake was told.
    pub(crate) connect_told: bool,
    /// When the handshake was complete.
    pub(crate) established: Seen,
    /// The errand of the thread that connected.
    pub(crate) connect_errand: Option<Errand>,
    /// Retransmitted segments at the last record, `None` before the first.
    pub(crate) retransmits: Option<u32>,
    /// The socket is gone; kept only until its last exchange is.
    closed: bool,
}

impl Connection {
    /// Opened under watch, and no exchange was seen on it.
    pub(crate) fn was_never_used(&self) -> bool {
        self.established.get().is_some() && self.current.is_none() && !self.ended.contains(0)
    }

    /// This end opened it, and what it talks is not read, as far as is known.
    fn is_unread(&self) -> bool {
        self.opener == Opener::Own && self.side == Side::Unknown && !self.closed
    }

    /// Its client is there, and sent requests before those ahead of them were answered.
    pub(crate) fn is_pipelined(&self) -> bool {
        self.opener == Opener::Pipelines && !self.closed
    }

    /// This end.
    pub(crate) fn local(&self) -> Address {
        self.ends[0]
    }

    /// The peer.
    pub(crate) fn remote(&self) -> Upstream {
        Upstream::Inet(self.ends[1].into())
    }

    /// The exchanges under way.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = u32> + use<> {
        self.current.into_iter()
    }

    /// The exchange `index` begins. Returns the exchange that must be over by that: the one
    /// that was under way, or this one, when it comes late or on a connection that is gone.
    pub(crate) fn begin(&mut self, index: u32) -> Option<u32> {
        let before = self.current;
        self.current = Some(before.map_or(index, |current| current.max(index)));
        match before {
            _ if self.closed => Some(index),
            Some(current) if current > index => Some(index),
            Some(current) if current < index => Some(current),
            _ => None,
        }
    }
}

/// What is remembered of a connection after its entry is gone.
#[derive(Clone, Copy, Debug)]
struct Memory {
    ended: Ended,
    connect_told: bool,
    closed: bool,
}

/// Every connection under watch.
#[derive(Debug)]
pub(crate) struct Connections {
    table: Table<u64, Box<Connection>>,
    memories: FxHashMap<u64, Memory>,
    /// Order in which memories were made; the oldest goes first.
    order: VecDeque<u64>,
    memory_limit: usize,
    swept: u64,
    outgoing: Outgoing,
}

impl Connections {
    pub(crate) fn new(limit: usize, memory_limit: usize) -> Self {
        Self {
            table: Table::new(limit),
            memories: FxHashMap::default(),
            order: VecDeque::new(),
            memory_limit,
            swept: 0,
            outgoing: Outgoing::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.table.is_full()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.table.refused()
    }

    pub(crate) fn swept(&self) -> u64 {
        self.swept
    }

    pub(crate) fn get(&self, cookie: u64) -> Option<&Connection> {
        self.table.get(cookie).map(AsRef::as_ref)
    }

    pub(crate) fn get_mut(&mut self, cookie: u64) -> Option<&mut Connection> {
        self.table.get_mut(cookie).map(AsMut::as_mut)
    }

    /// The connection that `socket` tells of, brought up to date; `None` when there is no
    /// room for it.
    pub(crate) fn touch(&mut self, socket: &Socket) -> Option<&mut Connection> {
        let memories = &self.memories;
        let connection = self.table.get_or_insert_with(socket.cookie, || {
            let memory = memories.get(&socket.cookie);
            Box::new(Connection {
                tgid: None,
                side: Side::Unknown,
                ends: ends(socket),
                opener: Opener::Peer,
                last_seen: socket.time,
                ended: memory.map(|memory| memory.ended).unwrap_or_default(),
                current: None,
                connect_told: memory.is_some_and(|memory| memory.connect_told),
                established: Seen::default(),
                connect_errand: None,
                // A connection seen from its first packet had none before.
                retransmits: (socket.flags.seen_open() && memory.is_none()).then_some(0),
                closed: memory.is_some_and(|memory| memory.closed),
            })
        })?;
        connection.last_seen = connection.last_seen.max(socket.time);
        let before = (connection.tgid, connection.side);
        connection.tgid = socket.tgid.or(connection.tgid);
        connection.ends = ends(socket);
        if socket.flags.active_open() {
            connection.opener = Opener::Own;
        } else if socket.side == Side::Client && socket.flags.pipelined() {
            connection.opener = Opener::Pipelines;
        }
        if socket.side != Side::Unknown {
            connection.side = socket.side;
        }
        // It is HTTP, or another process has it now.
        if before != (connection.tgid, connection.side)
            && let (Some(tgid), _) = before
        {
            self.outgoing.end(tgid, socket.cookie);
        }
        Some(connection)
    }

    /// The process that opened the connection uses it for another request. It may turn out to be HTTP.
    pub(crate) fn begin_use(&mut self, cookie: u64, used: Use) -> Option<Use> {
        let one = self.table.get(cookie).filter(|one| one.is_unread())?;
        let established = one.established.get();
        self.outgoing
            .begin(one.tgid?, cookie, used, one.ends[1], established)
    }

    /// What the connection was used for last is over; for which request that was.
    pub(crate) fn end_use(&mut self, cookie: u64) -> Option<Key> {
        let tgid = self.table.get(cookie)?.tgid?;
        self.outgoing.end(tgid, cookie)
    }

    /// The socket is gone. For which request it was used last, if its talk was not read.
    pub(crate) fn close(&mut self, cookie: u64) -> Option<Key> {
        self.table.get_mut(cookie)?.closed = true;
        self.end_use(cookie)
    }

    /// What connections whose talk is not read are used for.
    pub(crate) fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    /// The connections whose talk is not read that the process uses for the request `owner`.
    pub(crate) fn used_for(
        &self,
        tgid: u32,
        owner: Key,
    ) -> impl Iterator<Item = (u64, Use, &Connection)> {
        let used = self.outgoing.of(tgid, owner);
        used.filter_map(|(cookie, used)| Some((cookie, used, self.get(cookie)?)))
    }

    /// As [`Connections::used_for`]; of every process if `tgid` is not known.
    pub(crate) fn used_by_any(
        &self,
        tgid: Option<u32>,
        owner: Key,
    ) -> impl Iterator<Item = (u64, Use, &Connection)> {
        let processes = self.outgoing.processes();
        let processes = processes.filter(move |one| tgid.is_none_or(|tgid| tgid == *one));
        processes.flat_map(move |tgid| self.used_for(tgid, owner))
    }

    /// Drops the entry and keeps what must not be told again.
    pub(crate) fn remove(&mut self, cookie: u64) {
        self.end_use(cookie);
        if let Some(connection) = self.table.remove(cookie) {
            self.remember(
                cookie,
                connection.ended,
                connection.connect_told,
                connection.closed,
            );
        }
    }

    /// Drops the entry when no exchange is under way.
    pub(crate) fn drop_idle(&mut self, cookie: u64) {
        if self
            .table
            .get(cookie)
            .is_some_and(|connection| connection.current.is_none())
        {
            self.remove(cookie);
        }
    }

    /// The exchange was seen, and is over.
    pub(crate) fn has_ended(&self, key: Key) -> bool {
        let ended = match self.get(key.cookie) {
            Some(connection) => Some(connection.ended),
            None => self.memories.get(&key.cookie).map(|one| one.ended),
        };
        ended.is_some_and(|ended| ended.contains(key.index))
    }

    /// The exchange is over: it must not be told again. A closed connection goes with its
    /// last exchange.
    pub(crate) fn mark_ended(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key.cookie) else {
            if let Some(memory) = self.memories.get_mut(&key.cookie) {
                memory.ended.insert(key.index);
            }
            return;
        };
        connection.ended.insert(key.index);
        self.no_longer_current(key);
        if self
            .get(key.cookie)
            .is_some_and(|one| one.closed && one.current.is_none())
        {
            self.remove(key.cookie);
        }
    }

    /// The exchange is not followed any more.
    pub(crate) fn no_longer_current(&mut self, key: Key) {
        if let Some(connection) = self.table.get_mut(key.cookie)
            && connection.current == Some(key.index)
        {
            connection.current = None;
        }
    }

    /// `true` when the connection is gone and remembered.
    pub(crate) fn is_closed(&self, cookie: u64) -> bool {
        self.memories
            .get(&cookie)
            .is_some_and(|memory| memory.closed)
            && !self.table.contains(cookie)
    }

    /// A connect without a socket of its own, or one that failed: `false` when the same
    /// was seen before.
    pub(crate) fn first_of_its_kind(&mut self, cookie: u64) -> bool {
        let (mut ended, told) = match (self.table.get(cookie), self.memories.get(&cookie)) {
            (Some(connection), _) => (connection.ended, connection.connect_told),
            (None, Some(memory)) => (memory.ended, memory.connect_told),
            (None, None) => (Ended::default(), false),
        };
        if told || ended.contains(0) {
            return false;
        }
        ended.insert(0);
        self.end_use(cookie);
        self.table.remove(cookie);
        self.remember(cookie, ended, true, true);
        true
    }

    /// Drops connections without a record since `idle_since` and no exchange under way,
    /// and closed ones without any.
    pub(crate) fn sweep(&mut self, idle_since: Nanos) {
        let mut gone = Vec::new();
        self.table.retain(|cookie, connection| {
            let idle = connection.current.is_none();
            let keep = !idle || (!connection.closed && connection.last_seen >= idle_since);
            if !keep {
                if let Some(tgid) = connection.tgid {
                    self.outgoing.end(tgid, *cookie);
                }
                gone.push((
                    *cookie,
                    connection.ended,
                    connection.connect_told,
                    connection.closed,
                ));
            }
            keep
        });
        for (cookie, ended, connect_told, closed) in gone {
            if !closed {
                self.swept += 1;
            }
            self.remember(cookie, ended, connect_told, closed);
        }
    }

    fn remember(&mut self, cookie: u64, ended: Ended, connect_told: bool, closed: bool) {
        let memory = Memory {
            ended,
            connect_told,
            closed,
        };
        if self.memories.insert(cookie, memory).is_none() {
            self.order.push_back(cookie);
        }
        while self.order.len() > self.memory_limit {
            if let Some(oldest) = self.order.pop_front() {
                self.memories.remove(&oldest);
            }
        }
    }
}

fn ends(socket: &Socket) -> [Address; 2] {
    [socket.local, socket.remote].map(Address::from)
}
