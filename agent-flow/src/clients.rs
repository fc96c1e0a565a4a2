//! Clients whose connections are not read: TLS, HTTP/2, what is no HTTP, what began before the agent.
//!
//! In: the first bytes of such a connection, and that a process read from it. Out: one UNREAD_CLIENT
//! record for each, so that nobody takes silence for the absence of errors.

use agent_wire::record::{UnreadClient, flag, kind, side, talk};
use agent_wire::tally::Tally;

use crate::flow::{Flow, phase};
use crate::machine::Machine;
use crate::world::World;

/// [`Flow::talk`]: the record is out.
const TOLD: u8 = u8::MAX;

/// How HTTP/2 begins in clear text (RFC 9113, 3.4).
const PREFACE: u64 = u64::from_le_bytes(*b"PRI * HT");

/// What the first bytes are: [`talk::TLS`] of a ClientHello, [`talk::HTTP2`], else
/// [`talk::UNKNOWN`].
#[inline(always)]
pub fn talk_of(start: u64) -> u8 {
    if start & 0xffff == 0x0316 {
        talk::TLS
    } else if start == PREFACE {
        talk::HTTP2
    } else {
        talk::UNKNOWN
    }
}

/// The process of `flow` sends on it: a client that leaves after that may have had its answer.
#[inline(always)]
pub fn sent<M: Machine>(flow: &mut Flow<M>) {
    if flow.phase == phase::OPAQUE {
        flow.exchange.request_ns = 0;
    }
}

/// The client of a connection that is not read waits: it was read from, and nothing was sent since.
/// [`Flow::exchange`] says so, which HTTP does not use there.
#[inline(always)]
pub fn waits<M: Machine>(flow: &Flow<M>) -> bool {
    flow.phase == phase::OPAQUE
        && !flow.flags.has::<{ flag::ACTIVE_OPEN }>()
        && flow.ignored == 0
        && flow.exchange.request_ns != 0
}

/// The connection is not HTTP/1: nothing more of it is looked at.
#[inline(always)]
pub fn not_http<W: World>(world: &W, flow: &mut Flow<W>, spoken: u8) {
    flow.phase = phase::OPAQUE;
    flow.talk = spoken;
    world.count(Tally::NOT_HTTP);
}

/// The process of `flow` read from it.
#[inline(always)]
pub fn data_read<W: World>(world: &W, flow: &mut Flow<W>) {
    if flow.header.side != side::UNKNOWN || flow.flags.has::<{ flag::ACTIVE_OPEN }>() {
        return;
    }
    flow.exchange.request_ns = world.now();
    if flow.talk == TOLD {
        return;
    }
    let spoken = if flow.header.opened_ns == 0 {
        talk::BEFORE_AGENT
    } else if flow.phase != phase::OPAQUE {
        // It may turn out to be HTTP.
        return;
    } else if flow.talk == talk::UNKNOWN {
        talk::OTHER
    } else {
        flow.talk
    };
    flow.talk = TOLD;
    world.emit(
        kind::UNREAD_CLIENT,
        world.now(),
        |record: &mut UnreadClient| {
            flow.head(&mut record.header);
            record.talk = spoken;
            record.reserved = [0; 7];
        },
    );
}
