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
use crate::limits::SECOND;
use crate::observation::{Errand, Nanos, Seen, Side, Socket};
use crate::table::{Ended, Key, Table};

/// A connection that has not spoken HTTP for this long after its handshake speaks something else.
const STILL_OPEN: Nanos = SECOND / 4;

/// Connections that a process opened are looked through when there are so many, and then twice as many.
const LEAST_LIST: usize = 64;

/// What a connection whose talk is not read is used for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    /// The request, where nobody else can be meant.
    pub(crate) owner: Option<Key>,
    /// Since when.
    pub(crate) began: Nanos,
    /// Which use of the connection, from 0.
    pub(crate) index: u32,
}

/// One TCP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) tgid: Option<u32>,
    pub(crate) side: Side,
    /// This end and the peer.
    ends: [Address; 2],
    /// This end opened it.
    active: bool,
    last_seen: Nanos,
    pub(crate) ended: Ended,
    /// The exchange under way.
    pub(crate) current: Option<u32>,
    /// The handshake was told.
    pub(crate) connect_told: bool,
    /// When the handshake was complete.
    pub(crate) established: Seen,
    /// The errand of the thread that connected.
    pub(crate) connect_errand: Option<Errand>,
    /// Retransmitted segments at the last record, `None` before the first.
    pub(crate) retransmits: Option<u32>,
    /// The socket is gone; kept only until its last exchange is.
    pub(crate) closed: bool,
}

impl Connection {
    /// Opened under watch, and no exchange was seen on it.
    pub(crate) fn was_never_used(&self) -> bool {
        self.established.get().is_some() && self.current.is_none() && !self.ended.contains(0)
    }

    /// This end opened it, and what it talks is not read, as far as is known.
    fn is_unread(&self) -> bool {
        self.active && self.side == Side::Unknown && !self.closed
    }

    /// So long open without HTTP that it will not turn out to be that.
    pub(crate) fn is_settled(&self, now: Nanos) -> bool {
        let is_old = |at: Nanos| now.saturating_sub(at) >= STILL_OPEN;
        self.established.get().is_some_and(is_old)
    }

    /// This end.
    pub(crate) fn local(&self) -> Address {
        self.ends[0]
    }

    /// The peer.
    pub(crate) fn remote(&self) -> Upstream {
        Upstream::Inet(self.ends[1].into())
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
    /// Connections that each process opened, those included that turned out to be HTTP or are gone
    /// since it was last looked at.
    outgoing: FxHashMap<u32, Outgoing>,
}

/// Connections that a process opened.
#[derive(Debug)]
struct Outgoing {
    uses: FxHashMap<u64, Use>,
    /// With so many, those that are HTTP or gone are taken out.
    look_at: usize,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            uses: FxHashMap::default(),
            look_at: LEAST_LIST,
        }
    }
}

impl Connections {
    pub(crate) fn new(limit: usize, memory_limit: usize) -> Self {
        Self {
            table: Table::new(limit),
            memories: FxHashMap::default(),
            order: VecDeque::new(),
            memory_limit,
            swept: 0,
            outgoing: FxHashMap::default(),
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
                active: false,
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
        connection.tgid = socket.tgid.or(connection.tgid);
        connection.ends = ends(socket);
        connection.active |= socket.flags.active_open();
        if socket.side != Side::Unknown {
            connection.side = socket.side;
        }
        Some(connection)
    }

    /// The process opened the connection, or uses it for another request. It may turn out to be HTTP.
    pub(crate) fn begin_use(&mut self, cookie: u64, tgid: Option<u32>, used: Use) {
        let Some(tgid) = tgid else { return };
        let outgoing = self.outgoing.entry(tgid).or_default();
        outgoing.uses.insert(cookie, used);
        if outgoing.uses.len() >= outgoing.look_at {
            drop(self.unread(tgid));
        }
    }

    /// What the connection was used for last is over; for which request that was.
    pub(crate) fn end_use(&mut self, cookie: u64, tgid: Option<u32>) -> Option<Key> {
        let outgoing = self.outgoing.get_mut(&tgid?)?;
        outgoing.uses.remove(&cookie)?.owner
    }

    /// The outgoing connections of the process that are open and not HTTP, as far as is known: what
    /// they talk is not read (TLS, another protocol), or they were not used yet. By cookie, with what
    /// each is used for, or was last.
    pub(crate) fn unread(&mut self, tgid: u32) -> impl Iterator<Item = (u64, Use, &Connection)> {
        let table = &self.table;
        let outgoing = self.outgoing.get_mut(&tgid);
        let uses = outgoing.map(|outgoing| {
            outgoing.uses.retain(|cookie, _| {
                let one = table.get(*cookie);
                one.is_some_and(|one| one.is_unread() && one.tgid == Some(tgid))
            });
            outgoing.look_at = LEAST_LIST.max(2 * outgoing.uses.len());
            &outgoing.uses
        });
        let found = uses.into_iter().flatten();
        found.filter_map(|(cookie, used)| Some((*cookie, *used, table.get(*cookie)?.as_ref())))
    }

    /// Drops the entry and keeps what must not be told again.
    pub(crate) fn remove(&mut self, cookie: u64) {
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
                gone.push((
                    *cookie,
                    connection.ended,
                    connection.connect_told,
                    connection.closed,
                ));
            }
            keep
        });
        self.sweep_outgoing();
        for (cookie, ended, connect_told, closed) in gone {
            if !closed {
                self.swept += 1;
            }
            self.remember(cookie, ended, connect_told, closed);
        }
    }

    /// Takes connections that are gone out of the lists.
    fn sweep_outgoing(&mut self) {
        let table = &self.table;
        self.outgoing.retain(|_, outgoing| {
            outgoing.uses.retain(|cookie, _| {
                let one = table.get(*cookie);
                one.is_some_and(|one| one.is_unread())
            });
            outgoing.uses.shrink_to(LEAST_LIST);
            !outgoing.uses.is_empty()
        });
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
