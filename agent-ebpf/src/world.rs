//! The world of `agent-flow` in the kernel: records go into the ring, the time and the running thread
//! come from helpers, and a head that comes in pieces is kept in the socket's storage.
//!
//! In: what that crate asks and emits. Out: the answers of the files that own the maps. What many ways
//! lead to is called by way of [`crate::calls`].

use agent_flow::bytes::{Bytes, Payload};
use agent_flow::flow::Flow;
use agent_flow::world::{Socket, Source, Space, World};
use agent_wire::limits::HEAD_BYTES;
use agent_wire::record::{Errand, Record};
use agent_wire::tally::Tally;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkBuffContext;

use crate::attention;
use crate::calls;
use crate::errand;
use crate::held;
use crate::kernel::{self, Sock};
use crate::machine::Kernel;
use crate::output;
use crate::scratch::{self, Lent};
use crate::tallies;

/// A head that did not come complete in one segment.
#[repr(C)]
struct Gathered {
    filled: u64,
    bytes: [u8; HEAD_BYTES],
}

/// One for each socket that had such a head.
#[btf_map]
static GATHERED: SkStorage<Gathered> = SkStorage::new();

impl World for Kernel {
    type Space = Lent;

    #[inline(always)]
    fn now(&self) -> u64 {
        kernel::now()
    }

    #[inline(always)]
    fn count(&self, tally: Tally) {
        tallies::count(tally);
    }

    #[inline(always)]
    fn emit<T: Record + 'static>(&self, kind: u8, now: u64, fill: impl FnOnce(&mut T)) {
        output::emit_with(kind, now, fill);
    }

    #[inline(always)]
    fn emit_head(&self, space: &Space, len: u32, kind: u8) {
        output::copy(space, len, kind);
    }

    #[inline(always)]
    fn errand(&self, now: u64) -> Errand {
        errand::current(now)
    }

    #[inline(always)]
    fn task(&self) -> u64 {
        kernel::task()
    }

    #[inline(always)]
    fn tells_in_brief(&self, flow: &mut Flow<Self>) -> bool {
        attention::tells_in_brief(flow)
    }

    #[inline(always)]
    fn hold(&self, flow: &mut Flow<Self>, space: &Space, is_response: bool) -> bool {
        if is_response {
            held::response(flow, space)
        } else {
            held::request(flow, space)
        }
    }

    #[inline(always)]
    fn let_out(&self, flow: &mut Flow<Self>) {
        held::let_out(flow);
    }

    #[inline(always)]
    fn tell_in_brief(&self, flow: &mut Flow<Self>, now: u64) {
        held::tell_in_brief(flow, now);
    }

    #[inline(always)]
    fn let_go(&self, flow: &mut Flow<Self>) {
        held::let_go(flow);
    }

    #[inline(always)]
    fn disturbed(&self, flow: &mut Flow<Self>, now: u64) {
        calls::disturbed(flow.header.tgid, now);
        flow.in_brief = 0;
    }

    #[inline(always)]
    fn is_withdrawn(&self, flow: &mut Flow<Self>) -> bool {
        attention::is_withdrawn(flow)
    }

    #[inline(always)]
    fn take_space(&self) -> Option<Lent> {
        scratch::take()
    }

    #[inline(always)]
    fn give_back(&self, space: Lent) {
        scratch::give_back(space);
    }

    #[inline(always)]
    fn scan(&self, space: &mut Lent) {
        calls::scan_head(space);
    }
}

/// A socket, without a packet of it.
pub(crate) struct Bare(pub(crate) Sock);

impl Socket for Bare {
    type World = Kernel;

    #[inline(always)]
    fn world(&self) -> &Kernel {
        &Kernel
    }

    #[inline(always)]
    fn srtt_us(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn keep(&self, space: &Space) -> bool {
        keep(self.0, space)
    }

    #[inline(always)]
    fn bring_back(&self, space: &mut Space) {
        bring_back(self.0, space);
    }
}

/// A packet of a socket.
pub(crate) struct Packet<'a> {
    pub(crate) ctx: &'a SkBuffContext,
    pub(crate) sk: Sock,
}

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N], len: u32) -> bool {
        kernel::load(self.ctx, offset, to, len)
    }

    #[inline(always)]
    fn load_at<const MAX: usize, const N: usize>(
        &self,
        offset: u32,
        to: &mut [u8; N],
        at: u32,
        len: u32,
    ) -> bool {
        kernel::load_at::<MAX, N>(self.ctx, offset, to, at, len)
    }
}

impl Socket for Packet<'_> {
    type World = Kernel;

    #[inline(always)]
    fn world(&self) -> &Kernel {
        &Kernel
    }

    #[inline(always)]
    fn srtt_us(&self) -> u32 {
        self.sk.srtt_us()
    }

    #[inline(always)]
    fn keep(&self, space: &Space) -> bool {
        keep(self.sk, space)
    }

    #[inline(always)]
    fn bring_back(&self, space: &mut Space) {
        bring_back(self.sk, space);
    }
}

impl Source for Packet<'_> {
    #[inline(always)]
    fn read_head(&self, flow: &mut Flow<Kernel>, payload: Payload, now: u64) {
        calls::read_head(self.ctx, flow, payload, now);
    }

    #[inline(always)]
    fn follow_chunks(&self, flow: &mut Flow<Kernel>, body: Payload) {
        calls::follow_chunks(self.ctx, flow, body);
    }

    #[inline(always)]
    fn proxy_header(&self, payload: Payload) -> u32 {
        calls::proxy_header(self.ctx, payload)
    }
}

#[inline(always)]
fn keep(sk: Sock, space: &Space) -> bool {
    let Some(gathered) = kernel::storage_get_or_create(&GATHERED, sk) else {
        return false;
    };
    kernel::copy::<HEAD_BYTES, _, _>(&space.bytes, &mut gathered.bytes);
    gathered.filled = u64::from(space.fixed.captured);
    true
}

#[inline(always)]
fn bring_back(sk: Sock, space: &mut Space) {
    if let Some(gathered) = kernel::storage_get(&GATHERED, sk) {
        kernel::copy::<HEAD_BYTES, _, _>(&gathered.bytes, &mut space.bytes);
        space.fixed.captured = gathered.filled as u32;
    }
}
