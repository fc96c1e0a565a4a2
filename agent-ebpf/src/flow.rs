//! Where the flow of a socket is kept: in the socket's own storage, and it dies with it. There is
//! nothing to evict, and nothing to leak.
//!
//! In: a socket. Out: its [`Flow`], which `agent-flow` defines.

use agent_wire::tally::Tally;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::btf_map;

use crate::by_cookie;
use crate::kernel::{self, Sock};
use crate::machine::Kernel;
use crate::tallies;

/// What is remembered of one socket.
pub(crate) type Flow = agent_flow::flow::Flow<Kernel>;

#[btf_map]
static FLOWS: SkStorage<Flow> = SkStorage::new();

/// The flow of `sk`, if it has one.
#[inline(always)]
pub(crate) fn of(sk: Sock) -> Option<&'static mut Flow> {
    if kernel::by_cookie() {
        return by_cookie::get(sk.cookie());
    }
    kernel::storage_get(&FLOWS, sk)
}

/// The flow of `sk`, made when it has none: `seen_open` tells whether from its start.
#[inline(always)]
pub(crate) fn open(sk: Sock, cookie: u64, seen_open: bool) -> Option<&'static mut Flow> {
    let flow = if kernel::by_cookie() {
        by_cookie::get_or_create(cookie)
    } else {
        kernel::storage_get_or_create(&FLOWS, sk)
    };
    let Some(flow) = flow else {
        tallies::count(Tally::STORAGE_FAILED);
        return None;
    };
    if flow.header.cookie == 0 {
        if seen_open {
            flow.opens(cookie, kernel::now());
        } else {
            flow.is_picked_up(cookie);
        }
    }
    Some(flow)
}
