//! The heads of exchanges under way that the kernel side holds back.
//!
//! In: two maps, which it writes meanwhile. Out: records. What changes while it is read is left out: that
//! exchange is over, and what became of it is in the ring.

use agent_wire::brief::{self, HeldHead, holds};
use agent_wire::limits::HELD_EXCHANGES;
use agent_wire::plain::{self, bytes_of};
use agent_wire::record::{Exchange, Header, MessageHead, Record, kind, side};
use aya::Ebpf;
use aya::maps::{Array, MapData, MapError};

use super::{KernelError, take_map};
use crate::clock;

const HELD: &str = "HELD";
const HOLDERS: &str = "HOLDERS";

/// The maps: the bytes of a [`brief::Held`] for each place, and who is where.
pub(super) struct Held {
    held: Array<MapData, [u8; size_of::<brief::Held>()]>,
    holders: Array<MapData, [u64; HELD_EXCHANGES as usize]>,
}

impl Held {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            held: take_map(ebpf, HELD)?,
            holders: take_map(ebpf, HOLDERS)?,
        })
    }

    /// Hands out what is held of exchanges that had begun by now: first at clients, then at upstreams, so that no
    /// attempt comes without its request because that was over in between.
    pub(super) fn read(&self, mut each: impl FnMut(&[u8])) -> Result<(), KernelError> {
        let by_now = clock::monotonic();
        let holders = self.holders.get(&0, 0).map_err(failed(HOLDERS))?;
        for side in [side::CLIENT, side::UPSTREAM] {
            for (place, _) in (0..).zip(holders).filter(|(_, mark)| *mark != 0) {
                let Some(held) = self.at(place)? else {
                    continue;
                };
                let Header {
                    side: its, time_ns, ..
                } = held.request.fixed.header;
                if its != side || time_ns > by_now || !is_under_way(held.holds) {
                    continue;
                }
                hand_out(&held.request, &mut each);
                if held.holds == holds::RESPONSE {
                    hand_out(&held.response, &mut each);
                }
            }
        }
        Ok(())
    }

    /// Hands out the heads of an exchange that was reported in brief, if nothing has taken their place: its
    /// request as it was sent, and its response if that was held.
    pub(super) fn ended(
        &self,
        cookie: u64,
        index: u32,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        let is_it =
            |head: &MessageHead| head.header.cookie == cookie && head.exchange.index == index;
        let Some(mut held) = self.at(brief::place(cookie, index))? else {
            return Ok(());
        };
        let is_ended = matches!(held.holds, holds::ENDED_REQUEST | holds::ENDED_RESPONSE);
        if is_ended && is_it(&held.request.fixed) {
            as_sent(&mut held.request.fixed);
            hand_out(&held.request, &mut each);
            if held.holds == holds::ENDED_RESPONSE && is_it(&held.response.fixed) {
                hand_out(&held.response, &mut each);
            }
        }
        Ok(())
    }

    /// What is at a place; `None` when somebody is writing there.
    fn at(&self, place: u32) -> Result<Option<brief::Held>, KernelError> {
        let read = || self.held.get(&place, 0).map_err(failed(HELD));
        let bytes = read()?;
        // Twice the same: nobody was.
        let whole = bytes == read()?;
        Ok(plain::read(&bytes).filter(|_| whole))
    }
}

fn is_under_way(what: u64) -> bool {
    matches!(what, holds::REQUEST | holds::RESPONSE)
}

/// What is known of the exchange by its end, less what came after its request.
fn as_sent(head: &mut MessageHead) {
    let known = head.exchange;
    head.exchange = Exchange {
        index: known.index,
        request_ns: known.request_ns,
        request_last_ns: known.request_last_ns,
        idle_since_ns: known.idle_since_ns,
        request_bytes: known.request_bytes,
        request_head_bytes: known.request_head_bytes,
        errand: known.errand,
        ..Exchange::default()
    };
    head.stamp(kind::REQUEST, known.request_ns);
}

fn failed(name: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError::Map { name, source }
}

fn hand_out<const BYTES: usize>(head: &HeldHead<BYTES>, each: &mut impl FnMut(&[u8])) {
    let HeldHead { fixed, bytes } = head;
    let captured = usize::try_from(fixed.captured).ok();
    if let Some(bytes) = captured.and_then(|captured| bytes.get(..captured)) {
        each(&[bytes_of(fixed), bytes].concat());
    }
}
