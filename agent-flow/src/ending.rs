//! The end of a connection, for what was under way on it.
//!
//! In: how it ended, one of [`agent_wire::record::end`]. Out: the record of the exchange, the handshake
//! or the use that ended with it.

use agent_wire::record::{end, framing};

use crate::flow::{Flow, phase};
use crate::http1::exchange;
use crate::tls::handshake;
use crate::unread;
use crate::world::World;

/// What was under way on the connection is over.
#[inline(always)]
pub fn finish<W: World>(world: &W, flow: &mut Flow<W>, how: u8, now: u64) {
    exchange::connection_ends(flow, now);
    if flow.in_exchange() {
        exchange::finish(world, flow, how, now);
    } else if flow.phase == phase::HANDSHAKE {
        handshake::finish(world, flow, how, now);
        unread::after_handshake(world, flow, 0);
    } else if unread::in_use(flow) {
        unread::finish(world, flow, how, now);
    }
}

/// The client side's FIN left, behind every byte of the answer.
#[inline(always)]
pub fn client_side_fin_sent<W: World>(world: &W, flow: &mut Flow<W>) {
    exchange::connection_ends(flow, world.now());
    if !flow.in_exchange() {
        return;
    }
    let until_close = flow.phase == phase::RESPONSE_BODY && flow.exchange.framing == framing::CLOSE;
    let how = if until_close {
        end::COMPLETE
    } else {
        end::LOCAL_CLOSE
    };
    exchange::finish(world, flow, how, world.now());
}
