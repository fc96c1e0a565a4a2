//! One connection of a host, without a socket: segments go in, records and tallies come out.
//!
//! The world remembers what a kernel would: one space for heads, which is not cleaned between uses, and
//! the head that waits for more bytes.
#![allow(
    dead_code,
    reason = "each test uses a part of it, and none the same as another"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use agent_flow::bytes::{Bytes, Payload};
use agent_flow::flow::Flow;
use agent_flow::http1::{brief, head, scan};
use agent_flow::machine::Machine;
use agent_flow::segment::{self, ACK, Segment};
use agent_flow::world::{FlowOf, Socket, Source, Space, World};
use agent_flow::{clients, ending, proxy_header, recognition};
use agent_wire::brief::Brief;
use agent_wire::limits::HEAD_BYTES;
use agent_wire::plain::{Plain, bytes_of, read};
use agent_wire::record::{End, Errand, Exchange, Header, MessageHead, Record, flag, kind};
use agent_wire::tally::Tally;
use proptest::prelude::ProptestConfig;

/// How often a property is tried: as often as `PROPTEST_CASES` says, else `usual` times.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: wanted.and_then(|cases| cases.parse().ok()).unwrap_or(usual),
        ..ProptestConfig::default()
    }
}

/// A record as the ring would have it.
#[derive(Clone, Debug)]
pub(crate) struct Emitted {
    pub(crate) kind: u8,
    pub(crate) bytes: Vec<u8>,
}

/// The record at the front of `bytes`.
fn whole<T: Plain>(bytes: &[u8]) -> T {
    let Some(record) = read(bytes) else {
        panic!("{} bytes are less than a record", bytes.len());
    };
    record
}

impl Emitted {
    pub(crate) fn header(&self) -> Header {
        whole(&self.bytes)
    }

    /// The exchange of a record that has one.
    pub(crate) fn exchange(&self) -> Option<Exchange> {
        match self.kind {
            kind::REQUEST | kind::RESPONSE => {
                read::<MessageHead>(&self.bytes).map(|it| it.exchange)
            }
            kind::END => read::<End>(&self.bytes).map(|it| it.exchange),
            _ => None,
        }
    }

    /// The exchange that is told in brief.
    pub(crate) fn brief(&self) -> Option<Brief> {
        read(&self.bytes).filter(|_| self.kind == kind::BRIEF)
    }

    /// The bytes of the head of a REQUEST or RESPONSE.
    pub(crate) fn head(&self) -> &[u8] {
        let fixed: MessageHead = whole(&self.bytes);
        let head = &self.bytes[size_of::<MessageHead>()..];
        assert_eq!(head.len(), fixed.captured as usize);
        head
    }
}

/// A host.
pub(crate) struct Host {
    records: RefCell<Vec<Emitted>>,
    tallies: RefCell<BTreeMap<u32, u64>>,
    clock: Cell<u64>,
    space: RefCell<Option<Box<Space>>>,
    kept: RefCell<Option<Vec<u8>>>,
    /// What a thread that sends works for.
    pub(crate) errand: Cell<Errand>,
    /// Whether the process was listed.
    pub(crate) withdrawn: Cell<bool>,
    /// Whether what goes well is told in brief.
    pub(crate) in_brief: Cell<bool>,
    /// Whether there is room to hold a head.
    pub(crate) may_hold: Cell<bool>,
    /// What is held of the exchange at hand.
    held: RefCell<Vec<Emitted>>,
    /// Whether memory for heads in pieces is short.
    pub(crate) short_of_memory: Cell<bool>,
}

impl Host {
    /// Whether the space is free.
    pub(crate) fn take_and_give_back(&self) -> bool {
        let space = self.take_space();
        let is_free = space.is_some();
        if let Some(space) = space {
            self.give_back(space);
        }
        is_free
    }
}

impl Machine for Host {
    type Byte = Cell<u8>;
}

impl World for Host {
    type Space = Box<Space>;

    fn now(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    fn count(&self, tally: Tally) {
        *self.tallies.borrow_mut().entry(tally.0).or_default() += 1;
    }

    fn emit<T: Record + 'static>(&self, kind: u8, now: u64, fill: impl FnOnce(&mut T)) {
        let mut record: T = whole(&vec![0; size_of::<T>()]);
        fill(&mut record);
        record.stamp(kind, now);
        self.records.borrow_mut().push(Emitted {
            kind,
            bytes: bytes_of(&record).to_vec(),
        });
    }

    fn emit_head(&self, space: &Space, len: u32, kind: u8) {
        let mut bytes = bytes_of(&space.fixed).to_vec();
        bytes.extend(&space.bytes);
        bytes.truncate(len as usize);
        self.records.borrow_mut().push(Emitted { kind, bytes });
    }

    fn errand(&self, _now: u64) -> Errand {
        self.errand.get()
    }

    fn task(&self) -> u64 {
        1
    }

    fn tells_in_brief(&self, flow: &mut Flow<Self>) -> bool {
        flow.in_brief = u8::from(self.in_brief.get());
        self.in_brief.get()
    }

    fn hold(&self, flow: &mut Flow<Self>, space: &Space, is_response: bool) -> bool {
        let mut held = self.held.borrow_mut();
        assert_eq!(
            held.len(),
            usize::from(is_response),
            "a response behind its request, and nothing else"
        );
        if !self.may_hold.get() {
            return false;
        }
        let mut bytes = bytes_of(&space.fixed).to_vec();
        bytes.extend(&space.bytes[..space.fixed.captured as usize]);
        let kind = space.fixed.header.kind;
        held.push(Emitted { kind, bytes });
        flow.held = 1;
        true
    }

    fn let_out(&self, flow: &mut Flow<Self>) {
        flow.held = 0;
        self.records
            .borrow_mut()
            .append(&mut self.held.borrow_mut());
    }

    fn tell_in_brief(&self, flow: &mut Flow<Self>, now: u64) {
        let (mut header, mut exchange) = (Header::default(), Exchange::default());
        flow.head(&mut header);
        flow.exchange_into(&mut exchange);
        self.emit(kind::BRIEF, now, |record: &mut Brief| {
            brief::fill::<Self>(record, &header, &exchange);
        });
        self.let_go(flow);
    }

    fn let_go(&self, flow: &mut Flow<Self>) {
        flow.held = 0;
        self.held.borrow_mut().clear();
    }

    fn disturbed(&self, flow: &mut Flow<Self>, _now: u64) {
        flow.in_brief = 0;
        if self.in_brief.replace(false) {
            self.records.borrow_mut().push(Emitted {
                kind: kind::DISTURBED,
                bytes: bytes_of(&Header::default()).to_vec(),
            });
        }
    }

    fn is_withdrawn(&self, flow: &mut Flow<Self>) -> bool {
        if self.withdrawn.get() {
            flow.phase = agent_flow::flow::phase::PARKED;
        }
        self.withdrawn.get()
    }

    fn take_space(&self) -> Option<Box<Space>> {
        self.space.borrow_mut().take()
    }

    fn give_back(&self, space: Box<Space>) {
        *self.space.borrow_mut() = Some(space);
    }

    fn scan(&self, space: &mut Box<Space>) {
        let space: &mut Space = space;
        scan::scan::<Self, _>(&space.bytes, &mut space.lines, &mut space.scan);
    }
}

/// The socket of the host, and the bytes of a segment.
struct At<'a> {
    host: &'a Host,
    bytes: &'a [u8],
}

impl Bytes for At<'_> {
    fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N], len: u32) -> bool {
        assert!(len >= 1 && len as usize <= N, "the caller keeps the bounds");
        self.bytes.load(offset, to, len)
    }

    fn load_at<const MAX: usize, const N: usize>(
        &self,
        offset: u32,
        to: &mut [u8; N],
        at: u32,
        len: u32,
    ) -> bool {
        assert!(at as usize + MAX <= N, "the caller keeps the bounds");
        self.bytes.load_at::<MAX, N>(offset, to, at, len)
    }
}

impl Socket for At<'_> {
    type World = Host;

    fn world(&self) -> &Host {
        self.host
    }

    fn srtt_us(&self) -> u32 {
        100
    }

    fn keep(&self, space: &Space) -> bool {
        if self.host.short_of_memory.get() {
            return false;
        }
        let kept = space.bytes[..space.fixed.captured as usize].to_vec();
        *self.host.kept.borrow_mut() = Some(kept);
        true
    }

    fn bring_back(&self, space: &mut Space) {
        if let Some(kept) = &*self.host.kept.borrow() {
            space.bytes[..kept.len()].copy_from_slice(kept);
            space.fixed.captured = kept.len() as u32;
        }
    }
}

impl Source for At<'_> {
    fn read_head(&self, flow: &mut FlowOf<Self>, payload: Payload, now: u64) {
        head::read(self, flow, payload, now);
    }

    fn follow_chunks(&self, flow: &mut FlowOf<Self>, body: Payload) {
        flow.chunks.follow(self, &flow.flags, body);
    }

    fn proxy_header(&self, payload: Payload) -> u32 {
        proxy_header::length(self, payload)
    }
}

/// Bytes before the payload of a segment, as headers of a packet would be.
const HEADERS: &[u8] = b"HTTP/1.1 999 Not part of the payload\r\n\r\n";

/// The first byte of each direction; wraps around early.
pub(crate) const START: u32 = u32::MAX - 3000;

/// A connection of the host.
pub(crate) struct Connection {
    pub(crate) host: Host,
    pub(crate) flow: Flow<Host>,
}

impl Connection {
    /// A connection that this host opened, as a proxy does to an upstream.
    pub(crate) fn to_upstream() -> Self {
        let connection = Self::new();
        connection.flow.flags.set::<{ flag::ACTIVE_OPEN }>();
        connection
    }

    /// A connection that a client opened.
    pub(crate) fn of_client() -> Self {
        Self::new()
    }

    fn new() -> Self {
        let mut space = Box::new(Space::default());
        // What was there before must not matter.
        space.bytes.fill(b'\n');
        space.fixed.captured = HEAD_BYTES as u32;
        let mut flow = Flow::default();
        flow.opens(7, 1);
        for stream in [&mut flow.sent, &mut flow.received] {
            stream.end = START;
            stream.known = 1;
        }
        Self {
            host: Host {
                records: RefCell::default(),
                tallies: RefCell::default(),
                clock: Cell::new(1),
                space: RefCell::new(Some(space)),
                kept: RefCell::default(),
                errand: Cell::default(),
                withdrawn: Cell::default(),
                in_brief: Cell::default(),
                may_hold: Cell::new(true),
                held: RefCell::default(),
                short_of_memory: Cell::default(),
            },
            flow,
        }
    }

    /// Bytes of the stream from `at` on leave (`sent`) or arrive in one segment.
    pub(crate) fn segment(&mut self, sent: bool, at: u32, payload: &[u8]) {
        self.segment_with(sent, at, payload, ACK);
    }

    /// The same with these TCP flags.
    pub(crate) fn segment_with(&mut self, sent: bool, at: u32, payload: &[u8], flags: u8) {
        let bytes = [HEADERS, payload].concat();
        let segment = Segment {
            flags,
            seq: START.wrapping_add(at),
            ack: self.flow.sent.end,
            window: 1000,
            offset: HEADERS.len() as u32,
            len: payload.len() as u32,
        };
        let source = At {
            host: &self.host,
            bytes: &bytes,
        };
        if sent {
            segment::sent(&source, &mut self.flow, &segment);
        } else {
            segment::received(&source, &mut self.flow, &segment);
        }
    }

    /// These bytes of a client came before there was a socket.
    pub(crate) fn early(&mut self, payload: &[u8]) {
        let mut bytes = [0; HEAD_BYTES];
        let len = payload.len().min(HEAD_BYTES);
        bytes[..len].copy_from_slice(&payload[..len]);
        let source = At {
            host: &self.host,
            bytes: &[],
        };
        let payload = Payload {
            offset: 0,
            len: payload.len() as u32,
            seq: START,
            hole: 0,
        };
        let now = self.host.now();
        recognition::early(&source, &mut self.flow, &bytes, payload, now);
    }

    /// The process of the connection read from it.
    pub(crate) fn is_read(&mut self) {
        clients::data_read(&self.host, &mut self.flow);
    }

    /// The connection ends in that way, one of [`agent_wire::record::end`].
    pub(crate) fn ends(&mut self, how: u8) {
        let now = self.host.now();
        ending::finish(&self.host, &mut self.flow, how, now);
    }

    /// How often that was counted.
    pub(crate) fn tally(&self, tally: Tally) -> u64 {
        self.host
            .tallies
            .borrow()
            .get(&tally.0)
            .copied()
            .unwrap_or(0)
    }

    /// All that was counted.
    pub(crate) fn tallies(&self) -> u64 {
        self.host.tallies.borrow().values().sum()
    }

    pub(crate) fn records(&self) -> Vec<Emitted> {
        self.host.records.borrow().clone()
    }

    /// What the records say of each exchange, by its index.
    pub(crate) fn exchanges(&self) -> Vec<Reported> {
        let mut exchanges: BTreeMap<u32, Reported> = BTreeMap::new();
        for record in self.records() {
            let Some(exchange) = record.exchange() else {
                continue;
            };
            let reported = exchanges.entry(exchange.index).or_default();
            reported.flags |= record.header().flags;
            reported.exchange = exchange;
            match record.kind {
                kind::REQUEST => reported.request = record.head().to_vec(),
                kind::RESPONSE => reported.response = record.head().to_vec(),
                _ => {}
            }
        }
        exchanges.into_values().collect()
    }
}

/// What is reported of one exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reported {
    /// As the last record of it has it.
    pub(crate) exchange: Exchange,
    /// Head of the request, as far as it was captured.
    pub(crate) request: Vec<u8>,
    /// Heads of the response, interim ones included, as far as they were captured.
    pub(crate) response: Vec<u8>,
    /// Flags of all records of it.
    pub(crate) flags: u16,
}
