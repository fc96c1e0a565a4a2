//! Where records go, and what the world says.
//!
//! In: records, counts and heads that are not complete. Out: the time, the errand of the running
//! thread, whether its process is looked at, and space. The probes answer with helpers and maps, tests
//! with what they set up.

use core::ops::DerefMut;

use agent_wire::limits::{HEAD_BYTES, HEAD_SLACK_BYTES};
use agent_wire::record::{Errand, MessageHead, Record};
use agent_wire::tally::Tally;

use crate::bytes::{Bytes, Payload};
use crate::flow::Flow;
use crate::http1::scan::{Lines, Scan};
use crate::machine::Machine;

/// Bytes appended at a time to a head that comes in pieces; a power of two.
pub const APPEND_BYTES: usize = 1024;

/// Bytes of a [`Space`]: a head, what one step may append to it, and what the scanner looks ahead.
pub const SPACE_BYTES: usize = HEAD_BYTES + APPEND_BYTES + HEAD_SLACK_BYTES;

/// Space to gather and scan a head in, larger than a stack of eBPF: a record in the making. The
/// record comes first, so that it can be copied from here.
#[repr(C)]
pub struct Space {
    /// The record, but for the bytes of the head.
    pub fixed: MessageHead,
    /// The bytes of the head.
    pub bytes: [u8; SPACE_BYTES],
    /// Where its lines start.
    pub lines: Lines,
    /// What the scanner found in the head at hand.
    pub scan: Scan,
    /// The bytes at hand.
    pub at: Payload,
    /// The time at hand, ns.
    pub now_ns: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            fixed: MessageHead::default(),
            bytes: [0; SPACE_BYTES],
            lines: Lines::default(),
            scan: Scan::default(),
            at: Payload::default(),
            now_ns: 0,
        }
    }
}

/// The same everywhere: clock, counters, records, threads and processes.
pub trait World: Machine + Sized {
    /// A space that was taken.
    type Space: DerefMut<Target = Space>;

    /// `CLOCK_MONOTONIC`, ns.
    fn now(&self) -> u64;

    /// One more of `tally`.
    fn count(&self, tally: Tally);

    /// Emits a record of `now` that `fill` writes in place: every field of it but its kind and its
    /// time.
    fn emit<T: Record + 'static>(&self, kind: u8, now: u64, fill: impl FnOnce(&mut T));

    /// Emits the first `len` bytes of `space`, a record that is complete.
    fn emit_head(&self, space: &Space, len: u32, kind: u8);

    /// The errand of the running thread; zero when it has none.
    fn errand(&self, now: u64) -> Errand;

    /// The running thread: a number that names it.
    fn task(&self) -> u64;

    /// Whether exchanges of this connection's process that go well are told in brief.
    fn tells_in_brief(&self, flow: &mut Flow<Self>) -> bool;

    /// Keeps the head in `space`, a record that is complete, for as long as the exchange at hand lasts;
    /// false when there is no room for it.
    fn hold(&self, flow: &mut Flow<Self>, space: &Space, is_response: bool) -> bool;

    /// Emits what is held of the exchange at hand, and holds it no more.
    fn let_out(&self, flow: &mut Flow<Self>);

    /// Tells the exchange at hand in brief ([`crate::http1::brief::fill`]), and holds nothing more of it.
    fn tell_in_brief(&self, flow: &mut Flow<Self>, now: u64);

    /// Holds nothing more of the exchange at hand.
    fn let_go(&self, flow: &mut Flow<Self>);

    /// Something went wrong in this connection's process: what ends there from now on is not told in
    /// brief.
    fn disturbed(&self, flow: &mut Flow<Self>, now: u64);

    /// Whether the process of this connection was listed since this was last asked, before a request
    /// begins: then it is not looked at any more, and `flow` says so.
    fn is_withdrawn(&self, flow: &mut Flow<Self>) -> bool;

    /// A space that nobody else uses, to be given back; `None` when all are in use.
    fn take_space(&self) -> Option<Self::Space>;

    /// Ends the use of a space.
    fn give_back(&self, space: Self::Space);

    /// Runs [`crate::http1::scan::scan`] over `space`.
    fn scan(&self, space: &mut Self::Space);
}

/// One socket.
pub trait Socket {
    /// The world that it is in.
    type World: World;

    /// The world that it is in.
    fn world(&self) -> &Self::World;

    /// Smoothed round-trip time, us; 0 when not measured.
    fn srtt_us(&self) -> u32;

    /// Keeps the head in `space` until more of it comes; false when there is no memory.
    fn keep(&self, space: &Space) -> bool;

    /// Puts what was kept into `space`, bytes and their number.
    fn bring_back(&self, space: &mut Space);
}

/// A socket of which new bytes are at hand.
pub trait Source: Socket + Bytes {
    /// Runs [`crate::http1::head::read`].
    fn read_head(&self, flow: &mut FlowOf<Self>, payload: Payload, now: u64);

    /// Runs [`crate::http1::chunks::Chunks::follow`] over the body of `flow`.
    fn follow_chunks(&self, flow: &mut FlowOf<Self>, body: Payload);

    /// [`crate::proxy_header::length`] of what is in `payload`.
    fn proxy_header(&self, payload: Payload) -> u32;
}

/// The flow of a socket.
pub type FlowOf<S> = Flow<<S as Socket>::World>;
